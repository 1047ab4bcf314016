"""Points that objects grow from, from tables of points and of prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_samseg.core.errors import InvalidPromptError
from napari_samseg.core.instances.seed_points import Seeds
from napari_samseg.core.io.prompt_planes import read_plane_rows
from napari_samseg.core.io.prompt_rows import (
    POINT_COLUMNS,
    check_point_label,
    column_numbers,
    napari_columns,
    object_of_row,
    read_csv,
)

__all__ = ["read_seeds"]

Row = tuple[int, tuple[float, ...]]


def read_seeds(path: Path, ndim: int) -> Seeds:
    """Read points as seeds of objects.

    Parameters
    ----------
    path : Path
        A CSV with ``axis-0``, ``axis-1`` and on, as napari saves points, or with
        ``y``, ``x`` (and ``z``); or a table of prompts (CSV, JSON, npy, Parquet), of
        which an object without points gets the middle of its box. Rows with the same
        ``object`` are seeds of one object, and those with ``label`` 0 are left out.
    ndim : int
        Axes of the labels.

    Raises
    ------
    MissingFileError
        If there is no such file.
    InvalidPromptError
        If there is no point in it, or points lie in a volume and the labels are a
        plane, or the other way round.
    """
    rows = _read_points(path) if _is_point_table(path) else _read_prompts(path)
    if not rows:
        raise InvalidPromptError(f"{path} holds no point on an object")
    n_axes = {len(place) for _, place in rows}
    if n_axes != {ndim}:
        kind = {2: "a plane (y, x)", 3: "a volume (z, y, x)"}.get(ndim, f"{ndim} axes")
        raise InvalidPromptError(
            f"{path} holds points with {max(n_axes)} coordinates, and the labels are "
            f"{kind}"
        )
    ids = np.unique([object_id for object_id, _ in rows], return_inverse=True)[1]
    return Seeds(np.array([place for _, place in rows], np.float64), ids + 1)


def _is_point_table(path: Path) -> bool:
    if path.suffix.lower() != ".csv":
        return False
    _, _, cells = next(read_csv(path))
    return len(napari_columns(cells)) > 2 or "axis-0" in cells or "y" in cells


def _read_points(path: Path) -> list[Row]:
    rows = []
    for number, where, cells in read_csv(path):
        if check_point_label(cells.get("label"), where) == 0:
            continue
        lead = ("z",) if "z" in cells else ()
        columns = (*lead, *POINT_COLUMNS) if "y" in cells else napari_columns(cells)
        place = column_numbers(cells, columns, where)
        rows.append((object_of_row(cells, number, where), place))
    return rows


def _read_prompts(path: Path) -> list[Row]:
    rows: list[Row] = []
    for plane, objects in read_plane_rows(path).items():
        lead = tuple(float(position) for position in plane)
        for object_id, row in objects.items():
            places = [
                place
                for place, label in zip(row.points_yx, row.point_labels, strict=True)
                if label
            ]
            if not places and row.box_yx is not None:
                y0, x0, y1, x1 = row.box_yx
                places = [((y0 + y1 - 1) / 2, (x0 + x1 - 1) / 2)]
            rows += [(object_id, (*lead, *place)) for place in places]
    return rows
