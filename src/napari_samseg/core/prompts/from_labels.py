"""Prompts from labels: what a person might have drawn for objects that are known.

`sample_prompts` makes the prompts that `PromptSettings` ask for, of all objects of a
plane at once; `sample_planes` goes through a volume. The other samplers are what
scores and training ask for: each takes an `ObjectIndex` and a random generator. The
index is made once per plane, so that sampling costs no pass over its pixels for each
object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.images import ArrayLike
from napari_samseg.core.prompts.inside_points import (
    NO_PIXEL,
    centroid_pixels,
    farthest_pixels,
    grid_pixels,
    interior_pixels,
    random_pixels,
    skeleton_pixels,
    with_random,
)
from napari_samseg.core.prompts.mask_logits import MASK_LOGIT, coarse_shares
from napari_samseg.core.prompts.object_index import ObjectIndex, index_objects
from napari_samseg.core.prompts.outside_points import neighbour_pixels, ring_pixels
from napari_samseg.core.settings import PromptSettings
from napari_samseg.core.types import (
    BACKGROUND,
    FOREGROUND,
    PADDING,
    FloatArray,
    IntArray,
    PlanePrompts,
)

__all__ = [
    "BOX_SAMPLERS",
    "NEGATIVE_SAMPLERS",
    "POINT_SAMPLERS",
    "PromptSampler",
    "plane_seed",
    "sample_box",
    "sample_interior_point",
    "sample_jittered_box",
    "sample_planes",
    "sample_prompts",
    "sample_random_point",
]

# Boxes drawn by hand miss each side by about a tenth of the object (the common
# protocol of all scores).
BOX_JITTER = 0.1
# Of the noise on boxes that SAM was trained with: share of the longer side, and how
# many pixels at most (Kirillov et al. 2023, appendix A).
GAUSSIAN_SHARE, GAUSSIAN_MOST = 0.1, 20.0
# Mask prompts of one plane that fit a common memory.
MASK_BYTES = 2**31

PromptSampler = Callable[[ObjectIndex, np.random.Generator], PlanePrompts]
Boxes = npt.NDArray[np.float64]


def _tight(
    objects: ObjectIndex, rng: np.random.Generator, settings: PromptSettings
) -> Boxes:
    del rng, settings
    return objects.boxes_yx.astype(np.float64)


def _relative(
    objects: ObjectIndex, rng: np.random.Generator, settings: PromptSettings
) -> Boxes:
    del settings
    return np.rint(_move_sides(objects, rng, BOX_JITTER))


def _uniform(
    objects: ObjectIndex, rng: np.random.Generator, settings: PromptSettings
) -> Boxes:
    off = rng.integers(-settings.jitter, settings.jitter + 1, (len(objects), 4))
    return _hold(objects, objects.boxes_yx + off)


def _gaussian(
    objects: ObjectIndex, rng: np.random.Generator, settings: PromptSettings
) -> Boxes:
    del settings
    longer = (objects.boxes_yx[:, 2:] - objects.boxes_yx[:, :2]).max(
        axis=1, initial=0, keepdims=True
    )
    deviation = np.minimum(GAUSSIAN_SHARE * longer, GAUSSIAN_MOST)
    off = rng.standard_normal((len(objects), 4)) * deviation
    return _hold(objects, objects.boxes_yx + off)


BoxSampler = Callable[[ObjectIndex, np.random.Generator, PromptSettings], Boxes]
PointSampler = Callable[[ObjectIndex, np.random.Generator, PromptSettings], IntArray]

# By the choices of the settings. Boxes are (N, 4) float64, half-open; points are flat
# indices (N, P) into the labels, with NO_PIXEL where there are no more.
BOX_SAMPLERS: Mapping[str, BoxSampler] = {
    "box": _tight,
    "jittered-box": _uniform,
    "gaussian-box": _gaussian,
    "relative-box": _relative,
}
POINT_SAMPLERS: Mapping[str, PointSampler] = {
    "centroid": lambda o, rng, s: with_random(centroid_pixels(o), o, rng, s.n_points),
    "interior": lambda o, rng, s: with_random(interior_pixels(o), o, rng, s.n_points),
    "random": lambda o, rng, s: random_pixels(o, rng, s.n_points),
    "farthest": lambda o, rng, s: farthest_pixels(o, s.n_points),
    "skeleton": lambda o, rng, s: skeleton_pixels(o, rng, s.n_points),
    "grid": lambda o, rng, s: grid_pixels(o, s.n_points, s.grid),
}
NEGATIVE_SAMPLERS: Mapping[str, PointSampler] = {
    "ring": lambda o, rng, s: ring_pixels(o, rng, s.n_negatives, s.ring),
    "neighbours": lambda o, rng, s: neighbour_pixels(o, s.n_negatives),
}


def sample_prompts(
    objects: ObjectIndex, settings: PromptSettings, rng: np.random.Generator
) -> PlanePrompts:
    """Make the prompts of all objects of a plane.

    Every foreground point is a pixel of its object, and every background point a pixel
    that is not. Where an object has fewer pixels than points are asked for, or nothing
    is around it, it gets as many as there are.

    Parameters
    ----------
    objects : ObjectIndex
        See `napari_samseg.core.prompts.object_index.index_objects`.
    settings : PromptSettings
        Its `min_area` and `seed` are the caller's part.
    rng : numpy.random.Generator

    Raises
    ------
    InvalidLabelsError
        If there are too many objects for mask prompts to fit into memory.
    """
    n = len(objects)
    boxes = np.full((n, 4), np.nan)
    if settings.box != "none":
        boxes = BOX_SAMPLERS[settings.box](objects, rng, settings)
    foreground = background = np.zeros((n, 0), np.int64)
    if settings.point != "none":
        foreground = POINT_SAMPLERS[settings.point](objects, rng, settings)
    if settings.n_negatives:
        background = NEGATIVE_SAMPLERS[settings.negative](objects, rng, settings)
    masks = _sample_masks(objects, settings.mask_size) if settings.mask else None
    return _assemble(objects, foreground, background, boxes, masks)


def sample_planes(
    labels: ArrayLike, settings: PromptSettings
) -> Iterator[tuple[tuple[int, ...], PlanePrompts]]:
    """Make the prompts of each plane of a volume, one plane at a time.

    Parameters
    ----------
    labels : (..., Y, X) integer
        Anything that is indexed like a numpy array; planes are read when they are
        asked for. An object is prompted in each plane that shows it.
    settings : PromptSettings

    Yields
    ------
    plane : tuple of int
        Position along each axis before (Y, X).
    prompts : PlanePrompts
        Empty where the plane is.

    Raises
    ------
    InvalidLabelsError
        If the labels are not integers, negative, or have fewer than two axes.
    """
    if len(labels.shape) < 2:
        raise InvalidLabelsError(f"labels are (..., Y, X), not {labels.shape}")
    for plane in np.ndindex(*labels.shape[:-2]):
        objects = index_objects(np.asarray(labels[plane]), min_area=settings.min_area)
        yield plane, sample_prompts(objects, settings, plane_seed(settings, plane))


def plane_seed(settings: PromptSettings, plane: tuple[int, ...]) -> np.random.Generator:
    """Return the random generator of a plane, whichever planes came before."""
    return np.random.default_rng([settings.seed, *plane])


def sample_box(objects: ObjectIndex, rng: np.random.Generator) -> PlanePrompts:
    """Tight boxes; nothing is random."""
    del rng
    return _from_boxes(objects, objects.boxes_yx)


def sample_jittered_box(
    objects: ObjectIndex, rng: np.random.Generator, *, jitter: float = BOX_JITTER
) -> PlanePrompts:
    """Boxes whose four sides are each off by U(-jitter, +jitter) of the box's length.

    They may reach over the edge of the plane, as a box drawn by hand may. Scores of
    models go by these, whose sides lie anywhere; `sample_prompts` puts them on pixels.
    """
    return _from_boxes(objects, _move_sides(objects, rng, jitter))


def sample_random_point(objects: ObjectIndex, rng: np.random.Generator) -> PlanePrompts:
    """One uniformly random pixel of each object."""
    return _from_points(objects, random_pixels(objects, rng, 1))


def sample_interior_point(
    objects: ObjectIndex, rng: np.random.Generator
) -> PlanePrompts:
    """Find the pixel of each object farthest from its outline; nothing is random."""
    del rng
    return _from_points(objects, interior_pixels(objects))


def _move_sides(objects: ObjectIndex, rng: np.random.Generator, jitter: float) -> Boxes:
    boxes = objects.boxes_yx.astype(np.float64)
    lengths = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return np.asarray(boxes + rng.uniform(-jitter, jitter, boxes.shape) * lengths)


def _hold(objects: ObjectIndex, moved: npt.NDArray[Any]) -> Boxes:
    """Keep boxes in the plane, on whole pixels, and the middle of each object inside.

    A side that moves across a small object would turn the box inside out.
    """
    tight = objects.boxes_yx
    middles = (tight[:, :2] + tight[:, 2:]) / 2
    moved = np.rint(moved)
    low = np.clip(moved[:, :2], 0, np.ceil(middles) - 1)
    high = np.clip(moved[:, 2:], np.floor(middles) + 1, objects.labels.shape)
    return np.concatenate([low, high], axis=1)


def _sample_masks(objects: ObjectIndex, side: int) -> FloatArray:
    """Mask prompts (N, side, side), as of `mask_logits.mask_to_logits`."""
    n_bytes = 4 * len(objects) * side**2
    if n_bytes > MASK_BYTES:
        raise InvalidLabelsError(
            f"mask prompts of {count_things(len(objects), 'object')} take "
            f"{n_bytes / 1e9:.1f} GB: ask for boxes or points, for smaller masks, or "
            "leave out small objects"
        )
    shape = objects.labels.shape
    scale = side / max(shape)
    height, width = (max(1, round(length * scale)) for length in shape)
    of_rows, of_columns = (
        coarse_shares(height, shape[0]),
        coarse_shares(width, shape[1]),
    )
    masks = np.full((len(objects), side, side), -MASK_LOGIT, np.float32)
    for i, (y0, x0, y1, x1) in enumerate(objects.boxes_yx.tolist()):
        crop = objects.labels[y0:y1, x0:x1] == objects.object_ids[i]
        share = of_rows[:, y0:y1] @ crop.astype(np.float32) @ of_columns[:, x0:x1].T
        masks[i, :height, :width] = MASK_LOGIT * (2 * share - 1)
    return masks


def _from_boxes(objects: ObjectIndex, boxes: npt.NDArray[Any]) -> PlanePrompts:
    none = np.zeros((len(objects), 0), np.int64)
    return _assemble(objects, none, none, boxes)


def _from_points(objects: ObjectIndex, foreground: IntArray) -> PlanePrompts:
    none = np.zeros((len(objects), 0), np.int64)
    return _assemble(objects, foreground, none, np.full((len(objects), 4), np.nan))


def _assemble(
    objects: ObjectIndex,
    foreground: IntArray,
    background: IntArray,
    boxes: npt.NDArray[Any],
    masks: FloatArray | None = None,
) -> PlanePrompts:
    """Put flat indices (N, P) and boxes together; padding goes to the end."""
    pixels = np.concatenate([foreground, background], axis=1)
    signs = np.full(pixels.shape, BACKGROUND, np.int8)
    signs[:, : foreground.shape[1]] = FOREGROUND
    signs[pixels == NO_PIXEL] = PADDING
    order = np.argsort(signs == PADDING, axis=1, kind="stable")
    longest = int((signs != PADDING).sum(axis=1).max(initial=0))
    order = order[:, :longest]
    pixels = np.take_along_axis(np.maximum(pixels, 0), order, axis=1)
    signs = np.take_along_axis(signs, order, axis=1)
    points = np.stack(np.divmod(pixels, objects.labels.shape[1]), axis=-1)
    points[signs == PADDING] = 0
    return PlanePrompts(
        objects.object_ids,
        points.astype(np.float32),
        signs,
        boxes.astype(np.float32),
        masks,
    )
