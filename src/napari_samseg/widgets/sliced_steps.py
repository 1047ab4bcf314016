"""Steps on the main thread in slices of time, so that the window stays alive."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

from qtpy.QtCore import QTimer

from napari_samseg.core.types import Progress

__all__ = ["SlicedSteps"]

# How long the window waits at most, but for a single step that takes longer.
SLICE_S = 0.02

Steps = Generator[Progress, None, Any]


class SlicedSteps:
    """Runs steps that touch layers, which only the main thread may.

    Between slices the window has its turn.

    Parameters
    ----------
    on_end : callable
        Called once they are done; gets the exception if they failed.
    on_progress : callable
        Gets each `Progress`.
    """

    def __init__(
        self,
        on_end: Callable[[Exception | None], None],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._on_end = on_end
        self._on_progress = on_progress
        self._steps: Steps | None = None
        self._timer = QTimer()
        self._timer.timeout.connect(self._run_slice)

    @property
    def is_busy(self) -> bool:
        """Whether steps are being taken."""
        return self._steps is not None

    def start(self, steps: Steps) -> None:
        """Take these steps from now on."""
        self._steps = steps
        self._timer.start(0)

    def cancel(self) -> None:
        """Stop, and close the steps; nothing is called back."""
        steps, self._steps = self._steps, None
        # as napari closes, the timer may be gone before the panel that cancels
        if steps is not None:
            self._timer.stop()
            steps.close()

    def _run_slice(self) -> None:
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
        self._on_end(error)
