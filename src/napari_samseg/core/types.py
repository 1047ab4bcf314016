"""Frozen values that flow between the rooms of the core.

Axis order is zyx everywhere and stands in the names. Points: an integer
coordinate is the centre of a pixel. Boxes: half-open indices
``(y0, x0, y1, x1)`` as in `skimage.measure.regionprops`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidPromptError

__all__ = [
    "BoolArray",
    "FloatArray",
    "IntArray",
    "MaskPrediction",
    "PlaneEmbedding",
    "PlanePrompts",
    "Progress",
    "TrainingProgress",
]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

FOREGROUND, BACKGROUND, PADDING = 1, 0, -1


def _frozen(array: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return a read-only copy of `array`, so that a frozen value really is frozen."""
    copy = np.array(array, dtype=dtype)
    copy.flags.writeable = False
    return copy


@dataclass(frozen=True, slots=True, eq=False)
class PlanePrompts:
    """Prompts for N objects in one plane.

    Attributes
    ----------
    object_ids : (N,) int64
        Id of each object, unique, greater than 0.
    points_yx : (N, P, 2) float32
        Points in pixels of the plane; rows are padded to the longest.
    point_labels : (N, P) int8
        1 foreground, 0 background, -1 padding.
    boxes_yx : (N, 4) float32
        Half-open ``(y0, x0, y1, x1)`` in pixels; a row of NaN means no box.
    low_res_masks : (N, h, w) float32 or None
        Logits at the decoder's resolution; a row of NaN means no mask prompt.

    Raises
    ------
    InvalidPromptError
        If shapes disagree, a value is not finite, a box is empty, an id is not
        positive or repeated, or an object has no prompt or only background points.
    """

    object_ids: IntArray
    points_yx: FloatArray
    point_labels: npt.NDArray[np.int8]
    boxes_yx: FloatArray
    low_res_masks: FloatArray | None = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        ids = _frozen(self.object_ids, np.int64)
        n = len(ids) if ids.ndim == 1 else -1
        labels = _frozen(self.point_labels, np.int8)
        points = _frozen(self.points_yx, np.float32)
        boxes = _frozen(self.boxes_yx, np.float32)
        if ids.ndim != 1 or points.ndim != 3 or points.shape[2] != 2:
            raise InvalidPromptError(
                "prompts need object_ids (N,) and points_yx (N, P, 2), got "
                f"{ids.shape} and {points.shape}"
            )
        if labels.shape != points.shape[:2] or points.shape[0] != n:
            raise InvalidPromptError(
                f"point_labels {labels.shape} do not match points_yx {points.shape} "
                f"of {count_things(n, 'object')}"
            )
        if boxes.shape != (n, 4):
            raise InvalidPromptError(f"boxes_yx must be ({n}, 4), got {boxes.shape}")
        set_field(self, "object_ids", ids)
        set_field(self, "points_yx", points)
        set_field(self, "point_labels", labels)
        set_field(self, "boxes_yx", boxes)
        if self.low_res_masks is not None:
            masks = _frozen(self.low_res_masks, np.float32)
            if masks.ndim != 3 or masks.shape[0] != n:
                raise InvalidPromptError(
                    f"low_res_masks must be ({n}, h, w), got {masks.shape}"
                )
            set_field(self, "low_res_masks", masks)
        self._check_values()

    def _check_values(self) -> None:
        if (self.object_ids <= 0).any():
            raise InvalidPromptError("object ids start at 1: 0 is the background")
        if len(np.unique(self.object_ids)) != len(self.object_ids):
            raise InvalidPromptError("object ids must be unique within one plane")
        if not np.isin(self.point_labels, (FOREGROUND, BACKGROUND, PADDING)).all():
            raise InvalidPromptError(
                "point labels are 1 (foreground), 0 (background) or -1 (padding)"
            )
        real = self.point_labels != PADDING
        if not np.isfinite(self.points_yx[real]).all():
            raise InvalidPromptError("a point has a coordinate that is not finite")
        nan = np.isnan(self.boxes_yx)
        if (nan.any(axis=1) != nan.all(axis=1)).any() or np.isinf(self.boxes_yx).any():
            raise InvalidPromptError("a box has a coordinate that is not finite")
        boxes = self.boxes_yx[self.has_box]
        if (boxes[:, 2:] <= boxes[:, :2]).any():
            raise InvalidPromptError("a box is empty: y0 < y1 and x0 < x1 are needed")
        positive = (self.point_labels == FOREGROUND).any(axis=1)
        for i in np.flatnonzero(~(positive | self.has_box | self.has_mask)):
            what = "only background points" if real[i].any() else "no prompt"
            raise InvalidPromptError(
                f"object {self.object_ids[i]} has {what}: add a foreground point, "
                "a box or a mask"
            )

    def __len__(self) -> int:
        return len(self.object_ids)

    @property
    def has_box(self) -> BoolArray:
        """Objects with a box, (N,) bool."""
        return np.asarray(~np.isnan(self.boxes_yx).any(axis=1))

    @property
    def has_mask(self) -> BoolArray:
        """Objects with a mask prompt, (N,) bool."""
        if self.low_res_masks is None:
            return np.zeros(len(self), bool)
        return np.asarray(~np.isnan(self.low_res_masks).all(axis=(1, 2)))

    @property
    def n_points(self) -> IntArray:
        """Number of points that are not padding, (N,) int64."""
        return np.asarray((self.point_labels != PADDING).sum(axis=1), np.int64)

    def select(self, index: npt.NDArray[Any]) -> PlanePrompts:
        """Return the prompts of some objects, with `index` a mask or positions."""
        masks = self.low_res_masks
        return PlanePrompts(
            self.object_ids[index],
            self.points_yx[index],
            self.point_labels[index],
            self.boxes_yx[index],
            None if masks is None else masks[index],
        )


