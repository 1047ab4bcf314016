"""Which plane of a stack is encoded next."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from threading import Lock

import numpy as np

from napari_samseg.core.errors import SettingsError

__all__ = ["PlaneOrder", "select_planes"]

PlaneIndex = tuple[int, ...]


class PlaneOrder:
    """Hands out planes: the one in focus first, then its neighbours, then the rest.

    Another thread may move the focus while planes are taken.

    Parameters
    ----------
    planes : iterable of tuple of int
        Indices of the planes; without a focus they come in this order.
    focus : tuple of int, optional
        The plane that a person looks at.
    """

    def __init__(
        self, planes: Iterable[PlaneIndex], focus: PlaneIndex | None = None
    ) -> None:
        self._planes = list(planes)
        self._places = np.array(self._planes or [()], np.int64)
        self._is_open = np.ones(len(self._planes), bool)
        self._n_open = len(self._planes)
        self._focus = focus
        self._lock = Lock()

    def __len__(self) -> int:
        """Planes that have not been taken."""
        return self._n_open

    def move_focus(self, focus: PlaneIndex | None) -> None:
        """Let the planes around another one come next."""
        with self._lock:
            self._focus = focus

    def restart(self) -> None:
        """Hand out all planes once more; the focus stays."""
        with self._lock:
            self._is_open[:] = True
            self._n_open = len(self._planes)

    def take(self) -> PlaneIndex | None:
        """Return the next plane, None if there is none left."""
        with self._lock:
            if not self._n_open:
                return None
            if self._focus is None:
                i = int(self._is_open.argmax())
            else:
                away = np.abs(self._places - np.array(self._focus)).sum(axis=1)
                i = int(np.where(self._is_open, away, np.iinfo(np.int64).max).argmin())
            self._is_open[i] = False
            self._n_open -= 1
            return self._planes[i]


def select_planes(
    lengths: Sequence[int], start: int = 0, stop: int | None = None
) -> tuple[PlaneIndex, ...]:
    """Return the indices of planes ``start`` to ``stop``, in C order.

    Parameters
    ----------
    lengths : sequence of int
        Lengths of the axes that are not in the plane.
    start, stop : int
        Half-open, counted through all these axes.

    Raises
    ------
    SettingsError
        If there is no such plane.
    """
    n = math.prod(lengths)
    stop = n if stop is None else stop
    if not 0 <= start < stop <= n:
        raise SettingsError(
            f"planes {start}:{stop} are not in a stack of {n}: choose a range within "
            f"0:{n}"
        )
    every = itertools.product(*(range(length) for length in lengths))
    return tuple(itertools.islice(every, start, stop))
