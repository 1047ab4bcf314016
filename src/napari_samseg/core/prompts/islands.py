"""Leave out the parts of a mask that lie apart from what was prompted."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from napari_samseg.core.types import FOREGROUND

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_samseg.core.types import (
        BoolArray,
        IntArray,
        MaskPrediction,
        PlanePrompts,
    )

__all__ = ["drop_islands"]

# Pixels that touch at a corner belong together.
EIGHT_NEIGHBOURS = np.ones((3, 3), int)


def drop_islands(prediction: MaskPrediction, prompts: PlanePrompts) -> MaskPrediction:
    """Keep the parts of each mask that were pointed at, else its largest part.

    An object with a mask prompt keeps all its parts: it may be in pieces. So does
    one whose foreground points all lie outside its mask and that has no box.

    Parameters
    ----------
    prediction : MaskPrediction
    prompts : PlanePrompts
        Of the same objects in the same order.
    """
    crops, boxes = [], prediction.boxes_yx.copy()
    for i, crop in enumerate(prediction.crops):
        kept = crop if prompts.has_mask[i] else _prompted(crop, boxes[i], prompts, i)
        shrunk, offset = _shrink(kept)
        boxes[i] = [*(boxes[i, :2] + offset), *(boxes[i, :2] + offset + shrunk.shape)]
        crops.append(shrunk)
    return dataclasses.replace(prediction, crops=tuple(crops), boxes_yx=boxes)


def _prompted(
    crop: BoolArray, box_yx: IntArray, prompts: PlanePrompts, i: int
) -> BoolArray:
    from scipy.ndimage import label

    parts, n_parts = label(crop, EIGHT_NEIGHBOURS)
    if n_parts < 2:
        return crop
    real = prompts.point_labels[i] == FOREGROUND
    places = np.rint(prompts.points_yx[i, real]).astype(np.int64) - box_yx[:2]
    inside = ((places >= 0) & (places < crop.shape)).all(axis=1)
    hit = set(parts[tuple(places[inside].T)].tolist()) - {0}
    if hit:
        return np.isin(parts, list(hit))
    if not prompts.has_box[i]:
        return crop
    sizes = np.bincount(parts.ravel())
    return np.asarray(parts == 1 + sizes[1:].argmax())


def _shrink(crop: BoolArray) -> tuple[BoolArray, npt.NDArray[np.int64]]:
    """Cut empty rows and columns off; return where the rest begins."""
    rows, columns = np.flatnonzero(crop.any(axis=1)), np.flatnonzero(crop.any(axis=0))
    if not len(rows):
        return crop, np.zeros(2, np.int64)
    y0, x0 = int(rows[0]), int(columns[0])
    return crop[y0 : rows[-1] + 1, x0 : columns[-1] + 1], np.array([y0, x0])
