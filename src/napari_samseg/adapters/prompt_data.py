"""Prompts as Points and Shapes layers that a person can edit, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.adapters.prompt_layers import NEGATIVE, POSITIVE
from napari_samseg.core.errors import InvalidPromptError, LayerError
from napari_samseg.core.io.prompt_rows import ObjectRow, stack_rows
from napari_samseg.core.types import FOREGROUND, PADDING, PlanePrompts

if TYPE_CHECKING:
    from napari.layers import Points, Shapes

__all__ = ["LayerTuple", "layers_to_prompts", "prompts_to_layers"]

Plane = tuple[int, ...]
# data, arguments, type: what npe2 calls LayerData
LayerTuple = tuple[Any, dict[str, Any], str]
# Shapes that enclose something, of which the hull is a box.
CLOSED_SHAPES = ("rectangle", "polygon", "ellipse")


def prompts_to_layers(
    planes: Mapping[Plane, PlanePrompts],
    *,
    name: str = "prompts",
    point_size: float = 5.0,
    **arguments: Any,
) -> list[LayerTuple]:
    """Return prompts as layers to add to a viewer.

    Mask prompts have no layer: the labels that they come from show them.

    Parameters
    ----------
    planes : mapping of plane to PlanePrompts
        By position along each axis before (Y, X), as many for every plane; see
        `napari_samseg.core.prompts.from_labels.sample_planes`.
    name : str
        Of the layers: with " - boxes" or " - points" after it.
    point_size : float
        Diameter of points, in pixels.
    **arguments
        For both layers, such as the ``scale`` and ``units`` of the labels.

    Returns
    -------
    list of (data, arguments, type)
        A Shapes layer of rectangles with the feature ``object``, and a Points layer
        with ``object`` and ``label`` (1 on the object, 0 off it); only those with
        something in it. `napari.layers.Layer.create` makes layers of them.
    """
    layers: list[LayerTuple] = []
    boxes = [_boxes(plane, prompts) for plane, prompts in planes.items()]
    corners = np.concatenate([c for c, _ in boxes]) if boxes else np.zeros((0, 4, 2))
    if len(corners):
        shape = {
            "name": f"{name} - boxes",
            "shape_type": "rectangle",
            "features": {"object": np.concatenate([ids for _, ids in boxes])},
            "edge_color": POSITIVE,
            "edge_width": max(1.0, point_size / 5),
            "face_color": "transparent",
        }
        layers.append((corners, shape | arguments, "shapes"))
    clicks = [_clicks(plane, prompts) for plane, prompts in planes.items()]
    points = np.concatenate([p for p, _, _ in clicks]) if clicks else np.zeros((0, 2))
    if len(points):
        labels = np.concatenate([signs for _, _, signs in clicks])
        look = {
            "name": f"{name} - points",
            "features": {
                "object": np.concatenate([ids for _, ids, _ in clicks]),
                "label": labels,
            },
            "face_color": np.where(labels == FOREGROUND, POSITIVE, NEGATIVE).tolist(),
            "border_color": "white",
            "size": point_size,
        }
        layers.append((points, look | arguments, "points"))
    return layers


def layers_to_prompts(
    points: Points | None = None, shapes: Shapes | None = None, *, floor: int = 0
) -> dict[Plane, PlanePrompts]:
    """Read points and boxes back, as a person left them.

    What has no number above 0 as its ``object`` is an object of its own, with an id
    above all others; points without a ``label`` are on their object. A turned or
    other closed shape is read as the box around it.

    Parameters
    ----------
    points : napari.layers.Points, optional
    shapes : napari.layers.Shapes, optional
    floor : int
        Highest id of objects that the layers do not show; new ones are above it.

    Returns
    -------
    dict of plane to PlanePrompts
        In pixels of the layers, in the order of planes.

    Raises
    ------
    LayerError
        If a shape encloses nothing, lies on several planes, or is the second box of
        an object; if a label is neither 1 nor 0.
    InvalidPromptError
        If an object has background points only, or a box is empty.
    """
    planes: dict[Plane, dict[int, ObjectRow]] = {}
    used = [_object_ids(layer) for layer in (points, shapes) if layer is not None] or [
        np.zeros(0, np.int64)
    ]
    highest = max(floor, int(np.concatenate(used).max(initial=0)))
    new_ids = iter(range(highest + 1, 2**62))
    if shapes is not None:
        for plane, object_id, box in _read_boxes(shapes, new_ids):
            row = planes.setdefault(plane, {}).setdefault(object_id, ObjectRow())
            if row.box_yx is not None:
                raise LayerError(
                    f"object {object_id} has two boxes in layer {shapes.name!r}: "
                    "delete one of them, or give it another object"
                )
            row.box_yx = box
    if points is not None:
        for plane, object_id, point, label in _read_points(points, new_ids):
            row = planes.setdefault(plane, {}).setdefault(object_id, ObjectRow())
            row.points_yx.append(point)
            row.point_labels.append(label)
    return {plane: _assemble(plane, planes[plane]) for plane in sorted(planes)}


def _boxes(
    plane: Plane, prompts: PlanePrompts
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Corners (K, 4, D) of the boxes of a plane, and their objects."""
    y0, x0, y1, x1 = prompts.boxes_yx[prompts.has_box].T - 0.5
    corners = np.stack([y0, x0, y0, x1, y1, x1, y1, x0], axis=1).reshape(-1, 4, 2)
    return _lift(corners, plane), prompts.object_ids[prompts.has_box]


