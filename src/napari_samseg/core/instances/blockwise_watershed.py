"""Watersheds of volumes larger than memory: those of the whole, block by block.

Distances, seeds and ways up are found in blocks with a margin, and are what they are
in the whole. What is held of all of it are tables: of seeds, of the tops that ways
lead to or leave a block by, and of the passes between them.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fastremap
import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError, LabelOverflowError
from napari_samseg.core.images import ArrayLike
from napari_samseg.core.instances.basins import (
    SeedField,
    ascend,
    number_tops,
    outermost,
)
from napari_samseg.core.instances.blockwise import (
    Block,
    BlockwiseReport,
    Writable,
    block_shape,
    block_slices,
    label_blockwise,
    thick_block_shape,
)
from napari_samseg.core.instances.distance_blockwise import distance_blockwise
from napari_samseg.core.instances.passes import Passes, join_tops, passes_between
from napari_samseg.core.instances.seeds import (
    Peaks,
    choose_seeds,
    crowding_notes,
    find_peaks,
    first_of_ties,
    seed_distance,
)
from napari_samseg.core.instances.watershed import (
    smooth_distance,
    smoothing_reach,
)
from napari_samseg.core.types import IntArray, Progress

__all__ = ["split_blockwise"]

# Pixels around a block in which ways are followed: most end there, and those that do
# not are looked up.
MARGIN = 8
# Most pixels across of what is kept on disk meanwhile.
COLUMN_WIDTH = 128
# What is numbered on disk meanwhile, where it cannot be more than this type counts.
NARROW = np.uint32


def split_blockwise(
    mask: ArrayLike,
    out: Writable,
    *,
    spacing: Sequence[float] | None = None,
    smoothing: float = 1.0,
    min_distance: float | None = None,
    block: Sequence[int] | None = None,
    scratch: Path | None = None,
) -> Generator[Progress, None, BlockwiseReport]:
    """Split touching objects of a volume that need not fit in memory.

    The objects are those of `split_touching`, with the same ids.

    Parameters
    ----------
    mask : (Y, X) or (Z, Y, X) bool or integer, array-like
        Read once, and along the faces of blocks once more.
    out : array of the same shape, unsigned integer
        Gets ids from 1.
    spacing, smoothing, min_distance
        See `napari_samseg.core.instances.watershed.split_touching`.
    block : sequence of int, optional
        As in `label_blockwise`.
    scratch : Path, optional
        Folder on a disk with room for up to 12 bytes for each pixel (before they are
        packed; 20 above some 4,000 million pixels) while this works; that of the system
        for temporary files if not given.

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
    written = block_shape(out, block)
    size = thick_block_shape(out, written) if block is None else written
    # columns of these through the whole volume are held in memory
    chunk = tuple(min(n, COLUMN_WIDTH) for n in written)
    away = seed_distance(min_distance, spacing)
    numbers = _number_dtype(shape, size, written)
    with TemporaryDirectory(prefix=".samseg-", dir=scratch) as folder:
        kinds = {"parts": numbers, "distance": np.float32, "tops": numbers}
        parts, distance, tops = (
            _make_array(Path(folder, name), shape, chunk, dtype)
            for name, dtype in kinds.items()
        )
        report = yield from label_blockwise(mask, parts, block=written)
        if report.n_objects == 1 and report.n_foreground == np.prod(shape):
            # no pixel lies at any border
            yield from _fill(out, written)
            return report
        yield from distance_blockwise(parts, distance, chunk, spacing)
        heights = _Heights(parts, distance, shape, spacing, smoothing)
        seeds, extents = yield from _find_seeds(heights, size, report.n_objects, away)
        if len(seeds) > np.iinfo(out.dtype).max:
            raise LabelOverflowError(
                f"{len(seeds)} objects are more than {np.dtype(out.dtype)} counts: "
                "write into a wider type"
            )
        ids = np.arange(1, len(seeds) + 1)
        field = SeedField(
            seeds.places, seeds.parts, ids, report.n_objects, shape, spacing
        )
        found = yield from _find_tops(heights, tops, size, field)
        objects = yield from _objects_of_tops(found, tops, size, field)
        for done, where in enumerate(blocks := block_slices(tops, size)):
            yield Progress("writing objects", done, len(blocks))
            labels = objects[np.asarray(tops[where])]
            labels += field.alone[np.asarray(parts[where])]
            out[where] = labels.astype(out.dtype)
    notes = crowding_notes(seeds, extents, spacing)
    return BlockwiseReport(len(seeds), report.n_foreground, tuple(notes))


