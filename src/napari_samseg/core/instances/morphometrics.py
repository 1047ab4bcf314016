"""Sizes and shapes of instances, axons with their myelin among them, as a table."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.instances.components import check_semantic
from napari_samseg.core.prompts.object_index import ObjectIndex, index_objects

__all__ = ["Morphometrics", "measure_instances", "write_morphometrics"]

Column = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Morphometrics:
    """What was measured on each object.

    Attributes
    ----------
    columns : dict of str to (N,) array
        By name with the unit, in the order of the table; see `measure_instances`.
    unit : str
        Of lengths: ``um``, or ``px`` where the size of a pixel is not known.
    """

    columns: dict[str, Column]
    unit: str

    def __len__(self) -> int:
        return len(self.columns["object"])


@dataclass(frozen=True, slots=True, eq=False)
class _Shapes:
    """Shapes of N regions; lengths in the units of the size of a pixel."""

    centroid_yx: Column  # in pixels
    area: Column
    diameter: Column
    minor: Column
    major: Column
    eccentricity: Column


def measure_instances(
    labels: npt.NDArray[Any],
    *,
    axon: npt.NDArray[Any] | None = None,
    pixel_size: tuple[float, float] | None = None,
) -> Morphometrics:
    """Measure each object of a plane.

    Diameters are those of the circle of the same area (``diam``) and the axes of the
    ellipse with the same second moments (``minor_diam``, ``major_diam``), as in
    regionprops; an object of one pixel has an ellipse of length 0.

    Of axons in their myelin, an object is both together. With ``d`` and ``D`` the
    ``diam`` of the axon and of the object: g-ratio ``d / D``, thickness of the myelin
    ``(D - d) / 2`` (AxonDeepSeg's definitions, and names of columns).

    Parameters
    ----------
    labels : (Y, X) integer
        Instance labels, 0 is background.
    axon : (Y, X) bool, optional
        Which pixels of the objects are axon; the others are myelin.
    pixel_size : (float, float), optional
        Height and width of a pixel in micrometres; without it lengths are in pixels.

    Returns
    -------
    Morphometrics
        A row for each object, in the order of ids: ``object``, ``x0 (px)`` and
        ``y0 (px)`` (centroid, of the axon if given), ``area (um^2)`` and so on,
        ``eccentricity`` (of the axon if given), ``image_border_touching``,
        ``bbox_min_y`` to ``bbox_max_x`` (pixels, maxima exclusive). With `axon`, the
        columns of the axon, the myelin and both have the prefixes ``axon_``,
        ``myelin_`` and ``axonmyelin_``; an object without axon has NaN there.

    Raises
    ------
    InvalidLabelsError
        If the labels are no plane of ids, or `axon` has another shape.
    SettingsError
        If the size of a pixel is not two positive numbers.
    """
    labels = check_semantic(labels)
    if labels.dtype == bool:
        raise InvalidLabelsError("a mask has no objects yet: find its instances first")
    scale = _check_pixel_size(pixel_size)
    index = index_objects(labels)
    unit = "px" if pixel_size is None else "um"
    whole = _measure(index, scale)
    columns: dict[str, Column] = {"object": index.object_ids}
    if axon is None:
        columns |= _place_columns(whole)
        columns |= _size_columns("", whole, unit)
        columns["eccentricity"] = whole.eccentricity
    else:
        columns |= _axon_columns(index, whole, axon, scale, unit)
    columns |= _border_columns(index)
    return Morphometrics(columns, unit)


def write_morphometrics(path: Path, table: Morphometrics) -> None:
    """Write a table as CSV: nine digits, whole numbers in full, an empty cell for NaN.

    Parameters
    ----------
    path : Path
        Its folder is made if need be.
    table : Morphometrics
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.columns)
        values = [column.tolist() for column in table.columns.values()]
        writer.writerows([_cell(v) for v in row] for row in zip(*values, strict=True))


def _cell(value: float | bool) -> str:
    if isinstance(value, float):
        if value.is_integer():
            return str(int(value))
        return "" if np.isnan(value) else f"{value:.9g}"
    return str(value)


