"""The only code that adds or edits napari layers, through their public API."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.adapters.read_layers import ImageView
from napari_samseg.core.errors import LayerError
from napari_samseg.core.painting import Box, PlaneKey
from napari_samseg.core.prompts.from_geometry import Gesture

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer, Points, Shapes

    from napari_samseg.core.annotation import ObjectClass

__all__ = [
    "LayerLabels",
    "PromptLayers",
    "check_editable",
    "create_labels",
    "is_own_layer",
    "show_classes",
    "widen_labels",
]

# Dense labels above this many bytes lie on disk.
DENSE_BYTES = 1_000_000_000
LABEL_DTYPE = np.uint32
# Marks layers that show prompts and previews: they are no images to segment.
OWN = "napari_samseg"
POSITIVE, NEGATIVE = "#2ecc40", "#ff4136"


def is_own_layer(layer: Layer) -> bool:
    """Whether a layer shows prompts or a preview of this plugin."""
    return OWN in layer.metadata


def check_editable(layer: Labels) -> None:
    """Make sure that objects can be committed into a Labels layer.

    Raises
    ------
    LayerError
        If it is multiscale, or its data cannot be written; the message says
        what to do instead.
    """
    way_out = "choose another target, or let a new Labels layer be made"
    if layer.multiscale:
        raise LayerError(
            f"Labels layer {layer.name!r} is multiscale, which napari cannot edit: "
            f"{way_out}"
        )
    if type(layer.data).__module__.startswith("dask."):
        raise LayerError(
            f"Labels layer {layer.name!r} is a dask array, which cannot be written "
            f"in place: {way_out}, or load it into memory"
        )
    if getattr(layer.data, "read_only", False) or not getattr(
        getattr(layer.data, "flags", None), "writeable", True
    ):
        raise LayerError(f"Labels layer {layer.name!r} is read-only: {way_out}")


class LayerLabels:
    """A Labels layer as the target of commits (`core.painting.LabelTarget`).

    Commits and strokes are steps of the layer's own history, undone there, so
    that both undo in the order they were made. Where napari has forgotten a
    step (it keeps 100), a commit writes its pixels back itself.
    """

    def __init__(self, layer: Labels) -> None:
        check_editable(layer)
        self.layer = layer
        self.is_writing = False

    @property
    def max_id(self) -> int:
        """Largest id that the data type can hold."""
        return int(np.iinfo(self.layer.data.dtype).max)

    def read(self, plane: PlaneKey, box_yx: Box) -> npt.NDArray[Any]:
        """Return a copy of the labels in a box, (y, x)."""
        values = np.array(self.layer.data[self._selection(plane, box_yx)])
        return values.T if plane.axes[0] > plane.axes[1] else values

    def write(self, plane: PlaneKey, box_yx: Box, values: npt.NDArray[Any]) -> None:
        """Write labels (y, x) into a box, as one step of the layer's history."""
        changed = np.nonzero(self.read(plane, box_yx) != values)
        corner = np.array(box_yx[:2])
        points = np.stack(changed, axis=1) + corner
        n_axes = len(plane.index) + 2
        indices = np.zeros((n_axes, len(points)), np.int64)
        lead = [axis for axis in range(n_axes) if axis not in plane.axes]
        indices[lead] = np.array(plane.index, np.int64)[:, np.newaxis]
        indices[list(plane.axes)] = points.T
        with self.writing():
            try:
                self.layer.data_setitem(tuple(indices), values[changed])
            except (NotImplementedError, TypeError) as error:
                raise LayerError(
                    f"Labels layer {self.layer.name!r} cannot be written: choose "
                    "another target, or let a new Labels layer be made"
                ) from error

    def revert(
        self,
        plane: PlaneKey,
        box_yx: Box,
        before: npt.NDArray[Any],
        after: npt.NDArray[Any],
    ) -> None:
        """Undo the last write; pixels that differ get their value `before`."""
        with self.writing():
            self.layer.undo()
            self._restore(plane, box_yx, before, before != after)

    def repeat(
        self,
        plane: PlaneKey,
        box_yx: Box,
        before: npt.NDArray[Any],
        after: npt.NDArray[Any],
    ) -> None:
        """Redo the write last undone; pixels that differ get their value `after`."""
        with self.writing():
            self.layer.redo()
            self._restore(plane, box_yx, after, before != after)

    def undo_stroke(self) -> None:
        """Undo the last stroke painted by hand."""
        with self.writing():
            self.layer.undo()

    def redo_stroke(self) -> None:
        """Redo the stroke last undone."""
        with self.writing():
            self.layer.redo()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Mark edits as ours, so that they are not taken for a person's strokes."""
        was_writing, self.is_writing = self.is_writing, True
        try:
            yield
        finally:
            self.is_writing = was_writing

    def _restore(
        self,
        plane: PlaneKey,
        box_yx: Box,
        values: npt.NDArray[Any],
        changed: npt.NDArray[np.bool_],
    ) -> None:
        """Write pixels back if napari's history did not.

        Beside that history, so that the steps it still holds stay in order.
        """
        now = self.read(plane, box_yx)
        if (now[changed] == values[changed]).all():
            return
        wanted = np.where(changed, values, now).astype(now.dtype)
        turned = wanted.T if plane.axes[0] > plane.axes[1] else wanted
        self.layer.data[self._selection(plane, box_yx)] = turned
        self.layer.refresh()

    def _selection(self, plane: PlaneKey, box_yx: Box) -> tuple[int | slice, ...]:
        shape = self.layer.data.shape
        ends = [*plane.index, *box_yx[2:]]
        order = [a for a in range(len(shape)) if a not in plane.axes] + [*plane.axes]
        if len(shape) != len(ends) or any(
            end > shape[axis] for axis, end in zip(order, ends, strict=True)
        ):
            raise LayerError(
                f"Labels layer {self.layer.name!r} of shape {tuple(shape)} does not "
                "cover the image: choose another target, or let a new one be made"
            )
        return plane.selection(box_yx)


