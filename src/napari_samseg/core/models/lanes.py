"""Several encodings side by side, each on its share of the processor's cores.

A small encoder uses two cores badly: its threads wait for each other after every
layer, and for whatever else a core has to do meanwhile. Planes that are encoded
beside each other, on one core each, wait for nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from threading import Barrier, Lock
from typing import Any, Generic, TypeVar

import torch

from napari_samseg.core.memory import free_memory
from napari_samseg.core.models.protocol import PromptableModel

__all__ = ["Finished", "Lanes", "choose_lanes"]

K = TypeVar("K")
T = TypeVar("T")

# Reading and writing, which Python does one thing at a time, keep up with no more.
MOST_LANES = 8
# Memory that a plane may take while it is encoded, with room to spare.
LANE_BYTES = 1 << 30
# How long to wait for a step before whoever runs the lanes may look around.
POLL_SECONDS = 0.1

# While lanes are made, new threads of the whole program would take their number.
_thread_numbers = Lock()


def choose_lanes(model: PromptableModel) -> int:
    """Return how many planes to encode side by side.

    One on anything but a processor. There, as many as leave each the threads it makes
    good use of (`PromptableModel.plane_threads`), and as have room in memory.
    """
    if model.device.type != "cpu":
        return 1
    with _thread_numbers:
        by_threads = torch.get_num_threads() // model.plane_threads
    return max(1, min(MOST_LANES, by_threads, free_memory() // LANE_BYTES))


@dataclass(frozen=True, slots=True)
class Finished(Generic[K, T]):
    """What a generator returned.

    Attributes
    ----------
    key
        What it was started with.
    value
        What it returned.
    seconds : float
        How long its steps took, without rest.
    """

    key: K
    value: T
    seconds: float


@dataclass(slots=True, eq=False)
class _Run(Generic[K, T]):
    """A generator, the step it is at, and how it ended."""

    key: K
    steps: Generator[Any, None, T]
    step: Future[None] | None = None
    finished: Finished[K, T] | None = None
    error: BaseException | None = None
    seconds: float = 0.0
    last_end: float = 0.0

    @property
    def is_over(self) -> bool:
        return self.finished is not None or self.error is not None

    def take_step(self) -> None:
        """Run to the next step, in a thread."""
        start = time.monotonic()
        try:
            next(self.steps)
        except StopIteration as stop:
            self.seconds += time.monotonic() - start
            self.finished = Finished(self.key, stop.value, self.seconds)
        except BaseException as error:  # noqa: BLE001 - raised by whoever advances
            self.error = error
        else:
            self.seconds += time.monotonic() - start
        self.last_end = time.monotonic()


class Lanes(Generic[K, T]):
    """Runs generators of steps side by side, each step in a thread.

    A step starts in `start` and `advance` only: whoever lets the lanes rest, between
    two calls, has the processor after the steps that are under way.

    Parameters
    ----------
    width : int
        Generators that run at once; each gets its share of torch's threads.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._runs: deque[_Run[K, T]] = deque()
        self._pool = ThreadPoolExecutor(width, "samseg encoder")
        if width > 1:
            self._share_threads()

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

    def advance(self) -> list[Finished[K, T]]:
        """Wait for a step, a moment at most, and let each lane take its next one.

        Returns
        -------
        list of Finished
            In the order in which they were started.

        Raises
        ------
        Exception
            Whatever a generator raises; `end` returns what others have finished.
        """
        for run in self._runs:
            # in this order: the step that is done may have been the last
            if (run.step is None or run.step.done()) and not run.is_over:
                self._continue(run)
        under_way = [run.step for run in self._runs if run.step and not run.is_over]
        wait(under_way, POLL_SECONDS, FIRST_COMPLETED)
        finished = []
        while self._runs and self._runs[0].finished is not None:
            finished.append(self._runs.popleft().finished)
        if not finished:
            for run in self._runs:
                if run.error is not None:
                    raise run.error
        return [result for result in finished if result is not None]

    def seconds_at_rest(self, since: float) -> float:
        """Return for how long no step has been under way since a `time.monotonic`."""
        if any(run.step is not None and not run.step.done() for run in self._runs):
            return 0.0
        last_end = max((run.last_end for run in self._runs), default=0.0)
        return time.monotonic() - max(since, last_end)

    def end(self) -> list[tuple[K, Finished[K, T] | None]]:
        """End after the steps that are under way.

        Returns
        -------
        list of (key, Finished or None)
            Of everything that was not handed out, in the order in which it was
            started; None for what is given up.
        """
        self._pool.shutdown(cancel_futures=True)
        left = []
        for run in self._runs:
            with suppress(Exception):  # the lanes end for a reason of their own
                run.steps.close()
            left.append((run.key, run.finished))
        self._runs.clear()
        return left

    def _continue(self, run: _Run[K, T]) -> None:
        run.step = self._pool.submit(run.take_step)

    def _share_threads(self) -> None:
        """Give each thread of the pool its number of threads, and no other."""
        all_there = Barrier(self._width)

        def take_share() -> None:
            # which asks for the number of the whole program, and never again
            torch.get_num_threads()
            torch.set_num_threads(share)
            all_there.wait()

        with _thread_numbers:
            before = torch.get_num_threads()
            share = max(1, before // self._width)
            try:
                futures = [self._pool.submit(take_share) for _ in range(self._width)]
                for future in futures:
                    future.result()
            except BaseException:
                all_there.abort()  # or those that are there would wait for ever
                self._pool.shutdown()
                raise
            finally:
                # threads that start from now on have as many as was said last
                torch.set_num_threads(before)
