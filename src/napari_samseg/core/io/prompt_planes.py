"""Tables of the prompts of a plane or of all planes of a stack, to read.

CSV, npy and Parquet have the same columns, one row for each point. ``x0`` and ``y0``
are the point, ``label`` is 1 for points on the object and 0 for points off it.
``bbox_min_x``, ``bbox_min_y``, ``bbox_max_x`` and ``bbox_max_y`` are the box, of which
the maxima lie one beyond the last pixel; it stands in the first row of its object, and
the others have none there. ``object`` is the id, and ``plane_0``, ``plane_1``, ... the
position along each axis before (Y, X). ``area`` and ``at_border`` (pixels of the
object, and 1 where it touches the edge of the plane) are for people, and not read.
What is not there is empty in a CSV, and NaN (for ``label`` -1) elsewhere. The first
seven columns of a CSV, an index without a name first, are those of the prompts of
AxonDeepSeg's derivatives; in such files, without ``object``, row k is object k + 1.

JSON is a list with an entry for each object: ``[{"object": 1, "plane": [3], "points":
[[y, x]], "labels": [1], "box": [y0, x0, y1, x1]}, ...]``, where all but one of the
prompts may be left out. An npz holds the arrays of `PlanePrompts` for each plane, mask
prompts too.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import (
    InvalidPromptError,
    MissingFileError,
)
from napari_samseg.core.io.prompt_rows import (
    BOX_COLUMNS,
    POINT_COLUMNS,
    ObjectRow,
    check_numbers,
    check_point_label,
    column_numbers,
    object_of_row,
    read_csv,
    read_text,
    set_box,
    stack_rows,
    whole_number,
)
from napari_samseg.core.optional import import_optional
from napari_samseg.core.types import PADDING, PlanePrompts

__all__ = [
    "TABLE_BOX",
    "TABLE_POINT",
    "StoredPrompts",
    "load_pyarrow",
    "read_plane_rows",
    "read_prompts",
]

# Columns of tables, in the order of our arrays.
TABLE_POINT = ("y0", "x0")
TABLE_BOX = ("bbox_min_y", "bbox_min_x", "bbox_max_y", "bbox_max_x")

Plane = tuple[int, ...]
PlaneRows = dict[Plane, dict[int, ObjectRow]]


@dataclass(frozen=True, slots=True)
class StoredPrompts:
    """What a table holds.

    Attributes
    ----------
    planes : dict of plane to PlanePrompts
        By position along each axis before (Y, X); ``()`` where there is none.
    n_skipped : int
        Objects that are listed without a point or a box, such as those whose box
        is NaN.
    """

    planes: dict[Plane, PlanePrompts]
    n_skipped: int = 0


def read_prompts(path: Path) -> StoredPrompts:
    """Read the prompts of all planes of a table.

    Parameters
    ----------
    path : Path
        Ends in ``.csv``, ``.json``, ``.npy``, ``.npz`` or ``.parquet``.

    Raises
    ------
    MissingFileError
        If there is no such file.
    InvalidPromptError
        If it is no such table, or a value cannot be; names the row.
    MissingDependencyError
        If it is a Parquet file, and pyarrow is not installed.
    """
    if path.suffix.lower() == ".npz":
        return StoredPrompts(_read_npz(path))
    n_skipped = 0
    planes = {}
    for plane, rows in read_plane_rows(path).items():
        asked = {i: r for i, r in rows.items() if r.points_yx or r.box_yx is not None}
        n_skipped += len(rows) - len(asked)
        if not asked:
            continue
        try:
            planes[plane] = PlanePrompts(np.array(list(asked)), *stack_rows(asked))
        except InvalidPromptError as error:
            raise InvalidPromptError(f"{path}: {error}") from error
    return StoredPrompts(planes, n_skipped)


def read_plane_rows(path: Path) -> PlaneRows:
    """Read what a table states of each object, by plane and object id.

    Raises
    ------
    MissingFileError, InvalidPromptError, MissingDependencyError
        As `read_prompts`.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise InvalidPromptError(
            f"prompts are read from {', '.join(READERS)}, not from {path.name!r}"
        )
    if not path.is_file():
        raise MissingFileError(f"there is no file {path}")
    return READERS[suffix](path)