def _check_pixel_size(pixel_size: tuple[float, float] | None) -> npt.NDArray[Any]:
    sizes = np.array((1, 1) if pixel_size is None else pixel_size, float)
    if sizes.shape != (2,) or not np.all((sizes > 0) & np.isfinite(sizes)):
        raise SettingsError(
            f"the size of a pixel is two positive numbers, y and x, not {pixel_size}"
        )
    return sizes


def _measure(index: ObjectIndex, scale: npt.NDArray[Any]) -> _Shapes:
    """Measure areas and moments of all objects at once."""
    n = len(index)
    if not n:
        none = np.zeros(0)
        return _Shapes(np.zeros((0, 2)), none, none, none, none, none)
    starts = np.cumsum(index.areas) - index.areas
    of = np.repeat(np.arange(n), index.areas)
    places = np.stack(np.divmod(index.pixels, index.labels.shape[1]), axis=1)
    # from the corner of each box: squares of large coordinates would cost digits
    places = places - index.boxes_yx[of, :2]
    means = np.add.reduceat(places, starts, axis=0) / index.areas[:, np.newaxis]
    y, x = ((places - means[of]) * scale).T
    moments = [
        np.add.reduceat(product, starts) / index.areas
        for product in (y * y, x * x, x * y)
    ]
    major, minor = _principal(*moments)
    area = index.areas * scale.prod()
    ratio = np.divide(minor, major, out=np.ones(n), where=major > 0)
    return _Shapes(
        means + index.boxes_yx[:, :2],
        area,
        np.sqrt(4 * area / np.pi),
        4 * np.sqrt(minor),
        4 * np.sqrt(major),
        np.sqrt(1 - ratio),
    )


def _principal(yy: Column, xx: Column, xy: Column) -> tuple[Column, Column]:
    """Return the larger and the smaller eigenvalue of 2 x 2 covariances."""
    middle = (yy + xx) / 2
    spread = np.hypot((yy - xx) / 2, xy)
    return middle + spread, np.clip(middle - spread, 0, None)


def _place_columns(shapes: _Shapes) -> dict[str, Column]:
    return {"x0 (px)": shapes.centroid_yx[:, 1], "y0 (px)": shapes.centroid_yx[:, 0]}


def _size_columns(prefix: str, shapes: _Shapes, unit: str) -> dict[str, Column]:
    return {
        f"{prefix}area ({unit}^2)": shapes.area,
        f"{prefix}diam ({unit})": shapes.diameter,
        f"{prefix}minor_diam ({unit})": shapes.minor,
        f"{prefix}major_diam ({unit})": shapes.major,
    }


def _axon_columns(
    index: ObjectIndex,
    whole: _Shapes,
    axon: npt.NDArray[Any],
    scale: npt.NDArray[Any],
    unit: str,
) -> dict[str, Column]:
    axon = check_semantic(axon)
    if axon.shape != index.labels.shape:
        raise InvalidLabelsError(
            f"an axon mask of shape {axon.shape} does not fit labels of shape "
            f"{index.labels.shape}"
        )
    inside = index_objects(np.where(axon != 0, index.labels, 0))
    found = _measure(inside, scale)
    rows = np.searchsorted(index.object_ids, inside.object_ids)
    inner = _Shapes(
        *(
            _spread(getattr(found, name), rows, len(index))
            for name in _Shapes.__dataclass_fields__
        )
    )
    return {
        **_place_columns(inner),
        "gratio": inner.diameter / whole.diameter,
        **_size_columns("axon_", inner, unit),
        f"myelin_area ({unit}^2)": whole.area - inner.area,
        f"myelin_thickness ({unit})": (whole.diameter - inner.diameter) / 2,
        **_size_columns("axonmyelin_", whole, unit),
        "eccentricity": inner.eccentricity,
    }


def _spread(values: Column, rows: Column, n: int) -> Column:
    """Put values into their rows of `n`, NaN elsewhere."""
    spread = np.full((n, *values.shape[1:]), np.nan)
    spread[rows] = values
    return spread


def _border_columns(index: ObjectIndex) -> dict[str, Column]:
    boxes = index.boxes_yx
    touches = (boxes[:, :2] == 0) | (boxes[:, 2:] == index.labels.shape)
    return {
        "image_border_touching": touches.any(axis=1),
        "bbox_min_y": boxes[:, 0],
        "bbox_min_x": boxes[:, 1],
        "bbox_max_y": boxes[:, 2],
        "bbox_max_x": boxes[:, 3],
    }
