"""Where ways up to several tops meet, and which tops are one object for that."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from napari_samseg.core.types import IntArray

__all__ = ["Passes", "join_tops", "passes_between", "sides_of_step", "steps_around"]

Region = tuple[slice, ...]


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


def steps_around(ndim: int, reach: int, steps: npt.NDArray[np.float64]) -> IntArray:
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


def sides_of_step(offset: Sequence[int]) -> tuple[Region, Region]:
    """Return views of the pixels that have a neighbour at an offset, and of those."""
    here = tuple(slice(max(0, -o), -o if o > 0 else None) for o in offset)
    there = tuple(slice(max(0, o), o if o < 0 else None) for o in offset)
    return here, there


def passes_between(
    tops: npt.NDArray[np.uint32],
    height: npt.NDArray[np.float32],
    parts: npt.NDArray[np.uint32],
    reach: int,
    is_seed: npt.NDArray[np.bool_],
) -> Passes:
    """Find the highest passes between tops, of which not both are seeds.

    Parameters
    ----------
    tops : uint32
        Number of the top of each pixel, anything in the background.
    height : float32, of the same shape
    parts : uint32, of the same shape
    reach : int
        See `ascend`.
    is_seed : (N,) bool
        For each number of a top.
    """
    found: list[Passes] = []
    every = steps_around(tops.ndim, reach, np.ones(tops.ndim))
    for offset in every:
        if tuple(offset) < (0,) * tops.ndim:
            continue
        here, there = sides_of_step(offset)
        meet = (tops[here] != tops[there]) & (parts[here] == parts[there])
        meet &= parts[here] != 0
        a, b = tops[here][meet], tops[there][meet]
        counts = ~(is_seed[a] & is_seed[b])
        saddle = np.minimum(height[here][meet], height[there][meet])[counts]
        pairs = np.stack([a[counts], b[counts]], axis=1).astype(np.int64)
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
