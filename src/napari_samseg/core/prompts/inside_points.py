"""Pixels of objects that a person might click on.

Each function returns flat indices into the label image, (N, P) int64, one row for
each object. Where an object has fewer pixels than points are wanted, its row ends
with `NO_PIXEL`.
"""

from __future__ import annotations

import edt
import numpy as np
import numpy.typing as npt

from napari_samseg.core.prompts.object_index import ObjectIndex
from napari_samseg.core.types import FloatArray, IntArray

__all__ = [
    "NO_PIXEL",
    "centroid_pixels",
    "farthest_pixels",
    "grid_pixels",
    "interior_pixels",
    "measure_depth",
    "random_pixels",
    "skeleton_pixels",
    "with_random",
]

NO_PIXEL = -1


def measure_depth(objects: ObjectIndex) -> FloatArray:
    """Return how deep each pixel lies in its object, squared, in pixels.

    The distance to the nearest pixel that is not the object's; beyond the plane's
    edge there is none of it.

    Returns
    -------
    (sum of areas,) float32
        For each of ``objects.pixels``.
    """
    if not len(objects):
        return np.zeros(0, np.float32)
    depth = edt.edtsq(objects.paint_positions(), black_border=True, parallel=1)
    return np.asarray(depth.ravel()[objects.pixels], np.float32)


def interior_pixels(objects: ObjectIndex) -> IntArray:
    """Pixel of each object that is farthest from its outline, (N, 1).

    Unlike a centroid, it lies inside a crescent too. Of pixels equally far, as in a
    bar, it is the one nearest to the centroid.
    """
    return objects.pixels[_deepest(objects)][:, np.newaxis]


def centroid_pixels(objects: ObjectIndex) -> IntArray:
    """Pixel of each object that is nearest to its centroid, (N, 1).

    The centroid itself lies beside a crescent and in the hole of a ring.
    """
    nearest = objects.first_highest(-_from_centroid(objects))
    return objects.pixels[nearest][:, np.newaxis]


def random_pixels(
    objects: ObjectIndex, rng: np.random.Generator, count: int
) -> IntArray:
    """Draw `count` different pixels of each object, each set equally likely.

    By Floyd's algorithm, for all objects at once: Bentley and Floyd, Programming
    Pearls: A Sample of Brilliance, CACM 30 (1987).
    """
    n_drawn = np.minimum(count, objects.areas)
    picks = np.full((len(objects), count), NO_PIXEL, np.int64)
    for step in range(count):
        last = np.maximum(objects.areas - n_drawn + step, 0)
        draw = rng.integers(0, last + 1)
        is_taken = (picks == draw[:, np.newaxis]).any(axis=1)
        picks[:, step] = np.where(is_taken, last, draw)
        picks[step >= n_drawn, step] = NO_PIXEL
    return _look_up(objects, picks)


def farthest_pixels(objects: ObjectIndex, count: int) -> IntArray:
    """Spread `count` pixels over each object.

    The first is the one farthest from the outline, and each further one the pixel
    farthest from all before it.
    """
    picks = np.full((len(objects), count), NO_PIXEL, np.int64)
    rows, columns = objects.positions_yx
    owners = objects.owners
    nearest = np.full(len(objects.pixels), np.inf)
    chosen = _deepest(objects)
    for step in range(min(count, int(objects.areas.max(initial=0)))):
        is_left = step < objects.areas
        picks[is_left, step] = objects.pixels[chosen[is_left]]
        to_chosen = (rows - rows[chosen][owners]) ** 2.0
        to_chosen += (columns - columns[chosen][owners]) ** 2.0
        nearest = np.minimum(nearest, to_chosen)
        chosen = objects.first_highest(nearest)
    return picks


def skeleton_pixels(
    objects: ObjectIndex, rng: np.random.Generator, count: int
) -> IntArray:
    """Draw `count` different pixels of the skeleton of each object.

    Zhang and Suen's thinning (CACM 27, 1984), each object by itself.
    """
    on_skeleton = np.zeros(objects.labels.size, bool)
    on_skeleton[_thin(objects)] = True
    # thinning may leave nothing of an object of a few pixels
    on_skeleton[interior_pixels(objects)[_is_bare(objects, on_skeleton)]] = True
    return random_pixels(objects.keep_pixels(on_skeleton[objects.pixels]), rng, count)


