"""Labels layers as targets of commits, edited through their public API."""

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

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

    from napari_samseg.core.annotation import ObjectClass

__all__ = [
    "ClassColors",
    "LayerLabels",
    "add_semantic_labels",
    "check_editable",
    "create_labels",
    "show_classes",
    "widen_labels",
]

# Dense labels above this many bytes lie on disk.
DENSE_BYTES = 1_000_000_000
LABEL_DTYPE = np.uint32
NO_CLASS_COLOR = "#b0b0b0"


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


class ClassColors:
    """Shows the objects of a Labels layer in the colours of their classes.

    The colormap that the layer had before, or that a person chose meanwhile,
    comes back afterwards.
    """

    def __init__(self) -> None:
        self._layer: Labels | None = None
        self._before: Any = None
        self._made: Any = None

    def show(
        self,
        layer: Labels | None,
        classes: Sequence[ObjectClass],
        object_classes: Mapping[int, int],
    ) -> None:
        """Colour objects by class; those that have none are grey."""
        from napari.utils.colormaps import DirectLabelColormap

        if layer is not self._layer:
            self.restore()
            if layer is not None:
                self._layer, self._before = layer, layer.colormap
        elif layer is not None and layer.colormap is not self._made:
            # a person has chosen another meanwhile: that one comes back
            self._before = layer.colormap
        if layer is None:
            return
        of_class = {row.class_id: row.color for row in classes}
        colors: dict[int | None, Any] = {None: NO_CLASS_COLOR, 0: "transparent"}
        for object_id, class_id in object_classes.items():
            colors[object_id] = of_class.get(class_id, NO_CLASS_COLOR)
        self._made = DirectLabelColormap(color_dict=colors)
        layer.colormap = self._made

    def restore(self) -> None:
        """Give the layer its own colormap back."""
        if self._layer is not None and self._layer.colormap is self._made:
            self._layer.colormap = self._before
        self._layer = self._before = self._made = None


def add_semantic_labels(
    viewer: ViewerModel,
    objects: Labels,
    data: Any,
    classes: Sequence[ObjectClass],
) -> Labels:
    """Add semantic labels made from a Labels layer of objects, lying on it."""
    from napari.utils.colormaps import DirectLabelColormap

    colors: dict[int | None, Any] = {None: NO_CLASS_COLOR, 0: "transparent"}
    colors |= {row.class_id: row.color for row in classes}
    return viewer.add_labels(
        data,
        name=f"{objects.name} - classes",
        colormap=DirectLabelColormap(color_dict=colors),
        scale=objects.scale,
        translate=objects.translate,
        rotate=objects.rotate,
        shear=objects.shear,
        affine=objects.affine,
        units=objects.units,
        axis_labels=objects.axis_labels,
    )


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
