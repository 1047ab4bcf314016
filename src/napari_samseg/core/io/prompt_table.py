"""Points and boxes in CSV and JSON files.

A CSV of points has the columns ``y`` and ``x``; a CSV of boxes ``y0``, ``x0``,
``y1`` and ``x1``; JSON is a list with an entry for each object. An ``object``
column, a whole number above 0, says which rows are one object and becomes its id;
without it each row is an object, numbered from 1. ``label`` is 1 for points on the
object and 0 for points off it. The points that napari saves (``axis-0``,
``axis-1``, ...) are read too: those of the plane that is segmented. Where semicolons
part the columns, a comma is the decimal sign.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_samseg.core.errors import InvalidPromptError, MissingFileError
from napari_samseg.core.prompts.from_geometry import pair_prompts
from napari_samseg.core.types import PADDING, PlanePrompts

__all__ = ["ObjectRow", "build_prompts", "read_prompt_files"]

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
    """

    points_yx: list[tuple[float, float]] = field(default_factory=list)
    point_labels: list[int] = field(default_factory=list)
    box_yx: tuple[float, ...] | None = None


def read_prompt_files(
    *,
    points: Path | None = None,
    boxes: Path | None = None,
    prompts: Path | None = None,
    plane: tuple[int, ...] = (),
) -> dict[int, ObjectRow]:
    """Read the prompts of all files by object id.

    Parameters
    ----------
    points, boxes : Path, optional
        CSV files. A point and a box with the same object id (or, without such
        columns, in the same row) describe one object.
    prompts : Path, optional
        JSON: ``[{"object": 1, "points": [[y, x]], "labels": [1],
        "box": [y0, x0, y1, x1]}, ...]``, every key but one of the prompts optional.
    plane : tuple of int
        Position along each axis before (Y, X). Of points that napari saved from a
        stack, those of other planes are left out.

    Raises
    ------
    MissingFileError
        If a file is not there.
    InvalidPromptError
        If a file lacks a column, a value is not a number, an object has two boxes,
        or no file holds a prompt, or points lie on several planes of which none is
        named; the message names the file and the row.
    """
    rows: dict[int, ObjectRow] = {}
    if points is not None:
        _read_points(points, rows, plane)
    if boxes is not None:
        _read_boxes(boxes, rows)
    if prompts is not None:
        _read_json(prompts, rows)
    if not rows:
        files = [str(path) for path in (points, boxes, prompts) if path is not None]
        empty = f"{', '.join(files)}: no prompt in it. " if files else ""
        raise InvalidPromptError(f"{empty}Give a file of points, boxes or prompts")
    return rows


def build_prompts(
    rows: Mapping[int, ObjectRow], plane_size: tuple[int, int]
) -> PlanePrompts:
    """Check the prompts of a file against a plane of `plane_size` (Y, X) pixels.

    Raises
    ------
    InvalidPromptError
        As `napari_samseg.core.prompts.from_geometry.pair_prompts`.
    """
    n, longest = len(rows), max(len(row.points_yx) for row in rows.values())
    points = np.zeros((n, longest, 2), np.float32)
    labels = np.full((n, longest), PADDING, np.int8)
    boxes = np.full((n, 4), np.nan, np.float32)
    for i, row in enumerate(rows.values()):
        n_points = len(row.points_yx)
        points[i, :n_points] = np.reshape(row.points_yx, (n_points, 2))
        labels[i, :n_points] = row.point_labels
        if row.box_yx is not None:
            boxes[i] = row.box_yx
    paired = pair_prompts(
        points if longest else None,
        labels if longest else None,
        None if np.isnan(boxes).all() else boxes,
        plane_size=plane_size,
    )
    return dataclasses.replace(paired, object_ids=np.array(list(rows), np.int64))


def _read_points(
    path: Path, rows: dict[int, ObjectRow], plane: tuple[int, ...]
) -> None:
    planes = set()
    for object_id, where, record in _read_csv(path):
        columns = POINT_COLUMNS if "y" in record else _napari_columns(record)
        *before, y, x = _numbers(record, columns, where)
        # halves go up, as napari rounds to slices
        on_plane = tuple(math.floor(position + 0.5) for position in before)
        planes.add(on_plane)
        if plane and before and on_plane != plane:
            continue
        row = rows.setdefault(object_id, ObjectRow())
        row.points_yx.append((y, x))
        row.point_labels.append(_point_label(record.get("label"), where))
    _check_planes(path, planes, plane)


