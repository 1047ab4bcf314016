"""Instance labels from image files, and as TIFF or 16-bit PNG."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError, LabelOverflowError
from napari_samseg.core.io.image_file import may_hold_colours, open_image_file

__all__ = [
    "check_label_path",
    "grey_values",
    "open_label_image",
    "whole_numbers",
    "write_label_image",
]

SUFFIXES = (".tif", ".tiff", ".png")


def check_label_path(path: Path) -> None:
    """Raise `InvalidLabelsError` unless labels can be written under such a name."""
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidLabelsError(
            f"labels are written as .tif, .tiff or .png, not as {path.name!r}"
        )


def write_label_image(path: Path, labels: npt.NDArray[Any]) -> None:
    """Write instance labels as a file that ImageJ and napari read.

    It is there whole or not at all.

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
    is_png = path.suffix.lower() == ".png"
    if is_png:
        _check_png(path, labels, high)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    # what is there already stays until the new file is whole
    try:
        if is_png:
            from PIL import Image

            picture = Image.fromarray(labels.astype(np.uint16))
            picture.save(unfinished, format="PNG")
        else:
            import tifffile

            # three or four planes are no colours
            tifffile.imwrite(
                unfinished,
                labels.astype(np.uint16 if fits else np.uint32),
                compression="zlib",
                photometric="minisblack",
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _check_png(path: Path, labels: npt.NDArray[Any], high: int) -> None:
    if high > np.iinfo(np.uint16).max:
        raise LabelOverflowError(
            f"id {high} does not fit the 16 bits of {path.name}, which end at "
            "65535: write a .tif, or relabel without gaps"
        )
    if labels.ndim != 2:
        raise InvalidLabelsError(
            f"a .png holds one plane, not labels of shape {labels.shape}: write a .tif"
        )


@contextmanager
def open_label_image(path: Path) -> Iterator[Any]:
    """Open instance labels in an image file, until the ``with`` block ends.

    Parameters
    ----------
    path : Path
        See `napari_samseg.core.io.image_file.open_image_file`.

    Yields
    ------
    (..., Y, X) bool or integer array-like
        The ids as they are; read plane by plane where the format allows it.

    Raises
    ------
    MissingFileError, InvalidImageError
        If there is no such image.
    InvalidLabelsError
        If it holds colours, or real numbers that are not whole.
    """
    rgb = None if may_hold_colours(path) else False
    with open_image_file(path, rgb=rgb) as source:
        labels = source.levels[0]
        if source.rgb:
            labels = grey_values(np.asarray(labels[...]), path)
        if np.dtype(labels.dtype).kind == "f":
            labels = whole_numbers(np.asarray(labels[...]), path)
        yield labels


def grey_values(array: npt.NDArray[Any], path: Path | str) -> npt.NDArray[Any]:
    """Return one channel of a picture (..., C) whose colours are all grey.

    Raises
    ------
    InvalidLabelsError
        If they are not.
    """
    colours = array[..., :3]
    apart = colours.max(axis=-1).astype(int) - colours.min(axis=-1)
    if apart.max(initial=0) > 0:
        raise InvalidLabelsError(
            f"{path} is a coloured picture, in which no colour says which class or "
            "object it means: save the labels themselves, or one mask for each class"
        )
    grey: npt.NDArray[Any] = colours[..., 0]
    return grey


def whole_numbers(array: npt.NDArray[Any], path: Path | str) -> npt.NDArray[Any]:
    """Return labels that were saved as real numbers as uint32; integers stay.

    Raises
    ------
    InvalidLabelsError
        If they are not whole, or do not fit.
    """
    if array.dtype.kind != "f":
        return array
    if not np.array_equal(array, np.rint(array)):
        raise InvalidLabelsError(
            f"{path} holds real numbers, such as probabilities: apply a threshold first"
        )
    if array.size and (array.min() < 0 or array.max() > np.iinfo(np.uint32).max):
        raise InvalidLabelsError(f"{path} holds labels below 0 or above 4294967295")
    return array.astype(np.uint32)
