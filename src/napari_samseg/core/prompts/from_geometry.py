"""What a person draws becomes prompts: clicks, boxes, scribbles, lassos, labels.

A gesture is geometry in pixels of one plane. A reader (one per kind, listed in
`PROMPT_READERS`) turns it into points, a box or a mask; `gather_prompts` adds up
the gestures of each object.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidPromptError, UnknownNameError
from napari_samseg.core.prompts.mask_logits import mask_to_logits
from napari_samseg.core.prompts.plane_limits import (
    check_inside,
    clip_box,
    describe_size,
    is_inside,
)
from napari_samseg.core.prompts.polygon import encloses_pixel, fill_polygon
from napari_samseg.core.types import (
    BACKGROUND,
    FOREGROUND,
    PADDING,
    BoolArray,
    FloatArray,
    PlanePrompts,
)

__all__ = [
    "PROMPT_READERS",
    "Gesture",
    "ObjectPrompt",
    "check_gesture",
    "gather_prompts",
    "label_gesture",
    "prompts_to_gestures",
    "read_box",
    "read_click",
    "read_label",
    "read_lasso",
    "read_scribble",
]

# Distance between the points of a scribble, in pixels, and how many at most: a
# promptable model is trained with a handful of points, not with hundreds.
SCRIBBLE_SPACING = 12.0
SCRIBBLE_POINTS = 12
# Background points taken from the inside of a negative lasso.
LASSO_POINTS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Gesture:
    """One thing a person drew on a plane.

    Attributes
    ----------
    kind : str
        Key in `PROMPT_READERS`.
    vertices_yx : (V, 2) float64
        In pixels of the plane, an integer being a pixel centre: the clicked
        point, two opposite corners of a box, the vertices of a scribble or
        lasso. For a label: ``(y0, x0), (y1, x1)``, the half-open box of `mask`.
    positive : bool
        Whether it marks the object (True) or what is not the object.
    mask : (y, x) bool, optional
        Pixels of a label, cropped to its box.
    """

    kind: str
    vertices_yx: npt.NDArray[np.float64]
    positive: bool = True
    mask: BoolArray | None = None

    def __post_init__(self) -> None:
        if self.kind not in PROMPT_READERS:
            known = ", ".join(PROMPT_READERS)
            raise UnknownNameError(f"no gesture is called {self.kind!r}: {known}")
        vertices = np.array(self.vertices_yx, np.float64)
        if vertices.ndim != 2 or vertices.shape[1:] != (2,) or len(vertices) == 0:
            raise InvalidPromptError(
                f"a {self.kind} needs vertices (V, 2), got shape {vertices.shape}"
            )
        if not np.isfinite(vertices).all():
            raise InvalidPromptError(
                f"a {self.kind} has a coordinate that is not finite"
            )
        vertices.flags.writeable = False
        object.__setattr__(self, "vertices_yx", vertices)


@dataclass(frozen=True, slots=True, eq=False)
class ObjectPrompt:
    """Points, a box and a mask that all speak of one object.

    Attributes
    ----------
    points_yx : (P, 2) float32
    point_labels : (P,) int8
        1 foreground, 0 background.
    box_yx : (4,) float32 or None
        Half-open ``(y0, x0, y1, x1)``.
    mask : (Y, X) bool or None
        At the size of the plane.
    """

    points_yx: FloatArray = field(default_factory=lambda: np.empty((0, 2), np.float32))
    point_labels: npt.NDArray[np.int8] = field(
        default_factory=lambda: np.empty(0, np.int8)
    )
    box_yx: FloatArray | None = None
    mask: BoolArray | None = None

    def add(self, other: ObjectPrompt) -> ObjectPrompt:
        """Return both together: points add up, a newer box or mask replaces.

        A person who draws a second box means to correct the first.
        """
        return ObjectPrompt(
            np.concatenate([self.points_yx, other.points_yx]),
            np.concatenate([self.point_labels, other.point_labels]),
            self.box_yx if other.box_yx is None else other.box_yx,
            self.mask if other.mask is None else other.mask,
        )


def read_click(gesture: Gesture, plane_size: tuple[int, int]) -> ObjectPrompt:
    """Read each vertex as one point.

    Raises
    ------
    InvalidPromptError
        If a point lies outside the plane; the message names it.
    """
    points = np.asarray(gesture.vertices_yx, np.float32)
    check_inside(points, plane_size)
    return ObjectPrompt(points, _signs(len(points), gesture.positive))


def read_box(gesture: Gesture, plane_size: tuple[int, int]) -> ObjectPrompt:
    """Read the extent of the vertices as a box, clipped to the plane.

    The corners of a rectangle drawn around pixels y0 to y1 - 1 are y0 - 0.5 and
    y1 - 0.5, as in a napari Shapes layer.

    Raises
    ------
    InvalidPromptError
        If the box is negative, has no area, or lies outside the plane.
    """
    if not gesture.positive:
        raise InvalidPromptError(
            "a box cannot be negative: mark what is not the object with points, "
            "a scribble or a lasso"
        )
    corners = gesture.vertices_yx + 0.5
    box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    return ObjectPrompt(box_yx=clip_box(box, plane_size, "the box"))


def read_scribble(gesture: Gesture, plane_size: tuple[int, int]) -> ObjectPrompt:
    """Sample points along a polyline, evenly by length.

    Points are about 12 pixels apart and 12 at most, and always include both
    ends; those that leave the plane are dropped.

    Raises
    ------
    InvalidPromptError
        If no part of it lies in the plane.
    """
    vertices = gesture.vertices_yx
    steps = np.hypot(*np.diff(vertices, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    n_points = min(SCRIBBLE_POINTS, 1 + math.ceil(along[-1] / SCRIBBLE_SPACING))
    at = np.linspace(0.0, along[-1], n_points)
    points = np.stack(
        [np.interp(at, along, vertices[:, axis]) for axis in (0, 1)], axis=1
    )
    points = points[is_inside(points, plane_size)]
    if len(points) == 0:
        raise InvalidPromptError(
            f"the scribble lies outside the plane of {describe_size(plane_size)} pixels"
        )
    return ObjectPrompt(
        points.astype(np.float32), _signs(len(points), gesture.positive)
    )


def read_lasso(gesture: Gesture, plane_size: tuple[int, int]) -> ObjectPrompt:
    """Read a polygon as a mask with its box, or as background points inside it.

    Raises
    ------
    InvalidPromptError
        If the polygon encloses no pixel of the plane.
    """
    _check_lasso(gesture, plane_size)
    mask = fill_polygon(gesture.vertices_yx, plane_size)
    if gesture.positive:
        return ObjectPrompt(box_yx=_box_of(mask), mask=mask)
    pixels = np.argwhere(mask)
    n_points = min(LASSO_POINTS, len(pixels))
    chosen = pixels[np.linspace(0, len(pixels) - 1, n_points).astype(int)]
    return ObjectPrompt(chosen.astype(np.float32), _signs(n_points, positive=False))


def read_label(gesture: Gesture, plane_size: tuple[int, int]) -> ObjectPrompt:
    """Read the pixels of an existing label as a mask with its box.

    Raises
    ------
    InvalidPromptError
        If the gesture has no mask, the mask is empty, or does not fit the plane.
    """
    _check_label(gesture, plane_size)
    (y0, x0), (y1, x1) = gesture.vertices_yx.astype(int)
    mask = np.zeros(plane_size, bool)
    mask[y0:y1, x0:x1] = gesture.mask
    return ObjectPrompt(box_yx=_box_of(mask), mask=mask)


PromptReader = Callable[[Gesture, tuple[int, int]], ObjectPrompt]

PROMPT_READERS: dict[str, PromptReader] = {
    "click": read_click,
    "box": read_box,
    "scribble": read_scribble,
    "lasso": read_lasso,
    "label": read_label,
}


def check_gesture(gesture: Gesture, plane_size: tuple[int, int]) -> None:
    """Make sure that a gesture can be read, without making masks of planes.

    Raises
    ------
    InvalidPromptError
        As its reader in `PROMPT_READERS` would.
    """
    # points and boxes are read in no time; masks are not
    check = {"lasso": _check_lasso, "label": _check_label}.get(gesture.kind)
    (check or PROMPT_READERS[gesture.kind])(gesture, plane_size)


def _check_lasso(gesture: Gesture, plane_size: tuple[int, int]) -> None:
    if not encloses_pixel(gesture.vertices_yx, plane_size):
        raise InvalidPromptError(
            "the lasso encloses no pixel of the plane of "
            f"{describe_size(plane_size)} pixels"
        )


def _check_label(gesture: Gesture, plane_size: tuple[int, int]) -> None:
    if gesture.mask is None or not gesture.mask.any():
        raise InvalidPromptError("there is no label here to start from")
    y0, x0, y1, x1 = (int(v) for v in gesture.vertices_yx.ravel()[:4])
    fits = min(y0, x0) >= 0 and y1 <= plane_size[0] and x1 <= plane_size[1]
    if not fits or gesture.mask.shape != (y1 - y0, x1 - x0):
        raise InvalidPromptError(
            f"the label at rows {y0}..{y1}, columns {x0}..{x1} does not fit the "
            f"plane of {describe_size(plane_size)} pixels"
        )


def label_gesture(plane_labels: npt.NDArray[Any], point_yx: Sequence[float]) -> Gesture:
    """Take the label under a point as a gesture of kind ``label``.

    Parameters
    ----------
    plane_labels : (Y, X) integer
        Instance labels of the plane, 0 for the background.
    point_yx : (2,) float
        In pixels of the plane.

    Raises
    ------
    InvalidPromptError
        If the point is outside the plane or on the background.
    """
    point = np.asarray(point_yx, np.float64)
    check_inside(point[np.newaxis], plane_labels.shape[:2])
    y, x = np.clip(np.round(point), 0, np.array(plane_labels.shape) - 1).astype(int)
    if plane_labels[y, x] == 0:
        raise InvalidPromptError(f"there is no label at (y={y}, x={x})")
    mask = plane_labels == plane_labels[y, x]
    box = _box_of(mask).astype(int)
    crop = mask[box[0] : box[2], box[1] : box[3]]
    return Gesture("label", box.reshape(2, 2).astype(np.float64), mask=crop)


def gather_prompts(
    gestures: Mapping[int, Sequence[Gesture]],
    plane_size: tuple[int, int],
    low_res_size: int,
) -> PlanePrompts:
    """Read all gestures on one plane as the prompts of its objects.

    Parameters
    ----------
    gestures : mapping of object id to gestures
        In the order they were drawn.
    plane_size : (int, int)
        (Y, X) in pixels.
    low_res_size : int
        Side of the model's mask prompt (`PromptableModel.low_res_size`).

    Raises
    ------
    InvalidPromptError
        If there is nothing to prompt with, a gesture cannot be read, or an
        object is marked by background points alone.
    """
    drawn = {i: strokes for i, strokes in gestures.items() if strokes}
    if not drawn:
        raise InvalidPromptError("there is no prompt yet: click, or draw a box")
    prompts = []
    for strokes in drawn.values():
        prompt = ObjectPrompt()
        for gesture in strokes:
            prompt = prompt.add(PROMPT_READERS[gesture.kind](gesture, plane_size))
        prompts.append(prompt)
    return _stack(list(drawn), prompts, low_res_size)


def prompts_to_gestures(prompts: PlanePrompts) -> list[list[Gesture]]:
    """Return the clicks and boxes that a person would have drawn, per object."""
    objects = []
    for i in range(len(prompts)):
        gestures = [
            Gesture("click", point[np.newaxis], bool(label))
            for point, label in zip(
                prompts.points_yx[i], prompts.point_labels[i], strict=True
            )
            if label != PADDING
        ]
        if prompts.has_box[i]:
            corners = prompts.boxes_yx[i].astype(np.float64).reshape(2, 2) - 0.5
            gestures.append(Gesture("box", corners))
        objects.append(gestures)
    return objects


def _stack(
    object_ids: Sequence[int], prompts: Sequence[ObjectPrompt], low_res_size: int
) -> PlanePrompts:
    n, longest = len(prompts), max(len(p.point_labels) for p in prompts)
    points = np.zeros((n, longest, 2), np.float32)
    labels = np.full((n, longest), PADDING, np.int8)
    boxes = np.full((n, 4), np.nan, np.float32)
    masks = None
    if any(prompt.mask is not None for prompt in prompts):
        masks = np.full((n, low_res_size, low_res_size), np.nan, np.float32)
    for i, prompt in enumerate(prompts):
        points[i, : len(prompt.points_yx)] = prompt.points_yx
        labels[i, : len(prompt.point_labels)] = prompt.point_labels
        if prompt.box_yx is not None:
            boxes[i] = prompt.box_yx
        if prompt.mask is not None and masks is not None:
            masks[i] = mask_to_logits(prompt.mask, low_res_size)
    return PlanePrompts(np.asarray(object_ids), points, labels, boxes, masks)


def _box_of(mask: BoolArray) -> FloatArray:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return np.array(
        [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1], dtype=np.float32
    )


def _signs(n_points: int, positive: bool) -> npt.NDArray[np.int8]:
    return np.full(n_points, FOREGROUND if positive else BACKGROUND, np.int8)
