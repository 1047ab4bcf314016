"""Instance labels as TIFF or 16-bit PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError, LabelOverflowError

__all__ = ["check_label_path", "write_label_image"]

SUFFIXES = (".tif", ".tiff", ".png")


def check_label_path(path: Path) -> None:
    """Raise `InvalidLabelsError` unless labels can be written under such a name."""
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidLabelsError(
            f"labels are written as .tif, .tiff or .png, not as {path.name!r}"
        )


def write_label_image(path: Path, labels: npt.NDArray[Any]) -> None:
    """Write instance labels as a file that ImageJ and napari read.

    Parameters
    ----------
    path : Path
        Ends in ``.tif``, ``.tiff`` (compressed) or ``.png``; its folder is made if
        need be.
    labels : (..., Y, X) unsigned or signed integer
        0 is the background. A TIFF has uint16 where the ids fit, else uint32; a PNG
        has 16 bits and one plane.

    Raises
    ------
    InvalidLabelsError
        If the suffix is another one, the labels are no integers, an id is negative or
        above what 32 bits hold, or a volume is to be a PNG.
    LabelOverflowError
        If an id is above 65,535 and the file a PNG.
    """
    check_label_path(path)
    if labels.dtype.kind not in "iu":
        raise InvalidLabelsError(f"labels are integers, not {labels.dtype}")
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high > np.iinfo(np.uint32).max:
        raise InvalidLabelsError(
            f"label ids from {low} to {high} do not fit unsigned 32 bits"
        )
    fits = high <= np.iinfo(np.uint16).max
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        _write_png(path, labels, high if not fits else None)
    else:
        import tifffile

        # three or four planes are no colours
        tifffile.imwrite(
            path,
            labels.astype(np.uint16 if fits else np.uint32),
            compression="zlib",
            photometric="minisblack",
        )


def _write_png(path: Path, labels: npt.NDArray[Any], too_high: int | None) -> None:
    from PIL import Image

    if too_high is not None:
        raise LabelOverflowError(
            f"id {too_high} does not fit the 16 bits of {path.name}, which end at "
            "65535: write a .tif, or relabel without gaps"
        )
    if labels.ndim != 2:
        raise InvalidLabelsError(
            f"a .png holds one plane, not labels of shape {labels.shape}: write a .tif"
        )
    Image.fromarray(labels.astype(np.uint16)).save(path)