def _check_planes(
    path: Path, planes: set[tuple[int, ...]], plane: tuple[int, ...]
) -> None:
    """Make sure that the points of a stack are those of one plane."""
    if not plane and len(planes) > 1:
        raise InvalidPromptError(
            f"the points in {path} lie on planes {_list(planes)}: name one of them"
        )
    if plane and planes and () not in planes and plane not in planes:
        raise InvalidPromptError(
            f"no point in {path} lies on plane {_list({plane})}; there are points on "
            f"{_list(planes)}"
        )


def _list(planes: set[tuple[int, ...]]) -> str:
    names = [",".join(map(str, plane)) for plane in sorted(planes)]
    return " and ".join(names) if len(names) < 5 else f"{names[0]} to {names[-1]}"


def _read_boxes(path: Path, rows: dict[int, ObjectRow]) -> None:
    for object_id, where, record in _read_csv(path):
        box = _numbers(record, BOX_COLUMNS, where)
        _set_box(rows.setdefault(object_id, ObjectRow()), box, where)


def _read_json(path: Path, rows: dict[int, ObjectRow]) -> None:
    try:
        records = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise InvalidPromptError(f"{path} is not JSON: {error}") from error
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise InvalidPromptError(f"{path} must hold a list of objects, one per mask")
    for i, record in enumerate(records, start=1):
        where = f"{path}, entry {i}"
        row = rows.setdefault(_object_id(record.get("object", i), where), ObjectRow())
        points = record.get("points", [])
        labels = record.get("labels", [1] * len(points))
        if len(points) != len(labels):
            raise InvalidPromptError(
                f"{where}: {len(points)} points have {len(labels)} labels"
            )
        for point, label in zip(points, labels, strict=True):
            y, x = _sequence(point, POINT_COLUMNS, where)
            row.points_yx.append((y, x))
            row.point_labels.append(_point_label(label, where))
        if record.get("box") is not None:
            _set_box(row, _sequence(record["box"], BOX_COLUMNS, where), where)
        elif not points:
            raise InvalidPromptError(f"{where} has neither points nor a box")


def _read_csv(path: Path) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Yield object id, place for messages, and the cells of each row."""
    lines = [line for line in _read_text(path).splitlines() if line.strip()]
    if len(lines) < 2:
        raise InvalidPromptError(f"{path} has no rows below its header")
    # where the comma is the decimal sign, spreadsheets write semicolons
    separator = max(",;\t", key=lines[0].count)
    for i, record in enumerate(csv.DictReader(lines, delimiter=separator), start=1):
        where = f"{path}, row {i}"
        cells = {
            key.strip().lower(): value.replace(",", ".") if separator == ";" else value
            for key, value in record.items()
            if isinstance(key, str) and isinstance(value, str)
        }
        yield _object_id(cells.get("object") or i, where), where, cells


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise MissingFileError(f"there is no file {path}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidPromptError(f"{path} is not a text file") from error


def _napari_columns(record: Mapping[str, str]) -> tuple[str, ...]:
    """Return the ``axis-…`` columns in their order, of which the last are y and x."""
    axes = [name for name in record if re.fullmatch(r"axis-\d+", name)]
    axes.sort(key=lambda name: int(name.removeprefix("axis-")))
    return tuple(axes) if len(axes) >= 2 else POINT_COLUMNS


def _numbers(
    record: Mapping[str, str], columns: tuple[str, ...], where: str
) -> tuple[float, ...]:
    missing = [name for name in columns if name not in record]
    if missing:
        raise InvalidPromptError(
            f"{where}: column {', '.join(missing)} is missing; there are "
            f"{', '.join(record) or 'none'}"
        )
    return _sequence([record[name] for name in columns], columns, where)


def _sequence(values: Any, names: tuple[str, ...], where: str) -> tuple[float, ...]:
    wanted = f"{where}: {', '.join(names)} must be {len(names)} numbers, got {values!r}"
    if not isinstance(values, list) or len(values) != len(names):
        raise InvalidPromptError(wanted)
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise InvalidPromptError(wanted) from error


def _object_id(value: Any, where: str) -> int:
    try:
        object_id = int(value)
    except (TypeError, ValueError):
        object_id = 0
    if object_id < 1:
        raise InvalidPromptError(
            f"{where}: an object is a whole number above 0, not {value!r}"
        )
    return object_id


def _point_label(value: Any, where: str) -> int:
    if value is None or str(value).strip() in ("", "1"):
        return 1
    if str(value).strip() == "0":
        return 0
    raise InvalidPromptError(
        f"{where}: a label is 1 (on the object) or 0 (off it), not {value!r}"
    )


def _set_box(row: ObjectRow, box: tuple[float, ...], where: str) -> None:
    if row.box_yx is not None:
        raise InvalidPromptError(f"{where}: this object already has a box")
    row.box_yx = box
