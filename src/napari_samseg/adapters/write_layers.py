"""Labels layers as targets of commits, edited through their public API."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.adapters.read_layers import ImageView
from napari_samseg.core.deltas import PixelChange
from napari_samseg.core.errors import LayerError
from napari_samseg.core.painting import Region

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

    from napari_samseg.core.annotation_actions import ObjectClass

__all__ = [
    "SPACE_KEY",
    "ClassColors",
    "LayerLabels",
    "add_semantic_labels",
    "array_on_disk",
    "check_editable",
    "create_labels",
    "empty_labels",
    "move_labels",
    "place_of",
    "show_classes",
    "space_of",
    "widen_labels",
]

# Where the metadata of a layer says how its volume is oriented.
SPACE_KEY = "nifti"
# Dense labels above this many bytes lie on disk.
DENSE_BYTES = 1_000_000_000
LABEL_DTYPE = np.uint32
# Edits of a stroke are joined to one while they span at most this many pixels.
MERGED_VALUES = 1 << 20
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

    Pixels are written beside napari's history of the layer, which holds 100
    steps and knows no order among layers: undo is the annotation's. What napari
    remembers is dropped before each write, so that its own undo, which puts old
    pixels back whatever lies there now, cannot tear holes into objects.
    """

    def __init__(self, layer: Labels) -> None:
        check_editable(layer)
        self.layer = layer
        self._napari_remembers = True

    @property
    def max_id(self) -> int:
        """Largest id that the data type can hold."""
        return int(np.iinfo(self.layer.data.dtype).max)

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Return a copy of the labels in a region, with the axes of the layer."""
        self._check_region(region)
        return np.array(self.layer.data[region])

    def write(self, region: Region, values: npt.NDArray[Any]) -> None:
        """Write labels into a region."""
        self._check_region(region)
        self._forget_steps()
        try:
            self.layer.data[region] = values
        except (NotImplementedError, TypeError) as error:
            raise LayerError(
                f"Labels layer {self.layer.name!r} cannot be written: choose "
                "another target, or let a new Labels layer be made"
            ) from error
        self.layer.refresh(extent=False)

    def read_stroke(self, items: Sequence[Any]) -> list[PixelChange]:
        """Return what a person painted, from the layer's `paint` event.

        Parameters
        ----------
        items : sequence
            The `value` of the event: edits in the order they were made.
        """
        self._napari_remembers = True
        return _merge([_read_edit(item) for item in items])

    def _forget_steps(self) -> None:
        """Let napari drop its history, which it does for a layer not editable."""
        if self._napari_remembers and self.layer.editable:
            mode = self.layer.mode
            self.layer.editable = False
            self.layer.editable = True
            self.layer.mode = mode
            self._napari_remembers = False

    def _check_region(self, region: Region) -> None:
        shape = self.layer.data.shape
        if len(shape) != len(region) or any(
            side.stop > length for side, length in zip(region, shape, strict=True)
        ):
            raise LayerError(
                f"Labels layer {self.layer.name!r} of shape {tuple(shape)} does not "
                "cover the image: choose another target, or let a new one be made"
            )


def _read_edit(edit: Any) -> PixelChange:
    """Read one edit of a `paint` event: of a box with a mask, or of single pixels."""
    if len(edit) == 4:
        region, mask, old, new = edit
        mask = np.ones(old.shape, bool) if mask is None else mask
        where: Any = mask
        shape = mask.shape
        region = tuple(
            slice(side.start or 0, (side.start or 0) + length)
            for side, length in zip(region, shape, strict=True)
        )
        old = old[mask] if old.shape == shape else old
    else:
        indices, old, new = edit
        points = [np.ravel(index) for index in indices]
        region = tuple(slice(int(i.min()), int(i.max()) + 1) for i in points)
        shape = tuple(side.stop - side.start for side in region)
        where = tuple(i - side.start for i, side in zip(points, region, strict=True))
    before, after = np.zeros(shape, old.dtype), np.zeros(shape, old.dtype)
    before[where], after[where] = old, new
    return PixelChange(region, before, after)


def _merge(changes: Sequence[PixelChange]) -> list[PixelChange]:
    """Join the edits of a drag, one for each move of the mouse, to few."""
    groups: list[tuple[Region, list[PixelChange]]] = []
    for change in changes:
        hull = _hull(groups[-1][0], change.region) if groups else change.region
        if groups and math.prod(s.stop - s.start for s in hull) <= MERGED_VALUES:
            groups[-1] = hull, [*groups[-1][1], change]
        else:
            groups.append((change.region, [change]))
    return [_join(hull, group) for hull, group in groups]


def _join(hull: Region, changes: Sequence[PixelChange]) -> PixelChange:
    shape = [side.stop - side.start for side in hull]
    before, after = (np.zeros(shape, changes[0].before.dtype) for _ in range(2))
    for change in changes:
        inside = tuple(
            slice(side.start - whole.start, side.stop - whole.start)
            for side, whole in zip(change.region, hull, strict=True)
        )
        edited = change.before != change.after
        # a pixel painted twice keeps the value from before the first time
        fresh = edited & (before[inside] == after[inside])
        before[inside][fresh] = change.before[fresh]
        after[inside][edited] = change.after[edited]
    return PixelChange(hull, before, after)


def _hull(first: Region, second: Region) -> Region:
    return tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )


def create_labels(
    viewer: ViewerModel, image: Image, view: ImageView, folder: Path
) -> Labels:
    """Add an empty Labels layer that lies exactly on an image.

    Scale, translate, rotate, shear, affine, units and axis labels come from the
    image. The labels are uint32, and lie in a zarr array under `folder` when
    they would take more than 1 GB of memory.
    """
    return viewer.add_labels(
        empty_labels(view.shape, folder, image.name),
        name=f"{image.name} - objects",
        units=image.units,
        axis_labels=image.axis_labels,
        # that of a coarser level would be another one
        metadata=space_of(image) if view.shape == view.source.shape else {},
        **_transform(image, view),
    )


def empty_labels(
    shape: tuple[int, ...], folder: Path, name: str, dtype: Any = LABEL_DTYPE
) -> Any:
    """Return an array for labels: in a zarr array under `folder` above 1 GB."""
    if math.prod(shape) * np.dtype(dtype).itemsize <= DENSE_BYTES:
        return np.zeros(shape, dtype)
    return array_on_disk(shape, folder, name, dtype=dtype)


def move_labels(layer: Labels, image: Image, view: ImageView) -> None:
    """Lay labels that were made for an image on it again, after it has moved."""
    for name, value in _transform(image, view).items():
        setattr(layer, name, value)


def _transform(image: Image, view: ImageView) -> dict[str, Any]:
    factors = np.array(view.source.shape) / np.array(view.shape)
    affine = np.asarray(image.affine.affine_matrix)
    # what is left of the transform without `affine`: rotate, shear, scale, translate
    inner = np.linalg.inv(affine) @ view.matrix
    return {
        "scale": np.asarray(image.scale) * factors,
        "translate": inner[:-1, -1],
        "rotate": image.rotate,
        "shear": image.shear,
        "affine": affine,
    }


def widen_labels(target: LayerLabels, folder: Path) -> None:
    """Convert the data of a Labels layer to uint32, so that more ids fit.

    Labels in zarr are copied chunk by chunk to a new array beside the old one,
    or in `folder` if they are not in a local one; the old array stays as it is.

    Raises
    ------
    LayerError
        If the copy cannot be written.
    """
    data = target.layer.data
    if not hasattr(data, "store"):
        target.layer.data = np.asarray(data).astype(LABEL_DTYPE)
        return
    root = getattr(data.store, "root", None)
    try:
        wide = array_on_disk(
            data.shape,
            folder if root is None else Path(root).parent,
            f"{target.layer.name if root is None else Path(root).stem}-uint32",
            data.chunks,
        )
        for start in product(
            *(range(0, n, c) for n, c in zip(data.shape, data.chunks, strict=True))
        ):
            chunk = tuple(
                slice(i, i + c) for i, c in zip(start, data.chunks, strict=True)
            )
            wide[chunk] = data[chunk]
    except OSError as error:
        raise LayerError(
            f"Labels layer {target.layer.name!r} cannot be copied as uint32: {error}; "
            "commit into a new layer instead"
        ) from error
    target.layer.data = wide


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
        metadata=space_of(objects),
        **place_of(objects),
    )


def place_of(layer: Image | Labels) -> dict[str, Any]:
    """Return where a layer lies, as arguments for another one of the same shape."""
    names = (
        "scale",
        "translate",
        "rotate",
        "shear",
        "affine",
        "units",
        "axis_labels",
    )
    return {name: getattr(layer, name) for name in names}


def space_of(layer: Image | Labels) -> dict[str, Any]:
    """Return how the volume of a layer is oriented, as metadata for one made of it."""
    known = layer.metadata.get(SPACE_KEY)
    return {} if known is None else {SPACE_KEY: known}


def array_on_disk(
    shape: tuple[int, ...],
    folder: Path,
    name: str,
    chunks: tuple[int, ...] | None = None,
    dtype: Any = LABEL_DTYPE,
) -> Any:
    """Make an empty zarr array of labels with a name of its own in a folder."""
    import zarr

    safe = "".join(c if c.isalnum() else "-" for c in name)[:40]
    path = folder / f"{safe}-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6}"
    if chunks is None:
        chunks = tuple(
            min(1 if axis < len(shape) - 2 else 512, n) for axis, n in enumerate(shape)
        )
    return zarr.create_array(
        store=path.with_suffix(".zarr"),
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        fill_value=0,
    )
