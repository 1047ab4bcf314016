"""Write the prompts of one plane after the other into a table.

What the tables hold, see `napari_samseg.core.io.prompt_planes`.
"""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidPromptError
from napari_samseg.core.io.prompt_planes import (
    TABLE_BOX,
    TABLE_POINT,
    Plane,
    load_pyarrow,
)
from napari_samseg.core.prompts.object_index import ObjectIndex
from napari_samseg.core.types import PADDING, PlanePrompts

__all__ = ["PromptWriter", "check_prompt_path", "open_prompt_writer", "write_prompts"]

# The order of the reference.
REFERENCE_COLUMNS = (
    "x0",
    "y0",
    "bbox_min_x",
    "bbox_min_y",
    "bbox_max_x",
    "bbox_max_y",
)
Columns = dict[str, npt.NDArray[Any]]


class PromptWriter(Protocol):
    """Takes the prompts of planes."""

    def write(
        self, plane: Plane, prompts: PlanePrompts, objects: ObjectIndex | None = None
    ) -> None:
        """Add a plane.

        Parameters
        ----------
        plane : tuple of int
            Position along each axis before (Y, X), as many for every plane.
        prompts : PlanePrompts
        objects : ObjectIndex, optional
            The same objects in the same order: their areas, and whether they touch
            the border, become columns of tables.
        """


def check_prompt_path(path: Path, *, masks: bool) -> None:
    """Make sure that prompts can be written under such a name.

    Parameters
    ----------
    path : Path
    masks : bool
        Whether there are mask prompts.

    Raises
    ------
    InvalidPromptError
        If the suffix is another one, or the table has no room for masks.
    MissingDependencyError
        If it is a Parquet file, and pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise InvalidPromptError(
            f"prompts are written as {', '.join(WRITERS)}, not as {path.name!r}"
        )
    if masks and suffix != ".npz":
        raise InvalidPromptError(
            f"{path.name} holds points and boxes, but no mask prompts: write an .npz"
        )
    if suffix == ".parquet":
        load_pyarrow()


@contextmanager
def open_prompt_writer(path: Path) -> Iterator[PromptWriter]:
    """Open a table to write, which is there when the ``with`` block ends.

    Parameters
    ----------
    path : Path
        Ends in ``.csv``, ``.json``, ``.npy``, ``.npz`` or ``.parquet``; its folder is
        made if need be. A file that is there is replaced at the end: nothing happens
        to it if the block ends with an error.

    Raises
    ------
    InvalidPromptError, MissingDependencyError
        See `check_prompt_path`.
    """
    check_prompt_path(path, masks=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with ExitStack() as stack:
            yield WRITERS[path.suffix.lower()](part, stack)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_prompts(path: Path, planes: Mapping[Plane, PlanePrompts]) -> None:
    """Write the prompts of planes at once; see `open_prompt_writer`.

    Raises
    ------
    InvalidPromptError
        Also if there is no prompt.
    """
    if not any(len(prompts) for prompts in planes.values()):
        raise InvalidPromptError("there is no prompt to write")
    masks = any(prompts.low_res_masks is not None for prompts in planes.values())
    check_prompt_path(path, masks=masks)
    with open_prompt_writer(path) as writer:
        for plane, prompts in planes.items():
            writer.write(plane, prompts)


class _CsvWriter:
    def __init__(self, path: Path, stack: ExitStack) -> None:
        file = stack.enter_context(path.open("w", encoding="utf-8", newline=""))
        self._writer = csv.writer(file, lineterminator="\n")
        self._n_rows = 0
        self._header: list[str] = []

    def write(
        self, plane: Plane, prompts: PlanePrompts, objects: ObjectIndex | None = None
    ) -> None:
        columns = _table(plane, prompts, objects)
        if not self._header:
            self._header = list(columns)
            self._writer.writerow(["", *self._header])
        texts = [_texts(name, columns[name]) for name in self._header]
        for row in zip(*texts, strict=True):
            self._writer.writerow([self._n_rows, *row])
            self._n_rows += 1


class _JsonWriter:
    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._file = stack.enter_context(path.open("w", encoding="utf-8"))
        self._file.write("[")
        self._separator = "\n"
        stack.callback(self._end)

    def _end(self) -> None:
        self._file.write("\n]\n")

    def write(
        self, plane: Plane, prompts: PlanePrompts, objects: ObjectIndex | None = None
    ) -> None:
        del objects
        _refuse_masks(prompts)
        has_box = prompts.has_box
        for i, object_id in enumerate(prompts.object_ids.tolist()):
            entry: dict[str, Any] = {"object": object_id}
            if plane:
                entry["plane"] = list(plane)
            real = prompts.point_labels[i] != PADDING
            if real.any():
                entry["points"] = prompts.points_yx[i, real].tolist()
                entry["labels"] = prompts.point_labels[i, real].tolist()
            if has_box[i]:
                entry["box"] = prompts.boxes_yx[i].tolist()
            self._file.write(self._separator + json.dumps(entry))
            self._separator = ",\n"


class _ColumnWriter:
    """Gathers the rows of all planes, which are few beside the pixels they are of."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._parts: list[Columns] = []
        # an error in the block leaves nothing to write
        stack.push(lambda kind, *_: self._end() if kind is None else None)

    def write(
        self, plane: Plane, prompts: PlanePrompts, objects: ObjectIndex | None = None
    ) -> None:
        self._parts.append(_table(plane, prompts, objects))

    def _end(self) -> None:
        if not self._parts:
            raise InvalidPromptError("there is no prompt to write")
        names = list(self._parts[0])
        self._save(
            {
                name: np.concatenate([part[name] for part in self._parts])
                for name in names
            }
        )

    def _save(self, columns: Columns) -> None:
        raise NotImplementedError


