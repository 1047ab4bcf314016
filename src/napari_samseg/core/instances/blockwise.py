"""Instances of volumes larger than memory, block by block.

A volume is gone through in blocks; what has to be known of the whole of it are
tables: which components meet at the faces of blocks, and where seeds lie. Results
are those of the whole volume at once: components up to their numbers, watersheds as
far as no object reaches beyond the halo around its seed's block.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from napari_samseg.core.errors import InvalidLabelsError, LabelOverflowError
from napari_samseg.core.images import ArrayLike
from napari_samseg.core.instances.components import (
    axes_of,
    label_components,
    neighbourhood,
)
from napari_samseg.core.instances.watershed import (
    distant_peaks,
    flood,
    seed_distance,
    smoothed_distance,
    thin_out,
)
from napari_samseg.core.types import Progress

__all__ = [
    "BlockwiseReport",
    "Writable",
    "block_slices",
    "label_blockwise",
    "split_blockwise",
]

# Values held at once of what is read: some 100 MB with all that is made of them.
BLOCK_VALUES = 1 << 23

Block = tuple[slice, ...]


class Writable(Protocol):
    """An array that is written block by block, such as one of zarr."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def dtype(self) -> Any: ...  # noqa: D102

    def __getitem__(self, key: Any, /) -> Any: ...

    def __setitem__(self, key: Any, value: Any, /) -> None: ...


@dataclass(frozen=True, slots=True)
class BlockwiseReport:
    """What was made of a volume.

    Attributes
    ----------
    n_objects : int
    n_foreground : int
        Pixels that belong to objects.
    """

    n_objects: int
    n_foreground: int


def label_blockwise(
    classes: ArrayLike,
    out: Writable,
    *,
    connectivity: int | None = None,
    block: Sequence[int] | None = None,
) -> Generator[Progress, None, BlockwiseReport]:
    """Label the connected components of a volume that need not fit in memory.

    Parameters
    ----------
    classes : (Y, X) or (Z, Y, X) bool or integer, array-like
        numpy, dask or zarr; 0 is background.
    out : array of the same shape, unsigned integer
        Gets ids from 1, without gaps.
    connectivity : int, optional
        See `napari_samseg.core.instances.components.neighbourhood`.
    block : sequence of int, optional
        Size of a block along each axis; a multiple of the chunks of `out` if they
        are to be written once. Chosen from the chunks if not given.

    Raises
    ------
    InvalidLabelsError
        If `out` has another shape, or see `label_components`.
    LabelOverflowError
        If there are more components than the data type of `out` counts.
    """
    shape = tuple(int(n) for n in classes.shape)
    if tuple(out.shape) != shape:
        raise InvalidLabelsError(
            f"labels of shape {shape} do not fit an output of shape {tuple(out.shape)}"
        )
    reach = axes_of(neighbourhood(len(shape), connectivity), len(shape))
    blocks = block_slices(out, block)
    largest = int(np.iinfo(out.dtype).max)
    n_found, n_foreground = 0, 0
    for done, where in enumerate(blocks):
        yield Progress("labelling blocks", done, len(blocks))
        labels = label_components(np.asarray(classes[where]), connectivity)
        n_here = int(labels.max(initial=0))
        if n_found + n_here > largest:
            raise LabelOverflowError(
                f"there are more than {largest} components before blocks are joined, "
                f"which {np.dtype(out.dtype)} cannot count: write into a wider type"
            )
        numbered = labels.astype(out.dtype)
        numbered[labels > 0] += np.dtype(out.dtype).type(n_found)
        out[where] = numbered
        n_found += n_here
        n_foreground += int((labels > 0).sum())
    pairs = []
    for done, where in enumerate(blocks):
        yield Progress("joining blocks", done, len(blocks))
        pairs += list(_meetings(classes, out, where, reach))
    names, n_objects = _join(n_found, pairs)
    for done, where in enumerate(blocks):
        yield Progress("renumbering", done, len(blocks))
        out[where] = names[np.asarray(out[where])].astype(out.dtype)
    return BlockwiseReport(n_objects, n_foreground)


