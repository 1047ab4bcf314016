"""JSON files and tables of BIDS datasets."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_samseg.core.errors import MissingFileError
from napari_samseg.core.io.bids_names import (
    BidsName,
    Missing,
    sample_of,
    visible_files,
)

__all__ = ["SidecarReader", "read_json", "read_table"]

MICROMETRES = {"mm": 1000.0, "um": 1.0, "µm": 1.0, "μm": 1.0, "nm": 0.001}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    MissingFileError
        If there is no such file.
    ValueError
        If it is something else; the message names the file.
    """
    if not path.exists():
        raise MissingFileError(f"there is no file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return content


class SidecarReader:
    """Reads the size of pixels from the JSON files that apply to an image.

    Parameters
    ----------
    root : Path
        Folder of the dataset.
    missing : list of Missing
        Takes what is wrong with the files.
    """

    def __init__(self, root: Path, missing: list[Missing]) -> None:
        self._root = root
        self._missing = missing
        self._known: dict[Path, list[tuple[Path, BidsName]]] = {}

    def pixel_size(self, name: BidsName, folder: Path) -> tuple[float, float] | None:
        """Return height and width of a pixel in micrometres, None if not stated.

        Parameters
        ----------
        name : BidsName
            Of the image.
        folder : Path
            Where it lies, from the root of the dataset.
        """
        fields: dict[str, Any] = {}
        sample = sample_of(name["sub"], name["sample"])
        sidecars = list(self._applicable(name, folder))
        for path in sidecars:
            try:
                fields |= read_json(path)
            except MissingFileError:
                what = f"{path.name} is a link to a file that is not here"
                self._missing.append(Missing(sample, what))
            except ValueError as error:
                self._missing.append(Missing(sample, str(error)))
        if not sidecars:
            what = f"no {name.stem}.json, which states the size of a pixel"
        elif "PixelSize" not in fields:
            what = f"{sidecars[-1].name} has no PixelSize"
        else:
            size, what = _pixel_size(fields)
            if size is not None:
                return size
            what = f"{sidecars[-1].name}: {what}"
        self._missing.append(Missing(sample, what))
        return None

    def _applicable(self, image: BidsName, folder: Path) -> Iterator[Path]:
        """Yield sidecars from the most general to the most special one."""
        place = self._root
        entities = set(image.entities)
        for part in ("", *folder.parts):
            place = place / part
            fitting = [
                (len(name.entities), path)
                for path, name in self._sidecars(place)
                if name.suffix == image.suffix and entities >= set(name.entities)
            ]
            yield from (path for _, path in sorted(fitting))

    def _sidecars(self, folder: Path) -> list[tuple[Path, BidsName]]:
        if folder not in self._known:
            self._known[folder] = []
            for path in visible_files(folder):
                try:
                    name = BidsName.parse(path.name, [".json"])
                except ValueError:
                    continue
                self._known[folder].append((path, name))
        return self._known[folder]


def _pixel_size(fields: Mapping[str, Any]) -> tuple[tuple[float, float] | None, str]:
    """Return height and width of a pixel in micrometres, or why there are none."""
    stated, unit = fields["PixelSize"], fields.get("PixelSizeUnits")
    sizes = stated if isinstance(stated, list) else [stated]
    # JSON's true is 1 to Python
    numbers = [s for s in sizes if type(s) in (int, float) and 0 < s < math.inf]
    if not 1 <= len(sizes) <= 3 or len(numbers) != len(sizes):
        return None, f"PixelSize is {stated!r}, not two or three positive numbers"
    scale = MICROMETRES.get(str(unit))
    if scale is None:
        return None, f"PixelSizeUnits is {unit!r}, not one of mm, um, nm"
    # BIDS states x before y
    x, y = numbers[0], numbers[min(1, len(numbers) - 1)]
    return (y * scale, x * scale), ""


def read_table(
    path: Path, columns: Sequence[str], missing: list[Missing]
) -> list[tuple[str, ...]] | None:
    """Read some columns of a TSV file.

    Parameters
    ----------
    path : Path
    columns : sequence of str
    missing : list of Missing
        Takes what is wrong with the file.

    Returns
    -------
    list of tuple of str
        A tuple for each row; None if there is no such file.
    """
    if not path.exists():
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        missing.append(Missing("", f"{path.name} is not text in UTF-8"))
        return []
    lines = [line for line in text.splitlines() if line.strip()]
    rows = list(csv.DictReader(lines, delimiter="\t"))
    lacking = [name for name in columns if rows and name not in rows[0]]
    if lacking:
        missing.append(Missing("", f"{path.name} has no column {', '.join(lacking)}"))
        return []
    return [tuple((row[name] or "").strip() for name in columns) for row in rows]
