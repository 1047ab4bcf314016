"""Semantic labels to instance labels by shape: touching objects are taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import edt
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.morphology import reconstruction
from skimage.segmentation import watershed

from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.instances.components import (
    Labels,
    axes_of,
    check_semantic,
    label_components,
    neighbourhood,
)
from napari_samseg.core.types import IntArray

__all__ = [
    "distance_inside",
    "distant_peaks",
    "flood",
    "grow_seeds",
    "interior_points",
    "seed_distance",
    "smoothed_distance",
    "split_touching",
    "thin_out",
    "watershed_from_points",
]

Spacing = Sequence[float]

# Seeds of one object lie closer together than this, in pixels, unless told otherwise.
DEFAULT_DISTANCE = 5.0
# Heights that are compared at once: some 100 MB with their places.
COMPARED_VALUES = 1 << 21


def distance_inside(
    mask: npt.NDArray[Any], spacing: Spacing | None = None
) -> npt.NDArray[np.float32]:
    """Distance of each pixel to the nearest one with another value.

    Parameters
    ----------
    mask : (Y, X) or (Z, Y, X) bool or integer
        Of labels, each object for itself.
    spacing : sequence of float, optional
        Size of a pixel along each axis; 1 if not given.

    Returns
    -------
    float32
        In units of `spacing`; 0 in the background. The border of the array is no
        border of an object.
    """
    _check_spacing(spacing, mask.ndim)
    values = np.ascontiguousarray(mask)
    values = values.view(np.uint8) if values.dtype == bool else values
    distance: npt.NDArray[np.float32] = edt.edt(
        values, anisotropy=None if spacing is None else tuple(spacing), parallel=0
    )
    if not np.isfinite(distance).all():
        # an object without any border is infinitely far from it
        distance[~np.isfinite(distance)] = np.float32(max(mask.shape))
    return distance


def split_touching(
    mask: npt.NDArray[Any],
    *,
    spacing: Spacing | None = None,
    smoothing: float = 1.0,
    min_distance: float | None = None,
    h: float | None = None,
    connectivity: int | None = None,
) -> Labels:
    """Split objects at their waists, by watershed on the distance to their border.

    Parameters
    ----------
    mask : (Y, X) or (Z, Y, X) bool or integer
        0 is background; components of different values are never joined.
    spacing : sequence of float, optional
        Size of a pixel along each axis, which makes stacks with thick sections
        right; 1 if not given.
    smoothing : float
        Standard deviation in pixels (of the finest axis) of a Gaussian over the
        distance, which keeps rough borders from making seeds.
    min_distance : float, optional
        Seeds lie at least so far apart, in units of `spacing`. The higher of two
        wins. 5 pixels if neither this nor `h` is given.
    h : float, optional
        Instead: a seed rises at least so much above the saddle to a higher one
        (h-maxima), in units of `spacing`.
    connectivity : int, optional
        See `napari_samseg.core.instances.components.neighbourhood`.

    Returns
    -------
    uint32
        Every foreground pixel belongs to an object.
    """
    if min_distance is not None and h is not None:
        raise SettingsError("give either min_distance or h, not both")
    parts = label_components(mask, connectivity)
    distance = smoothed_distance(parts, spacing, smoothing)
    if h is None:
        away = seed_distance(min_distance, spacing)
        peaks = distant_peaks(distance, parts, away, spacing)
        seeds = np.zeros(parts.shape, np.int32)
        seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    else:
        seeds = _high_peaks(distance, parts, h)
    seeds = _with_every_part(seeds, distance, parts)
    # a component is to be flooded along the steps that make it one
    reach = axes_of(neighbourhood(parts.ndim, connectivity), parts.ndim)
    return flood(-distance, seeds, parts != 0, reach)


def grow_seeds(
    seed_mask: npt.NDArray[Any],
    mask: npt.NDArray[Any],
    *,
    spacing: Spacing | None = None,
    connectivity: int | None = None,
) -> tuple[Labels, int]:
    """Grow each component of one class into the whole of another: axons into myelin.

    One point of each component, its centroid where that lies inside, floods the
    distance to the border of the seeds (AxonDeepSeg's watershed of axons and myelin,
    but that a crescent is seeded inside itself).

    Parameters
    ----------
    seed_mask : (Y, X) or (Z, Y, X) bool or integer
        Components of it are the objects.
    mask : bool or integer, of the same shape
        What they grow into; the seeds belong to it.
    spacing, connectivity
        As in `split_touching`.

    Returns
    -------
    labels : uint32
        Ids as of `label_components(seed_mask)`.
    n_unassigned : int
        Pixels of `mask` that no seed reaches, which stay 0.

    Raises
    ------
    InvalidLabelsError
        If the shapes differ.
    """
    seed_mask, mask = check_semantic(seed_mask), check_semantic(mask)
    if seed_mask.shape != mask.shape:
        raise InvalidLabelsError(
            f"seeds of shape {seed_mask.shape} do not fit what they grow into, "
            f"{mask.shape}"
        )
    is_seed = seed_mask != 0
    whole = is_seed | (mask != 0)
    parts = label_components(is_seed, connectivity)
    distance = distance_inside(is_seed, spacing)
    seeds = np.zeros(parts.shape, np.int32)
    points = interior_points(parts, distance)
    seeds[tuple(points.T)] = np.arange(1, len(points) + 1)
    # the steps of the flood are those of a pixel's direct neighbours
    labels = flood(-distance, seeds, whole)
    return labels, int((whole & (labels == 0)).sum())


def watershed_from_points(
    mask: npt.NDArray[Any],
    points: npt.ArrayLike,
    *,
    ids: npt.ArrayLike | None = None,
    spacing: Spacing | None = None,
) -> tuple[Labels, int]:
    """Split objects so that each point, or each group of points, has one.

    Parameters
    ----------
    mask : (Y, X) or (Z, Y, X) bool or integer
    points : (N, D) float
        In pixels; one beyond the foreground goes to the nearest pixel of it. Of
        several in one pixel the first counts.
    ids : (N,) integer, optional
        Object of each point, from 1: several of one object are its seeds together.
    spacing : sequence of float, optional
        As in `split_touching`.

    Returns
    -------
    labels : uint32
        Id i + 1 for point i, unless `ids` are given.
    n_unassigned : int
        Foreground pixels in components without a point, which stay 0.

    Raises
    ------
    InvalidLabelsError
        If points have another number of axes, or there is no foreground.
    """
    is_foreground = check_semantic(mask) != 0
    places = np.rint(np.asarray(points, float)).astype(np.int64)
    if places.ndim != 2 or places.shape[1] != mask.ndim:
        raise InvalidLabelsError(
            f"points of shape {places.shape} do not lie in labels of shape {mask.shape}"
        )
    if not is_foreground.any():
        raise InvalidLabelsError("there is no foreground to split: the mask is empty")
    places = np.clip(places, 0, np.array(mask.shape) - 1)
    nearest = ndimage.distance_transform_edt(
        ~is_foreground, sampling=spacing, return_distances=False, return_indices=True
    )
    places = nearest[(slice(None), *places.T)].T
    seeds = np.zeros(mask.shape, np.int32)
    names = np.arange(1, len(places) + 1) if ids is None else np.asarray(ids, np.int32)
    # of several at one place, the first
    places, first = np.unique(places, axis=0, return_index=True)
    seeds[tuple(places.T)] = names[first]
    labels = flood(-distance_inside(is_foreground, spacing), seeds, is_foreground)
    return labels, int((is_foreground & (labels == 0)).sum())


def interior_points(
    labels: Labels, distance: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """Return a pixel inside each object: its centroid, or its most interior pixel.

    Parameters
    ----------
    labels : uint32
        Ids 1 to N without gaps.
    distance : float32, of the same shape
        To the border of the objects.

    Returns
    -------
    (N, D) int64
        The centroid, cut to whole pixels, where that is in the object; otherwise
        the pixel farthest from the border.
    """
    n = int(labels.max(initial=0))
    if not n:
        return np.zeros((0, labels.ndim), np.int64)
    ids = np.arange(1, n + 1)
    places = np.stack(np.nonzero(labels))
    of = labels[tuple(places)]
    counts = np.bincount(of, minlength=n + 1)[1:]
    sums = [np.bincount(of, weights=axis, minlength=n + 1)[1:] for axis in places]
    points = (np.stack(sums, axis=1) / counts[:, np.newaxis]).astype(np.int64)
    outside = np.flatnonzero(labels[tuple(points.T)] != ids)
    if len(outside):
        inside = ndimage.maximum_position(distance, labels, ids[outside])
        points[outside] = np.array(inside, np.int64)
    return points


def smoothed_distance(
    parts: Labels, spacing: Spacing | None, smoothing: float
) -> npt.NDArray[np.float32]:
    """Distance to the border of each part, under a Gaussian; see `split_touching`."""
    distance = distance_inside(parts, spacing)
    if smoothing <= 0:
        return distance
    pixel = 1.0 if spacing is None else min(spacing)
    sigma = [smoothing * pixel / s for s in spacing or [1.0] * parts.ndim]
    smoothed: npt.NDArray[np.float32] = ndimage.gaussian_filter(distance, sigma)
    return smoothed


def seed_distance(min_distance: float | None, spacing: Spacing | None) -> float:
    """Return how far seeds lie apart, in units of `spacing`."""
    if min_distance is not None:
        return min_distance
    return DEFAULT_DISTANCE * (1.0 if spacing is None else min(spacing))


def distant_peaks(
    distance: npt.NDArray[np.float32],
    parts: Labels,
    away: float,
    spacing: Spacing | None,
) -> npt.NDArray[np.int64]:
    """Find seeds, each at least some distance from higher ones of its part.

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
        Pixels, the highest first.
    """
    steps = np.array(spacing or [1.0] * parts.ndim)
    # the largest box within the ball is cheap to search, and leaves few to compare
    box = np.floor(away / np.sqrt(parts.ndim) / steps).astype(int)
    beyond = _ball_offsets(away, steps)
    beyond = beyond[(np.abs(beyond) > box).any(axis=1)]
    found = [np.zeros((0, parts.ndim), np.int64)]
    for part, where in enumerate(ndimage.find_objects(parts), start=1):
        if where is None:
            continue
        is_part = parts[where] == part
        inside = np.where(is_part, distance[where], -np.inf)
        if inside.size > 1 and np.ptp(inside[is_part]) == 0:
            # as high everywhere: there is no waist
            continue
        highest = ndimage.maximum_filter(inside, 2 * box + 1, mode="nearest")
        is_peak = is_part & (inside == highest)
        peaks = _highest_of(np.argwhere(is_peak), inside, beyond)
        found.append(peaks + [side.start for side in where])
    peaks = np.concatenate(found)
    return thin_out(peaks, distance[tuple(peaks.T)], away, spacing)


def _ball_offsets(away: float, steps: npt.NDArray[np.float64]) -> IntArray:
    """Return the steps (K, D) in pixels that are no longer than a distance."""
    reach = np.floor(away / steps).astype(int)
    grid: IntArray = np.indices(tuple((2 * reach + 1).tolist()))
    offsets = grid.reshape(len(steps), -1).T - reach
    near = np.square(offsets * steps).sum(axis=1) <= away**2
    return np.asarray(offsets[near], np.int64)


def _highest_of(
    peaks: IntArray, heights: npt.NDArray[Any], offsets: IntArray
) -> IntArray:
    """Keep the pixels (N, D) that none at some offsets (K, D) from them exceeds."""
    last = np.array(heights.shape) - 1
    start = 0
    while start < len(offsets) and len(peaks):
        # many offsets for few peaks: all at once that fit
        step = max(1, COMPARED_VALUES // len(peaks))
        # cut to the array, a place is still within the ball
        around = peaks[:, np.newaxis] + offsets[start : start + step]
        places = np.clip(around, 0, last)
        highest = heights[tuple(np.moveaxis(places, -1, 0))].max(axis=1)
        peaks = peaks[heights[tuple(peaks.T)] >= highest]
        start += step
    return peaks


def thin_out(
    peaks: npt.NDArray[np.int64],
    heights: npt.NDArray[np.float32],
    away: float,
    spacing: Spacing | None,
) -> npt.NDArray[np.int64]:
    """Keep the higher, or the first, of peaks that lie close together."""
    ndim = peaks.shape[1]
    if not len(peaks):
        return np.zeros((0, ndim), np.int64)
    peaks = peaks[np.argsort(-heights, kind="stable")]
    places = peaks * np.array(spacing or [1.0] * ndim)
    is_kept = np.ones(len(peaks), bool)
    for i, near in enumerate(cKDTree(places).query_ball_point(places, away)):
        if is_kept[i]:
            is_kept[[j for j in near if j > i]] = False
    return peaks[is_kept]


def _high_peaks(
    distance: npt.NDArray[np.float32], parts: Labels, h: float
) -> npt.NDArray[np.int32]:
    """Seeds that rise by h above the saddle to any higher one."""
    if h <= 0:
        raise SettingsError(f"h is a height above 0, not {h:g}")
    lowered = reconstruction(distance - np.float32(h), distance)
    # tops that are cut to one level are the h-maxima
    tops = (distance - lowered >= np.float32(h) * 0.999) & (parts != 0)
    return label_components(tops).astype(np.int32)


def _with_every_part(
    seeds: npt.NDArray[np.int32], distance: npt.NDArray[np.float32], parts: Labels
) -> npt.NDArray[np.int32]:
    """Give components too small for a peak a seed at their most interior pixel."""
    n = int(parts.max(initial=0))
    has_seed = np.zeros(n + 1, bool)
    has_seed[parts[seeds > 0]] = True
    bare = np.flatnonzero(~has_seed[1:]) + 1
    if len(bare):
        places = np.array(ndimage.maximum_position(distance, parts, bare), np.int64)
        first = int(seeds.max()) + 1
        seeds[tuple(places.T)] = np.arange(first, first + len(bare))
    return seeds


def flood(
    height: npt.NDArray[np.float32],
    seeds: npt.NDArray[np.int32],
    mask: npt.NDArray[np.bool_],
    reach: int = 1,
) -> Labels:
    """Flood from seeds (ids, 0 elsewhere), in steps along `reach` axes at once."""
    return np.asarray(watershed(height, seeds, reach, mask=mask), np.uint32)


def _check_spacing(spacing: Spacing | None, ndim: int) -> None:
    if spacing is None:
        return
    if len(spacing) != ndim or not all(0 < s < np.inf for s in spacing):
        raise SettingsError(
            f"spacing {tuple(spacing)} is not {ndim} positive numbers, one for each "
            "axis"
        )
