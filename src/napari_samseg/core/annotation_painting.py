"""The pixels that a commit changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from napari_samseg.core.deltas import PixelChange
from napari_samseg.core.errors import InvalidPromptError, LabelOverflowError
from napari_samseg.core.painting import Box, LabelTarget, PlaneKey, paint_objects
from napari_samseg.core.prompts.from_geometry import Gesture
from napari_samseg.core.types import MaskPrediction

__all__ = ["check_fits", "paint_commit"]


def check_fits(target: LabelTarget, object_id: int) -> None:
    """Raise `LabelOverflowError` unless an id fits the data type of labels."""
    if object_id > target.max_id:
        raise LabelOverflowError(
            f"object {object_id} does not fit the labels, whose largest id is "
            f"{target.max_id}: convert them to uint32, or commit into a new layer"
        )


def paint_commit(
    target: LabelTarget,
    plane: PlaneKey,
    prediction: MaskPrediction,
    drawn: Mapping[int, Sequence[Gesture]],
    overlap: str,
) -> PixelChange:
    """Paint objects into a copy of the labels.

    Parameters
    ----------
    target : LabelTarget
        The labels, which are only read.
    plane : PlaneKey
    prediction : MaskPrediction
        With the ids to be painted.
    drawn : mapping of int to sequence of Gesture
        What was drawn for each object, by these ids. One that was prompted with its
        own label leaves that.
    overlap : str
        One of `OVERLAP_RULES`.

    Raises
    ------
    InvalidPromptError
        If no pixel would change.
    """
    gestures = [gesture for strokes in drawn.values() for gesture in strokes]
    refined = [
        i for i, strokes in drawn.items() if any(g.kind == "label" for g in strokes)
    ]
    box = _hull(prediction, gestures)
    region = plane.region(box)
    before = target.read(region)
    after = plane.unflatten(
        paint_objects(
            plane.flatten(before), prediction, box, overlap=overlap, moved=refined
        )
    )
    # `isin` would take a second for a large object
    if not any((after == object_id).any() for object_id in prediction.object_ids):
        raise InvalidPromptError(
            "nothing was committed: the mask lies wholly on labels that are kept; "
            "replace them, or undo"
        )
    return PixelChange(region, before, after)


def _hull(prediction: MaskPrediction, gestures: Iterable[Gesture]) -> Box:
    """Box of all masks, and of the labels that they were refined from."""
    boxes = [
        box
        for box, crop in zip(prediction.boxes_yx, prediction.crops, strict=True)
        if crop.size
    ]
    boxes += [
        gesture.vertices_yx.ravel()[:4]
        for gesture in gestures
        if gesture.kind == "label"
    ]
    stacked = np.stack(boxes).astype(int)
    y0, x0 = stacked[:, :2].min(axis=0)
    y1, x1 = stacked[:, 2:].max(axis=0)
    return int(y0), int(x0), int(y1), int(x1)
