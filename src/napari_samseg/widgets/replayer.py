"""Replays a saved annotation in slices of time, so that the window stays alive."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

from qtpy.QtCore import QTimer

from napari_samseg.core.annotation_file import AnnotationDocument, read_annotation
from napari_samseg.core.types import Progress
from napari_samseg.widgets.workers import LatestJob

__all__ = ["Replayer"]

# How long the window waits at most, but for a single step that takes longer.
SLICE_S = 0.02

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
        self._steps: Steps | None = None
        self._timer = QTimer()
        self._timer.timeout.connect(self._replay_slice)
        self.is_busy = False

    def request(self, path: Any) -> None:
        """Replay a file in the background."""
        self.is_busy = True
        self._reading.request(_read_steps(path), self._begin, self._end)

    def cancel(self) -> None:
        """Stop, and take back what was replayed."""
        if self.is_busy:
            self._reading.cancel()
            self._timer.stop()
            steps, self._steps = self._steps, None
            if steps is not None:
                steps.close()
            self.is_busy = False
            self._on_progress(None)

    def _begin(self, document: AnnotationDocument) -> None:
        self._steps = self._start(document)
        self._timer.start(0)

    def _replay_slice(self) -> None:
        end = time.monotonic() + SLICE_S
        try:
            while self._steps is not None:
                self._on_progress(next(self._steps))
                if time.monotonic() >= end:
                    return
        except StopIteration:
            self._end(None)
        except Exception as error:  # noqa: BLE001 - the window decides what to say
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        self._timer.stop()
        self._steps = None
        self.is_busy = False
        self._on_end(error)


def _read_steps(path: Any) -> Generator[Progress, None, AnnotationDocument]:
    yield Progress("reading the annotation")
    return read_annotation(path)
