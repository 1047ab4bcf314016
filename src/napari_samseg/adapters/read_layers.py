"""napari layers become core types: planes of images, and coordinates in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import LayerError
from napari_samseg.core.images import PlaneSource, open_image
from napari_samseg.core.painting import PlaneKey

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Image, Labels

    from napari_samseg.core.painting import Box

__all__ = [
    "ImageView",
    "canvas_to_data",
    "choose_level",
    "current_plane",
    "data_matrix",
    "is_colour",
    "label_on_plane",
    "largest_label",
    "unwrap",
    "world_to_canvas",
]

# A plane up to this many pixels is annotated at full resolution.
LEVEL_PIXELS = 4096 * 4096

# Dense labels are scanned for their largest id in pieces of this many values.
SCAN_VALUES = 1 << 24


def unwrap(proxied: Any) -> Any:
    """Return the object behind napari's proxy for plugins, whose identity counts."""
    return getattr(proxied, "__wrapped__", proxied)


@dataclass(frozen=True, slots=True, eq=False)
class ImageView:
    """An image layer at one resolution level: its planes and where they lie.

    Attributes
    ----------
    source : PlaneSource
        Reads planes.
    level : int
        Resolution level, 0 for the finest.
    matrix : (D+1, D+1) float64
        Homogeneous transform from pixels of the level to the layer's world;
        D is the number of axes without channels.
    units : tuple
        Unit of each of these axes in the world, as pint knows them.
    name : str
        What the image is called among stored embeddings.
    """

    source: PlaneSource
    level: int
    matrix: npt.NDArray[np.float64]
    units: tuple[Any, ...]
    name: str

    @classmethod
    def of_layer(cls, layer: Image | Labels, level: int = 0) -> ImageView:
        """Open an image layer, or a layer of labels.

        Raises
        ------
        InvalidImageError
            If its data cannot be read as planes.
        LayerError
            If the level does not exist.
        """
        source = open_image(_levels(layer), rgb=is_colour(layer))
        if not 0 <= level < len(source.levels):
            raise LayerError(
                f"image layer {layer.name!r} has no resolution level {level}: it has "
                f"{len(source.levels)}"
            )
        matrix = data_matrix(layer) @ _level_matrix(source, level)
        return cls(source, level, matrix, tuple(layer.units), _stack_name(layer))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the level without channels, in pixels."""
        return self.source.level_shape(self.level)

    def plane_size(self, plane: PlaneKey) -> tuple[int, int]:
        """(Y, X) of a plane, in pixels of the level."""
        return self.shape[plane.axes[0]], self.shape[plane.axes[1]]

    def data_to_plane(
        self, data: npt.NDArray[np.float64], plane: PlaneKey
    ) -> npt.NDArray[np.float64]:
        """Turn coordinates of the layer's data (..., D) into (..., 2) of a plane."""
        inverse = np.linalg.inv(_level_matrix(self.source, self.level))
        moved = data @ inverse[:-1, :-1].T + inverse[:-1, -1]
        return np.asarray(moved[..., list(plane.axes)], np.float64)

    def plane_to_pixels(
        self, points_yx: npt.NDArray[Any], plane: PlaneKey
    ) -> npt.NDArray[np.float64]:
        """Turn coordinates (N, 2) of a plane into (N, D) pixels of the level."""
        pixels = np.zeros((len(points_yx), len(self.shape)))
        lead = [axis for axis in range(len(self.shape)) if axis not in plane.axes]
        pixels[:, lead] = plane.index
        pixels[:, list(plane.axes)] = points_yx
        return pixels

    def is_under(self, layer: Labels) -> bool:
        """Whether a layer of the same shape lies on these pixels in the world.

        To a tenth of a pixel, with units of length converted.
        """
        matrix = data_matrix(layer)
        matrix[:-1] *= _unit_factors(layer.units, self.units)[:, np.newaxis]
        corners = np.array(list(product(*((0, n - 1) for n in self.shape), (1,))))
        pixels = corners @ (np.linalg.inv(self.matrix) @ matrix).T
        return bool(np.abs(pixels - corners).max() < 0.1)

    def crop_matrix(self, plane: PlaneKey, box_yx: Box) -> npt.NDArray[np.float64]:
        """Transform to world of an array that covers only a box of one plane."""
        offset = np.eye(len(self.shape) + 1)
        corner = self.plane_to_pixels(np.array([box_yx[:2]]), plane)
        offset[:-1, -1] = corner[0]
        return self.matrix @ offset


def is_colour(layer: Image | Labels) -> bool:
    """Whether the last axis of a layer's data holds colours."""
    return bool(getattr(layer, "rgb", False))


def choose_level(layer: Image, axes: tuple[int, int] = (-2, -1)) -> int:
    """Finest resolution level whose planes are not beyond about 4096 x 4096."""
    source = open_image(_levels(layer), rgb=is_colour(layer))
    for level in range(len(source.levels)):
        shape = source.level_shape(level)
        if shape[axes[0]] * shape[axes[1]] <= LEVEL_PIXELS:
            return level
    return len(source.levels) - 1


