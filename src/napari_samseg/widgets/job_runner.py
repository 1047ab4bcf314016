"""What the long jobs of panels have in common: one at a time, to pause and to stop."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from psygnal import Signal, SignalInstance

from napari_samseg.core.types import Progress
from napari_samseg.widgets.workers import Job, describe_failure

if TYPE_CHECKING:
    from napari_samseg.core.predict import Predictor

__all__ = ["JobRunner"]


class JobRunner:
    """Runs one job at a time, which gives way to clicks.

    Signals come on the main thread: `progressed` with a `Progress`; `finished` with
    what the job brings; `failed` with an exception; `warned` with a text; and last
    `ended`, with whether the job was cancelled and what was finished is written. A
    cancelled job that could not write it has `failed`.
    """

    progressed = Signal(object)
    finished = Signal(object)
    failed = Signal(object)
    warned = Signal(str)
    ended = Signal(bool)

    def __init__(self) -> None:
        self._job: Job | None = None
        self._is_closed = False
        # keeps the model loaded between jobs
        self._predictor: Predictor | None = None

    @property
    def is_running(self) -> bool:
        """Whether a job runs, or is being stopped."""
        return self._job is not None

    @property
    def is_paused(self) -> bool:
        """Whether the job waits for `resume`."""
        return self._job is not None and self._job.is_paused

    @property
    def is_stopping(self) -> bool:
        """Whether the job was cancelled and what is finished is being written."""
        return self._job is not None and self._job.is_cancelled

    def pause(self) -> None:
        """Wait before the next step until `resume`."""
        if self._job is not None:
            self._job.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._job is not None:
            self._job.resume()

    def cancel(self) -> None:
        """Stop at the next step; what is finished is written, then `ended` follows."""
        if self._job is not None:
            self._job.cancel()

    def close(self) -> None:
        """Stop, say nothing more until something is asked again, and let go."""
        self._is_closed = True
        self.cancel()
        self._predictor = None

    def keep(self, predictor: Predictor) -> None:
        """Hold a model until another one is used."""
        self._predictor = predictor

    def _start(
        self, steps: Generator[Progress, None, Any], answer: SignalInstance
    ) -> None:
        """Run steps, of which a signal gets what they return, unless a job runs."""
        if self._job is not None:
            steps.close()
            return
        self._is_closed = False
        self._job = Job(
            steps,
            on_return=answer.emit,
            on_error=self._on_error,
            on_progress=self.progressed.emit,
            on_warning=self.warned.emit,
            on_end=self._on_end,
            background=True,
        ).start()

    def _on_error(self, error: Exception) -> None:
        if not self._is_closed:
            self.failed.emit(error)
            return
        from napari.utils.notifications import show_error

        # the panel is gone, what was to be written is lost all the same
        show_error(describe_failure(error))

    def _on_end(self) -> None:
        job, self._job = self._job, None
        if job is not None and not self._is_closed:
            self.ended.emit(job.is_cancelled and job.failure is None)
