"""Several encodings side by side, each on its share of the processor's cores.

A small encoder uses two cores badly: its threads wait for each other after every
layer, and for whatever else a core has to do meanwhile. Planes that are encoded
beside each other, on one core each, wait for nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from threading import Barrier
from typing import Any, Generic, TypeVar

import psutil
import torch

from napari_samseg.core.models.protocol import PromptableModel

__all__ = ["Lanes", "choose_lanes"]

K = TypeVar("K")
T = TypeVar("T")

# Reading and writing, which Python does one thing at a time, keep up with no more.
MOST_LANES = 8
# Memory that a plane may take while it is encoded, with room to spare.
LANE_BYTES = 1 << 30
# How long to wait for a step before whoever runs the lanes may look around.
POLL_SECONDS = 0.1


def choose_lanes(model: PromptableModel) -> int:
    """Return how many planes to encode side by side.

    One on anything but a processor. There, as many as leave each the threads it makes
    good use of (`PromptableModel.plane_threads`), and as have room in memory.
    """
    if model.device.type != "cpu":
        return 1
    by_threads = torch.get_num_threads() // model.plane_threads
    by_memory = int(psutil.virtual_memory().available) // LANE_BYTES
    return max(1, min(MOST_LANES, by_threads, by_memory))


@dataclass(slots=True, eq=False)
class _Run(Generic[K, T]):
    """A generator, the step it is at, and what it returned."""

    key: K
    steps: Generator[Any, None, T]
    step: Future[bool] | None = None
    result: T | None = None
    is_over: bool = False

    def take_step(self) -> bool:
        """Run to the next step, in a thread; tell whether that was the end."""
        try:
            next(self.steps)
        except StopIteration as stop:
            self.result = stop.value
            return True
        return False


class Lanes(Generic[K, T]):
    """Runs generators of steps side by side, each step in a thread.

    A step starts in `advance` only: whoever lets the lanes rest, between two calls,
    has the processor after the steps that are under way.

    Parameters
    ----------
    width : int
        Generators that run at once; each gets its share of torch's threads.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._pool = ThreadPoolExecutor(width, "samseg encoder")
        self._runs: deque[_Run[K, T]] = deque()
        if width > 1:
            self._share_threads(max(1, torch.get_num_threads() // width))

    @property
    def is_free(self) -> bool:
        """Whether another generator may be started.

        One that takes long holds up the results of those after it, which are handed
        out in order: they must not become many.
        """
        n_running = sum(not run.is_over for run in self._runs)
        return n_running < self._width and len(self._runs) < 2 * self._width

    @property
    def is_busy(self) -> bool:
        """Whether anything was started that has not been handed out."""
        return bool(self._runs)

    def start(self, key: K, steps: Generator[Any, None, T]) -> None:
        """Start a generator in a lane that is free."""
        run = _Run(key, steps)
        self._runs.append(run)
        self._continue(run)

    def advance(self) -> list[tuple[K, T]]:
        """Wait for a step, a moment at most, and let its lane take the next one.

        Returns
        -------
        list of (key, value)
            What generators returned, in the order in which they were started.

        Raises
        ------
        Exception
            Whatever a generator raises.
        """
        under_way = []
        for run in self._runs:
            if run.step is None and not run.is_over:
                self._continue(run)
            if run.step is not None:
                under_way.append(run.step)
        wait(under_way, POLL_SECONDS, FIRST_COMPLETED)
        for run in self._runs:
            if run.step is not None and run.step.done():
                step, run.step = run.step, None
                run.is_over = step.result()
        return self._take_finished()

    def end(self) -> None:
        """Give up what is not finished, after the steps that are under way."""
        self._pool.shutdown(cancel_futures=True)
        for run in self._runs:
            with suppress(Exception):  # the lanes end for a reason of their own
                run.steps.close()
        self._runs.clear()

    def _continue(self, run: _Run[K, T]) -> None:
        run.step = self._pool.submit(run.take_step)

    def _take_finished(self) -> list[tuple[K, T]]:
        finished = []
        while self._runs and self._runs[0].is_over:
            run = self._runs.popleft()
            finished.append((run.key, run.result))
        return finished  # type: ignore[return-value]  # a run that is over has one

    def _share_threads(self, threads: int) -> None:
        """Give each thread of the pool its number of threads, and no other."""
        all_there = Barrier(self._width)

        def take_share() -> None:
            # which asks for the number of the whole program, and never again
            torch.get_num_threads()
            torch.set_num_threads(threads)
            all_there.wait()

        before = torch.get_num_threads()
        for future in [self._pool.submit(take_share) for _ in range(self._width)]:
            future.result()
        # threads that start from now on have as many as was said last
        torch.set_num_threads(before)
