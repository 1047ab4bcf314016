"""What helps to choose a model: what it is good for, its size and its speed here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_samseg.core.amounts import describe_bytes, describe_seconds
from napari_samseg.core.models.speed import recall_speeds
from napari_samseg.core.models.weights import (
    TUNED_FILE,
    embedded_path,
    list_models,
    models_folder,
    tuned_folder,
)
from napari_samseg.core.models.zoo import ZOO

__all__ = ["ModelSummary", "summarise_models"]

# Weights with the encoder TinyViT in float32, counted from the parameters: no source
# states the size of their files.
TINY_VIT_BYTES = 40_560_924


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """What helps to choose a model.

    Attributes
    ----------
    description : str
        What it is good for.
    size : str
        Of its weights, in words; empty where they are missing.
    is_here : bool
        Whether it need not be downloaded.
    seconds : float or None
        That this machine takes to encode a plane, as measured when it last did.
    """

    description: str
    size: str
    is_here: bool
    seconds: float | None

    @property
    def speed(self) -> str:
        """The time of a plane in words; empty where it was never measured."""
        if self.seconds is None:
            return ""
        if self.seconds < 10:
            return f"{max(self.seconds, 0.001):.2g} s"
        return describe_seconds(self.seconds)

    @property
    def facts(self) -> str:
        """Size and speed in words."""
        if not self.size:
            return "its file is missing"
        shown = [self.size if self.is_here else f"downloads {self.size} once"]
        if self.speed:
            shown.append(f"{self.speed} a plane here")
        elif self.is_here:
            shown.append("not timed yet")
        return ", ".join(shown)


def summarise_models(folder: Path | None = None) -> dict[str, ModelSummary]:
    """Return what helps to choose among the models of `list_models`, by name.

    Parameters
    ----------
    folder : Path, optional
        Where models lie; `models_folder` by default.
    """
    speeds = recall_speeds()
    root = models_folder() if folder is None else folder
    found = {}
    for name, description in list_models(folder).items():
        if name in ZOO:
            path = root / ZOO[name].checkpoint.file_name
        elif name == "default":
            path = embedded_path()
        else:
            path = tuned_folder(folder) / name / TUNED_FILE
        try:
            size, is_here = describe_bytes(path.stat().st_size), True
        except OSError:
            size, is_here = _size_of_download(name), False
        found[name] = ModelSummary(description, size, is_here, speeds.get(name))
    return found


def _size_of_download(name: str) -> str:
    if name not in ZOO:
        return ""
    nbytes = ZOO[name].checkpoint.nbytes
    if nbytes is not None:
        return describe_bytes(nbytes)
    # where no source states it: that of the same network with other weights
    encoder = "_".join(name.split("_")[:2])
    same = ZOO[encoder].checkpoint.nbytes
    return f"about {describe_bytes(same or TINY_VIT_BYTES)}"
