"""Places to write to, checked before the work that fills them."""

from __future__ import annotations

from pathlib import Path

from napari_samseg.core.errors import OutputError

__all__ = ["check_output_file", "check_output_folder"]


def check_output_file(
    path: Path, *, inputs: tuple[Path | None, ...] = (), overwrite: bool = True
) -> None:
    """Make sure that a file can be written without harm to what is read.

    Parameters
    ----------
    path : Path
    inputs : tuple of Path or None
        What is read, and must stay.
    overwrite : bool
        A file that is there already is replaced.

    Raises
    ------
    OutputError
        If `path` is a folder, lies below a file, is one of `inputs`, or is there and
        is not to be replaced.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file to write")
    for given in inputs:
        if given is None or not (path.exists() and given.exists()):
            continue
        if path.samefile(given):
            raise OutputError(
                f"{path} is what is read: writing it would destroy it, so choose "
                "another name"
            )
    if not overwrite and path.exists():
        raise OutputError(
            f"{path} is there already: choose another name, or replace it with "
            "--overwrite"
        )
    check_output_folder(path.parent)


def check_output_folder(folder: Path) -> None:
    """Make sure that a folder is there or can be made.

    Raises
    ------
    OutputError
        If a file is in its place, or above it.
    """
    for place in (folder, *folder.parents):
        if place.exists():
            if not place.is_dir():
                raise OutputError(f"{place} is a file: choose another folder")
            return
