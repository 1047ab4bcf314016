"""What files state about the prompts of objects, value by value."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidPromptError, MissingFileError
from napari_samseg.core.types import PADDING, FloatArray

__all__ = [
    "BOX_COLUMNS",
    "POINT_COLUMNS",
    "ObjectRow",
    "check_numbers",
    "check_object_id",
    "check_point_label",
    "column_numbers",
    "napari_columns",
    "object_of_row",
    "read_csv",
    "read_text",
    "set_box",
    "stack_masks",
    "stack_rows",
    "whole_number",
]

POINT_COLUMNS = ("y", "x")
BOX_COLUMNS = ("y0", "x0", "y1", "x1")


@dataclass(slots=True)
class ObjectRow:
    """The prompts of one object as a file states them.

    Attributes
    ----------
    points_yx : list of (float, float)
        In pixels; an integer is the centre of a pixel.
    point_labels : list of int
        1 on the object, 0 off it.
    box_yx : tuple of 4 float or None
        Half-open ``(y0, x0, y1, x1)``, in pixels.
    low_res_mask : (h, w) float32 or None
        Logits of a mask prompt, of the whole plane.
    """

    points_yx: list[tuple[float, float]] = field(default_factory=list)
    point_labels: list[int] = field(default_factory=list)
    box_yx: tuple[float, ...] | None = None
    low_res_mask: FloatArray | None = None


def read_csv(path: Path) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Yield the number from 1, the place for messages, and the cells of each row."""
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    if len(lines) < 2:
        raise InvalidPromptError(f"{path} has no rows below its header")
    # where the comma is the decimal sign, spreadsheets write semicolons
    separator = max(",;\t", key=lines[0].count)
    for i, record in enumerate(csv.DictReader(lines, delimiter=separator), start=1):
        cells = {
            key.strip().lower(): value.replace(",", ".") if separator == ";" else value
            for key, value in record.items()
            if isinstance(key, str) and isinstance(value, str)
        }
        yield i, f"{path}, row {i}", cells


def object_of_row(cells: Mapping[str, Any], number: int, where: str) -> int:
    """Return the object of a row: its ``object``, else the number of the row."""
    given = cells.get("object")
    return check_object_id(number if given in (None, "") else given, where)


def read_text(path: Path) -> str:
    """Read a text file."""
    if not path.is_file():
        raise MissingFileError(f"there is no file {path}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidPromptError(f"{path} is not a text file") from error


def napari_columns(record: Mapping[str, str]) -> tuple[str, ...]:
    """Return the ``axis-…`` columns in their order, of which the last are y and x."""
    axes = [name for name in record if re.fullmatch(r"axis-\d+", name)]
    axes.sort(key=lambda name: int(name.removeprefix("axis-")))
    return tuple(axes) if len(axes) >= 2 else POINT_COLUMNS


def column_numbers(
    record: Mapping[str, Any], columns: tuple[str, ...], where: str
) -> tuple[float, ...]:
    """Return the numbers in some columns of a row."""
    missing = [name for name in columns if name not in record]
    if missing:
        raise InvalidPromptError(
            f"{where}: column {', '.join(missing)} is missing; there are "
            f"{', '.join(filter(None, record)) or 'none'}"
        )
    return check_numbers([record[name] for name in columns], columns, where)


def check_numbers(values: Any, names: tuple[str, ...], where: str) -> tuple[float, ...]:
    """Return a list of values as so many numbers."""
    is_right = isinstance(values, list) and len(values) == len(names)
    try:
        if is_right:
            return tuple(float(value) for value in values)
    except (TypeError, ValueError):
        pass
    raise InvalidPromptError(
        f"{where}: {', '.join(names)} must be {len(names)} numbers, got {values!r}"
    )


def check_object_id(value: Any, where: str) -> int:
    """Return the id of an object: a whole number above 0."""
    object_id = whole_number(value)
    if object_id is None or not 0 < object_id < 2**63:
        raise InvalidPromptError(
            f"{where}: an object is a whole number above 0, not {value!r}"
        )
    return object_id


def check_point_label(value: Any, where: str) -> int:
    """Return 1 for points on the object, and where nothing is said; 0 off it."""
    if value is None or str(value).strip() == "":
        return 1
    label = whole_number(value)
    if label not in (0, 1):
        raise InvalidPromptError(
            f"{where}: a label is 1 (on the object) or 0 (off it), not {value!r}"
        )
    return label


def whole_number(value: Any) -> int | None:
    """Return a whole number, None if it is none; tables also write it as 7.0."""
    if isinstance(value, int | str):
        try:
            return int(value)
        except ValueError:
            pass
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None


def set_box(row: ObjectRow, box: tuple[float, ...], where: str) -> None:
    """Give an object its box; four times NaN says that it has none."""
    if all(math.isnan(side) for side in box):
        return
    if row.box_yx is not None:
        raise InvalidPromptError(f"{where}: this object already has a box")
    if not all(math.isfinite(side) for side in box):
        raise InvalidPromptError(f"{where}: a side of the box is not finite: {box}")
    row.box_yx = box


def stack_rows(
    rows: Mapping[int, ObjectRow],
) -> tuple[FloatArray, npt.NDArray[np.int8], FloatArray]:
    """Return points (N, P, 2), their labels (N, P) and boxes (N, 4) of N objects."""
    n, longest = len(rows), max((len(r.points_yx) for r in rows.values()), default=0)
    points = np.zeros((n, longest, 2), np.float32)
    labels = np.full((n, longest), PADDING, np.int8)
    boxes = np.full((n, 4), np.nan, np.float32)
    for i, row in enumerate(rows.values()):
        n_points = len(row.points_yx)
        points[i, :n_points] = np.reshape(row.points_yx, (n_points, 2))
        labels[i, :n_points] = row.point_labels
        if row.box_yx is not None:
            boxes[i] = row.box_yx
    return points, labels, boxes


def stack_masks(rows: Mapping[int, ObjectRow]) -> FloatArray | None:
    """Return the mask prompts (N, h, w) of N objects, NaN for none; None without any.

    Raises
    ------
    InvalidPromptError
        If they have different sizes.
    """
    masks = [row.low_res_mask for row in rows.values()]
    shapes = {mask.shape for mask in masks if mask is not None}
    if not shapes:
        return None
    if len(shapes) > 1:
        raise InvalidPromptError(f"mask prompts have different sizes: {sorted(shapes)}")
    (shape,) = shapes
    return np.stack(
        [np.full(shape, np.nan, np.float32) if mask is None else mask for mask in masks]
    )
