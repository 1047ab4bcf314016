"""Instance labels as TIFF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError

__all__ = ["check_label_path", "write_label_image"]


def check_label_path(path: Path) -> None:
    """Raise `InvalidLabelsError` unless `path` ends in ``.tif`` or ``.tiff``."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise InvalidLabelsError(
            f"labels are written as .tif or .tiff, not as {path.name!r}"
        )


def write_label_image(path: Path, labels: npt.NDArray[Any]) -> None:
    """Write instance labels as a compressed TIFF that ImageJ and napari read.

    Parameters
    ----------
    path : Path
        Ends in ``.tif`` or ``.tiff``; its folder is made if need be.
    labels : (..., Y, X) unsigned or signed integer
        0 is the background. Stored as uint16 where the ids fit, else as uint32.

    Raises
    ------
    InvalidLabelsError
        If the suffix is another one, the labels are no integers, or an id is
        negative or above what 32 bits hold.
    """
    import tifffile

    check_label_path(path)
    if labels.dtype.kind not in "iu":
        raise InvalidLabelsError(f"labels are integers, not {labels.dtype}")
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high > np.iinfo(np.uint32).max:
        raise InvalidLabelsError(
            f"label ids from {low} to {high} do not fit unsigned 32 bits"
        )
    dtype = np.uint16 if high <= np.iinfo(np.uint16).max else np.uint32
    path.parent.mkdir(parents=True, exist_ok=True)
    # three or four planes are no colours
    tifffile.imwrite(
        path, labels.astype(dtype), compression="zlib", photometric="minisblack"
    )