def split_blockwise(
    mask: ArrayLike,
    out: Writable,
    *,
    spacing: Sequence[float] | None = None,
    smoothing: float = 1.0,
    min_distance: float | None = None,
    halo: int = 32,
    block: Sequence[int] | None = None,
) -> Generator[Progress, None, BlockwiseReport]:
    """Split touching objects of a volume that need not fit in memory.

    Seeds are found first, everywhere, so that each has one id in all blocks; then
    each block is flooded from the seeds in it and around it. A block with foreground
    that no seed reaches is flooded again with more around it.

    Parameters
    ----------
    mask : (Y, X) or (Z, Y, X) bool or integer, array-like
    out : array of the same shape, unsigned integer
        Gets ids from 1.
    spacing, smoothing, min_distance
        See `napari_samseg.core.instances.watershed.split_touching`.
    halo : int
        Pixels around a block that are looked at, too: more than the radius of an
        object.
    block : sequence of int, optional
        As in `label_blockwise`.

    Raises
    ------
    InvalidLabelsError, LabelOverflowError
        As in `label_blockwise`.
    """
    shape = tuple(int(n) for n in mask.shape)
    if tuple(out.shape) != shape:
        raise InvalidLabelsError(
            f"labels of shape {shape} do not fit an output of shape {tuple(out.shape)}"
        )
    blocks = block_slices(out, block)
    away = seed_distance(min_distance, spacing)
    peaks, heights = [], []
    for done, where in enumerate(blocks):
        yield Progress("looking for seeds", done, len(blocks))
        around = _grow(where, shape, halo)
        parts = label_components(np.asarray(mask[around]))
        distance = smoothed_distance(parts, spacing, smoothing)
        found = distant_peaks(distance, parts, away, spacing)
        height = distance[tuple(found.T)]
        found = found + [s.start for s in around]
        is_inside = _is_inside(found, where)
        peaks.append(found[is_inside])
        heights.append(height[is_inside])
    seeds = thin_out(np.concatenate(peaks), np.concatenate(heights), away, spacing)
    largest = int(np.iinfo(out.dtype).max)
    _check_count(len(seeds), largest)
    flooded = _Flood(mask, seeds, spacing, smoothing, largest)
    n_foreground = 0
    for done, where in enumerate(blocks):
        yield Progress("flooding", done, len(blocks))
        labels = flooded.block(where, halo)
        out[where] = labels.astype(out.dtype)
        n_foreground += int((labels > 0).sum())
    return BlockwiseReport(flooded.n_objects, n_foreground)


class _Flood:
    """Floods blocks, in which an object has the same id."""

    def __init__(
        self,
        mask: ArrayLike,
        seeds: npt.NDArray[np.int64],
        spacing: Sequence[float] | None,
        smoothing: float,
        largest: int,
    ) -> None:
        self._mask, self._seeds = mask, seeds
        self._spacing, self._smoothing = spacing, smoothing
        self._largest = largest
        # ids of components without a seed, by their first pixel in the volume
        self._bare: dict[int, int] = {}

    @property
    def n_objects(self) -> int:
        """Objects that were found up to now."""
        return len(self._seeds) + len(self._bare)

    def block(self, where: Block, halo: int) -> npt.NDArray[np.uint32]:
        """Return the labels of a block."""
        shape = tuple(int(n) for n in self._mask.shape)
        while True:
            around = _grow(where, shape, halo)
            parts = label_components(np.asarray(self._mask[around]))
            distance = smoothed_distance(parts, self._spacing, self._smoothing)
            here = np.flatnonzero(_is_inside(self._seeds, around))
            markers = np.zeros(parts.shape, np.int32)
            starts = [s.start for s in around]
            markers[tuple((self._seeds[here] - starts).T)] = here + 1
            core = tuple(
                slice(s.start - a.start, s.stop - a.start)
                for s, a in zip(where, around, strict=True)
            )
            self._mark_bare(markers, parts, core, around, shape)
            labels = flood(-distance, markers, parts != 0, parts.ndim)
            is_whole = all(
                s.start == 0 and s.stop == n for s, n in zip(around, shape, strict=True)
            )
            if is_whole or not ((labels[core] == 0) & (parts[core] != 0)).any():
                return labels[core]
            halo *= 2

    def _mark_bare(
        self,
        markers: npt.NDArray[np.int32],
        parts: npt.NDArray[np.uint32],
        core: Block,
        around: Block,
        shape: tuple[int, ...],
    ) -> None:
        """Give components that are seen whole and have no seed one of their own.

        Such are the small ones beside the higher seed of another.
        """
        is_bare = np.zeros(int(parts.max(initial=0)) + 1, bool)
        is_bare[parts[core]] = True
        is_bare[parts[markers > 0]] = False
        for axis, (side, n) in enumerate(zip(around, shape, strict=True)):
            for end, is_cut in ((0, side.start > 0), (-1, side.stop < n)):
                if is_cut:
                    is_bare[parts.take(end, axis)] = False
        is_bare[0] = False
        if not is_bare.any():
            return
        flat = parts.ravel()
        places = np.flatnonzero(is_bare[flat])
        _, first = np.unique(flat[places], return_index=True)
        for place in np.transpose(np.unravel_index(places[first], parts.shape)):
            there = place + [s.start for s in around]
            key = int(np.ravel_multi_index(tuple(there), shape))
            object_id = self._bare.setdefault(key, self.n_objects + 1)
            _check_count(object_id, self._largest)
            markers[tuple(place)] = object_id