class _NpyWriter(_ColumnWriter):
    def _save(self, columns: Columns) -> None:
        dtype = [(name, column.dtype) for name, column in columns.items()]
        table = np.empty(len(columns["object"]), dtype)
        for name, column in columns.items():
            table[name] = column
        with self._path.open("wb") as file:
            np.save(file, table)


class _ParquetWriter(_ColumnWriter):
    def _save(self, columns: Columns) -> None:
        parquet = load_pyarrow()
        import pyarrow

        parquet.write_table(pyarrow.table(columns), self._path)


class _NpzWriter:
    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._zip = stack.enter_context(
            zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED)
        )

    def write(
        self, plane: Plane, prompts: PlanePrompts, objects: ObjectIndex | None = None
    ) -> None:
        del objects
        if not len(prompts):
            return
        folder = "_".join(("plane", *(str(i) for i in plane)))
        for name in PlanePrompts.__dataclass_fields__:
            array = getattr(prompts, name)
            if array is None:
                continue
            with self._zip.open(f"{folder}/{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


WRITERS: Mapping[str, Callable[[Path, ExitStack], PromptWriter]] = {
    ".csv": _CsvWriter,
    ".json": _JsonWriter,
    ".npy": _NpyWriter,
    ".npz": _NpzWriter,
    ".parquet": _ParquetWriter,
}


def _table(plane: Plane, prompts: PlanePrompts, objects: ObjectIndex | None) -> Columns:
    """Return the columns of a plane: a row for each point, at least one per object."""
    _refuse_masks(prompts)
    n_rows = np.maximum(prompts.n_points, 1)
    owners = np.repeat(np.arange(len(prompts)), n_rows)
    is_first = np.ones(len(owners), bool)
    is_first[1:] = owners[1:] != owners[:-1]
    points = np.full((len(owners), 2), np.nan, np.float32)
    labels = np.full(len(owners), PADDING, np.int8)
    has_point = np.repeat(prompts.n_points > 0, n_rows)
    real = prompts.point_labels != PADDING
    points[has_point], labels[has_point] = (
        prompts.points_yx[real],
        prompts.point_labels[real],
    )
    boxes = np.where(
        is_first[:, np.newaxis], prompts.boxes_yx[owners], np.float32("nan")
    )
    values = dict(zip(TABLE_POINT, points.T, strict=True))
    values |= dict(zip(TABLE_BOX, boxes.T, strict=True))
    columns: Columns = {name: values[name] for name in REFERENCE_COLUMNS}
    columns["object"], columns["label"] = prompts.object_ids[owners], labels
    for axis, position in enumerate(plane):
        columns[f"plane_{axis}"] = np.full(len(owners), position, np.int64)
    if objects is not None:
        columns["area"] = objects.areas[owners]
        columns["at_border"] = objects.at_border[owners].astype(np.uint8)
    return columns


def _refuse_masks(prompts: PlanePrompts) -> None:
    if prompts.low_res_masks is not None:
        raise InvalidPromptError(
            "tables hold points and boxes, but no mask prompts: write an .npz"
        )


def _texts(name: str, column: npt.NDArray[Any]) -> list[str]:
    """Write numbers so that the same ones are read; nothing where there is none."""
    if column.dtype.kind == "f":
        # nine digits tell all 32-bit numbers apart
        return ["" if math.isnan(v) else f"{v:.9g}" for v in column.tolist()]
    if name == "label":
        return ["" if v == PADDING else str(v) for v in column.tolist()]
    return [str(v) for v in column.tolist()]
