"""How long steps will still take, from those that were made last."""

from __future__ import annotations

import time
from collections import deque

__all__ = ["RemainingTime"]

# Some steps are slower than others, and what else runs changes.
REMEMBERED = 25


class RemainingTime:
    """Watches the clock at each step."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin anew, as after a pause."""
        self._steps: deque[tuple[int, float]] = deque(maxlen=REMEMBERED)

    def left(self, done: int, total: int) -> float | None:
        """Note a step, and return the seconds that are left; None at first."""
        self._steps.append((done, time.monotonic()))
        (first, begun), (last, now) = self._steps[0], self._steps[-1]
        if last == first:
            return None
        return (now - begun) / (last - first) * (total - done)