def load_pyarrow() -> Any:
    """Import ``pyarrow.parquet``, or say how to get it."""
    return import_optional(
        "pyarrow.parquet",
        "napari-samseg[parquet]",
        "Parquet needs pyarrow",
        "choose a .csv, .json or .npy file",
    )


def _read_json(path: Path) -> PlaneRows:
    try:
        records = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InvalidPromptError(f"{path} is not JSON: {error}") from error
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise InvalidPromptError(f"{path} must hold a list of objects, one per mask")
    planes: PlaneRows = {}
    for i, record in enumerate(records, start=1):
        where = f"{path}, entry {i}"
        row = _row(planes, _plane(record.get("plane", []), where), record, i, where)
        points = _listed(record.get("points", []), "points", where)
        labels = _listed(record.get("labels", [1] * len(points)), "labels", where)
        if len(points) != len(labels):
            raise InvalidPromptError(
                f"{where}: {count_things(len(points), 'point')} with "
                f"{count_things(len(labels), 'label')}"
            )
        for point, label in zip(points, labels, strict=True):
            _add_point(row, check_numbers(point, POINT_COLUMNS, where), label, where)
        if record.get("box") is not None:
            set_box(row, check_numbers(record["box"], BOX_COLUMNS, where), where)
        elif not points:
            raise InvalidPromptError(f"{where} has neither points nor a box")
    return planes


