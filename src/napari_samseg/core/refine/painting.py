"""Which object gets a pixel that several masks want."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_samseg.core.prompts.object_index import ObjectIndex
from napari_samseg.core.types import BoolArray, FloatArray, IntArray

__all__ = ["FoundMasks", "measure_agreement", "paint_parts"]

PartLabels = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class FoundMasks:
    """Masks that a model found for the parts of labels, in the order of the parts.

    Attributes
    ----------
    crops : sequence of N (y, x) bool
        Of size 0 where nothing was found.
    boxes_yx : (N, 4) int64
        Half-open boxes of the crops.
    iou_predictions : (N,) float32
    """

    crops: Sequence[BoolArray]
    boxes_yx: IntArray
    iou_predictions: FloatArray

    @property
    def areas(self) -> IntArray:
        """In pixels, (N,) int64."""
        return np.array([np.count_nonzero(crop) for crop in self.crops], np.int64)

    def region(self, i: int) -> tuple[slice, slice]:
        """Where a crop lies in its plane."""
        y0, x0, y1, x1 = self.boxes_yx[i].tolist()
        return slice(y0, y1), slice(x0, x1)


def measure_agreement(masks: FoundMasks, parts: ObjectIndex) -> FloatArray:
    """IoU of each mask with the part that it was found for, (N,) float32."""
    shared = np.array(
        [
            np.count_nonzero(parts.labels[masks.region(i)][crop] == part)
            for i, (crop, part) in enumerate(
                zip(masks.crops, parts.object_ids.tolist(), strict=True)
            )
        ],
        np.float32,
    )
    return np.asarray(shared / (masks.areas + parts.areas - shared), np.float32)


def paint_parts(
    masks: FoundMasks,
    parts: ObjectIndex,
    is_refined: BoolArray,
    owners: IntArray,
    overlap: str,
) -> PartLabels:
    """Paint masks, and old pixels where parts keep them, into one plane.

    Parameters
    ----------
    masks : FoundMasks
        Of the parts in `parts`.
    parts : ObjectIndex
        Its labels number all parts of the plane, from 1; those that are not in the
        index keep their pixels.
    is_refined : (N,) bool
        Parts that take their mask.
    owners : (number of all parts + 1,) int64
        Object of each part; 0 of the background.
    overlap : str
        See `napari_samseg.core.settings.RefineSettings`.

    Returns
    -------
    (Y, X) uint32
        Numbers of parts.
    """
    old: PartLabels = parts.labels.astype(np.uint32, copy=False)
    stays = np.ones(len(owners), bool)
    stays[0] = False
    stays[parts.object_ids[is_refined]] = False
    painted = np.where(stays[old], old, 0).astype(np.uint32)
    free = painted == 0
    # what is painted later lies on top
    height = -masks.areas if overlap == "smaller" else masks.iou_predictions
    order = np.argsort(height, kind="stable")
    for i in order[is_refined[order]].tolist():
        part, region = int(parts.object_ids[i]), masks.region(i)
        given = masks.crops[i] & free[region]
        if overlap == "keep":
            before = owners[old[region]]
            given &= (before == 0) | (before == owners[part])
        painted[region][given] = part
    return painted
