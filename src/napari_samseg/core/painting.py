"""Where objects are painted, and what becomes of labels already there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.types import MaskPrediction

__all__ = [
    "OVERLAP_RULES",
    "ArrayLabels",
    "Box",
    "LabelTarget",
    "Labels",
    "PlaneKey",
    "Region",
    "overlapped_labels",
    "paint_objects",
    "render_objects",
]

# What happens to pixels that already carry another label.
OVERLAP_RULES = ("keep", "replace")

# half-open (y0, x0, y1, x1)
Box = tuple[int, int, int, int]
# one slice for each axis of the labels
Region = tuple[slice, ...]
Labels = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, order=True)
class PlaneKey:
    """Which plane of an image.

    Attributes
    ----------
    index : tuple of int
        Position along the axes that are not in the plane, in axis order.
    axes : (int, int)
        The axes that are its rows and columns, counted from the front, without
        channels.
    """

    index: tuple[int, ...] = ()
    axes: tuple[int, int] = (0, 1)

    def selection(self, box_yx: Box) -> tuple[int | slice, ...]:
        """Index expression of a box of this plane in the whole array."""
        y0, x0, y1, x1 = box_yx
        index = iter(self.index)
        sides = {self.axes[0]: slice(y0, y1), self.axes[1]: slice(x0, x1)}
        n_axes = len(self.index) + 2
        return tuple(
            sides[axis] if axis in sides else next(index) for axis in range(n_axes)
        )

    def region(self, box_yx: Box) -> Region:
        """Slices of a box of this plane in the whole array, one per axis."""
        return tuple(
            at if isinstance(at, slice) else slice(at, at + 1)
            for at in self.selection(box_yx)
        )

    def flatten(self, values: Labels) -> Labels:
        """Turn what was read from a `region` into (y, x)."""
        rows, columns = sorted(self.axes)
        flat = values.reshape(values.shape[rows], values.shape[columns])
        return flat.T if self.axes[0] > self.axes[1] else flat

    def unflatten(self, values_yx: Labels) -> Labels:
        """Turn values (y, x) into what can be written to a `region`."""
        flat = values_yx.T if self.axes[0] > self.axes[1] else values_yx
        lead = [a for a in range(len(self.index) + 2) if a not in self.axes]
        return np.expand_dims(flat, tuple(lead))


class LabelTarget(Protocol):
    """Where committed objects go: a napari layer, or an array without a window."""

    @property
    def max_id(self) -> int:
        """Largest id that the data type can hold."""

    def read(self, region: Region) -> Labels:
        """Return a copy of the labels in a region, with the axes of the array."""

    def write(self, region: Region, values: Labels) -> None:
        """Write labels into a region."""


class ArrayLabels:
    """Labels in an array, numpy or zarr, for annotation without a window.

    Attributes
    ----------
    array : integer array
        Axes as in the image, without channels.
    """

    def __init__(self, array: Any) -> None:
        self.array = array

    @property
    def max_id(self) -> int:
        """Largest id that the data type can hold."""
        return int(np.iinfo(self.array.dtype).max)

    def read(self, region: Region) -> Labels:
        """Return a copy of the labels in a region, with the axes of the array."""
        return np.array(self.array[region])

    def write(self, region: Region, values: Labels) -> None:
        """Write labels into a region."""
        self.array[region] = values


def paint_objects(
    labels: Labels,
    prediction: MaskPrediction,
    box_yx: Box,
    *,
    overlap: str = "keep",
    moved: Collection[int] = (),
) -> Labels:
    """Return a copy of `labels` with the predicted objects painted in.

    Parameters
    ----------
    labels : (y, x) integer
        What is in the box now.
    prediction : MaskPrediction
        Where its objects overlap each other, the higher predicted IoU wins.
    box_yx : (y0, x0, y1, x1)
        Where `labels` lies in the plane; contains all objects.
    overlap : str
        ``keep`` paints background only, ``replace`` paints over other labels.
    moved : collection of int
        Ids of objects that stood in the labels before and leave their old place.
    """
    if overlap not in OVERLAP_RULES:
        rules = ", ".join(OVERLAP_RULES)
        raise SettingsError(f"overlap rule {overlap!r} is not one of {rules}")
    painted = labels.copy()
    for object_id in moved:
        painted[painted == object_id] = 0
    free = np.ones(labels.shape, bool) if overlap == "replace" else painted == 0
    for i in np.argsort(prediction.iou_predictions, kind="stable"):
        y0, x0, y1, x1 = prediction.boxes_yx[i]
        inside = np.s_[y0 - box_yx[0] : y1 - box_yx[0], x0 - box_yx[1] : x1 - box_yx[1]]
        painted[inside][prediction.crops[i] & free[inside]] = prediction.object_ids[i]
    return painted


def overlapped_labels(
    target: LabelTarget, plane: PlaneKey, prediction: MaskPrediction
) -> tuple[int, ...]:
    """Ids already in the labels that the predicted objects would touch."""
    touched: set[int] = set()
    for crop, box in zip(prediction.crops, prediction.boxes_yx, strict=True):
        if crop.size:
            y0, x0, y1, x1 = (int(v) for v in box)
            under = plane.flatten(target.read(plane.region((y0, x0, y1, x1))))[crop]
            touched.update(int(i) for i in np.unique(under))
    own = {0, *(int(i) for i in prediction.object_ids)}
    return tuple(sorted(touched - own))


def render_objects(
    prediction: MaskPrediction,
    colors: npt.NDArray[np.uint8],
    *,
    fill_alpha: int = 70,
    outline: int = 1,
) -> tuple[npt.NDArray[np.uint8], Box] | None:
    """Draw predicted objects as outlines with a light fill.

    Parameters
    ----------
    prediction : MaskPrediction
    colors : (N, 3) uint8
        RGB of each object.
    fill_alpha : int
        Opacity of the fill, 0 to 255.
    outline : int
        Width of the outline, in pixels, inside the mask.

    Returns
    -------
    rgba : (y, x, 4) uint8
        Only the part of the plane that holds objects.
    box_yx : (y0, x0, y1, x1)
        Where that part lies.
    """
    from scipy.ndimage import binary_erosion

    drawn = [i for i, crop in enumerate(prediction.crops) if crop.any()]
    if not drawn:
        return None
    boxes = np.asarray(prediction.boxes_yx)[drawn]
    y0, x0 = (int(v) for v in boxes[:, :2].min(axis=0))
    y1, x1 = (int(v) for v in boxes[:, 2:].max(axis=0))
    rgba = np.zeros((y1 - y0, x1 - x0, 4), np.uint8)
    for i, (top, left, bottom, right) in zip(drawn, boxes, strict=True):
        crop = prediction.crops[i]
        part = rgba[top - y0 : bottom - y0, left - x0 : right - x0]
        inside = binary_erosion(np.pad(crop, 1), iterations=outline)[1:-1, 1:-1]
        part[crop, :3] = colors[i]
        part[crop & inside, 3] = np.maximum(part[crop & inside, 3], fill_alpha)
        part[crop & ~inside, 3] = 255
    return rgba, (y0, x0, y1, x1)
