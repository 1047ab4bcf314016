"""What the commands print, and how they show that something is going on."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

if TYPE_CHECKING:
    from napari_samseg.core.types import Progress

__all__ = ["messages", "output", "say", "show_progress"]

T = TypeVar("T")

output = Console(highlight=False)
messages = Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """Print one line as it is, unwrapped, so that paths can be copied."""
    output.print(line, markup=False, soft_wrap=True)


def show_progress(steps: Generator[Progress, None, T]) -> T:
    """Run long work to its end, with a bar for each of its stages."""
    from rich.progress import Progress as Bars

    hidden = not messages.is_terminal
    bars = Bars(console=messages, transient=True, disable=hidden)
    with closing(steps), bars:  # what the work has started ends with it
        task, stage = None, None
        while True:
            try:
                step = next(steps)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if task is None or step.stage != stage:
                if task is not None:
                    bars.remove_task(task)
                task, stage = bars.add_task(step.stage, total=None), step.stage
            bars.update(
                task,
                description=f"{step.stage} {step.detail}".rstrip(),
                completed=step.done,
                total=step.total or None,
            )
