"""A watershed from seeds by steepest ascent, which can be worked out piece by piece.

Each pixel goes to the neighbour that rises most steeply, and so to a top. Tops that
are no seeds are then joined, over the highest saddles, with those that are. Where a
pixel goes depends on its neighbours and the seeds alone: blocks of a volume find the
same ways as the whole, and what has to be known of all of it are tables of tops and
saddles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from napari_samseg.core.instances.passes import (
    join_tops,
    passes_between,
    sides_of_step,
    steps_around,
)
from napari_samseg.core.types import IntArray

__all__ = [
    "SeedField",
    "ascend",
    "number_tops",
    "outermost",
    "split_basins",
]

Region = tuple[slice, ...]


class SeedField:
    """Seeds of a plane or volume, of which the nearest decides where it is flat.

    Parameters
    ----------
    places : (N, D) int64
        Pixels of the whole.
    parts : (N,) integer
        Component that each lies in; the nearest is one of the same.
    ids : (N,) integer
        Object of each, from 1; several may be of one.
    n_parts : int
    shape : sequence of int
        Of the whole.
    spacing : sequence of float or None

    Attributes
    ----------
    places, ids
        Those of components with seeds of several objects.
    alone : (n_parts + 1,) int64
        The object of each component that is one: there is nothing to flood. 0 for
        the others.
    """

    def __init__(
        self,
        places: IntArray,
        parts: npt.NDArray[Any],
        ids: npt.NDArray[Any],
        n_parts: int,
        shape: Sequence[int],
        spacing: Sequence[float] | None,
    ) -> None:
        self.alone = _lone_objects(parts, ids, n_parts)
        is_shared = self.alone[parts] == 0
        self.places, self.ids = places[is_shared], ids[is_shared]
        self.shape = tuple(shape)
        self.steps = np.array(spacing or [1.0] * len(shape))
        # along an axis of their own, other components are beyond all in one
        self._apart = 2.0 * float(np.linalg.norm(np.array(shape) * self.steps))
        spread = self._spread(self.places, parts[is_shared])
        self._tree = cKDTree(spread) if len(spread) else None

    def distances(
        self, places: IntArray, parts: npt.NDArray[Any]
    ) -> npt.NDArray[np.float64]:
        """Return how far (N,) pixels lie from the nearest seed of their component."""
        if self._tree is None:
            return np.zeros(len(places))
        return np.asarray(self._tree.query(self._spread(places, parts))[0])

    def _spread(
        self, places: IntArray, parts: npt.NDArray[Any]
    ) -> npt.NDArray[np.float64]:
        away = np.asarray(parts, np.float64)[:, np.newaxis] * self._apart
        return np.concatenate([places * self.steps, away], axis=1)

    def flat(self) -> npt.NDArray[np.int64]:
        """Return the flat index of each seed in the whole."""
        flat: npt.NDArray[np.int64] = np.ravel_multi_index(
            tuple(self.places.T), self.shape
        ).astype(np.int64)
        return flat

    def within(self, region: Region) -> IntArray:
        """Return the seeds (N, D) within a region, in pixels from its start."""
        starts = np.array([s.start for s in region])
        stops = np.array([s.stop for s in region])
        is_in = ((self.places >= starts) & (self.places < stops)).all(axis=1)
        return np.asarray(self.places[is_in] - starts)


def _lone_objects(
    parts: npt.NDArray[Any], ids: npt.NDArray[Any], n_parts: int
) -> npt.NDArray[np.int64]:
    lowest = np.full(n_parts + 1, np.iinfo(np.int64).max)
    highest = np.zeros(n_parts + 1, np.int64)
    np.minimum.at(lowest, parts, ids)
    np.maximum.at(highest, parts, ids)
    return np.where(lowest == highest, lowest, 0)


def ascend(
    height: npt.NDArray[np.float32],
    parts: npt.NDArray[np.uint32],
    seeds: SeedField,
    region: Region,
    reach: int,
) -> npt.NDArray[Any]:
    """Find the top that each pixel of a region goes up to.

    Parameters
    ----------
    height : float32
    parts : uint32, of the same shape
        Ways do not leave a component; 0 is background.
    seeds : SeedField
        These are tops, however high.
    region : tuple of slice
        What of the whole this is.
    reach : int
        Axes along which a step may go at once.

    Returns
    -------
    int32 or int64
        Flat index within the region of the top of each pixel, or of the pixel in the
        outermost layer over which its way leaves the region; -1 in the background.
    """
    offsets = steps_around(height.ndim, reach, seeds.steps)
    lengths = np.linalg.norm(offsets * seeds.steps, axis=1).astype(np.float32)
    strides = _strides(height.shape)
    rise = np.full(height.shape, -1, np.float32)
    # half the memory, where it is enough
    index = np.int32 if height.size < np.iinfo(np.int32).max else np.int64
    jump = np.zeros(height.shape, index)
    for offset, length in zip(offsets, lengths, strict=True):
        here, there = sides_of_step(offset)
        steeper = (height[there] - height[here]) / length
        is_better = (steeper > rise[here]) & (parts[there] == parts[here])
        rise[here][is_better] = steeper[is_better]
        jump[here][is_better] = int(offset @ strides)
    stays = outermost(region, seeds.shape)
    stays[tuple(seeds.within(region).T)] = True
    jump[(rise < 0) | stays | (parts == 0)] = 0
    flat = np.flatnonzero((rise.ravel() == 0) & ~stays.ravel() & (parts.ravel() != 0))
    jump.ravel()[flat] = _toward_seeds(flat, height, parts, seeds, region, offsets)
    to = jump.ravel()
    to += np.arange(height.size, dtype=index)
    while True:
        further = to[to]
        if np.array_equal(further, to):
            break
        to = further
    to[parts.ravel() == 0] = -1
    return to.reshape(height.shape)


def number_tops(
    ways: npt.NDArray[Any], size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """Give what ways lead to numbers, in the order of their places.

    Parameters
    ----------
    ways : integer
        As `ascend` finds them, or a part of that.
    size : int
        Pixels of the region that they were found in.

    Returns
    -------
    tops : (N,) int64
        Flat indices within the region.
    numbers : uint32, of the shape of `ways`
        From 1 to N; 0 in the background.
    """
    is_top = np.zeros(size + 1, bool)
    # the background, -1, is the last
    is_top[ways.ravel()] = True
    is_top[-1] = False
    ranks = np.cumsum(is_top, dtype=np.uint32)
    ranks[-1] = 0
    return np.flatnonzero(is_top), ranks[ways]


def outermost(region: Region, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Tell which pixels of a region have neighbours beyond it."""
    is_outer = np.zeros(tuple(s.stop - s.start for s in region), bool)
    for axis, (side, n) in enumerate(zip(region, shape, strict=True)):
        along = np.moveaxis(is_outer, axis, 0)
        if side.start > 0:
            along[0] = True
        if side.stop < n:
            along[-1] = True
    return is_outer


