"""Generators of the core run in napari's thread workers.

Three traps are closed here once. A generator worker swallows a `RuntimeError`
(and with it running out of GPU memory): errors never leave the thread as
exceptions, jobs keep them. It does not close a generator after
`quit`: ours does; and what goes wrong then, when what was finished is written, is
told too. And a person who clicks quickly must not wait for a queue: `LatestJob` keeps
only the newest request.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Generator
from functools import cache
from typing import Any

from napari.qt.threading import GeneratorWorker, create_worker
from qtpy.QtCore import QCoreApplication, QThreadPool

from napari_samseg.core.errors import SamSegError
from napari_samseg.core.types import Progress

__all__ = ["RUNNING", "Job", "LatestJob", "describe_failure"]

# Qt holds the methods it calls back only weakly: jobs live here until they end.
RUNNING: set[Job] = set()
# How long a job that waits sleeps before it looks again.
PAUSE_SECONDS = 0.01

Steps = Generator[Progress, None, Any]


def describe_failure(error: Exception) -> str:
    """Return what a person is told of an error that ended a job.

    One of ours speaks for itself; of another, the kind is said too.
    """
    if isinstance(error, SamSegError):
        return str(error)
    return f"{type(error).__name__}: {error}"


class _ClosingWorker(GeneratorWorker):
    """A generator worker that closes its generator however it ends."""

    def __init__(self, func: Callable[..., Steps], steps: Steps, job: Job) -> None:
        super().__init__(func, steps, job)
        self._steps, self._job = steps, job

    def work(self) -> Any:
        """Run to the end, an error, or the first yield after `quit`."""
        try:
            return super().work()
        finally:
            try:
                self._steps.close()
            except Exception as error:  # noqa: BLE001 - as of any other step
                self._job.failure = error


def _guard(steps: Steps, job: Job) -> Steps:
    try:
        return (yield from steps)
    except Exception as error:  # noqa: BLE001 - the window decides what to say
        # after `quit`, the worker passes on nothing that a generator returns
        job.failure = error
        return None


def _take_turns(steps: Steps, job: Job) -> Steps:
    """Wait between steps while the job is paused, or others are to go first.

    napari's own pause is lost if `resume` comes before the worker has noticed it.
    """
    try:
        while True:
            while job.has_to_wait and not job.is_cancelled:
                time.sleep(PAUSE_SECONDS)
            if job.is_cancelled:
                return None
            try:
                progress = next(steps)
            except StopIteration as stop:
                return stop.value
            yield progress
    finally:
        steps.close()


def _somebody_waits() -> bool:
    return any(not (job.background or job.is_paused) for job in tuple(RUNNING))


class Job:
    """A generator of `Progress` running in a thread.

    Callbacks run on the main thread; after `cancel`, only `on_error` and `on_end`.

    Parameters
    ----------
    steps : generator of Progress
        Not started yet. Must not touch a layer.
    on_return : callable
        Gets what the generator returns.
    on_error : callable
        Gets the exception, whatever it is; also that of a job which was cancelled and
        could not write what it had finished.
    on_progress : callable, optional
        Gets each `Progress`.
    on_warning : callable, optional
        Gets the text of each warning, which Qt's thread would keep to itself.
    on_end : callable, optional
        Called last, also after `cancel`.
    background : bool
        Wait between steps while other jobs run.

    Attributes
    ----------
    is_running, is_paused, is_cancelled, has_answered : bool
    failure : Exception or None
        What `on_error` gets.
    """

    def __init__(
        self,
        steps: Steps,
        *,
        on_return: Callable[[Any], None],
        on_error: Callable[[Exception], None],
        on_progress: Callable[[Progress], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
        on_end: Callable[[], None] | None = None,
        background: bool = False,
    ) -> None:
        self._on_return = on_return
        self._on_error = on_error
        self._on_progress = on_progress
        self._on_warning = on_warning
        self._on_end = on_end
        self.is_cancelled = self.is_paused = self.has_answered = False
        self.failure: Exception | None = None
        self.background = background
        self.is_running = False
        self._worker = create_worker(
            _guard,
            _take_turns(steps, self),
            self,
            _worker_class=_ClosingWorker,
            _ignore_errors=True,
            _start_thread=False,
        )
        self._worker.yielded.connect(self._yielded)
        self._worker.warned.connect(self._warned)
        self._worker.returned.connect(self._returned)
        self._worker.finished.connect(self._finished)

    def start(self) -> Job:
        """Start the thread."""
        application = QCoreApplication.instance()
        if application is not None:
            _watch_end(application)
        self.is_running = True
        RUNNING.add(self)
        self._worker.start()
        return self

    @property
    def has_to_wait(self) -> bool:
        """Whether the next step is not to be taken yet."""
        return self.is_paused or (self.background and _somebody_waits())

    def pause(self) -> None:
        """Wait before the next step until `resume`; others need not wait for it."""
        self.is_paused = True

    def resume(self) -> None:
        """Go on after `pause`."""
        self.is_paused = False

    def cancel(self) -> None:
        """Stop at the next step; nothing is called back but a failure and `on_end`."""
        self.is_cancelled = True
        self._worker.quit()

    def _yielded(self, progress: Progress) -> None:
        if not self.is_cancelled and self._on_progress is not None:
            self._on_progress(progress)

    def _warned(self, warning: tuple[Any, ...]) -> None:
        # what `warnings.showwarning` gets: the warning, its category, its place
        if not self.is_cancelled and self._on_warning is not None:
            self._on_warning(str(warning[0]))

    def _returned(self, value: Any) -> None:
        self.has_answered = True
        if self.failure is None and not self.is_cancelled:
            self._on_return(value)

    def _finished(self) -> None:
        self.is_running = False
        RUNNING.discard(self)
        try:
            if self.failure is not None:
                self._on_error(self.failure)
        finally:
            if self._on_end is not None:
                self._on_end()


@cache
def _watch_end(application: QCoreApplication) -> None:
    """End jobs with the window, once for each application.

    At exit of the interpreter it would be too late for what they still have to write:
    the threads of other libraries have ended by then.
    """
    application.aboutToQuit.connect(_end_all)


@atexit.register
def _end_all() -> None:
    """Let no thread outlive the interpreter: Qt aborts the process then."""
    for job in list(RUNNING):
        job.cancel()
    if RUNNING:
        # a step is a block of an encoder at most, hence seconds
        QThreadPool.globalInstance().waitForDone()


class LatestJob:
    """Runs one job at a time, and of those that wait only the newest.

    The answer to a request is dropped once a newer one has been made.

    Parameters
    ----------
    background : bool
        Pause between steps while other jobs run.
    """

    def __init__(self, *, background: bool = False) -> None:
        self._background = background
        self._running: Job | None = None
        self._waiting: Callable[[], Job] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a job runs or waits."""
        return self._running is not None

    @property
    def will_answer(self) -> bool:
        """Whether a request is open that has not been cancelled or answered."""
        running = self._running
        runs = running is not None and not (
            running.is_cancelled or running.has_answered
        )
        return runs or self._waiting is not None

    def request(
        self,
        steps: Steps,
        on_return: Callable[[Any], None],
        on_error: Callable[[Exception], None],
        on_progress: Callable[[Progress], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        """Run `steps` after the current job, unless a newer request comes."""

        def make() -> Job:
            def fail(error: Exception) -> None:
                if not job.is_cancelled:  # or nobody asks any more
                    on_error(error)

            job = Job(
                steps,
                on_return=on_return,
                on_error=fail,
                on_progress=on_progress,
                on_warning=on_warning,
                on_end=self._next,
                background=self._background,
            )
            return job

        if self._running is None:
            self._running = make().start()
        else:
            self._running.cancel()
            self._waiting = make

    def cancel(self) -> None:
        """Drop what waits and stop what runs."""
        self._waiting = None
        if self._running is not None:
            self._running.cancel()

    def _next(self) -> None:
        make, self._waiting = self._waiting, None
        self._running = None if make is None else make().start()