def create_labels(
    viewer: ViewerModel, image: Image, view: ImageView, folder: Path
) -> Labels:
    """Add an empty Labels layer that lies exactly on an image.

    Scale, translate, rotate, shear, affine, units and axis labels come from the
    image. The labels are uint32, and lie in a zarr array under `folder` when
    they would take more than 1 GB of memory.
    """
    n_bytes = math.prod(view.shape) * np.dtype(LABEL_DTYPE).itemsize
    data: Any
    if n_bytes <= DENSE_BYTES:
        data = np.zeros(view.shape, LABEL_DTYPE)
    else:
        data = _array_on_disk(view.shape, folder, image.name)
    factors = np.array(view.source.shape) / np.array(view.shape)
    affine = np.asarray(image.affine.affine_matrix)
    # what is left of the transform without `affine`: rotate, shear, scale, translate
    inner = np.linalg.inv(affine) @ view.matrix
    return viewer.add_labels(
        data,
        name=f"{image.name} - objects",
        scale=np.asarray(image.scale) * factors,
        translate=inner[:-1, -1],
        rotate=image.rotate,
        shear=image.shear,
        affine=affine,
        units=image.units,
        axis_labels=image.axis_labels,
    )


def widen_labels(target: LayerLabels) -> None:
    """Convert the data of a Labels layer to uint32, so that more ids fit."""
    with target.writing():
        target.layer.data = np.asarray(target.layer.data).astype(LABEL_DTYPE)


def show_classes(
    layer: Labels,
    classes: Sequence[ObjectClass],
    object_classes: Mapping[int, int],
) -> None:
    """List the class of each object in the features of a Labels layer.

    Other columns that a person keeps there stay as they are.
    """
    import pandas as pd

    names = {row.class_id: row.name for row in classes}
    objects = sorted(object_classes)
    table = pd.DataFrame(
        {
            "index": [0, *objects],
            "class": ["background", *(names.get(object_classes[i]) for i in objects)],
            "class_id": [0, *(object_classes[i] for i in objects)],
        }
    )
    kept = layer.features.drop(columns=["class", "class_id"], errors="ignore")
    if len(kept.columns) and len(kept):
        if "index" not in kept:
            # napari takes row i for label i where no column says otherwise
            kept = kept.assign(index=range(len(kept)))
        table = kept.merge(table, on="index", how="outer")
    layer.features = table


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
                    metadata={OWN: "points"},
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
                    units=self._image.units,
                    axis_labels=self._image.axis_labels,
                    metadata={OWN: "preview"},
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
                    metadata={OWN: "outlines"},
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


def _array_on_disk(shape: tuple[int, ...], folder: Path, name: str) -> Any:
    import zarr

    safe = "".join(c if c.isalnum() else "-" for c in name)[:40]
    path = folder / f"{safe}-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6}"
    chunks = tuple(1 if axis < len(shape) - 2 else 512 for axis in range(len(shape)))
    return zarr.create_array(
        store=path.with_suffix(".zarr"),
        shape=shape,
        dtype=LABEL_DTYPE,
        chunks=tuple(min(c, n) for c, n in zip(chunks, shape, strict=True)),
        fill_value=0,
    )
