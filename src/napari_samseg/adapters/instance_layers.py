"""Layers of classes are read, and instances become Labels layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.adapters.prompt_layers import OWN
from napari_samseg.adapters.read_layers import ImageView, data_matrix
from napari_samseg.adapters.write_layers import check_editable, place_of, space_of
from napari_samseg.core.errors import LayerError
from napari_samseg.core.instances.seed_points import Seeds
from napari_samseg.core.io import placement
from napari_samseg.core.painting import Box, PlaneKey

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Points

__all__ = [
    "InstancePreview",
    "add_instances",
    "check_target",
    "layer_array",
    "plane_window",
    "relative_spacing",
    "seeds_of",
]

# Opacity of the preview, under which the image stays visible.
PREVIEW_OPACITY = 0.6


def layer_array(layer: Image | Labels) -> Any:
    """Return the pixels of a layer at full resolution."""
    return layer.data[0] if layer.multiscale else layer.data


def relative_spacing(layer: Image | Labels) -> tuple[float, ...] | None:
    """Return the size of a pixel along each axis of a layer, 1 along the finest.

    Returns
    -------
    tuple of float or None
        See `napari_samseg.core.io.placement.relative_spacing`.
    """
    units = tuple(str(unit) for unit in layer.units)
    return placement.relative_spacing({"scale": layer.scale, "units": units})


def plane_window(layer: Image | Labels, plane: PlaneKey, most: int) -> Box:
    """Return the part of a plane to preview: all, or the middle of what is on view.

    Parameters
    ----------
    layer : Image or Labels
    plane : PlaneKey
        Of its data at full resolution.
    most : int
        Longest side, in pixels.
    """
    shape = layer_array(layer).shape
    corners = np.asarray(layer.corner_pixels, float)
    if layer.multiscale:
        corners = corners * np.asarray(layer.downsample_factors)[layer.data_level]
    starts, stops = [], []
    for axis in plane.axes:
        length, middle = int(shape[axis]), int(corners[:, axis].mean())
        side = min(most, length)
        start = min(max(0, middle - side // 2), length - side)
        starts.append(start)
        stops.append(start + side)
    return starts[0], starts[1], stops[0], stops[1]


def seeds_of(points: Points, source: Image | Labels) -> Seeds:
    """Return the points of a layer in the pixels of another one.

    Points with the same ``object`` among their features are seeds of one object; one
    without is an object by itself.

    Raises
    ------
    LayerError
        If there are none, or the layers have different numbers of axes.
    """
    ndim = len(layer_array(source).shape) - int(getattr(source, "rgb", False))
    if not len(points.data) or points.ndim != ndim:
        what = f"{points.ndim} axes" if len(points.data) else "no points"
        raise LayerError(
            f"Points layer {points.name!r} has {what}, and layer {source.name!r} "
            f"{ndim} axes: put a point on each object, in a layer of as many axes"
        )
    # at once: there may be a point on each of many thousand objects
    matrix = np.linalg.inv(data_matrix(source)) @ data_matrix(points)
    places = np.asarray(points.data, np.float64) @ matrix[:-1, :-1].T + matrix[:-1, -1]
    return Seeds(places, _object_ids(points))


def _object_ids(points: Points) -> npt.NDArray[np.int64]:
    if "object" not in points.features:
        return np.arange(1, len(points.data) + 1)
    named = points.features["object"]
    is_named = named.notna() & (named.astype(str) != "")
    # names may be of several kinds, which have no order
    names = [
        ("named", name) if is_one else ("row", row)
        for row, (name, is_one) in enumerate(zip(named, is_named, strict=True))
    ]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names), start=1)}
    return np.array([numbers[name] for name in names], np.int64)


class InstancePreview:
    """A Labels layer that shows the instances of a part of one plane.

    Parameters
    ----------
    viewer : ViewerModel
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._layer: Labels | None = None

    @property
    def layer(self) -> Labels | None:
        """The layer; None while nothing is shown."""
        if self._layer is not None and self._layer not in self._viewer.layers:
            self._layer = None
        return self._layer

    def show(
        self,
        source: Image | Labels,
        plane: PlaneKey,
        box: Box,
        labels: npt.NDArray[Any],
    ) -> None:
        """Show labels of a box of a plane, where they lie on their source.

        Parameters
        ----------
        source : Image or Labels
        plane : PlaneKey
            Its axes in rising order.
        box : (int, int, int, int)
            Half-open, along these axes.
        labels : integer, of the size of the box
        """
        view = ImageView.of_layer(source)
        data, matrix = plane.unflatten(labels), view.crop_matrix(plane, box)
        layer = self.layer
        if layer is not None and layer.ndim == data.ndim:
            layer.data = data
            if not np.allclose(layer.affine.affine_matrix, matrix):
                layer.affine = matrix
        else:
            self.remove()
            active = self._viewer.layers.selection.active
            self._layer = layer = self._viewer.add_labels(
                data,
                name=f"{source.name} - preview",
                affine=matrix,
                units=source.units,
                axis_labels=source.axis_labels,
                opacity=PREVIEW_OPACITY,
                metadata={OWN: "preview"},
            )
            self._viewer.layers.selection.active = active
        # what is painted here would be lost with the next preview
        layer.editable = False

    def remove(self) -> None:
        """Remove the layer."""
        if self.layer is not None:
            self._viewer.layers.remove(self.layer)
        self._layer = None


def check_target(target: Labels, source: Image | Labels) -> None:
    """Make sure that instances of a layer can be written into a Labels layer.

    Raises
    ------
    LayerError
        If it cannot be edited, or does not lie on the source pixel by pixel.
    """
    check_editable(target)
    view = ImageView.of_layer(source)
    if tuple(target.data.shape) != view.shape or not view.is_under(target):
        raise LayerError(
            f"Labels layer {target.name!r} does not lie on layer {source.name!r} pixel "
            "by pixel: choose another target, or let a new one be made"
        )


def add_instances(
    viewer: ViewerModel,
    source: Image | Labels,
    labels: Any,
    sizes: npt.NDArray[np.int64],
    *,
    kind: str = "instances",
) -> Labels:
    """Add instances as a Labels layer that lies on their source.

    Parameters
    ----------
    viewer : ViewerModel
    source : Image or Labels
        Scale, translation, rotation, shear, affine, units and axis labels are its.
    labels : integer array
    sizes : (N,) int64
        Pixels of the objects 1 to N, which become a feature.
    kind : str
        What the labels are, which goes into the name of the layer.
    """
    features = {"index": np.arange(len(sizes) + 1), "pixels": np.append(0, sizes)}
    return viewer.add_labels(
        labels,
        name=f"{source.name} - {kind}",
        features=features,
        metadata=space_of(source),
        **place_of(source),
    )
