"""Files of a training, of which only those that were read last are open.

A dataset may have more files than a process may open, and pictures are in memory as
long as they are.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from napari_samseg.core.images import ArrayLike, PlaneSource

__all__ = ["OpenFiles"]

T = TypeVar("T")
# An image and its labels, and those before them.
MOST_OPEN = 4


@dataclass(frozen=True, slots=True, eq=False)
class _Reopened:
    """An array in a file that is opened again where it was closed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    array: Callable[[], ArrayLike]

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        return np.asarray(self.array()[key])


class OpenFiles:
    """Opens files when they are read, and closes those that were not for long."""

    def __init__(self) -> None:
        self._open: OrderedDict[Hashable, tuple[Any, ExitStack]] = OrderedDict()
        self._known: set[Hashable] = set()

    def get(self, key: Hashable, opening: Callable[[], AbstractContextManager[T]]) -> T:
        """Return what a context manager gives, kept open for a while."""
        if key in self._open:
            self._open.move_to_end(key)
        else:
            while len(self._open) >= MOST_OPEN:
                self._open.popitem(last=False)[1][1].close()
            stack = ExitStack()
            with warnings.catch_warnings():
                if key in self._known:  # what is to be said of it was said
                    warnings.simplefilter("ignore")
                value = stack.enter_context(opening())
            self._open[key] = value, stack
            self._known.add(key)
        found: T = self._open[key][0]
        return found

    def close(self) -> None:
        """Close all of them."""
        while self._open:
            self._open.popitem()[1][1].close()

    def source(
        self, key: Hashable, opening: Callable[[], AbstractContextManager[PlaneSource]]
    ) -> PlaneSource:
        """Return an image whose planes are read from a file opened as need be."""
        first = self.get(key, opening)

        def level(number: int) -> ArrayLike:
            found = first.levels[number]
            return _Reopened(
                tuple(found.shape),
                np.dtype(found.dtype),
                lambda: self.get(key, opening).levels[number],
            )

        return PlaneSource(
            [level(i) for i in range(len(first.levels))],
            channel_axis=first.channel_axis,
            rgb=first.rgb,
            space=first.space,
        )

    def array(
        self, key: Hashable, opening: Callable[[], AbstractContextManager[ArrayLike]]
    ) -> ArrayLike:
        """Return an array that is read from a file opened as need be."""
        first = self.get(key, opening)
        return _Reopened(
            tuple(first.shape), np.dtype(first.dtype), lambda: self.get(key, opening)
        )