def _toward_seeds(
    flat: npt.NDArray[np.int64],
    height: npt.NDArray[np.float32],
    parts: npt.NDArray[np.uint32],
    seeds: SeedField,
    region: Region,
    offsets: IntArray,
) -> npt.NDArray[np.int64]:
    """Lead pixels as high as their highest neighbour toward the nearest seed.

    Of neighbours equally near to one, the first in the volume counts: a way never
    comes back to where it was.
    """
    strides = _strides(height.shape)
    heights, part = height.ravel()[flat], parts.ravel()[flat]
    places = np.stack(np.unravel_index(flat, height.shape), axis=1)
    level: list[tuple[int, npt.NDArray[np.int64]]] = []
    is_asked = np.zeros(height.size, bool)
    is_asked[flat] = True
    for offset in offsets:
        near = places + offset
        step = int(offset @ strides)
        some = np.flatnonzero(((near >= 0) & (near < height.shape)).all(axis=1))
        beside = flat[some] + step
        is_level = height.ravel()[beside] == heights[some]
        is_level &= parts.ravel()[beside] == part[some]
        level.append((step, some[is_level]))
        is_asked[beside[is_level]] = True
    asked = np.flatnonzero(is_asked)
    starts = np.array([s.start for s in region])
    where = np.stack(np.unravel_index(asked, height.shape), axis=1) + starts
    distances = seeds.distances(where, parts.ravel()[asked])
    best = distances[np.searchsorted(asked, flat)]
    jump = np.zeros(len(flat), np.int64)
    for step, some in level:
        distance = distances[np.searchsorted(asked, flat[some] + step)]
        is_nearer = (distance < best[some]) | (
            (distance == best[some]) & (step < jump[some])
        )
        best[some[is_nearer]] = distance[is_nearer]
        jump[some[is_nearer]] = step
    return jump


def _strides(shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return how far apart neighbours along each axis are in a flat array."""
    return np.array([math.prod(shape[axis + 1 :]) for axis in range(len(shape))])


def split_basins(
    height: npt.NDArray[np.float32],
    parts: npt.NDArray[np.uint32],
    seeds: SeedField,
    reach: int,
) -> npt.NDArray[np.uint32]:
    """Give each pixel the object of the seed that its way up leads to.

    Parameters
    ----------
    height : float32
    parts : uint32, of the same shape
        Components; each has a seed.
    seeds : SeedField
    reach : int
        See `ascend`.

    Returns
    -------
    uint32
    """
    labels = seeds.alone.astype(np.uint32)[parts]
    if not len(seeds.places):
        return labels
    shared = np.where(labels == 0, parts, np.uint32(0))
    whole = tuple(slice(0, n) for n in parts.shape)
    ways = ascend(height, shared, seeds, whole, reach)
    tops, numbers = number_tops(ways, parts.size)
    objects = np.zeros(len(tops) + 1, np.int64)
    objects[1 + np.searchsorted(tops, seeds.flat())] = seeds.ids
    passes = passes_between(numbers, height, shared, reach, objects > 0)
    labels += join_tops(passes, objects).astype(np.uint32)[numbers]
    return labels
