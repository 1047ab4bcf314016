"""The prompts of one plane, from files that a person wrote or a program saved.

A CSV of points has the columns ``y`` and ``x``; a CSV of boxes ``y0``, ``x0``,
``y1`` and ``x1``. An ``object`` column, a whole number above 0, says which rows are
one object and becomes its id; without it each row is an object, numbered from 1.
``label`` is 1 for points on the object and 0 for points off it. The points that napari
saves (``axis-0``, ``axis-1``, ...) are read too: those of the plane that is segmented.
Where semicolons part the columns, a comma is the decimal sign. Tables of the prompts of
all planes are those of `napari_samseg.core.io.prompt_planes`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from napari_samseg.core.errors import InvalidPromptError
from napari_samseg.core.io.prompt_planes import read_plane_rows
from napari_samseg.core.io.prompt_rows import (
    BOX_COLUMNS,
    POINT_COLUMNS,
    ObjectRow,
    check_point_label,
    column_numbers,
    napari_columns,
    object_of_row,
    read_csv,
    set_box,
    stack_masks,
    stack_rows,
)
from napari_samseg.core.prompts.from_arrays import pair_prompts
from napari_samseg.core.types import PlanePrompts

__all__ = ["build_prompts", "read_prompt_files"]


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
        A table of `napari_samseg.core.io.prompt_planes`: JSON, CSV, npy, npz or
        Parquet.
    plane : tuple of int
        Position along each axis before (Y, X). Of prompts of a stack, those of other
        planes are left out.

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
        _read_table(prompts, rows, plane)
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
        As `napari_samseg.core.prompts.from_arrays.pair_prompts`.
    """
    points, labels, boxes = stack_rows(rows)
    paired = pair_prompts(
        points if labels.size else None,
        labels if labels.size else None,
        None if np.isnan(boxes).all() else boxes,
        plane_size=plane_size,
        low_res_masks=stack_masks(rows),
    )
    return dataclasses.replace(paired, object_ids=np.array(list(rows), np.int64))


def _check_kind(record: Mapping[str, str], path: Path) -> None:
    """Refuse tables as `write_prompts` makes them: their columns have other names."""
    if "bbox_min_x" in record and not {"y", "y1"} & set(record):
        raise InvalidPromptError(
            f"{path} is a table of prompts of all kinds: give it with --prompts"
        )


def _read_points(
    path: Path, rows: dict[int, ObjectRow], plane: tuple[int, ...]
) -> None:
    planes = set()
    for number, where, record in read_csv(path):
        _check_kind(record, path)
        columns = POINT_COLUMNS if "y" in record else napari_columns(record)
        *before, y, x = column_numbers(record, columns, where)
        # halves go up, as napari rounds to slices
        on_plane = tuple(math.floor(position + 0.5) for position in before)
        planes.add(on_plane)
        if plane and before and on_plane != plane:
            continue
        object_id = object_of_row(record, number, where)
        row = rows.setdefault(object_id, ObjectRow())
        row.points_yx.append((y, x))
        row.point_labels.append(check_point_label(record.get("label"), where))
    _check_planes(path, planes, plane)


def _check_planes(
    path: Path, planes: set[tuple[int, ...]], plane: tuple[int, ...]
) -> None:
    """Make sure that the prompts of a stack are those of one plane."""
    if not plane and len(planes) > 1:
        raise InvalidPromptError(
            f"the prompts in {path} lie on planes {_list(planes)}: name one of them "
            "(--plane)"
        )
    if plane and planes and () not in planes and plane not in planes:
        raise InvalidPromptError(
            f"no prompt in {path} lies on plane {_list({plane})}; there are some on "
            f"{_list(planes)}"
        )


def _list(planes: set[tuple[int, ...]]) -> str:
    names = [",".join(map(str, plane)) for plane in sorted(planes)]
    return " and ".join(names) if len(names) < 5 else f"{names[0]} to {names[-1]}"


def _read_boxes(path: Path, rows: dict[int, ObjectRow]) -> None:
    for number, where, record in read_csv(path):
        _check_kind(record, path)
        box = column_numbers(record, BOX_COLUMNS, where)
        object_id = object_of_row(record, number, where)
        set_box(rows.setdefault(object_id, ObjectRow()), box, where)


def _read_table(path: Path, rows: dict[int, ObjectRow], plane: tuple[int, ...]) -> None:
    planes = read_plane_rows(path)
    _check_planes(path, set(planes), plane)
    chosen = planes.get(plane) or planes.get(()) or next(iter(planes.values()), {})
    for object_id, found in chosen.items():
        row = rows.setdefault(object_id, ObjectRow())
        row.points_yx += found.points_yx
        row.point_labels += found.point_labels
        if found.box_yx is not None:
            set_box(row, found.box_yx, f"{path}, object {object_id}")
        row.low_res_mask = found.low_res_mask
