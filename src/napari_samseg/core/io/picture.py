"""Pictures to look at, as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidImageError, InvalidLabelsError

__all__ = ["check_picture_path", "write_colour_labels", "write_picture"]


def check_picture_path(path: Path) -> None:
    """Raise `InvalidImageError` unless `path` ends in ``.png``."""
    if path.suffix.lower() != ".png":
        raise InvalidImageError(f"pictures are written as .png, not as {path.name!r}")


def write_picture(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write (Y, X, 3) uint8 as PNG; the folder is made if need be.

    Raises
    ------
    InvalidImageError
        If `path` has another suffix.
    """
    from PIL import Image

    check_picture_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def write_colour_labels(path: Path, labels: Any) -> None:
    """Write labels of a plane (Y, X) as a picture for people: an id, a colour.

    It cannot be read back: colours of different objects may be alike.

    Raises
    ------
    InvalidImageError
        If `path` has another suffix.
    InvalidLabelsError
        If it is a volume, or no labels.
    """
    from napari_samseg.core.io.instance_labels import label_planes
    from napari_samseg.core.overlay import object_colour

    check_picture_path(path)
    if len(labels.shape) != 2:
        raise InvalidLabelsError(
            f"a picture shows one plane, not labels of shape {tuple(labels.shape)}: "
            "take a plane of them first"
        )
    ((_, plane),) = label_planes(labels)
    ids, where = np.unique(plane, return_inverse=True)
    colours = [object_colour(i) if i else (0, 0, 0) for i in ids.tolist()]
    table = np.array(colours, np.uint8).reshape(-1, 3)
    write_picture(path, table[where].reshape(*plane.shape, 3))
