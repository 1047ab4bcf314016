"""The layers that show prompts and the preview of their masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
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

# gestures with the ids of their objects
Marks = list[tuple[int, Gesture]]


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
        # what the layers show, so that only what is new needs to be drawn: napari
        # takes some milliseconds for each shape, and lays out the viewer each time
        self._plane: PlaneKey | None = None
        self._clicks: Marks = []
        self._outlines: Marks = []

    @property
    def points(self) -> Points:
        """The layer of point prompts; active while a prompt tool is used."""
        if self._points is None or self._points not in self._viewer.layers:
            self._clicks = []
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
        is_same_plane, self._plane = plane == self._plane, plane
        points = self.points
        self._follow(view)
        clicks = [mark for mark in marks if mark[1].kind == "click"]
        n_points = sum(len(gesture.vertices_yx) for _, gesture in clicks)
        is_shown = clicks == self._clicks and len(points.data) == n_points
        if not (is_same_plane and is_shown):
            self._clicks = clicks
            self._show_clicks(points, view, plane, size)
        if points.text.visible != (len(prompts) > 1):
            points.text.visible = len(prompts) > 1
        outlines = [mark for mark in marks if mark[1].kind != "click"]
        if outlines or self._outlines:
            if not is_same_plane:
                self._drop_outlines(0)
            self._show_outlines(view, plane, outlines)

    def show_rubber_band(
        self, view: ImageView, plane: PlaneKey, gesture: Gesture | None
    ) -> None:
        """Show a gesture while it is drawn; None takes it away."""
        if gesture is None and self._shapes is None:
            return
        self._drop_outlines(len(self._outlines))
        if gesture is not None:
            shapes = self._outline_layer()
            self._follow(view)
            _add_outlines(shapes, view, plane, [gesture])

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
        self._preview = self._points = self._shapes = self._plane = None
        self._clicks, self._outlines = [], []

    def _axes(self) -> dict[str, Any]:
        """Units and names of the axes of the image.

        A layer with other units, or none, would make napari stop aligning all
        layers of the viewer physically.
        """
        return {"units": self._image.units, "axis_labels": self._image.axis_labels}

    def _follow(self, view: ImageView) -> None:
        """Let the layers lie on the image; napari lays out the viewer if one moves."""
        for layer in self.layers:
            for name, value in self._axes().items():
                setattr(layer, name, value)
            is_moved = not np.array_equal(layer.affine.affine_matrix, view.matrix)
            if is_moved and layer is not self._preview:
                layer.affine = view.matrix

    def _show_clicks(
        self, points: Points, view: ImageView, plane: PlaneKey, size: float
    ) -> None:
        gestures = [g for _, g in self._clicks]
        # emptied first: napari keeps the looks of points whose number does not change
        points.data = np.empty((0, len(view.shape)))
        if not gestures:
            return
        points.data = view.plane_to_pixels(
            np.concatenate([g.vertices_yx for g in gestures]), plane
        )
        ids = [i for i, g in self._clicks for _ in g.vertices_yx]
        points.features = {"object": np.array(ids, np.int64)}
        points.face_color = [_sign_color(g) for g in gestures for _ in g.vertices_yx]
        points.size = size

    def _show_outlines(self, view: ImageView, plane: PlaneKey, outlines: Marks) -> None:
        """Show outlines; those that are shown already stay."""
        shapes = self._outline_layer()
        self._follow(view)
        n_kept = 0
        if len(shapes.data) >= len(self._outlines):
            pairs = zip(self._outlines, outlines, strict=False)
            n_kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._drop_outlines(n_kept)
        self._outlines = outlines
        new = [gesture for _, gesture in outlines[n_kept:]]
        if new:
            _add_outlines(shapes, view, plane, new)

    def _drop_outlines(self, start: int) -> None:
        """Remove the outlines from a position on, the rubber band included."""
        shapes = self._shapes
        self._outlines = self._outlines[:start]
        if shapes is None or len(shapes.data) <= start:
            return
        if start == 0:
            shapes.data = []
            return
        shapes.selected_data = set(range(start, len(shapes.data)))
        shapes.remove_selected()

    def _outline_layer(self) -> Shapes:
        if self._shapes is None or self._shapes not in self._viewer.layers:
            self._outlines = []
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


def _add_outlines(
    shapes: Shapes, view: ImageView, plane: PlaneKey, gestures: Sequence[Gesture]
) -> None:
    """Add all at once: napari lays out the whole layer each time."""
    outlines = [_outline(gesture) for gesture in gestures]
    shapes.add(
        [view.plane_to_pixels(vertices, plane) for _, vertices in outlines],
        shape_type=[kind for kind, _ in outlines],
        edge_width=max(1.0, max(view.plane_size(plane)) / 500),
        edge_color=[_sign_color(gesture) for gesture in gestures],
        face_color="transparent",
    )


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
