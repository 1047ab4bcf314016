"""Models by name: which there are, where their files lie, and how they get there.

Those of the zoo are downloaded when they are first used.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Generator
from importlib import resources
from pathlib import Path

from napari_samseg.core.errors import (
    DownloadError,
    MissingFileError,
    UnknownNameError,
)
from napari_samseg.core.models.tuned_card import describe_card, read_card
from napari_samseg.core.models.zoo import ZOO, find_model
from napari_samseg.core.types import Progress

__all__ = [
    "TUNED_FILE",
    "check_model",
    "download",
    "embedded_path",
    "is_missing",
    "list_models",
    "models_folder",
    "tuned_folder",
    "tuned_models",
]

# Ships with the package, in its folder `data`.
EMBEDDED_FILE = "samseg_tiny.safetensors"
# The weights of a tuned model, in its folder.
TUNED_FILE = "best.safetensors"
FOLDER_VARIABLE = "SAMSEG_MODELS"


def list_models(folder: Path | None = None) -> dict[str, str]:
    """Return all model names with one line on each.

    The embedded model first, then those that were tuned here, then the zoo.

    Parameters
    ----------
    folder : Path, optional
        Where models lie; `models_folder` by default.
    """
    found = {"default": "Nuclei, cells, axons, other compact objects; no download"}
    for name, path in tuned_models(folder).items():
        found[name] = describe_card(read_card(path))
    return found | {name: model.description for name, model in ZOO.items()}


def embedded_path() -> Path:
    """Return the file of the embedded model."""
    # The package is always unpacked: napari needs its manifest as a file.
    return Path(str(resources.files("napari_samseg") / "data" / EMBEDDED_FILE))


def tuned_folder(folder: Path | None = None) -> Path:
    """Return the folder of tuned models, each in a folder of its own."""
    return (models_folder() if folder is None else folder) / "tuned"


def tuned_models(folder: Path | None = None) -> dict[str, Path]:
    """Return the best weights of all models that were tuned here, by name."""
    return {
        path.parent.name: path
        for path in sorted(tuned_folder(folder).glob(f"*/{TUNED_FILE}"))
        if path.parent.name not in ZOO and path.parent.name != "default"
    }


def check_model(name: str | Path, folder: Path | None = None) -> None:
    """Refuse a model that is not there, which needs no torch.

    Parameters
    ----------
    name : str or Path
        Name in the list of models, or path of a checkpoint.
    folder : Path, optional
        Where models lie; `models_folder` by default.

    Raises
    ------
    UnknownNameError
        If it is neither; the message lists what there is.
    MissingFileError
        If there is no such file.
    """
    known = list_models(folder)
    if isinstance(name, str) and name in known:
        return
    path = Path(name).expanduser()
    if path.exists():
        return
    if path.suffix or not isinstance(name, str):
        raise MissingFileError(f"there is no checkpoint {name}")
    near = difflib.get_close_matches(name, known, 1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    raise UnknownNameError(
        f"there is no model {name!r}{meant}: choose one of {', '.join(known)}, or "
        "give the path of a checkpoint"
    )


def is_missing(name: str, folder: Path | None = None) -> bool:
    """Tell whether a model of the zoo is to be downloaded first."""
    folder = models_folder() if folder is None else folder
    return name in ZOO and not (folder / ZOO[name].checkpoint.file_name).exists()


def models_folder() -> Path:
    """Return the folder of downloaded models.

    The environment variable ``SAMSEG_MODELS`` names it; otherwise it lies in the
    user's cache folder.
    """
    import pooch

    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return Path(pooch.os_cache("napari-samseg")) / "models"


def download(name: str, folder: Path | None = None) -> Generator[Progress, None, Path]:
    """Download the checkpoint of a model, unless it is there, and return its path.

    A transfer that broke or was cancelled goes on where it stopped when this is
    called again.

    Parameters
    ----------
    name : str
        Key in `ZOO`.
    folder : Path, optional
        Where models lie; `models_folder` by default.

    Yields
    ------
    Progress
        In bytes.

    Raises
    ------
    UnknownNameError
        If there is no such model in the zoo.
    DownloadError
        If the file cannot be had; the message says where to put it by hand.
    """
    from napari_samseg.core.models.transfer import has_hash, transfer

    file = find_model(name).checkpoint
    path = (models_folder() if folder is None else folder) / file.file_name
    stage = f"downloading {name}"
    if path.exists():
        yield Progress(stage, detail="checking the file")
        if has_hash(path, file.hash):
            return path
        raise DownloadError(
            f"{path} is not the published {name} (its hash differs): remove it to "
            "download it again, or load it by its path if it is yours"
        )
    try:
        yield from transfer(file.url, path, file.hash, stage=stage)
    except DownloadError as error:
        raise DownloadError(
            f"{name} could not be downloaded: {error}. Fetch {file.url} on another "
            f"machine and save it as {path}, or let {FOLDER_VARIABLE} name the folder "
            f"that holds {file.file_name}"
        ) from error
    return path