def grid_pixels(objects: ObjectIndex, count: int, side: int) -> IntArray:
    """Snap the centroid of each object to a grid of `side` x `side` over the plane.

    These are the points that automatic segmentation asks for. Of those inside the
    object, the `count` nearest to its centroid; the pixel nearest to the centroid
    where no point of the grid lies inside.
    """
    height, width = objects.labels.shape
    middles = (np.arange(side) + 0.5) / side
    rows, columns = (
        np.floor(middles * length).astype(np.int64) for length in (height, width)
    )
    grid = np.unique(rows[:, np.newaxis] * width + columns)
    is_on_grid = np.zeros(objects.labels.size, bool)
    is_on_grid[grid] = True
    centres = centroid_pixels(objects)
    is_on_grid[centres[_is_bare(objects, is_on_grid)]] = True
    kept = is_on_grid[objects.pixels]
    inside = objects.keep_pixels(kept)
    order = np.lexsort((_from_centroid(objects)[kept], inside.owners))
    places = np.arange(count) + np.zeros((len(objects), 1), np.int64)
    picks = np.where(places < inside.areas[:, np.newaxis], places, NO_PIXEL)
    ranked = ObjectIndex(
        inside.labels,
        inside.object_ids,
        inside.boxes_yx,
        inside.areas,
        inside.pixels[order],
    )
    return _look_up(ranked, picks)


def with_random(
    first: IntArray, objects: ObjectIndex, rng: np.random.Generator, count: int
) -> IntArray:
    """Add different random pixels to one of each object, up to `count` in all."""
    if count == 1:
        return first
    others = random_pixels(objects, rng, count)
    others[others == first] = NO_PIXEL
    order = np.argsort(others == NO_PIXEL, axis=1, kind="stable")
    others = np.take_along_axis(others, order, axis=1)
    return np.concatenate([first, others[:, : count - 1]], axis=1)


def _deepest(objects: ObjectIndex) -> IntArray:
    """Return where in ``objects.pixels`` the most interior pixel of each object is."""
    depth = measure_depth(objects)
    highest = depth[objects.first_highest(depth)][objects.owners]
    central = np.where(depth == highest, -_from_centroid(objects), -np.inf)
    return objects.first_highest(central)


def _look_up(objects: ObjectIndex, picks: IntArray) -> IntArray:
    """Turn places within the pixels of each object into flat indices."""
    if not len(objects.pixels):
        return picks
    places = objects.starts[:, np.newaxis] + np.maximum(picks, 0)
    places = np.minimum(places, len(objects.pixels) - 1)
    return np.where(picks == NO_PIXEL, NO_PIXEL, objects.pixels[places])


def _from_centroid(objects: ObjectIndex) -> npt.NDArray[np.float64]:
    """Squared distance of each pixel from the centroid of its object."""
    squared = np.zeros(len(objects.pixels))
    owners = objects.owners
    for positions in objects.positions_yx:
        sums = np.bincount(owners, positions, minlength=len(objects))
        squared += (positions - (sums / np.maximum(objects.areas, 1))[owners]) ** 2
    return squared


def _is_bare(objects: ObjectIndex, mask: npt.NDArray[np.bool_]) -> IntArray:
    """Positions of the objects without a pixel in a flat mask."""
    owners = objects.owners[mask[objects.pixels]]
    return np.flatnonzero(np.bincount(owners, minlength=len(objects)) == 0)


def _thin(objects: ObjectIndex) -> IntArray:
    """Return the pixels of the skeletons of all objects, as flat indices."""
    from skimage.morphology import skeletonize

    width = objects.labels.shape[1]
    found = [np.zeros(0, np.int64)]
    for object_id, (y0, x0, y1, x1) in zip(
        objects.object_ids, objects.boxes_yx.tolist(), strict=True
    ):
        thin = skeletonize(objects.labels[y0:y1, x0:x1] == object_id)
        rows, columns = np.nonzero(thin)
        found.append((rows + y0) * width + columns + x0)
    return np.concatenate(found)
