"""Where a training puts what it makes."""

from __future__ import annotations

import os
from pathlib import Path

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.models.weights import tuned_folder
from napari_samseg.core.models.zoo import ZOO

__all__ = ["training_folder"]


def training_folder(out: str | os.PathLike[str], seen_from: Path | None = None) -> Path:
    """Return the folder that `out` means.

    Parameters
    ----------
    out : str or path
        A word without a slash is the name of a model: its folder is among the tuned
        models, which every list of models shows. Anything else is a path.
    seen_from : Path, optional
        Folder that relative paths are seen from; the working directory by default.

    Raises
    ------
    SettingsError
        If a name is that of a model of the zoo, or none.
    """
    path = Path(out).expanduser()
    is_name = isinstance(out, str) and not any(mark in out for mark in "/\\~")
    if not is_name:
        return path if seen_from is None else seen_from / path
    if out in ZOO or out == "default":
        raise SettingsError(
            f"{out!r} is the name of a model that is there already: choose another name"
        )
    if out in ("", ".", ".."):
        raise SettingsError(f"{out!r} is no name of a model, and no folder: choose one")
    return tuned_folder() / path
