"""Exact distances to the border in volumes larger than memory, axis by axis.

The squared distance is found along one axis after the other, each time in columns
through the whole volume: a column is what is held in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.images import ArrayLike
from napari_samseg.core.types import Progress

__all__ = ["distance_blockwise"]

# Values that are worked on at once, which a processor keeps at hand.
CACHED_VALUES = 1 << 16
# Ways up to this long are tried one after the other, in many columns at once: quicker
# than the envelope while objects are small.
NEAR_PIXELS = 32

Block = tuple[slice, ...]


def distance_blockwise(
    parts: ArrayLike,
    out: Any,
    chunk: Sequence[int],
    spacing: Sequence[float] | None = None,
) -> Generator[Progress, None, None]:
    """Measure how far each pixel is from the nearest one with another value.

    Parameters
    ----------
    parts : (Y, X) or (Z, Y, X) integer, array-like
        With two values at least; 0 is background.
    out : float32, an array of the same shape
        Gets the same as `napari_samseg.core.instances.watershed.distance_inside`
        gives.
    chunk : sequence of int
        Size of a column across; its length is that of the volume.
    spacing : sequence of float, optional
    """
    shape = tuple(int(n) for n in parts.shape)
    for axis in range(len(shape)):
        columns = _columns(shape, chunk, axis)
        step = 1.0 if spacing is None else float(spacing[axis])
        for done, where in enumerate(columns):
            yield Progress("measuring distances", done, len(columns))
            values = np.moveaxis(np.asarray(parts[where]), axis, 0)
            before = None
            if axis:
                before = np.moveaxis(np.asarray(out[where]), axis, 0)
            squared = _along_first(values, before, step)
            if axis == len(shape) - 1:
                squared = np.sqrt(squared)
            out[where] = np.moveaxis(squared, 0, axis)


def _columns(shape: tuple[int, ...], chunk: Sequence[int], axis: int) -> list[Block]:
    sizes = [n if a == axis else chunk[a] for a, n in enumerate(shape)]
    ranges = [
        [slice(start, min(start + step, n)) for start in range(0, n, step)]
        for n, step in zip(shape, sizes, strict=True)
    ]
    return list(itertools.product(*ranges))


def _along_first(
    values: npt.NDArray[Any], before: npt.NDArray[np.float32] | None, step: float
) -> npt.NDArray[np.float32]:
    """Squared distances (L, ...) when steps along the first axis are allowed, too."""
    length = len(values)
    flat = values.reshape(length, -1)
    earlier = None if before is None else before.reshape(length, -1)
    squared = np.empty(flat.shape, np.float32)
    width = max(1, CACHED_VALUES // length)
    for start in range(0, flat.shape[1], width):
        some = slice(start, start + width)
        found = np.square(_to_other(flat[:, some]) * np.float32(step))
        found[flat[:, some] == 0] = 0
        if earlier is not None:
            _lower(found, np.ascontiguousarray(earlier[:, some]), step)
        squared[:, some] = found
    return np.reshape(squared, values.shape)


def _to_other(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Pixels to the nearest other value along the first axis, infinite if none is."""
    at = np.arange(len(values), dtype=np.float32)[:, np.newaxis]
    changes = values[1:] != values[:-1]
    last_other = np.full(values.shape, -np.inf, np.float32)
    np.copyto(last_other[1:], at[:-1], where=changes)
    next_other = np.full(values.shape, np.inf, np.float32)
    np.copyto(next_other[:-1], at[1:], where=changes)
    np.maximum.accumulate(last_other, axis=0, out=last_other)
    next_other = np.minimum.accumulate(next_other[::-1], axis=0)[::-1]
    nearest: npt.NDArray[np.float32] = np.minimum(at - last_other, next_other - at)
    return nearest


def _lower(
    found: npt.NDArray[np.float32], before: npt.NDArray[np.float32], step: float
) -> None:
    """Lower squared distances to those by way of pixels along the first axis.

    Ways that cross a border are never shorter than that to the border itself, which
    is known: pixels of other values need not be told apart.
    """
    np.minimum(found, before, out=found)
    for shift in range(1, len(found)):
        way = np.float32(np.square(shift * step))
        # looking for the highest takes as long as half a step
        if shift % 4 == 1 and found.max() <= way:
            break
        if shift > NEAR_PIXELS:
            for line in np.flatnonzero(found.max(axis=0) > way):
                by_way = _least_by_way(before[:, line], step)
                np.minimum(found[:, line], by_way, out=found[:, line])
            break
        np.minimum(found[shift:], before[:-shift] + way, out=found[shift:])
        np.minimum(found[:-shift], before[shift:] + way, out=found[:-shift])


def _least_by_way(
    before: npt.NDArray[np.float32], step: float
) -> npt.NDArray[np.float32]:
    """Return the least squared distance (L,) by way of any pixel of a line.

    The lower envelope of the parabolas above all pixels (Felzenszwalb and Huttenlocher
    2012), which takes time in proportion to the length however far the ways go. It
    is made of those pixels that are corners of the convex hull below
    ``before + place**2``; isotonic regression of the slopes between neighbours gives
    this hull.
    """
    from scipy.optimize import isotonic_regression

    places = np.flatnonzero(np.isfinite(before))
    if len(places) < 2:
        corners, borders = places, np.zeros(0, int)
    else:
        heights = before[places] / np.square(np.float64(step)) + np.square(places)
        gaps = np.diff(places)
        hull = isotonic_regression(np.diff(heights) / gaps, weights=gaps)
        corners = places[hull.blocks]
        # a parabola is the lowest up to half the slope to the next corner
        halves = np.ceil(hull.x[hull.blocks[:-1]] / 2)
        borders = np.clip(halves, 0, len(before)).astype(int)
    if not len(corners):
        return before
    lengths = np.diff(borders, prepend=0, append=len(before))
    nearest = np.repeat(corners, lengths)
    ways = np.square((np.arange(len(before)) - nearest) * step)
    least: npt.NDArray[np.float32] = before[nearest] + ways.astype(np.float32)
    return least