def _make_array(
    path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: type[Any]
) -> Any:
    import zarr

    return zarr.create_array(path, shape=shape, chunks=chunks, dtype=dtype)


def _fill(out: Writable, size: tuple[int, ...]) -> Generator[Progress, None, None]:
    blocks = block_slices(out, size)
    for done, where in enumerate(blocks):
        yield Progress("writing objects", done, len(blocks))
        out[where] = np.ones(tuple(s.stop - s.start for s in where), out.dtype)


def _number_dtype(shape: tuple[int, ...], *sizes: Sequence[int]) -> type[Any]:
    """Return an unsigned type that counts what blocks of each of these sizes may hold.

    Before blocks are joined, each pixel may be a number of its own, and those at the
    faces one in each of the blocks that see them.
    """
    most = max(
        math.prod(n + 2 * -(-n // side) for n, side in zip(shape, size, strict=True))
        for size in sizes
    )
    return NARROW if most <= np.iinfo(NARROW).max else np.uint64


@dataclass(frozen=True, slots=True, eq=False)
class _Heights:
    """Smoothed distances, made for the region that is asked for."""

    parts: Any
    distance: Any
    shape: tuple[int, ...]
    spacing: Sequence[float] | None
    smoothing: float

    def within(self, region: Block) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        """Return the heights and the components of a region."""
        reach = smoothing_reach(self.smoothing, self.spacing, len(self.shape))
        wide = _grow(region, self.shape, reach)
        height = smooth_distance(
            np.asarray(self.distance[wide]), self.spacing, self.smoothing
        )
        return height[_inside(region, wide)], np.asarray(self.parts[region])


def _find_seeds(
    heights: _Heights, size: tuple[int, ...], n_parts: int, away: float
) -> Generator[Progress, None, tuple[Peaks, npt.NDArray[np.float32]]]:
    shape, spacing = heights.shape, heights.spacing
    reach = np.floor(away / np.array(spacing or [1.0] * len(shape))).astype(int)
    extents = np.full((n_parts + 1, 2), (np.inf, -np.inf), np.float32)
    found: list[Peaks] = []
    blocks = block_slices(heights.parts, size)
    for done, where in enumerate(blocks):
        yield Progress("looking for seeds", done, len(blocks))
        region = _grow(where, shape, reach)
        height, parts = heights.within(region)
        local, names = fastremap.renumber(parts, in_place=False)
        ids = np.zeros(len(names) + 1, np.int64)
        ids[np.array([*names.values()], int)] = [*names]
        peaks, here = find_peaks(
            height, local.astype(np.uint32), away, spacing, is_piece=True
        )
        ids = ids[: len(here)]
        extents[ids, 0] = np.minimum(extents[ids, 0], here[:, 0])
        extents[ids, 1] = np.maximum(extents[ids, 1], here[:, 1])
        places = peaks.places + [s.start for s in region]
        peaks = Peaks(places, peaks.heights, ids[peaks.parts])
        peaks = peaks[_is_inside(places, where)]
        found.append(first_of_ties(peaks, away, spacing))
    every = Peaks.joined(found, len(shape))
    return choose_seeds(every, extents, away, spacing), extents


@dataclass(slots=True, eq=False)
class _Tops:
    """What ways in blocks lead to; numbers count from 1, 0 is the background.

    Attributes
    ----------
    places : list of (N,) int64
        Flat index in the whole of each.
    is_exit : list of (N,) bool
        The way goes on in another block.
    passes : Passes
        Between these.
    """

    places: list[npt.NDArray[np.int64]] = field(default_factory=list)
    is_exit: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    passes: list[Passes] = field(default_factory=list)


def _find_tops(
    heights: _Heights, tops: Any, size: tuple[int, ...], seeds: SeedField
) -> Generator[Progress, None, _Tops]:
    """Follow the ways in each block, and number in `tops` what they lead to."""
    shape, ndim = heights.shape, len(heights.shape)
    found = _Tops([np.full(1, -1, np.int64)], [np.zeros(1, bool)])
    seed_places = np.sort(seeds.flat())
    n_found = 1
    blocks = block_slices(tops, size)
    for done, where in enumerate(blocks):
        yield Progress("flooding", done, len(blocks))
        region, near = _grow(where, shape, MARGIN), _grow(where, shape, 1)
        height, parts = heights.within(region)
        parts = np.where(seeds.alone[parts] == 0, parts, parts.dtype.type(0))
        if not parts.any():
            # what is not written is 0
            continue
        ways = ascend(height, parts, seeds, region, ndim)
        n_in_region = ways.size
        inner = _inside(near, region)
        ways, height, parts = ways[inner], height[inner], parts[inner]
        ends, numbers = number_tops(ways, n_in_region)
        is_exit = outermost(region, shape).ravel()[ends]
        local = np.unravel_index(ends, tuple(s.stop - s.start for s in region))
        whole = tuple(a + s.start for a, s in zip(local, region, strict=True))
        places = np.ravel_multi_index(whole, shape).astype(np.int64)
        is_seed = np.zeros(len(places) + 1, bool)
        is_seed[1:] = np.isin(places, seed_places) & ~is_exit
        passes = passes_between(numbers, height, parts, ndim, is_seed)
        found.passes.append(Passes(passes.pairs + n_found - 1, passes.heights))
        found.places.append(places)
        found.is_exit.append(is_exit)
        numbers = numbers[_inside(where, near)]
        counted = np.where(numbers > 0, numbers + np.int64(n_found - 1), 0)
        tops[where] = counted.astype(tops.dtype)
        n_found += len(places)
    return found


def _objects_of_tops(
    found: _Tops, tops: Any, size: tuple[int, ...], seeds: SeedField
) -> Generator[Progress, None, npt.NDArray[np.int64]]:
    """Return the object of each number in `tops`."""
    places = np.concatenate(found.places)
    leads_to = np.arange(len(places))
    exits = np.flatnonzero(np.concatenate(found.is_exit))
    at = np.stack(np.unravel_index(places[exits], seeds.shape), axis=1)
    for done, (where, here) in enumerate(_by_block(at, seeds.shape, size)):
        yield Progress("following ways", done)
        numbers = np.asarray(tops[where])
        local = at[here] - [s.start for s in where]
        leads_to[exits[here]] = numbers[tuple(local.T)]
    while not np.array_equal(further := leads_to[leads_to], leads_to):
        leads_to = further
    # the background is no place
    every, names = np.unique(places[leads_to], return_inverse=True)
    objects = np.zeros(len(every), np.int64)
    objects[np.searchsorted(every, seeds.flat())] = seeds.ids
    passes = Passes.joined(found.passes)
    pairs, saddles = names[passes.pairs], passes.heights
    counts = (objects[pairs] == 0).any(axis=1) & (pairs[:, 0] != pairs[:, 1])
    return join_tops(Passes(pairs[counts], saddles[counts]), objects)[names]


def _by_block(
    places: IntArray, shape: tuple[int, ...], size: tuple[int, ...]
) -> list[tuple[Block, npt.NDArray[np.int64]]]:
    """Return blocks in which some places (N, D) lie, and which of them."""
    if not len(places):
        return []
    cells = places // np.array(size)
    order = np.lexsort(cells.T[::-1])
    changes = (cells[order][1:] != cells[order][:-1]).any(axis=1)
    groups = np.split(order, np.flatnonzero(changes) + 1)
    return [
        (
            tuple(
                slice(c * s, min((c + 1) * s, n))
                for c, s, n in zip(cells[group[0]].tolist(), size, shape, strict=True)
            ),
            group,
        )
        for group in groups
    ]


def _grow(where: Block, shape: tuple[int, ...], by: Any) -> Block:
    margins = np.broadcast_to(by, len(shape)).tolist()
    return tuple(
        slice(max(0, s.start - m), min(n, s.stop + m))
        for s, n, m in zip(where, shape, margins, strict=True)
    )


def _inside(region: Block, wide: Block) -> Block:
    """Return where a region lies in a wider one."""
    return tuple(
        slice(s.start - w.start, s.stop - w.start)
        for s, w in zip(region, wide, strict=True)
    )


def _is_inside(points: IntArray, where: Block) -> npt.NDArray[np.bool_]:
    starts = np.array([s.start for s in where])
    stops = np.array([s.stop for s in where])
    return np.asarray(((points >= starts) & (points < stops)).all(axis=1))
