"""Replays a saved annotation in slices of time, so that the window stays alive."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from napari_samseg.core.annotation_file import AnnotationDocument, read_annotation
from napari_samseg.core.types import Progress
from napari_samseg.widgets.sliced_steps import SlicedSteps
from napari_samseg.widgets.workers import LatestJob

__all__ = ["Replayer"]

Steps = Generator[Progress, None, None]


class Replayer:
    """Reads a file in a thread, and replays it on the main thread.

    Labels may be written there only; between slices the window has its turn.

    Parameters
    ----------
    start : callable
        Makes the steps of a document; may raise.
    on_end : callable
        Called once it is done; gets the exception if it failed.
    on_progress : callable
        Gets each `Progress`, and None where it is cancelled.
    """

    def __init__(
        self,
        start: Callable[[AnnotationDocument], Steps],
        on_end: Callable[[Exception | None], None],
        on_progress: Callable[[Progress | None], None],
    ) -> None:
        self._start = start
        self._on_end = on_end
        self._on_progress = on_progress
        self._reading = LatestJob()
        self._replaying = SlicedSteps(self._end, on_progress)
        self.is_busy = False

    def request(self, path: Any) -> None:
        """Replay a file in the background."""
        self.is_busy = True
        self._reading.request(_read_steps(path), self._begin, self._end)

    def cancel(self) -> None:
        """Stop, and take back what was replayed."""
        if self.is_busy:
            self._reading.cancel()
            self._replaying.cancel()
            self.is_busy = False
            self._on_progress(None)

    def _begin(self, document: AnnotationDocument) -> None:
        self._replaying.start(self._start(document))

    def _end(self, error: Exception | None) -> None:
        self.is_busy = False
        self._on_end(error)


def _read_steps(path: Any) -> Generator[Progress, None, AnnotationDocument]:
    yield Progress("reading the annotation")
    return read_annotation(path)
