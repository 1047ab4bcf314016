"""Pixels beside objects that a person might click on to say what is not the object.

Each function returns flat indices into the label image, (N, P) int64, one row for
each object, which ends with `NO_PIXEL` where there are fewer such pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from napari_samseg.core.prompts.inside_points import NO_PIXEL, interior_pixels
from napari_samseg.core.prompts.object_index import ObjectIndex
from napari_samseg.core.types import BoolArray, IntArray

__all__ = ["neighbour_pixels", "ring_pixels"]

# Pixels that are tried for each one that is wanted: next to a straight outline half
# of them lie inside the object.
TRIES = 4


def ring_pixels(
    objects: ObjectIndex, rng: np.random.Generator, count: int, width: int
) -> IntArray:
    """Draw `count` different pixels at most `width` pixels away from each object.

    They lie in the background or in other objects.
    """
    tried = _around(objects, rng, TRIES * count + TRIES, width)
    picks = _first_different(tried, count)
    # few are left around objects that fill the plane: look at all of these
    for i in np.flatnonzero((picks == NO_PIXEL).any(axis=1)):
        ring = _whole_ring(objects, int(i), width)
        chosen = rng.permutation(ring)[:count]
        picks[i] = NO_PIXEL
        picks[i, : len(chosen)] = chosen
    return picks


def neighbour_pixels(objects: ObjectIndex, count: int) -> IntArray:
    """Take the most interior pixels of the `count` objects nearest to each object.

    What is nearest goes by these pixels.
    """
    picks = np.full((len(objects), count), NO_PIXEL, np.int64)
    n_others = min(count, len(objects) - 1)
    if n_others < 1:
        return picks
    middles = interior_pixels(objects)[:, 0]
    points = np.stack(np.divmod(middles, objects.labels.shape[1]), axis=1)
    _, nearest = cKDTree(points).query(points, k=n_others + 1)
    # middles are different pixels, so that each is nearest to itself
    picks[:, :n_others] = middles[nearest[:, 1:]]
    return picks


def _around(
    objects: ObjectIndex, rng: np.random.Generator, n_tries: int, width: int
) -> IntArray:
    """Try pixels around random pixels of the outlines, (N, n_tries)."""
    outlines = objects.keep_pixels(_is_outline(objects))
    # an object has an outline: the edge of the plane is one
    picks = rng.integers(0, outlines.areas[:, None], (len(objects), n_tries))
    height, row_length = objects.labels.shape
    rows, columns = np.divmod(
        outlines.pixels[outlines.starts[:, None] + picks], row_length
    )
    angles = rng.uniform(0, 2 * np.pi, picks.shape)
    lengths = rng.uniform(1, width, picks.shape)
    down = np.rint(lengths * np.sin(angles)).astype(np.int64)
    right = np.rint(lengths * np.cos(angles)).astype(np.int64)
    rows, columns = rows + down, columns + right
    is_out = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= row_length)
    tried = np.where(is_out, 0, rows * row_length + columns)
    is_own = objects.labels.ravel()[tried] == objects.object_ids[:, np.newaxis]
    # rounding may reach beyond the ring
    is_far = down**2 + right**2 > width**2
    return np.where(is_out | is_own | is_far, NO_PIXEL, tried)


def _first_different(tried: IntArray, count: int) -> IntArray:
    """Return the first `count` different pixels of each row."""
    # sorted by pixel, a repeated one follows the first
    order = np.argsort(tried, axis=1, kind="stable")
    ordered = np.take_along_axis(tried, order, axis=1)
    repeated = np.zeros(tried.shape, bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    is_left = np.empty(tried.shape, bool)
    np.put_along_axis(is_left, order, ~repeated & (ordered != NO_PIXEL), axis=1)
    best = np.argsort(~is_left, axis=1, kind="stable")[:, :count]
    return np.where(
        np.take_along_axis(is_left, best, axis=1),
        np.take_along_axis(tried, best, axis=1),
        NO_PIXEL,
    )


def _is_outline(objects: ObjectIndex) -> BoolArray:
    """Tell which pixels of objects have one of the four neighbours outside."""
    framed = np.pad(objects.paint_positions(), 1)
    rows, columns = objects.positions_yx
    own = framed[rows + 1, columns + 1]
    is_outline = np.zeros(len(own), bool)
    for down, right in ((0, 1), (2, 1), (1, 0), (1, 2)):
        is_outline |= framed[rows + down, columns + right] != own
    return is_outline


def _whole_ring(objects: ObjectIndex, i: int, width: int) -> npt.NDArray[np.int64]:
    """Return all pixels at most `width` away from an object, as flat indices."""
    from scipy.ndimage import distance_transform_edt

    shape = objects.labels.shape
    y0, x0 = np.maximum(objects.boxes_yx[i, :2] - width, 0)
    y1, x1 = np.minimum(objects.boxes_yx[i, 2:] + width, shape)
    outside = objects.labels[y0:y1, x0:x1] != objects.object_ids[i]
    distance = distance_transform_edt(outside)
    rows, columns = np.nonzero(outside & (distance <= width))
    return np.asarray((rows + y0) * shape[1] + columns + x0, np.int64)