def _clicks(
    plane: Plane, prompts: PlanePrompts
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    """Points (K, D) of a plane, their objects, and their labels."""
    real = prompts.point_labels != PADDING
    ids = np.repeat(prompts.object_ids, real.sum(axis=1))
    return _lift(prompts.points_yx[real], plane), ids, prompts.point_labels[real]


def _lift(positions_yx: npt.NDArray[Any], plane: Plane) -> npt.NDArray[np.float64]:
    """Put positions (..., 2) of a plane into its stack, (..., D)."""
    lead = np.broadcast_to(
        np.array(plane, np.float64), (*positions_yx.shape[:-1], len(plane))
    )
    return np.concatenate([lead, positions_yx], axis=-1)


def _object_ids(layer: Points | Shapes) -> npt.NDArray[np.int64]:
    """Object of each point or shape, 0 where none is named."""
    features = layer.features
    if "object" not in features:
        return np.zeros(len(layer.data), np.int64)
    numbers = np.array([_number(value) for value in features["object"]])
    named = np.isfinite(numbers) & (numbers > 0) & (numbers == np.floor(numbers))
    return np.where(named, numbers, 0).astype(np.int64)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _read_boxes(
    layer: Shapes, new_ids: Iterator[int]
) -> Iterator[tuple[Plane, int, tuple[float, ...]]]:
    kinds, ids = layer.shape_type, _object_ids(layer)
    for i, vertices in enumerate(layer.data):
        if kinds[i] not in CLOSED_SHAPES:
            raise LayerError(
                f"shape {i} of layer {layer.name!r} is a {kinds[i]}, which encloses "
                "nothing: draw a rectangle"
            )
        corners = np.asarray(vertices, np.float64)
        on_planes = {_plane(corner) for corner in corners}
        if len(on_planes) > 1:
            raise LayerError(
                f"shape {i} of layer {layer.name!r} lies on several planes: a box is "
                "on one"
            )
        low, high = corners[:, -2:].min(axis=0) + 0.5, corners[:, -2:].max(axis=0) + 0.5
        object_id = int(ids[i]) or next(new_ids)
        yield on_planes.pop(), object_id, (*low.tolist(), *high.tolist())


def _read_points(
    layer: Points, new_ids: Iterator[int]
) -> Iterator[tuple[Plane, int, tuple[float, float], int]]:
    ids = _object_ids(layer)
    labels = layer.features.get("label", np.ones(len(ids)))
    for i, (point, value) in enumerate(zip(layer.data, labels, strict=True)):
        label = _number(value)
        if math.isnan(label):
            label = FOREGROUND
        if label not in (0, 1):
            raise LayerError(
                f"point {i} of layer {layer.name!r} has the label {value!r}: 1 is on "
                "the object, 0 off it"
            )
        y, x = point[-2:].tolist()
        yield _plane(point), int(ids[i]) or next(new_ids), (y, x), int(label)


def _plane(position: npt.NDArray[Any]) -> Plane:
    # halves go up, as napari rounds to slices
    return tuple(math.floor(value + 0.5) for value in position[:-2].tolist())


def _assemble(plane: Plane, rows: dict[int, ObjectRow]) -> PlanePrompts:
    try:
        return PlanePrompts(np.array(list(rows)), *stack_rows(rows))
    except InvalidPromptError as error:
        where = f"plane {', '.join(map(str, plane))}: " if plane else ""
        raise InvalidPromptError(f"{where}{error}") from error
