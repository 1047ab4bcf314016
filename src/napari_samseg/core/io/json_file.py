"""JSON files read with errors that a person understands, and written whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_samseg.core.errors import InvalidLabelsError, MissingFileError
from napari_samseg.core.whole_file import whole_file

__all__ = ["plain_value", "read_json", "read_text", "write_lines"]


def read_text(path: Path) -> str:
    """Read a text file.

    Raises
    ------
    MissingFileError
        If there is no such file.
    InvalidLabelsError
        If it is no text.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no file {path}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidLabelsError(f"{path} is not a text file") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    MissingFileError
        If there is no such file.
    InvalidLabelsError
        If it is no JSON, or was cut off.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InvalidLabelsError(f"{path} is not JSON: {error}") from error


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file, which is there whole or not at all; makes its folder."""
    with (
        whole_file(path) as part,
        part.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(f"{line}\n" for line in lines)


def plain_value(value: Any) -> Any:
    """Return a value as JSON has it: numpy's as Python's, NaN as null."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain_value(item) for item in value]
    return value if isinstance(value, (str, int, float, type(None))) else str(value)
