"""Semantic labels to instance labels by shape: touching objects are taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import edt
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.morphology import reconstruction
from skimage.segmentation import watershed

from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.instances.basins import SeedField, split_basins
from napari_samseg.core.instances.components import (
    Labels,
    axes_of,
    check_semantic,
    label_components,
    neighbourhood,
)
from napari_samseg.core.instances.seeds import (
    choose_seeds,
    crowding_notes,
    find_peaks,
    pixel_side,
    seed_distance,
)

__all__ = [
    "check_spacing",
    "distance_inside",
    "flood",
    "grow_seeds",
    "interior_points",
    "smooth_distance",
    "smoothed_distance",
    "smoothing_reach",
    "split_touching",
    "watershed_from_points",
]

Spacing = Sequence[float]


def check_spacing(spacing: Spacing | None, ndim: int) -> None:
    """Raise `SettingsError` unless there is one size above 0 for each axis, or none."""
    if spacing is None:
        return
    if len(spacing) != ndim or not all(0 < s < np.inf for s in spacing):
        raise SettingsError(
            f"spacing {tuple(spacing)} is not {ndim} positive numbers, one for each "
            "axis"
        )


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
    check_spacing(spacing, mask.ndim)
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
    notes: list[str] | None = None,
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
        wins. 5 pixels of the finest axis if neither this nor `h` is given.
    h : float, optional
        Instead: a seed rises at least so much above the saddle to a higher one
        (h-maxima), in units of `spacing`.
    connectivity : int, optional
        See `napari_samseg.core.instances.components.neighbourhood`.
    notes : list of str, optional
        Gets what a person should know: see
        `napari_samseg.core.instances.seeds.crowding_notes`.

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
        found, extents = find_peaks(distance, parts, away, spacing)
        peaks = choose_seeds(found, extents, away, spacing)
        if notes is not None:
            notes += crowding_notes(peaks, extents, spacing)
        places = peaks.places
        ids = np.arange(1, len(peaks) + 1, dtype=np.int32)
    else:
        seeds = _with_every_part(_high_peaks(distance, parts, h), distance, parts)
        places = np.argwhere(seeds)
        ids = seeds[tuple(places.T)]
    seed_parts = parts[tuple(places.T)]
    n_parts = int(parts.max(initial=0))
    field = SeedField(places, seed_parts, ids, n_parts, parts.shape, spacing)
    # a component is to be flooded along the steps that make it one
    reach = axes_of(neighbourhood(parts.ndim, connectivity), parts.ndim)
    return split_basins(distance, parts, field, reach)


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
        In pixels; on background none grows. Of several in one pixel the first counts.
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
    seeds = np.zeros(mask.shape, np.int32)
    names = np.arange(1, len(places) + 1) if ids is None else np.asarray(ids, np.int32)
    # of several at one place, the first
    places, first = np.unique(places, axis=0, return_index=True)
    seeds[tuple(places.T)] = names[first]
    seeds[~is_foreground] = 0
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
    return smooth_distance(distance_inside(parts, spacing), spacing, smoothing)


def smooth_distance(
    distance: npt.NDArray[np.float32], spacing: Spacing | None, smoothing: float
) -> npt.NDArray[np.float32]:
    """Smooth distances; see `split_touching`.

    What comes out depends on pixels up to `smoothing_reach` away.
    """
    if smoothing <= 0:
        return distance
    smoothed: npt.NDArray[np.float32] = ndimage.gaussian_filter(
        distance,
        _sigmas(smoothing, spacing, distance.ndim),
        radius=smoothing_reach(smoothing, spacing, distance.ndim),
    )
    return smoothed


def smoothing_reach(
    smoothing: float, spacing: Spacing | None, ndim: int
) -> tuple[int, ...]:
    """Return how many pixels a Gaussian reaches along each axis."""
    # as far as scipy goes if it is not told
    return tuple(int(4 * max(0, s) + 0.5) for s in _sigmas(smoothing, spacing, ndim))


def _sigmas(smoothing: float, spacing: Spacing | None, ndim: int) -> list[float]:
    pixel = pixel_side(spacing)
    return [smoothing * pixel / s for s in spacing or [1.0] * ndim]


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
