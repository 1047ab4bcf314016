"""Long work is a generator of `Progress`; here it is run to its end at once."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import TypeVar

from napari_samseg.core.types import Progress

__all__ = ["map_steps", "run_steps"]

T = TypeVar("T")


def run_steps(
    steps: Generator[Progress, None, T],
    on_progress: Callable[[Progress], object] | None = None,
) -> T:
    """Run a generator to its end and return what it returns.

    Parameters
    ----------
    steps : generator of Progress
    on_progress : callable, optional
        Gets each `Progress`. What it raises ends the work, and comes through.
    """
    with closing(steps):  # threads of the work end with it, whatever happens
        while True:
            try:
                progress = next(steps)
            except StopIteration as stop:
                value: T = stop.value
                return value
            if on_progress is not None:
                on_progress(progress)


def map_steps(
    steps: Generator[Progress, None, T], change: Callable[[Progress], Progress]
) -> Generator[Progress, None, T]:
    """Run a generator as part of another, which says its progress in its own way."""
    with closing(steps):
        while True:
            try:
                progress = next(steps)
            except StopIteration as stop:
                value: T = stop.value
                return value
            yield change(progress)
