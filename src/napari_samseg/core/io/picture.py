"""Pictures to look at, as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidImageError

__all__ = ["check_picture_path", "write_picture"]


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
