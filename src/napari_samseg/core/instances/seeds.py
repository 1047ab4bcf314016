"""Where objects are seeded: peaks of the distance to the border, some way apart.

Which of several peaks as high as each other counts is decided by their places in the
whole, so that a volume gets the same seeds at once and block by block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from napari_samseg.core.amounts import count_things
from napari_samseg.core.instances.components import Labels
from napari_samseg.core.types import IntArray

__all__ = [
    "Peaks",
    "choose_seeds",
    "crowding_notes",
    "distant_peaks",
    "find_peaks",
    "first_of_ties",
    "pixel_side",
    "seed_distance",
]

Spacing = Sequence[float]

# Seeds of one object lie closer together than this, in pixels, unless told otherwise.
DEFAULT_DISTANCE = 5.0
# Heights that are compared at once: some 100 MB with their places.
COMPARED_VALUES = 1 << 21
# Peaks whose neighbours are looked up at once.
NEIGHBOURED_PEAKS = 1 << 14
# Objects for each component above which a note says that most seeds are crowded.
MANY_FOLD = 3


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """Pixels that may become seeds.

    Attributes
    ----------
    places : (N, D) int64
    heights : (N,) float32
    parts : (N,) int64
        Component that each lies in.
    """

    places: IntArray
    heights: npt.NDArray[np.float32]
    parts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, which: npt.NDArray[Any]) -> Peaks:
        return Peaks(self.places[which], self.heights[which], self.parts[which])

    @classmethod
    def joined(cls, several: Sequence[Peaks], ndim: int) -> Peaks:
        """Return the peaks of several one after the other."""
        places = [np.zeros((0, ndim), np.int64), *(p.places for p in several)]
        heights = [np.zeros(0, np.float32), *(p.heights for p in several)]
        parts = [np.zeros(0, np.int64), *(p.parts for p in several)]
        return cls(
            np.concatenate(places), np.concatenate(heights), np.concatenate(parts)
        )

    def highest_first(self) -> Peaks:
        """Order by height, and those of one height by their places."""
        return self[np.lexsort((*self.places.T[::-1], -self.heights))]


def pixel_side(spacing: Spacing | None) -> float:
    """Return the side of a pixel along the finest axis, in units of `spacing`."""
    return 1.0 if spacing is None else min(spacing)


def seed_distance(min_distance: float | None, spacing: Spacing | None) -> float:
    """Return how far seeds lie apart, in units of `spacing`."""
    if min_distance is not None:
        return min_distance
    return DEFAULT_DISTANCE * pixel_side(spacing)


def distant_peaks(
    distance: npt.NDArray[np.float32],
    parts: Labels,
    away: float,
    spacing: Spacing | None,
) -> IntArray:
    """Find seeds, each at least some distance from higher ones.

    Parameters
    ----------
    distance : float32
        To the border of the parts.
    parts : uint32, of the same shape
    away : float
        In units of `spacing`.
    spacing : sequence of float or None

    Returns
    -------
    (N, D) int64
        Pixels, the highest first; none in parts that are as high everywhere.
    """
    peaks, extents = find_peaks(distance, parts, away, spacing)
    is_flat = extents[:, 0] == extents[:, 1]
    return _thin_out(peaks[~is_flat[peaks.parts]], away, spacing).places


def find_peaks(
    distance: npt.NDArray[np.float32],
    parts: Labels,
    away: float,
    spacing: Spacing | None,
    *,
    is_piece: bool = False,
) -> tuple[Peaks, npt.NDArray[np.float32]]:
    """Find the pixels that none of their part within some distance exceeds.

    Parameters
    ----------
    distance, parts, away, spacing
        As of `distant_peaks`.
    is_piece : bool
        Parts may go on beyond this, and be as high everywhere here alone.

    Returns
    -------
    peaks : Peaks
        Of a part that is as high everywhere, the first pixel.
    extents : (P + 1, 2) float32
        Lowest and highest distance in each part; infinite where there is none.
    """
    steps = np.array(spacing or [1.0] * parts.ndim)
    # the largest box within the ball is cheap to search, and leaves few to compare
    box = np.floor(away / np.sqrt(parts.ndim) / steps).astype(int)
    lines = _ball_lines(away, steps, np.array(parts.shape))
    lines = lines[(np.abs(lines) > box).any(axis=1)]
    objects = ndimage.find_objects(parts)
    extents = np.full((len(objects) + 1, 2), (np.inf, -np.inf), np.float32)
    found: list[Peaks] = []
    for part, where in enumerate(objects, start=1):
        if where is None:
            continue
        is_part = parts[where] == part
        inside = np.where(is_part, distance[where], -np.inf)
        of_part = inside[is_part]
        extents[part] = of_part.min(), of_part.max()
        if extents[part, 0] < extents[part, 1]:
            highest = ndimage.maximum_filter(inside, 2 * box + 1, mode="nearest")
            is_peak = is_part & (inside == highest)
            # nothing exceeds the highest of all
            is_sure = is_peak & (inside == extents[part, 1])
            unsure = np.argwhere(is_peak & ~is_sure)
            is_peak[tuple(unsure.T)] = _are_highest(unsure, inside, lines)
            places = np.argwhere(is_peak)
        elif is_piece:
            places = np.argwhere(is_part)
        else:
            places = np.array([np.unravel_index(is_part.argmax(), is_part.shape)])
        heights = inside[tuple(places.T)].astype(np.float32)
        places = places + [side.start for side in where]
        found.append(Peaks(places, heights, np.full(len(places), part, np.int64)))
    return Peaks.joined(found, parts.ndim), extents


def first_of_ties(peaks: Peaks, away: float, spacing: Spacing | None) -> Peaks:
    """Keep one of the peaks of a part in each cell of a grid over the whole.

    Two peaks of a part so close are as high as each other: this takes apart what is
    flat, of which every pixel is a peak, before all of them are compared.
    """
    ndim = peaks.places.shape[1]
    steps = np.array(spacing or [1.0] * ndim)
    # no two pixels of a cell are farther apart than seeds may be close
    side = np.floor(away / np.sqrt(ndim) / steps).astype(np.int64) + 1
    peaks = peaks.highest_first()
    cells = np.column_stack([peaks.parts, peaks.places // side])
    order = np.lexsort(cells.T[::-1])
    cells = cells[order]
    is_first = np.ones(len(cells), bool)
    is_first[1:] = (cells[1:] != cells[:-1]).any(axis=1)
    return peaks[np.sort(order[is_first])]


def choose_seeds(
    peaks: Peaks,
    extents: npt.NDArray[np.float32],
    away: float,
    spacing: Spacing | None,
) -> Peaks:
    """Choose seeds of which each part has one at least.

    Parameters
    ----------
    peaks : Peaks
        Of the whole; the first of the highest pixels of each part is among them.
    extents : (P + 1, 2) float32
        As of `find_peaks`, of the whole.
    away, spacing
        As of `distant_peaks`.

    Returns
    -------
    Peaks
        Those some distance from higher ones; then the highest pixel of each part that
        is left without, as small ones beside large ones are.
    """
    is_flat = extents[:, 0] == extents[:, 1]
    # as high everywhere: there is no waist
    seeds = first_of_ties(peaks[~is_flat[peaks.parts]], away, spacing)
    seeds = _thin_out(seeds, away, spacing)
    has_seed = np.zeros(len(extents), bool)
    has_seed[seeds.parts] = True
    others = peaks[~has_seed[peaks.parts]].highest_first()
    # numbers of parts are others at once and block by block; heights and places are not
    _, first = np.unique(others.parts, return_index=True)
    return Peaks.joined([seeds, others[np.sort(first)]], peaks.places.shape[1])


def crowding_notes(
    seeds: Peaks, extents: npt.NDArray[np.float32], spacing: Spacing | None
) -> list[str]:
    """Tell of components that were cut into many pieces rather than at their waists.

    The middles of objects that touch are farther from each other than from the border;
    along a rough border or in thin sections, seeds crowd together.

    Parameters
    ----------
    seeds : Peaks
        All that were chosen.
    extents : (P + 1, 2) float32
        As of `find_peaks`, of the whole.
    spacing : sequence of float or None

    Returns
    -------
    list of str
        One note, or none.
    """
    n_parts = len(extents) - 1
    if len(seeds) <= MANY_FOLD * n_parts:
        return []
    places = seeds.places * np.array(spacing or [1.0] * seeds.places.shape[1])
    nearest = cKDTree(places).query(places, k=2)[0][:, 1]
    if 2 * np.count_nonzero(nearest < seeds.heights) <= len(seeds):
        return []
    # of the components that most pieces are of, not of specks
    width = 2 * np.median(extents[seeds.parts, 1]) / pixel_side(spacing)
    note = (
        f"{count_things(n_parts, 'component')} became {len(seeds)} objects, most of "
        "them closer together than they are wide: raise the distance of seeds "
        f"(--min-distance), to about {width:.0f} px for objects as wide as these, or "
        "take the method components"
    )
    return [note]


def _ball_lines(
    away: float, steps: npt.NDArray[np.float64], shape: IntArray
) -> IntArray:
    """Return the lines along the last axis that make up a ball, in pixels.

    Returns
    -------
    (K, D) int64
        Where each lies from the middle along the axes before, and how far it goes
        to both sides; no farther than in an array of this shape.
    """
    reach = np.minimum(np.floor(away / steps).astype(int), shape - 1)
    grid: IntArray = np.indices(tuple((2 * reach[:-1] + 1).tolist()))
    places = grid.reshape(len(steps) - 1, -1).T - reach[:-1]
    squares = np.square(places * steps[:-1]).sum(axis=1)
    sides = np.full(len(places), -1)
    for length in range(int(reach[-1]) + 1):
        sides += squares + np.square(length * steps[-1]) <= away**2
    lines = np.column_stack([places, sides])
    return np.asarray(lines[sides >= 0], np.int64)


def _are_highest(
    peaks: IntArray, heights: npt.NDArray[np.float32], lines: IntArray
) -> npt.NDArray[np.bool_]:
    """Tell which pixels (N, D) none on the lines (K, D) around them exceeds.

    A ball has far more pixels than lines, and the highest of a line is that of two
    runs that cover it, whose lengths are powers of two.
    """
    is_highest = np.ones(len(peaks), bool)
    if not len(peaks):
        return is_highest
    shape = np.array(heights.shape)
    lines = lines[(np.abs(lines[:, :-1]) < shape[:-1]).all(axis=1)]
    sides = np.minimum(lines[:, -1], shape[-1] - 1)
    margin = int(sides.max(initial=0))
    margins = [(0, 0)] * (heights.ndim - 1) + [(margin, margin)]
    runs = np.pad(heights, margins, constant_values=-np.inf)
    longest = 2 * margin + 1
    length = 1
    while True:
        is_covered = (2 * sides + 1) // length == 1
        of_length = np.column_stack([lines[is_covered, :-1], sides[is_covered]])
        _compare(peaks, is_highest, heights, runs, of_length, length)
        if 2 * length > longest or not is_highest.any():
            return is_highest
        runs = np.maximum(runs[..., :-length], runs[..., length:])
        length *= 2


def _compare(
    peaks: IntArray,
    is_highest: npt.NDArray[np.bool_],
    heights: npt.NDArray[np.float32],
    runs: npt.NDArray[np.float32],
    lines: IntArray,
    length: int,
) -> None:
    """Mark the pixels that one on some lines exceeds, by the highest of runs.

    `runs` has a margin on both sides of its last axis, and the highest of the pixels
    from each one on, so many as `length`.
    """
    margin = (runs.shape[-1] + length - 1 - heights.shape[-1]) // 2
    last = np.array(heights.shape[:-1]) - 1
    start = 0
    while start < len(lines) and is_highest.any():
        left = np.flatnonzero(is_highest)
        some = lines[start : start + max(1, COMPARED_VALUES // len(left))]
        places = peaks[left]
        # cut to the array, a line is still within the ball
        around = np.clip(places[:, np.newaxis, :-1] + some[:, :-1], 0, last)
        row = tuple(np.moveaxis(around, -1, 0))
        first = places[:, np.newaxis, -1] + margin - some[:, -1]
        second = first + 2 * some[:, -1] + 1 - length
        highest = np.maximum(runs[(*row, first)], runs[(*row, second)]).max(axis=1)
        is_highest[left] = heights[tuple(places.T)] >= highest
        start += len(some)


def _thin_out(peaks: Peaks, away: float, spacing: Spacing | None) -> Peaks:
    """Keep the higher, or the first, of peaks that lie close together."""
    if not len(peaks):
        return peaks
    peaks = peaks.highest_first()
    places = peaks.places * np.array(spacing or [1.0] * peaks.places.shape[1])
    tree = cKDTree(places)
    is_kept = np.ones(len(peaks), bool)
    for start in range(0, len(peaks), NEIGHBOURED_PEAKS):
        some = start + np.flatnonzero(is_kept[start : start + NEIGHBOURED_PEAKS])
        for i, near in zip(
            some, tree.query_ball_point(places[some], away), strict=True
        ):
            if is_kept[i]:
                is_kept[[j for j in near if j > i]] = False
    return peaks[is_kept]