def _listed(value: Any, name: str, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidPromptError(f"{where}: {name} are a list, not {value!r:.60}")
    return value


def _read_csv_table(path: Path) -> PlaneRows:
    return _read_records(path, read_csv(path))


def _read_npy(path: Path) -> PlaneRows:
    try:
        table = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InvalidPromptError(f"{path} is not an npy file: {error}") from error
    if table.ndim != 1 or table.dtype.names is None:
        raise InvalidPromptError(
            f"{path} holds an array {table.dtype} {table.shape}, and no table with "
            "named columns"
        )
    return _read_records(path, _dicts(path, table.dtype.names, table.tolist()))


def _read_parquet(path: Path) -> PlaneRows:
    parquet = load_pyarrow()
    try:
        table = parquet.read_table(path)
    # what is wrong with a file, pyarrow says in errors of ten kinds
    except Exception as error:
        raise InvalidPromptError(f"{path} is not a Parquet file: {error}") from error
    columns = [column.to_pylist() for column in table.columns]
    rows = zip(*columns, strict=True)
    return _read_records(path, _dicts(path, table.column_names, rows))


def _read_npz_rows(path: Path) -> PlaneRows:
    planes: PlaneRows = {}
    for plane, prompts in _read_npz(path).items():
        rows = planes.setdefault(plane, {})
        for i, object_id in enumerate(prompts.object_ids.tolist()):
            row = rows[object_id] = ObjectRow()
            real = prompts.point_labels[i] != PADDING
            row.points_yx += [(y, x) for y, x in prompts.points_yx[i][real].tolist()]
            row.point_labels += prompts.point_labels[i][real].tolist()
            if prompts.has_box[i]:
                row.box_yx = tuple(prompts.boxes_yx[i].tolist())
            if prompts.low_res_masks is not None and prompts.has_mask[i]:
                row.low_res_mask = prompts.low_res_masks[i]
    return planes


READERS: Mapping[str, Callable[[Path], PlaneRows]] = {
    ".csv": _read_csv_table,
    ".json": _read_json,
    ".npy": _read_npy,
    ".npz": _read_npz_rows,
    ".parquet": _read_parquet,
}


def _dicts(
    path: Path, names: Any, rows: Any
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for i, values in enumerate(rows, start=1):
        yield i, f"{path}, row {i}", dict(zip(names, values, strict=True))


def _read_records(
    path: Path, records: Iterator[tuple[int, str, Mapping[str, Any]]]
) -> PlaneRows:
    """Gather rows by plane and object."""
    planes: PlaneRows = {}
    axes: list[str] = []
    for i, where, cells in records:
        if i == 1:
            _check_columns(path, cells)
            axes = [name for name in cells if re.fullmatch(r"plane_\d+", name)]
            axes.sort(key=lambda name: int(name.removeprefix("plane_")))
        plane = _plane([cells.get(name) for name in axes], where)
        row = _row(planes, plane, cells, i, where)
        point = _numbers(cells, TABLE_POINT, where)
        if not all(math.isnan(value) for value in point):
            if not all(math.isfinite(value) for value in point):
                raise InvalidPromptError(
                    f"{where}: a coordinate of the point is not finite: {point}"
                )
            _add_point(row, point, cells.get("label"), where)
        set_box(row, _numbers(cells, TABLE_BOX, where), where)
    return planes


def _check_columns(path: Path, cells: Mapping[str, Any]) -> None:
    for columns in (TABLE_POINT, TABLE_BOX):
        missing = [name for name in columns if name not in cells]
        if missing and len(missing) < len(columns):
            raise InvalidPromptError(f"{path}: column {', '.join(missing)} is missing")
    if not {*TABLE_POINT, *TABLE_BOX} & cells.keys():
        raise InvalidPromptError(
            f"{path} is no table of prompts: {', '.join((*TABLE_POINT, *TABLE_BOX))} "
            f"are looked for, and there are {', '.join(cells) or 'none'}"
        )


def _numbers(
    cells: Mapping[str, Any], columns: tuple[str, ...], where: str
) -> tuple[float, ...]:
    """Return the numbers in columns, NaN where a cell or the column is missing."""
    # some programs write the words None or NA
    given = {name: cells.get(name) for name in columns}
    empty = (None, "", "NA", "None")
    filled = {n: "nan" if v in empty else v for n, v in given.items()}
    return column_numbers(filled, columns, where)


def _row(
    planes: PlaneRows, plane: Plane, cells: Mapping[str, Any], number: int, where: str
) -> ObjectRow:
    """Return the row of an object, a new one where it is not listed yet."""
    index = whole_number(cells.get("")) if "object" not in cells else None
    object_id = object_of_row(cells, number if index is None else index + 1, where)
    return planes.setdefault(plane, {}).setdefault(object_id, ObjectRow())


def _add_point(
    row: ObjectRow, point: tuple[float, ...], label: Any, where: str
) -> None:
    y, x = point
    row.points_yx.append((y, x))
    row.point_labels.append(check_point_label(label, where))


def _plane(values: Any, where: str) -> Plane:
    numbers = [whole_number(v) for v in values] if isinstance(values, list) else [None]
    plane = tuple(number for number in numbers if number is not None and number >= 0)
    if len(plane) < len(numbers):
        raise InvalidPromptError(
            f"{where}: a plane is whole numbers from 0, not {values!r}"
        )
    return plane


def _read_npz(path: Path) -> dict[Plane, PlanePrompts]:
    if not path.is_file():
        raise MissingFileError(f"there is no file {path}")
    arrays: dict[str, dict[str, Any]] = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            for key in stored.files:
                folder, _, name = key.rpartition("/")
                arrays.setdefault(folder, {})[name] = stored[key]
        return {
            tuple(int(i) for i in re.findall(r"\d+", folder)): PlanePrompts(**of_plane)
            for folder, of_plane in arrays.items()
        }
    except InvalidPromptError as error:
        raise InvalidPromptError(f"{path}: {error}") from error
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidPromptError(f"{path} holds no prompts: {error}") from error