@dataclass(frozen=True, slots=True, eq=False)
class PlaneEmbedding:
    """Output of an encoder for one plane.

    Attributes
    ----------
    features : mapping of str to float array
        ``image_embed`` (C, h, w) for SAM models.
    original_size : (int, int)
        (Y, X) of the plane, in pixels.
    input_size : (int, int)
        (Y, X) of the plane after resizing, before padding, in model pixels.
    encoder_digest : str
        Identity of the encoder that made it; see `PromptableModel.encoder_digest`.
    """

    features: Mapping[str, npt.NDArray[Any]]
    original_size: tuple[int, int]
    input_size: tuple[int, int]
    encoder_digest: str

    @property
    def nbytes(self) -> int:
        """Bytes held by the features."""
        return sum(array.nbytes for array in self.features.values())


@dataclass(frozen=True, slots=True, eq=False)
class MaskPrediction:
    """Masks of N objects in one plane, each kept as a crop.

    Attributes
    ----------
    object_ids : (N,) int64
    crops : tuple of N (y, x) bool
        The mask inside its box; an empty mask has a crop of size 0.
    boxes_yx : (N, 4) int64
        Half-open box of each crop, in pixels of the plane.
    plane_size : (int, int)
        (Y, X) of the plane.
    iou_predictions : (N,) float32
        The model's own estimate of the IoU of each mask.
    low_res_masks : (N, h, w) float32
        Logits at the decoder's resolution, of the frame each was decoded in.
    frames_yx : (N, 4) int64 or None
        Half-open box of the tile that the logits show; None where they all show
        the whole plane.
    """

    object_ids: IntArray
    crops: tuple[BoolArray, ...]
    boxes_yx: IntArray
    plane_size: tuple[int, int]
    iou_predictions: FloatArray
    low_res_masks: FloatArray
    frames_yx: IntArray | None = None

    def __post_init__(self) -> None:
        n = len(self.object_ids)
        lengths = (
            len(self.crops),
            len(self.boxes_yx),
            len(self.iou_predictions),
            len(self.low_res_masks),
            n if self.frames_yx is None else len(self.frames_yx),
        )
        if any(length != n for length in lengths):
            raise ValueError(
                f"a prediction of {count_things(n, 'object')} has fields of {lengths}"
            )

    def __len__(self) -> int:
        return len(self.object_ids)

    def __repr__(self) -> str:
        """Say what it holds: the arrays themselves are pages long."""
        height, width = self.plane_size
        ids = ", ".join(map(str, self.object_ids[:5])) + ", ..." * (len(self) > 5)
        return (
            f"<MaskPrediction of {count_things(len(self), 'object')} ({ids}) in a "
            f"plane of {height} x {width} pixels>"
        )

    @property
    def masks(self) -> BoolArray:
        """All masks at full size, (N, Y, X) bool; N times the memory of the plane."""
        masks = np.zeros((len(self), *self.plane_size), bool)
        for mask, crop, (y0, x0, y1, x1) in zip(
            masks, self.crops, self.boxes_yx, strict=True
        ):
            mask[y0:y1, x0:x1] = crop
        return masks

    def to_labels(self, dtype: npt.DTypeLike = np.uint32) -> npt.NDArray[Any]:
        """Paint the objects into one (Y, X) label image of `dtype`.

        Where masks overlap, the one with the higher predicted IoU wins.
        """
        labels = np.zeros(self.plane_size, dtype)
        for i in np.argsort(self.iou_predictions, kind="stable"):
            y0, x0, y1, x1 = self.boxes_yx[i]
            labels[y0:y1, x0:x1][self.crops[i]] = self.object_ids[i]
        return labels


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a long job.

    Attributes
    ----------
    stage : str
        What is being done, in a person's words: "encoding", "downloading vit_b".
    done, total : int
        Steps of this stage; `total` 0 means unknown.
    detail : str
        Anything more worth showing.
    """

    stage: str
    done: int = 0
    total: int = 0
    detail: str = field(default="")


@dataclass(frozen=True, slots=True)
class Remark(Progress):
    """A step of which a person should be told: what there is to say is its `detail`."""


@dataclass(frozen=True, slots=True)
class TrainingProgress(Progress):
    """One step of a training.

    Attributes
    ----------
    epoch : int
        Passes over the data so far; 0 where the data has no end.
    train_loss : float
        Loss of this step.
    val_iou, val_dice : float or None
        Scores of the validation, where this step had one.
    """

    epoch: int = 0
    train_loss: float = float("nan")
    val_iou: float | None = None
    val_dice: float | None = None
