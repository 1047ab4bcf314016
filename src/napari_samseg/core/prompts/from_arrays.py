"""Plain arrays of points and boxes become prompts, row by row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidPromptError
from napari_samseg.core.prompts.from_geometry import Gesture, prompts_to_gestures
from napari_samseg.core.prompts.plane_limits import check_inside, clip_box
from napari_samseg.core.types import (
    BACKGROUND,
    FOREGROUND,
    PADDING,
    FloatArray,
    PlanePrompts,
)

__all__ = ["draw_prompts", "pair_prompts"]


def pair_prompts(
    points_yx: npt.ArrayLike | None = None,
    point_labels: npt.ArrayLike | None = None,
    boxes_yx: npt.ArrayLike | None = None,
    *,
    plane_size: tuple[int, int],
    combine: bool = False,
    low_res_masks: npt.ArrayLike | None = None,
) -> PlanePrompts:
    """Pair arrays of points and boxes into the prompts of objects 1 to N.

    Parameters
    ----------
    points_yx : (N, 2) or (N, P, 2), optional
        One point per object, or P of them, in pixels of the plane.
    point_labels : (N,) or (N, P), optional
        1 foreground, 0 background, -1 no point; all foreground when not given.
    boxes_yx : (N, 4), optional
        Half-open ``(y0, x0, y1, x1)``, clipped to the plane; NaN for no box.
        Row i belongs to the same object as row i of the points.
    plane_size : (int, int)
        (Y, X) in pixels.
    combine : bool
        Make one object of all points and of the hull of all boxes.
    low_res_masks : (N, h, w), optional
        Logits of mask prompts, which are not combined; NaN for none.

    Raises
    ------
    InvalidPromptError
        If there is no prompt, points and boxes differ in number, a value is not
        finite, a prompt lies outside the plane (the message names it), or an
        object has background points only.
    """
    boxes = _box_rows(boxes_yx, plane_size)
    rows = _point_rows(points_yx, point_labels)
    masks = None if low_res_masks is None else np.asarray(low_res_masks, np.float32)
    numbers = [len(given) for given in (boxes, masks) if given is not None]
    if rows is None and not numbers:
        raise InvalidPromptError(
            "the set of prompts is empty: give at least one point or box"
        )
    if rows is None:
        n = numbers[0]
        rows = np.zeros((n, 0, 2), np.float32), np.zeros((n, 0), np.int8)
    points, labels = rows
    real = labels != PADDING
    check_inside(points[real], plane_size)
    if combine:
        return _combine(points[real], labels[real], boxes)
    if boxes is None:
        boxes = np.full((len(points), 4), np.nan, np.float32)
    if len(points) != len(boxes):
        raise InvalidPromptError(
            f"points of {count_things(len(points), 'object')} do not pair with "
            f"{count_things(len(boxes), 'box', 'boxes')}: "
            "give one row of each per object (NaN for no box), or combine all of "
            "them into one object"
        )
    ids = np.arange(1, len(points) + 1)
    return PlanePrompts(ids, points, labels, boxes, masks)


def draw_prompts(
    points_yx: npt.ArrayLike | None = None,
    point_labels: npt.ArrayLike | None = None,
    boxes_yx: npt.ArrayLike | None = None,
    *,
    plane_size: tuple[int, int],
    combine: bool = False,
    refines: bool = False,
) -> list[list[Gesture]]:
    """Return the clicks and boxes that a person would have drawn, per object.

    Parameters
    ----------
    points_yx, point_labels, boxes_yx, plane_size, combine
        See `pair_prompts`.
    refines : bool
        They are of one object that has prompts: background points may stand alone.

    Raises
    ------
    InvalidPromptError
        See `pair_prompts`.
    """
    refined = None if not refines or point_labels is None else np.asarray(point_labels)
    if refined is not None:
        # what the object has already makes background points meaningful;
        # -1 stays what it is, no point
        point_labels = np.where(refined < 0, refined, FOREGROUND)
    objects = prompts_to_gestures(
        pair_prompts(
            points_yx, point_labels, boxes_yx, plane_size=plane_size, combine=combine
        )
    )
    if refined is None:
        return objects
    signs = iter(refined[refined >= 0])
    return [
        [
            replace(g, positive=bool(next(signs))) if g.kind == "click" else g
            for g in gestures
        ]
        for gestures in objects
    ]


def _combine(
    points: FloatArray, labels: npt.NDArray[np.int8], boxes: FloatArray | None
) -> PlanePrompts:
    hull = np.full((1, 4), np.nan, np.float32)
    if boxes is not None and not np.isnan(boxes).all():
        hull[0, :2] = np.nanmin(boxes[:, :2], axis=0)
        hull[0, 2:] = np.nanmax(boxes[:, 2:], axis=0)
    return PlanePrompts(np.array([1]), points[np.newaxis], labels[np.newaxis], hull)


def _point_rows(
    points_yx: npt.ArrayLike | None, point_labels: npt.ArrayLike | None
) -> tuple[FloatArray, npt.NDArray[np.int8]] | None:
    if points_yx is None or np.size(points_yx) == 0:
        if point_labels is not None and np.size(point_labels):
            raise InvalidPromptError("there are point labels but no points")
        return None
    points = np.asarray(points_yx, np.float32)
    if points.ndim == 2:
        points = points[:, np.newaxis]
    if points.ndim != 3 or points.shape[2] != 2:
        raise InvalidPromptError(
            f"points must be (N, 2) or (N, P, 2) in yx, got shape {np.shape(points_yx)}"
        )
    if point_labels is None:
        return points, np.full(points.shape[:2], FOREGROUND, np.int8)
    labels = np.asarray(point_labels)
    if labels.ndim == 1:
        labels = labels[:, np.newaxis]
    if labels.shape != points.shape[:2]:
        raise InvalidPromptError(
            f"point labels of shape {np.shape(point_labels)} do not match points of "
            f"shape {np.shape(points_yx)}"
        )
    if not np.isin(labels, (FOREGROUND, BACKGROUND, PADDING)).all():
        raise InvalidPromptError(
            "point labels are 1 (foreground), 0 (background) or -1 (no point)"
        )
    return points, labels.astype(np.int8)


def _box_rows(
    boxes_yx: npt.ArrayLike | None, plane_size: tuple[int, int]
) -> FloatArray | None:
    if boxes_yx is None or np.size(boxes_yx) == 0:
        return None
    boxes = np.atleast_2d(np.array(boxes_yx, np.float32))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InvalidPromptError(
            f"boxes must be (N, 4) as (y0, x0, y1, x1), got shape {np.shape(boxes_yx)}"
        )
    for i, box in enumerate(boxes):
        if not np.isnan(box).all():
            boxes[i] = clip_box(box, plane_size, f"box {i}")
    return boxes
