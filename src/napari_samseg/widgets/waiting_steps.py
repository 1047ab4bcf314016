"""What a person does while a commit still waits for its masks."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["WaitingSteps"]

Act = Callable[[], None]


class WaitingSteps:
    """Steps in the order they were made: a commit, then what came after it.

    A model takes seconds to load and a large one to encode; who knows the keys does
    not wait for it. Nothing of what is done meanwhile may be lost, or join the object
    that is to be committed first.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[Act, Act]] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, act: Act, instead: Act) -> None:
        """Keep a step; `instead` is done where the commits before it fail."""
        self._steps.append((act, instead))

    def run(self) -> None:
        """Do the steps; one that has to wait again keeps the rest behind it."""
        steps, self._steps = self._steps, []
        for act, _ in steps:
            act()

    def give_up(self) -> None:
        """Do what is left without the commits."""
        steps, self._steps = self._steps, []
        for _, instead in steps:
            instead()

    def drop_last(self) -> bool:
        """Take the last step back; False if there is none."""
        if self._steps:
            self._steps.pop()
            return True
        return False

    def clear(self) -> None:
        """Forget all steps."""
        self._steps.clear()
