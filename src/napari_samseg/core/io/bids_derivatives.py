"""Derivatives of a BIDS dataset: a folder of its own, and records of what is done."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash

from napari_samseg.core.errors import InvalidImageError, MissingFileError, OutputError
from napari_samseg.core.io.bids import BidsDataset, BidsImage
from napari_samseg.core.io.bids_metadata import read_json
from napari_samseg.core.io.output import check_output_folder
from napari_samseg.core.whole_file import whole_file

__all__ = [
    "Derivative",
    "derivative_stems",
    "digest_file",
    "open_derivatives",
    "relative_place",
    "source_uri",
]

BIDS_VERSION = "1.10.0"
# What the dataset of the images is called in BIDS URIs, ``bids:raw:sub-1/…``.
SOURCE = "raw"
DESCRIPTION = "dataset_description.json"


def open_derivatives(out: Path, dataset: BidsDataset, labels_folder: Path) -> None:
    """Make sure that derivatives can be written to a folder, and describe them there.

    A description that is there already stays.

    Parameters
    ----------
    out : Path
        Made if need be.
    dataset : BidsDataset
        Where they come from.
    labels_folder : Path
        Where its labels lie, from the root of the dataset.

    Raises
    ------
    OutputError
        If the folder is that of a raw dataset, or holds its images or labels.
    """
    root, place = dataset.root.resolve(), out.resolve()
    check_output_folder(out)
    labels = (root / labels_folder).resolve()
    for inputs, what in ((root, "images"), (labels, "labels")):
        if _holds_inputs(place, inputs):
            raise OutputError(
                f"{out} holds the {what} of the dataset: choose a folder of its own, "
                f"such as {dataset.root / 'derivatives' / 'maps'}"
            )
    path = out / DESCRIPTION
    if path.exists():
        try:
            kind = read_json(path).get("DatasetType", "raw")
        except ValueError as error:
            raise OutputError(f"{path} cannot be read: {error}") from error
        if kind != "derivative":
            raise OutputError(
                f"{out} is a dataset of type {kind!r}, not of derivatives: choose "
                "another folder"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    name = dataset.description.get("Name", dataset.root.resolve().name)
    description = {
        "Name": f"Instances of {name}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [_generator()],
        "SourceDatasets": [{"URL": relative_place(root, place)}],
        "DatasetLinks": {SOURCE: relative_place(root, place)},
    }
    if "License" in dataset.description:
        description["License"] = dataset.description["License"]
    _write_json(path, description)


def derivative_stems(images: Sequence[BidsImage]) -> list[str]:
    """Return what the names of the derivatives of each image start with.

    ``sub-1_sample-2``; images that differ in nothing but their suffix keep it,
    ``sub-1_sample-2_SEM``.
    """
    stems = [image.name.entity_stem for image in images]
    return [
        image.name.stem if stems.count(stem) > 1 else stem
        for image, stem in zip(images, stems, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Derivative:
    """The files that are made from one image, and the record of their making.

    The record, a JSON file, is written first as not complete and at the end as
    complete: what a crash left is told from what somebody else put there.

    Attributes
    ----------
    folder : Path
    stem : str
        What their names start with; see `derivative_stems`.
    recipe : mapping
        All that decides what is in them: settings, and a digest of each file read.
    """

    folder: Path
    stem: str
    recipe: Mapping[str, Any]

    def path(self, ending: str) -> Path:
        """Return the file ``<stem>_<ending>``."""
        return self.folder / f"{self.stem}_{ending}"

    @property
    def record_path(self) -> Path:
        """Where the record is, beside the instance map."""
        return self.path("instance-map.json")

    def to_write(self, endings: Sequence[str], *, overwrite: bool) -> list[str]:
        """Return which files are to be written; none if all is done.

        Parameters
        ----------
        endings : sequence of str
            Of all files of this derivative.
        overwrite : bool
            Write files anew that were made otherwise, or by somebody else.

        Raises
        ------
        OutputError
            If there are such files and `overwrite` is off.
        """
        there = [e for e in endings if self.path(e).exists()]
        absent = [e for e in endings if e not in there]
        state = self._read_state()
        if state and not state.get("Complete"):
            return list(endings)
        if state and state.get("Recipe") == dict(self.recipe):
            return absent
        if overwrite or not (there or self.record_path.exists()):
            return list(endings)
        raise OutputError(
            f"{self.path(there[0]) if there else self.record_path} and what belongs to "
            f"it was made {'from other files or settings' if state else 'elsewhere'}, "
            "and stays: --overwrite makes it anew"
        )

    def read_notes(self) -> list[str]:
        """Return what a person was told when the files were made."""
        notes = self._read_state().get("Notes")
        return [str(note) for note in notes] if isinstance(notes, list) else []

    def write_record(
        self, *, complete: bool, notes: Sequence[str] = (), **fields: Any
    ) -> None:
        """Write the record, with more BIDS fields.

        Parameters
        ----------
        complete : bool
            All files are written.
        notes : sequence of str
            What a person should know about the files.
        **fields
            Written as they are.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            "Description": "Instance labels: 0 is background, each id one object",
            "GeneratedBy": [_generator()],
            **fields,
            "Samseg": {
                "Complete": complete,
                "Recipe": dict(self.recipe),
                "Notes": list(notes),
            },
        }
        _write_json(self.record_path, content)

    def _read_state(self) -> dict[str, Any]:
        """Return what the record says of the making; {} if it is somebody else's."""
        try:
            state = read_json(self.record_path).get("Samseg")
        except (MissingFileError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}


def digest_file(path: Path) -> str:
    """Hash a file, or all files of a folder (OME-Zarr), by content (xxh3, 128 bits).

    Raises
    ------
    InvalidImageError
        If a file cannot be read.
    """
    digest = xxhash.xxh3_128()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
    for file in files or [path]:
        digest.update(file.relative_to(path).as_posix().encode())
        try:
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise InvalidImageError(f"{file} cannot be read: {error}") from error
    return digest.hexdigest()


def relative_place(path: Path, start: Path) -> str:
    """Return where a file is as seen from a folder, ``sub-1/micr/…`` or ``../…``."""
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:  # on another drive
        return path.absolute().as_uri()


def source_uri(place: str) -> str:
    """Return the BIDS URI of a file of the source dataset.

    Parameters
    ----------
    place : str
        See `relative_place`; one beyond the dataset has no such URI, and stays.
    """
    is_inside = not place.startswith(("../", "file:"))
    return f"bids:{SOURCE}:{place}" if is_inside else place


def _holds_inputs(place: Path, root: Path) -> bool:
    """Tell whether a folder is the root of files of BIDS, or lies in ``root/sub-…``."""
    if not place.is_relative_to(root):
        return False
    below = place.relative_to(root).parts
    return not below or below[0].startswith("sub-")


def _generator() -> dict[str, str]:
    return {"Name": "napari-samseg", "Version": version("napari-samseg")}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