def current_plane(dims: Dims, layer: Image | Labels, level: int = 0) -> PlaneKey:
    """Return the plane of a layer that the viewer shows, in any order of axes.

    Raises
    ------
    LayerError
        If the viewer shows 3D, an axis that the layer does not have, or a
        position outside the layer.
    """
    if dims.ndisplay != 2:
        raise LayerError("prompts need a plane: switch the viewer from 3D to 2D")
    ndim = layer.ndim
    axes = tuple(int(axis) - (dims.ndim - ndim) for axis in dims.displayed)
    if min(axes) < 0:
        raise LayerError(
            f"image layer {layer.name!r} has no extent along the axes on view: "
            "reorder the axes"
        )
    position = canvas_to_data(dims.point, dims, layer)
    source = open_image(_levels(layer), rgb=is_colour(layer))
    inverse = np.linalg.inv(_level_matrix(source, level))
    pixels = inverse[:-1, :-1] @ position + inverse[:-1, -1]
    shape = source.level_shape(level)
    index = []
    for axis in range(ndim):
        if axis in axes:
            continue
        # halves go up, as napari rounds to slices
        at = math.floor(pixels[axis] + 0.5)
        if not 0 <= at < shape[axis]:
            raise LayerError(
                f"the viewer is at {at} on axis {axis}, outside image layer "
                f"{layer.name!r} of length {shape[axis]}"
            )
        index.append(at)
    return PlaneKey(tuple(index), (axes[0], axes[1]))


def canvas_to_data(
    position: Sequence[float], dims: Dims, layer: Any
) -> npt.NDArray[np.float64]:
    """Turn a position on the canvas into coordinates of a layer's data.

    A canvas position is in the viewer's units, which may differ from the
    layer's: napari aligns layers physically.
    """
    ndim = layer.ndim
    world = np.zeros(ndim)
    given = np.asarray(position, np.float64)[-ndim:]
    world[ndim - len(given) :] = given
    world *= _viewer_units(dims, layer)
    return np.asarray(layer.world_to_data(world), np.float64)


def world_to_canvas(
    world: npt.NDArray[np.float64], dims: Dims, layer: Any
) -> npt.NDArray[np.float64]:
    """Turn a position in a layer's world (D,) into one on the canvas.

    What `canvas_to_data` does for units, backwards.
    """
    return world / _viewer_units(dims, layer)


def label_on_plane(
    layer: Labels,
    image: Image,
    view: ImageView,
    plane: PlaneKey,
    dims: Dims,
    point_yx: Sequence[float],
) -> npt.NDArray[Any]:
    """Resample the label under a point to the pixels of a plane of an image.

    The layers may have other transforms, units, resolutions and numbers of axes:
    what counts is where they lie in the viewer.

    Parameters
    ----------
    layer : Labels
    image : Image
    view : ImageView
        The image at the resolution level of the plane.
    plane : PlaneKey
    dims : Dims
        Of the viewer that shows both.
    point_yx : (2,) float
        In pixels of the plane.

    Returns
    -------
    (Y, X) integer
        The id of the label where it lies, 0 elsewhere; all 0 where there is none.

    Raises
    ------
    LayerError
        If the Labels layer lacks an axis on view.
    """
    data = layer.data[0] if layer.multiscale else layer.data
    found = np.zeros(view.plane_size(plane), data.dtype)
    axes = [axis + layer.ndim - image.ndim for axis in plane.axes]
    if min(axes) < 0:
        raise LayerError(
            f"Labels layer {layer.name!r} has no extent along the axes on view: "
            "reorder the axes"
        )
    to_labels = _plane_to_data(layer, image, view, plane, dims)
    at = _nearest(to_labels, np.rint(point_yx, dtype=np.float64))
    if (at < 0).any() or (at >= data.shape).any():
        return found
    lead = tuple(int(at[a]) for a in range(layer.ndim) if a not in axes)
    of_labels = PlaneKey(lead, (axes[0], axes[1]))
    rows, columns = (int(data.shape[axis]) for axis in axes)
    labels = np.asarray(data[of_labels.selection((0, 0, rows, columns))])
    labels = labels.T if axes[0] > axes[1] else labels
    label = labels[at[axes[0]], at[axes[1]]]
    if label:
        _paste_nearest(found, labels == label, to_labels[axes], label)
    return found


