"""Simulated prompts: what a person might have drawn for objects that are known.

A sampler takes an `ObjectIndex` of a label image and a random generator and returns
`PlanePrompts`, one object per row. The index is made once per image, so that sampling
for every object costs no pass over the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_samseg.core.errors import InvalidLabelsError, UnknownNameError
from napari_samseg.core.types import FOREGROUND, IntArray, PlanePrompts

__all__ = [
    "PROMPT_SAMPLERS",
    "ObjectIndex",
    "PromptSampler",
    "index_objects",
    "prompt_sampler",
    "sample_box",
    "sample_centre_point",
    "sample_jittered_box",
    "sample_random_point",
    "sample_random_points",
]

# Boxes drawn by hand miss each side by about a tenth of the object (the common
# protocol of all scores).
BOX_JITTER = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class ObjectIndex:
    """Where the objects of a label image are.

    Attributes
    ----------
    labels : (Y, X) integer
        The label image itself.
    object_ids : (N,) int64
        Ids in rising order, without the background 0.
    boxes_yx : (N, 4) int64
        Tight half-open boxes.
    areas : (N,) int64
        In pixels.
    pixels : (sum of areas,) int64
        Flat indices into `labels`, object by object.
    """

    labels: npt.NDArray[np.integer]
    object_ids: IntArray
    boxes_yx: IntArray
    areas: IntArray
    pixels: IntArray

    def __len__(self) -> int:
        return len(self.object_ids)

    def select(
        self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]
    ) -> ObjectIndex:
        """Return the index of some objects, with `rows` a mask or positions."""
        positions = np.arange(len(self))[rows]
        starts = np.cumsum(self.areas) - self.areas
        parts = [self.pixels[starts[i] : starts[i] + self.areas[i]] for i in positions]
        return ObjectIndex(
            self.labels,
            self.object_ids[positions],
            self.boxes_yx[positions],
            self.areas[positions],
            np.concatenate(parts) if parts else np.zeros(0, np.int64),
        )


PromptSampler = Callable[[ObjectIndex, np.random.Generator], PlanePrompts]


def index_objects(labels: npt.NDArray[np.integer], *, min_area: int = 1) -> ObjectIndex:
    """Find the objects of a label image.

    Parameters
    ----------
    labels : (Y, X) integer
        0 is background; an object may have several parts.
    min_area : int
        Smaller objects, in pixels, are left out.

    Raises
    ------
    InvalidLabelsError
        If the labels are not a plane of integers, or negative.
    """
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidLabelsError(
            f"labels of a plane are (Y, X) integers, got {labels.dtype} {labels.shape}"
        )
    if labels.size and labels.min() < 0:
        raise InvalidLabelsError("labels must not be negative: 0 is the background")
    inside = np.flatnonzero(labels)
    ids = labels.ravel()[inside].astype(np.int64)
    # a stable sort keeps each object's pixels in reading order
    order = np.argsort(ids, kind="stable")
    pixels = inside[order]
    object_ids, starts, areas = np.unique(
        ids[order], return_index=True, return_counts=True
    )
    boxes = np.zeros((len(object_ids), 4), np.int64)
    if len(object_ids):
        for axis, position in enumerate(np.divmod(pixels, labels.shape[1])):
            boxes[:, axis] = np.minimum.reduceat(position, starts)
            boxes[:, axis + 2] = np.maximum.reduceat(position, starts) + 1
    index = ObjectIndex(labels, object_ids, boxes, areas.astype(np.int64), pixels)
    return index.select(index.areas >= min_area)


def sample_box(objects: ObjectIndex, rng: np.random.Generator) -> PlanePrompts:
    """Tight boxes; nothing is random."""
    del rng
    return _boxes(objects, objects.boxes_yx.astype(np.float32))


def sample_jittered_box(
    objects: ObjectIndex, rng: np.random.Generator, *, jitter: float = BOX_JITTER
) -> PlanePrompts:
    """Boxes whose four sides are each off by U(-jitter, +jitter) of the box's length.

    They may reach over the edge of the plane, as a box drawn by hand may.
    """
    boxes = objects.boxes_yx.astype(np.float64)
    lengths = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes = boxes + rng.uniform(-jitter, jitter, boxes.shape) * lengths
    return _boxes(objects, boxes.astype(np.float32))


def sample_random_point(objects: ObjectIndex, rng: np.random.Generator) -> PlanePrompts:
    """One uniformly random pixel of each object."""
    return sample_random_points(objects, rng, count=1)


def sample_random_points(
    objects: ObjectIndex, rng: np.random.Generator, *, count: int = 3
) -> PlanePrompts:
    """`count` uniformly random pixels of each object, drawn with replacement."""
    starts = np.cumsum(objects.areas) - objects.areas
    picks = rng.integers(0, objects.areas[:, None], (len(objects), count))
    chosen = objects.pixels[starts[:, None] + picks]
    return _points(objects, chosen)


def sample_centre_point(objects: ObjectIndex, rng: np.random.Generator) -> PlanePrompts:
    """Find the pixel of each object farthest from its outline; nothing is random.

    Unlike a centroid, it lies inside a crescent too. The plane's edge counts as
    outline.
    """
    del rng
    width = objects.labels.shape[1]
    chosen = np.zeros((len(objects), 1), np.int64)
    for i, (y0, x0, y1, x1) in enumerate(objects.boxes_yx):
        mask = objects.labels[y0:y1, x0:x1] == objects.object_ids[i]
        depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        chosen[i] = (y0 + y) * width + x0 + x
    return _points(objects, chosen)


PROMPT_SAMPLERS: Mapping[str, PromptSampler] = {
    "box": sample_box,
    "jittered_box": sample_jittered_box,
    "random_point": sample_random_point,
    "random_points": sample_random_points,
    "centre_point": sample_centre_point,
}


def prompt_sampler(name: str) -> PromptSampler:
    """Return the sampler called `name`.

    Raises
    ------
    UnknownNameError
        If no sampler has that name.
    """
    try:
        return PROMPT_SAMPLERS[name]
    except KeyError:
        raise UnknownNameError(
            f"there is no prompt sampler '{name}'; choose one of "
            f"{', '.join(sorted(PROMPT_SAMPLERS))}"
        ) from None


def _boxes(objects: ObjectIndex, boxes_yx: npt.NDArray[np.float32]) -> PlanePrompts:
    n = len(objects)
    return PlanePrompts(
        objects.object_ids,
        np.zeros((n, 0, 2), np.float32),
        np.zeros((n, 0), np.int8),
        boxes_yx,
    )


def _points(objects: ObjectIndex, chosen: IntArray) -> PlanePrompts:
    """Prompts at flat indices (N, P) into the label image."""
    points_yx = np.stack(np.divmod(chosen, objects.labels.shape[1]), axis=-1)
    return PlanePrompts(
        objects.object_ids,
        points_yx.astype(np.float32),
        np.full(chosen.shape, FOREGROUND, np.int8),
        np.full((len(objects), 4), np.nan, np.float32),
    )
