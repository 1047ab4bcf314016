"""A watershed from seeds by steepest ascent, which can be worked out piece by piece.

Each pixel goes to the neighbour that rises most steeply, and so to a top. Tops that
are no seeds are then joined, over the highest saddles, with those that are. Where a
pixel goes depends on its neighbours and the seeds alone: blocks of a volume find the
same ways as the whole, and what has to be known of all of it are tables of tops and
saddles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree

from napari_samseg.core.types import IntArray

__all__ = [
    "Passes",
    "SeedField",
    "ascend",
    "join_tops",
    "outermost",
    "passes_between",
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


@dataclass(frozen=True, slots=True, eq=False)
class Passes:
    """Where the ways to two tops meet.

    Attributes
    ----------
    pairs : (N, 2) int64
        The tops.
    heights : (N,) float32
        Of the highest place where one goes over into the other.
    """

    pairs: npt.NDArray[np.int64]
    heights: npt.NDArray[np.float32]

    @classmethod
    def joined(cls, several: Sequence[Passes]) -> Passes:
        """Return the passes of several one after the other."""
        pairs = [np.zeros((0, 2), np.int64), *(p.pairs for p in several)]
        heights = [np.zeros(0, np.float32), *(p.heights for p in several)]
        return cls(np.concatenate(pairs), np.concatenate(heights))

    def highest(self) -> Passes:
        """Return one pass for each pair of tops."""
        pairs = np.sort(self.pairs, axis=1)
        order = np.lexsort((-self.heights, pairs[:, 1], pairs[:, 0]))
        pairs, heights = pairs[order], self.heights[order]
        is_first = np.ones(len(pairs), bool)
        is_first[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
        return Passes(pairs[is_first], heights[is_first])


def _offsets(ndim: int, reach: int, steps: npt.NDArray[np.float64]) -> IntArray:
    """Return the steps (K, D) to neighbours, the shortest first.

    Of neighbours that are as good, the first is taken.
    """
    found = [
        offset
        for offset in itertools.product((-1, 0, 1), repeat=ndim)
        if 0 < sum(o != 0 for o in offset) <= reach
    ]
    lengths = np.linalg.norm(np.array(found) * steps, axis=1)
    return np.array(found, np.int64)[np.argsort(lengths, kind="stable")]


def _sides(offset: Sequence[int]) -> tuple[Region, Region]:
    """Return views of the pixels that have a neighbour at an offset, and of those."""
    here = tuple(slice(max(0, -o), -o if o > 0 else None) for o in offset)
    there = tuple(slice(max(0, o), o if o < 0 else None) for o in offset)
    return here, there


def ascend(
    height: npt.NDArray[np.float32],
    parts: npt.NDArray[np.uint32],
    seeds: SeedField,
    region: Region,
    reach: int,
) -> npt.NDArray[np.int64]:
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
    int64
        Flat index within the region of the top of each pixel, or of the pixel in the
        outermost layer over which its way leaves the region; -1 in the background.
    """
    offsets = _offsets(height.ndim, reach, seeds.steps)
    lengths = np.linalg.norm(offsets * seeds.steps, axis=1).astype(np.float32)
    strides = _strides(height.shape)
    rise = np.full(height.shape, -1, np.float32)
    jump = np.zeros(height.shape, np.int64)
    for offset, length in zip(offsets, lengths, strict=True):
        here, there = _sides(offset)
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
    to += np.arange(height.size)
    while True:
        further = to[to]
        if np.array_equal(further, to):
            break
        to = further
    to[parts.ravel() == 0] = -1
    return to.reshape(height.shape)


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


def passes_between(
    tops: npt.NDArray[np.int64],
    height: npt.NDArray[np.float32],
    parts: npt.NDArray[np.uint32],
    reach: int,
    is_seed: npt.NDArray[np.bool_],
) -> Passes:
    """Find the highest passes between tops, of which not both are seeds.

    Parameters
    ----------
    tops : int64
        Number of the top of each pixel, anything in the background.
    height : float32, of the same shape
    parts : uint32, of the same shape
    reach : int
        See `ascend`.
    is_seed : (N,) bool
        For each number of a top.
    """
    found: list[Passes] = []
    every = _offsets(tops.ndim, reach, np.ones(tops.ndim))
    for offset in every:
        if tuple(offset) < (0,) * tops.ndim:
            continue
        here, there = _sides(offset)
        meet = (tops[here] != tops[there]) & (parts[here] == parts[there])
        meet &= parts[here] != 0
        a, b = tops[here][meet], tops[there][meet]
        counts = ~(is_seed[a] & is_seed[b])
        saddle = np.minimum(height[here][meet], height[there][meet])[counts]
        pairs = np.stack([a[counts], b[counts]], axis=1)
        found.append(Passes(pairs, saddle).highest())
    return Passes.joined(found).highest()


def join_tops(passes: Passes, object_of: npt.NDArray[np.int64]) -> IntArray:
    """Give each top the object of the seed that it joins first, as water sinks.

    Parameters
    ----------
    passes : Passes
        Of tops in the order of their places, which decides between passes of one
        height.
    object_of : (N,) int64
        Object of each top that is a seed, from 1; 0 for others.

    Returns
    -------
    (N,) int64
        Object of each top; 0 for those that no seed is joined with.
    """
    n = len(object_of)
    passes = passes.highest()
    pairs, heights = passes.pairs, passes.heights
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0], -heights))]
    # all seeds hang on one node more, so that no two of them are joined otherwise
    tied = np.flatnonzero(object_of)
    hang = np.stack([tied, np.full(len(tied), n)], axis=1)
    edges = np.concatenate([hang, pairs]).astype(np.int64)
    # no two weights are the same: the tree is the only one
    weights = np.arange(1, len(edges) + 1, dtype=np.float64)
    graph = coo_matrix((weights, tuple(edges.T)), shape=(n + 1, n + 1))
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    is_real = (tree.row != n) & (tree.col != n)
    joined = coo_matrix(
        (np.ones(int(is_real.sum())), (tree.row[is_real], tree.col[is_real])),
        shape=(n, n),
    )
    _, groups = connected_components(joined, directed=False)
    named = np.zeros(n + 1, np.int64)
    named[groups[tied]] = object_of[tied]
    objects: IntArray = named[groups]
    return objects


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
    tops, numbers = np.unique(ways, return_inverse=True)
    numbers = numbers.reshape(parts.shape)
    objects = np.zeros(len(tops), np.int64)
    objects[np.searchsorted(tops, seeds.flat())] = seeds.ids
    passes = passes_between(numbers, height, shared, reach, objects > 0)
    # of the background, which is the first, nothing becomes an object
    labels += join_tops(passes, objects).astype(np.uint32)[numbers]
    return labels