def _plane_to_data(
    layer: Labels, image: Image, view: ImageView, plane: PlaneKey, dims: Dims
) -> npt.NDArray[np.float64]:
    """Affine (D, 3) from (y, x, 1) of a plane of an image to data of another layer."""
    canvas = np.array(dims.point, np.float64)
    columns = []
    for pixel in view.plane_to_pixels(np.array([[1, 0], [0, 1], [0, 0]]), plane):
        world = view.matrix[:-1, :-1] @ pixel + view.matrix[:-1, -1]
        canvas[dims.ndim - len(world) :] = world_to_canvas(world, dims, image)
        columns.append(canvas_to_data(canvas.tolist(), dims, layer))
    y, x, origin = columns
    return np.stack([y - origin, x - origin, origin], axis=1)


def _nearest(
    affine: npt.NDArray[np.float64], points_yx: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """Index of the pixels in which points (..., 2) lie after an affine (D, 3)."""
    # a hair above a half, so that rounding errors do not part neighbours
    moved = points_yx @ affine[:, :2].T + affine[:, 2] + 0.5 + 1e-9
    return np.floor(moved).astype(np.int64)


def _paste_nearest(
    target: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_],
    affine: npt.NDArray[np.float64],
    value: Any,
) -> None:
    """Write a value where an affine (2, 3) takes the pixels of `target` into a mask.

    Only the part of `target` that can be reached is looked at.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    y0, y1 = rows[0] - 0.5, rows[-1] + 0.5
    x0, x1 = columns[0] - 0.5, columns[-1] + 0.5
    corners = np.array([(y0, x0), (y0, x1), (y1, x0), (y1, x1)])
    reached = (corners - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T
    low = np.clip(np.floor(reached.min(axis=0)), 0, target.shape).astype(int)
    high = np.clip(np.ceil(reached.max(axis=0)) + 1, 0, target.shape).astype(int)
    grid = np.moveaxis(np.mgrid[low[0] : high[0], low[1] : high[1]], 0, -1)
    y, x = np.moveaxis(_nearest(affine, grid), -1, 0)
    inside = (y >= 0) & (y < mask.shape[0]) & (x >= 0) & (x < mask.shape[1])
    hit = inside & mask[np.where(inside, y, 0), np.where(inside, x, 0)]
    target[low[0] : high[0], low[1] : high[1]][hit] = value


def largest_label(data: Any) -> int:
    """Return the largest id in labels, read in pieces; 0 if there is none."""
    if 0 in data.shape:
        return 0
    per_row = math.prod(data.shape[1:])
    rows = max(1, SCAN_VALUES // max(1, per_row))
    largest = 0
    for start in range(0, data.shape[0], rows):
        largest = max(largest, int(np.asarray(data[start : start + rows]).max()))
    return largest


def _viewer_units(dims: Dims, layer: Any) -> npt.NDArray[np.float64]:
    """Length of the viewer's unit along each axis of a layer, in its own unit.

    1 where the viewer has no units: napari then takes all numbers as they are.
    """
    sizes = np.ones(layer.ndim)
    units = getattr(dims, "units", None)
    if units and len(units) >= layer.ndim:
        pairs = zip(units[-layer.ndim :], layer.units, strict=True)
        for axis, (of_view, of_layer) in enumerate(pairs):
            if of_view != of_layer:
                sizes[axis] = (1.0 * of_view).to(of_layer).magnitude
    return sizes


def _stack_name(layer: Image | Labels) -> str:
    """Return the path of a layer's file, or its name where there is none.

    Several layers may come from one file, one for each channel: they are told apart
    by their names, which are then not the file's.
    """
    if not layer.source.path:
        return str(layer.name)
    path = str(layer.source.path)
    if "://" not in path:
        path = str(Path(path).absolute())
    is_only_one = PurePath(path).name.startswith(layer.name)
    return path if is_only_one else f"{path} ({layer.name})"


def _levels(layer: Any) -> Any:
    return list(layer.data) if layer.multiscale else layer.data


def data_matrix(layer: Any) -> npt.NDArray[np.float64]:
    """Homogeneous transform from data to world, probed through the public API."""
    ndim = layer.ndim
    origin = np.asarray(layer.data_to_world(np.zeros(ndim)), np.float64)
    matrix = np.eye(ndim + 1)
    matrix[:-1, -1] = origin
    for axis, unit in enumerate(np.eye(ndim)):
        matrix[:-1, axis] = np.asarray(layer.data_to_world(unit)) - origin
    return matrix


def _unit_factors(
    given: Sequence[Any], wanted: Sequence[Any]
) -> npt.NDArray[np.float64]:
    """Return factors of lengths; 1 where units, like pixels, do not convert."""
    return np.array(
        [
            (1 * a).to(b).magnitude if (1 * a).is_compatible_with(b) else 1.0
            for a, b in zip(given, wanted, strict=True)
        ]
    )


def _level_matrix(source: PlaneSource, level: int) -> npt.NDArray[np.float64]:
    """Transform from pixels of a level to those of level 0, corners on corners."""
    factors = np.array(source.shape) / np.array(source.level_shape(level))
    matrix = np.diag([*factors, 1.0])
    matrix[:-1, -1] = (factors - 1) / 2
    return matrix