def _check_count(n: int, largest: int) -> None:
    if n > largest:
        raise LabelOverflowError(
            f"{n} objects are more than ids up to {largest} can count: write into a "
            "wider type"
        )


def _grow(where: Block, shape: tuple[int, ...], halo: int) -> Block:
    return tuple(
        slice(max(0, s.start - halo), min(n, s.stop + halo))
        for s, n in zip(where, shape, strict=True)
    )


def _is_inside(points: npt.NDArray[np.int64], where: Block) -> npt.NDArray[np.bool_]:
    starts = np.array([s.start for s in where])
    stops = np.array([s.stop for s in where])
    return np.asarray(((points >= starts) & (points < stops)).all(axis=1))


def _block_size(shape: tuple[int, ...], out: Any) -> tuple[int, ...]:
    """Whole chunks of the output, as many as fit in memory."""
    chunk = tuple(getattr(out, "shards", None) or getattr(out, "chunks", None) or shape)
    size = [min(c, n) for c, n in zip(chunk, shape, strict=True)]
    if math.prod(size) > BLOCK_VALUES:
        # one chunk that is larger than wanted: planes of it
        size[0] = max(1, BLOCK_VALUES // math.prod(size[1:]))
        return tuple(size)
    grows = True
    while grows:
        grows = False
        for axis in reversed(range(len(size))):
            step = min(size[axis] + chunk[axis], shape[axis]) - size[axis]
            more = math.prod(size) // size[axis] * (size[axis] + step)
            if step > 0 and more <= BLOCK_VALUES:
                size[axis] += step
                grows = True
    return tuple(size)


def block_slices(out: Writable, block: Sequence[int] | None = None) -> list[Block]:
    """Return the blocks that an array is written in: whole chunks of it."""
    shape = tuple(int(n) for n in out.shape)
    ranges = [
        [slice(start, min(start + step, n)) for start in range(0, n, step)]
        for n, step in zip(shape, block or _block_size(shape, out), strict=True)
    ]
    return list(itertools.product(*ranges))


def _meetings(
    classes: ArrayLike, out: Writable, where: Block, reach: int
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield pairs (N, 2) of ids that touch across the lower faces of a block.

    The block is seen with one pixel of its neighbours below and, along the other
    axes, on both sides: that is where corners meet.
    """
    for axis, own in enumerate(where):
        if own.start == 0:
            continue
        wide = [
            slice(max(0, s.start - 1), min(n, s.stop + 1))
            for s, n in zip(where, out.shape, strict=True)
        ]
        wide[axis] = slice(own.start - 1, own.start + 1)
        ids = np.asarray(out[tuple(wide)]).astype(np.int64)
        values = np.asarray(classes[tuple(wide)])
        below, above = (
            (slice(None),) * axis + (side,) for side in (slice(0, 1), slice(1, 2))
        )
        for shift in _shifts(ids.ndim, axis, reach):
            pairs = _pairs(
                (ids[below], values[below]), (ids[above], values[above]), shift
            )
            if len(pairs):
                yield pairs


def _shifts(ndim: int, axis: int, reach: int) -> Iterator[tuple[int, ...]]:
    """Yield the steps from one side of a face to neighbours on the other."""
    steps = [(0,) if a == axis else (-1, 0, 1) for a in range(ndim)]
    for shift in itertools.product(*steps):
        if sum(s != 0 for s in shift) + 1 <= reach:
            yield shift


def _pairs(
    a: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    b: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    shift: tuple[int, ...],
) -> npt.NDArray[np.int64]:
    here = tuple(slice(max(0, -s), -s if s > 0 else None) for s in shift)
    there = tuple(slice(max(0, s), s if s < 0 else None) for s in shift)
    ids_a, ids_b = a[0][here], b[0][there]
    touch = (ids_a != 0) & (ids_b != 0) & (a[1][here] == b[1][there])
    return np.unique(np.stack([ids_a[touch], ids_b[touch]], axis=1), axis=0)


def _join(
    n_found: int, pairs: Sequence[npt.NDArray[np.int64]]
) -> tuple[npt.NDArray[np.int64], int]:
    """Return the final id of each number, and how many objects there are."""
    joined = np.concatenate(pairs) if pairs else np.zeros((0, 2), np.int64)
    graph = coo_matrix(
        (np.ones(len(joined), np.uint8), tuple(joined.T)),
        shape=(n_found + 1, n_found + 1),
    )
    _, groups = connected_components(graph, directed=False)
    # in the order of the first number of each group; 0 stays alone and first
    order = np.unique(groups, return_index=True)[1]
    names = np.empty(len(order), np.int64)
    names[np.argsort(order)] = np.arange(len(order))
    return names[groups], len(order) - 1
