"""Batches that are made while the model learns from those before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from napari_samseg.core.settings import LoopSettings
from napari_samseg.core.training.distributed import Ranks

__all__ = ["BatchesAhead"]

Batch = TypeVar("Batch")


class BatchesAhead(Generic[Batch]):
    """Makes batches in a thread while the model learns from the one before.

    Parameters
    ----------
    executor : ThreadPoolExecutor
        Of one thread.
    batch_at : callable
        Makes the batch of a number.
    settings : LoopSettings
    step : int
        The first one.
    ranks : Ranks
        Other processes that take their share of the batches.
    """

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        batch_at: Callable[[int], Batch],
        settings: LoopSettings,
        step: int,
        ranks: Ranks,
    ) -> None:
        self._executor, self._batch_at, self._ranks = executor, batch_at, ranks
        self._per_step = settings.accumulate
        end = settings.steps * settings.accumulate
        self._rest = iter(ranks.numbers(step * settings.accumulate, end))
        self._next = self._submit()

    def _submit(self) -> Future[Batch] | None:
        number = next(self._rest, None)
        if number is None:
            return None
        return self._executor.submit(self._batch_at, number)

    def of_step(self, step: int) -> list[tuple[int, Batch]]:
        """Return the batches of a step, with their numbers; steps come in order."""
        start = step * self._per_step
        numbers = self._ranks.numbers(start, start + self._per_step)
        return [(number, self._take()) for number in numbers]

    def _take(self) -> Batch:
        assert self._next is not None  # there are as many as steps ask for
        batch = self._next.result()
        self._next = self._submit()
        return batch
