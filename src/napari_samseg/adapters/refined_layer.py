"""Refined labels as a layer of their own, and objects of it in the middle of the view.

What was found out about the objects stays with the layer, so that a panel that is
closed loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_samseg.adapters.prompt_layers import OWN
from napari_samseg.adapters.read_layers import world_to_canvas
from napari_samseg.adapters.write_layers import LayerLabels, place_of, space_of
from napari_samseg.core.refine.review import Review

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Shapes

    from napari_samseg.core.painting import Box, PlaneKey

__all__ = [
    "EditLock",
    "ObjectMark",
    "Refinement",
    "add_refined",
    "label_data",
    "refinement_of",
    "show_object",
]

KEY = "napari-samseg: refinement"
# Share of the canvas that an object takes in the middle of the view.
SHOWN_SHARE = 0.12
# Smaller objects, of a pixel or two, are shown with as much around them as one of this
# many pixels.
LEAST_SHOWN = 8


@dataclass(eq=False)
class Refinement:
    """Where a layer of refined labels comes from, and what is known of its objects.

    Attributes
    ----------
    image : Image
    rough : array-like
        The labels that were refined, (..., Y, X).
    rough_layer : Labels
    review : Review
    """

    image: Image
    rough: Any
    rough_layer: Labels
    review: Review


def add_refined(
    viewer: ViewerModel,
    image: Image,
    rough: Labels,
    data: Any,
    axes: tuple[int, int],
) -> Labels:
    """Add refined labels beside the layer that they were made from.

    Parameters
    ----------
    viewer : ViewerModel
    image : Image
    rough : Labels
        Gives the place in the world, and the name; it is hidden, its pixels stay.
    data : integer array
        Of the shape of `rough`.
    axes : (int, int)
        The axes that are rows and columns of the planes that were refined.
    """
    layer = viewer.add_labels(
        data,
        name=f"{rough.name} - refined",
        metadata=space_of(rough),
        **place_of(rough),
    )
    review = Review(
        LayerLabels(layer), (data.shape[axes[0]], data.shape[axes[1]]), axes
    )
    layer.metadata[KEY] = Refinement(image, label_data(rough), rough, review)
    rough.visible = False
    return layer


class EditLock:
    """Lets nobody paint on a layer while a job writes into it.

    A plane that comes back from the job would take the strokes away.
    """

    def __init__(self) -> None:
        self._layer: Labels | None = None
        self._mode: Any = None

    def hold(self, layer: Labels | None) -> None:
        """Lock a layer, and open the one before; None locks none."""
        if layer is not self._layer:
            if self._layer is not None:
                self._layer.editable = True
                self._layer.mode = self._mode
            self._layer = layer
            self._mode = None if layer is None else layer.mode
        if layer is not None:
            # each time: napari unlocks a layer that gets other data
            layer.editable = False


def label_data(layer: Labels) -> Any:
    """Return the array of a Labels layer, the finest of several."""
    return layer.data[0] if layer.multiscale else layer.data


def refinement_of(layer: Labels) -> Refinement | None:
    """Return what is known of a layer of refined labels; None of any other."""
    found = layer.metadata.get(KEY)
    return found if isinstance(found, Refinement) else None


def show_object(
    viewer: ViewerModel, layer: Labels, plane: PlaneKey, box_yx: Box
) -> None:
    """Turn to the plane of an object, and put the object in the middle of the view."""
    offset = viewer.dims.ndim - layer.ndim
    y0, x0, y1, x1 = box_yx
    data = np.zeros(layer.ndim)
    lead = [axis for axis in range(layer.ndim) if axis not in plane.axes]
    data[lead] = plane.index
    data[list(plane.axes)] = (y0 + y1 - 1) / 2, (x0 + x1 - 1) / 2
    axes = tuple(axis + offset for axis in plane.axes)
    if viewer.dims.ndisplay != 2 or tuple(viewer.dims.displayed) != axes:
        viewer.dims.ndisplay = 2
        others = [axis for axis in range(viewer.dims.ndim) if axis not in axes]
        viewer.dims.order = (*others, *axes)
    world = np.asarray(layer.data_to_world(data), np.float64)
    canvas = world_to_canvas(world, viewer.dims, layer)
    for axis in lead:
        viewer.dims.set_point(axis + offset, float(canvas[axis]))
    # napari 0.8 has it on the viewer itself
    camera = getattr(viewer, "scene", viewer).camera
    middle = canvas[list(plane.axes)]
    camera.center = (*(0.0,) * (len(camera.center) - 2), *middle.tolist())
    camera.zoom = _zoom(viewer, layer, plane, max(y1 - y0, x1 - x0, LEAST_SHOWN))


def _zoom(viewer: ViewerModel, layer: Labels, plane: PlaneKey, side: int) -> float:
    """Screen pixels for each unit of the canvas that show an object well."""
    camera = getattr(viewer, "scene", viewer).camera
    canvas = getattr(viewer, "canvas", None)
    if canvas is None:
        return float(camera.zoom)
    origin = np.asarray(layer.data_to_world(np.zeros(layer.ndim)), np.float64)
    step = np.zeros(layer.ndim)
    step[plane.axes[1]] = 1
    moved = np.asarray(layer.data_to_world(step), np.float64) - origin
    length = side * float(np.linalg.norm(world_to_canvas(moved, viewer.dims, layer)))
    return SHOWN_SHARE * min(canvas.size) / length if length else float(camera.zoom)


class ObjectMark:
    """A frame around one object, in a layer of its own."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._layer: Shapes | None = None

    def show(self, labels: Labels, plane: PlaneKey, box_yx: Box) -> None:
        """Frame an object of labels, in its plane."""
        corners = np.zeros((4, labels.ndim))
        lead = [axis for axis in range(labels.ndim) if axis not in plane.axes]
        corners[:, lead] = plane.index
        # outside the object's pixels, which reach half a pixel beyond their centres
        y0, x0, y1, x1 = np.add(box_yx, (-1.5, -1.5, 0.5, 0.5))
        frame = [(y0, x0), (y0, x1), (y1, x1), (y1, x0)]
        corners[:, list(plane.axes)] = frame
        self.hide()
        self._layer = self._viewer.add_shapes(
            [corners],
            name="under review",
            shape_type="rectangle",
            face_color="transparent",
            edge_color="white",
            edge_width=0.6,
            metadata={OWN: "mark"},
            **place_of(labels),
        )

    def hide(self) -> None:
        """Remove the frame."""
        layer, self._layer = self._layer, None
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)
