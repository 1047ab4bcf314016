"""What the commands print, and how they show that something is going on."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from napari_samseg.core.types import Progress

__all__ = [
    "STOPPED",
    "messages",
    "output",
    "plain_warnings",
    "say",
    "show_progress",
    "tell",
]

T = TypeVar("T")

# What shells report for a command that Ctrl+C ended: 128 and the number of the signal.
STOPPED = 130

output = Console(highlight=False)
messages = Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """Print one line as it is, unwrapped, so that paths can be copied."""
    output.print(line, markup=False, soft_wrap=True)


def tell(line: str) -> None:
    """Print one line as it is beside the results, to the standard error."""
    messages.print(line, markup=False, soft_wrap=True)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings as one line each, without the place in the code that warns."""

    def show(message: Warning | str, *_: object) -> None:
        words = escape(" ".join(str(message).split()))
        messages.print(f"[bold yellow]warning:[/] {words}", soft_wrap=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


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
