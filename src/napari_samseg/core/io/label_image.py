"""Instance labels from image files, and as TIFF or 16-bit PNG."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError, LabelOverflowError
from napari_samseg.core.io.image_file import may_hold_colours, open_image_file
from napari_samseg.core.io.ome_tiff import is_known, ome_metadata

__all__ = [
    "check_label_path",
    "grey_values",
    "holds_palette_labels",
    "open_label_image",
    "palette_note",
    "whole_numbers",
    "write_label_image",
]

SUFFIXES = (".tif", ".tiff", ".png")
# Share of the pixels that equal their 3 x 3 neighbourhood in any map of labels (0.64
# and more were found); photographs brought to 256 colours have less (up to 0.28).
SOLID_SHARE = 0.3
# Pillow's formats with palettes that lose nothing.
PALETTE_SUFFIXES = (".png", ".gif", ".bmp")
MOST_NAMED = 12


def check_label_path(path: Path) -> None:
    """Raise `InvalidLabelsError` unless labels can be written under such a name."""
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidLabelsError(
            f"labels are written as .tif, .tiff or .png, not as {path.name!r}"
        )


def write_label_image(
    path: Path,
    labels: npt.NDArray[Any],
    *,
    scale: Sequence[float] | None = None,
    units: Sequence[str] | None = None,
) -> None:
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
    scale, units : sequence, optional
        Size of a pixel along each axis, and its units, such as "micrometer": a TIFF
        says so as OME-TIFF.

    Raises
    ------
    InvalidLabelsError
        If the suffix is another one, the labels are no integers, an id is negative, or
        a volume is to be a PNG.
    LabelOverflowError
        If an id is above what 32 bits hold, or above 65,535 and the file a PNG.
    """
    check_label_path(path)
    if labels.dtype.kind not in "iu":
        raise InvalidLabelsError(f"labels are integers, not {labels.dtype}")
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0:
        raise InvalidLabelsError(
            f"labels must not be negative, and the lowest is {low}: 0 is the "
            "background, and ids are above"
        )
    if high > np.iinfo(np.uint32).max:
        raise LabelOverflowError(
            f"id {high} does not fit the 32 bits of {path.name}: write a .zarr, or "
            "relabel without gaps"
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

            more: dict[str, Any] = {}
            if scale is not None and is_known(scale, units) and labels.ndim <= 5:
                about = ome_metadata(labels.ndim, scale, units)
                more = {"ome": True, "metadata": about}
            # three or four planes are no colours
            tifffile.imwrite(
                unfinished,
                labels.astype(np.uint16 if fits else np.uint32),
                compression="zlib",
                photometric="minisblack",
                **more,
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
        The ids as they are; read plane by plane where the format allows it. Of a
        picture with a palette, see `holds_palette_labels`, the indices.

    Raises
    ------
    MissingFileError, InvalidImageError
        If there is no such image.
    InvalidLabelsError
        If it holds colours, or real numbers that are not whole.
    """
    indices = holds_palette_labels(path)
    rgb = None if may_hold_colours(path) and not indices else False
    with open_image_file(path, rgb=rgb, indices=indices) as source:
        labels = source.levels[0]
        if source.rgb:
            labels = grey_values(np.asarray(labels[...]), path)
        if np.dtype(labels.dtype).kind == "f":
            labels = whole_numbers(np.asarray(labels[...]), path)
        yield labels


def holds_palette_labels(path: Path) -> bool:
    """Tell whether a picture has a palette whose indices are labels.

    So masks are stored that people are to look at as well, such as those of PASCAL VOC
    and DAVIS. Not so greys that happen to have a palette, in which black has another
    index than 0 or no colour is defined, and photographs of 256 colours.
    """
    from PIL import Image, UnidentifiedImageError
    from scipy import ndimage

    if not path.is_file() or path.suffix.lower() not in PALETTE_SUFFIXES:
        return False
    try:
        with Image.open(path) as picture:
            if picture.mode != "P":
                return False
            index, palette = np.asarray(picture), picture.getpalette("RGB") or []
    # what is wrong with it is told when it is opened
    except (UnidentifiedImageError, OSError, SyntaxError):
        return False
    colours = np.zeros((256, 3), np.uint8)
    colours.flat[: len(palette)] = palette
    used = np.unique(index)
    if not _are_coloured(colours):
        return False
    if not _are_coloured(colours[used]) and (colours[used[used > 0]] == 0).all(1).any():
        return False
    low, high = (f(index, 3) for f in (ndimage.minimum_filter, ndimage.maximum_filter))
    return bool((low == high).mean() >= SOLID_SHARE)


def _are_coloured(colours: npt.NDArray[np.uint8]) -> bool:
    return bool((colours.max(axis=1) != colours.min(axis=1)).any())


def palette_note(path: Path, values: Iterable[int]) -> str:
    """Return what to tell of labels that are the indices of a palette."""
    found = sorted(values)
    names = ", ".join(map(str, found[:MOST_NAMED]))
    more = ", ..." if len(found) > MOST_NAMED else ""
    void = "; 255 is one of them, which marks what is void in PASCAL VOC"
    return (
        f"{path} has a palette: its indices ({names}{more}) are taken for labels, and "
        f"its colours are for people{void if 255 in found else ''}"
    )


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
