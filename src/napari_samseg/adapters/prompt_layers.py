"""The layers that show prompts and the preview of their masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.adapters.read_layers import ImageView
from napari_samseg.core.painting import Box, PlaneKey
from napari_samseg.core.prompts.from_geometry import Gesture

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer, Points, Shapes

__all__ = ["PromptLayers", "is_own_layer"]

# Marks layers that show prompts and previews: they are no images to segment.
OWN = "napari_samseg"
POSITIVE, NEGATIVE = "#2ecc40", "#ff4136"


def is_own_layer(layer: Layer) -> bool:
    """Whether a layer shows prompts or a preview of this plugin."""
    return OWN in layer.metadata


class PromptLayers:
    """Three layers on top of an image: the preview, points, and outlines.

    They follow the image's transform, are made when first needed, and made
    again if somebody deletes them.

    Parameters
    ----------
    viewer : ViewerModel
    image : Image
        The layer that is segmented.
    """

    def __init__(self, viewer: ViewerModel, image: Image) -> None:
        self._viewer = viewer
        self._image = image
        self._preview: Image | None = None
        self._points: Points | None = None
        self._shapes: Shapes | None = None
        self._n_outlines = 0

    @property
    def points(self) -> Points:
        """The layer of point prompts; active while a prompt tool is used."""
        if self._points is None or self._points not in self._viewer.layers:
            with self._same_selection():
                self._points = self._viewer.add_points(
                    ndim=self._image.ndim,
                    name=f"{self._image.name} - prompts",
                    features={"object": np.empty(0, np.int64)},
                    text={
                        "string": "{object}",
                        "color": "white",
                        "size": 9,
                        "translation": np.zeros(self._image.ndim),
                    },
                    border_color="white",
                    border_width=0.15,
                    affine=ImageView.of_layer(self._image).matrix,
                    metadata={OWN: "points"},
                    **self._axes(),
                )
        return self._points

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that exist now."""
        own = (self._preview, self._shapes, self._points)
        return tuple(
            layer for layer in own if layer is not None and layer in self._viewer.layers
        )

    def activate(self) -> None:
        """Make the point layer the active one, so that its keys and tools work."""
        self._viewer.layers.selection.active = self.points

    def show_preview(
        self,
        view: ImageView,
        plane: PlaneKey,
        drawn: tuple[npt.NDArray[np.uint8], Box] | None,
    ) -> None:
        """Show drawn objects (see `core.painting.render_objects`), or nothing."""
        if drawn is None:
            if self._preview is not None:
                self._preview.visible = False
            return
        rgba, box = drawn
        data = _lift(rgba, plane)
        matrix = view.crop_matrix(plane, box)
        if self._preview is None or self._preview not in self._viewer.layers:
            with self._same_selection():
                self._preview = self._viewer.add_image(
                    data,
                    rgb=True,
                    name=f"{self._image.name} - preview",
                    affine=matrix,
                    metadata={OWN: "preview"},
                    **self._axes(),
                )
                self._lower(self._preview)
            return
        self._preview.data = data
        self._preview.affine = matrix
        self._preview.visible = True

    def show_prompts(
        self,
        view: ImageView,
        plane: PlaneKey,
        prompts: Mapping[int, Sequence[Gesture]],
        size: float,
    ) -> None:
        """Show the gestures on a plane: positive green, negative red.

        Parameters
        ----------
        view : ImageView
        plane : PlaneKey
        prompts : mapping of object id to gestures
        size : float
            Diameter of a point, in pixels of the plane.
        """
        marks = [(i, g) for i, gestures in prompts.items() for g in gestures]
        clicks = [(i, g) for i, g in marks if g.kind == "click"]
        points = self.points
        positions = [view.plane_to_pixels(g.vertices_yx, plane) for _, g in clicks]
        ids = [i for i, g in clicks for _ in g.vertices_yx]
        colors = [_sign_color(g) for _, g in clicks for _ in g.vertices_yx]
        self._follow_axes()
        points.affine = view.matrix
        # emptied first: napari keeps the looks of points whose number does not change
        points.data = np.empty((0, len(view.shape)))
        if ids:
            points.data = np.concatenate(positions)
            points.features = {"object": np.array(ids, np.int64)}
            points.face_color = colors
            points.size = size
        points.text.visible = len(prompts) > 1
        self._show_outlines(view, plane, [g for _, g in marks if g.kind != "click"])

    def show_rubber_band(
        self, view: ImageView, plane: PlaneKey, gesture: Gesture | None
    ) -> None:
        """Show a gesture while it is drawn; None takes it away."""
        if gesture is None and self._shapes is None:
            return
        shapes = self._outline_layer()
        if len(shapes.data) > self._n_outlines:
            shapes.selected_data = set(range(self._n_outlines, len(shapes.data)))
            shapes.remove_selected()
        if gesture is not None:
            self._add_outline(shapes, view, plane, gesture)

    def raise_above(self, layer: Layer) -> None:
        """Put the layers of prompts and previews above another layer."""
        layers = self._viewer.layers
        for own in self.layers:
            if layers.index(own) < layers.index(layer):
                layers.move(layers.index(own), len(layers))

    def remove(self) -> None:
        """Remove the layers from the viewer."""
        for layer in self.layers:
            self._viewer.layers.remove(layer)
        self._preview = self._points = self._shapes = None

    def _axes(self) -> dict[str, Any]:
        """Units and names of the axes of the image.

        A layer with other units, or none, would make napari stop aligning all
        layers of the viewer physically.
        """
        return {"units": self._image.units, "axis_labels": self._image.axis_labels}

    def _follow_axes(self) -> None:
        for layer in self.layers:
            for name, value in self._axes().items():
                setattr(layer, name, value)

    def _show_outlines(
        self, view: ImageView, plane: PlaneKey, gestures: Sequence[Gesture]
    ) -> None:
        if not gestures and self._n_outlines == 0:
            return
        self._n_outlines = len(gestures)
        shapes = self._outline_layer()
        shapes.data = []
        for gesture in gestures:
            self._add_outline(shapes, view, plane, gesture)

    def _outline_layer(self) -> Shapes:
        if self._shapes is None or self._shapes not in self._viewer.layers:
            with self._same_selection():
                self._shapes = self._viewer.add_shapes(
                    ndim=self._image.ndim,
                    name=f"{self._image.name} - outlines",
                    affine=ImageView.of_layer(self._image).matrix,
                    metadata={OWN: "outlines"},
                    **self._axes(),
                )
                self._lower(self._shapes)
        return self._shapes

    def _add_outline(
        self, shapes: Shapes, view: ImageView, plane: PlaneKey, gesture: Gesture
    ) -> None:
        kind, vertices = _outline(gesture)
        width = max(1.0, max(view.plane_size(plane)) / 500)
        shapes.affine = view.matrix
        shapes.add(
            view.plane_to_pixels(vertices, plane),
            shape_type=kind,
            edge_width=width,
            edge_color=_sign_color(gesture),
            face_color="transparent",
        )

    def _lower(self, layer: Layer) -> None:
        """Keep the points on top."""
        layers = self._viewer.layers
        if self._points is not None and self._points in layers:
            layers.move(layers.index(layer), layers.index(self._points))

    @contextmanager
    def _same_selection(self) -> Iterator[None]:
        active = self._viewer.layers.selection.active
        try:
            yield
        finally:
            if active is not None and active in self._viewer.layers:
                self._viewer.layers.selection.active = active


def _outline(gesture: Gesture) -> tuple[str, npt.NDArray[np.float64]]:
    vertices = np.asarray(gesture.vertices_yx)
    if gesture.kind in ("box", "label"):
        (y0, x0), (y1, x1) = vertices.min(axis=0), vertices.max(axis=0)
        if gesture.kind == "label":
            y0, x0, y1, x1 = y0 - 0.5, x0 - 0.5, y1 - 0.5, x1 - 0.5
        corners = np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]])
        return "rectangle", corners
    if gesture.kind == "lasso" and len(vertices) > 2:
        return "polygon", vertices
    if len(vertices) == 1:
        vertices = np.concatenate([vertices, vertices + 0.01])
    return "path", vertices


def _lift(plane_data: npt.NDArray[Any], plane: PlaneKey) -> npt.NDArray[Any]:
    """Give a plane (y, x, 4) the axes of the image, each other axis of length 1."""
    if plane.axes[0] > plane.axes[1]:
        plane_data = plane_data.swapaxes(0, 1)
    lead = tuple(a for a in range(len(plane.index) + 2) if a not in plane.axes)
    return np.expand_dims(plane_data, lead)


def _sign_color(gesture: Gesture) -> str:
    return POSITIVE if gesture.positive else NEGATIVE
