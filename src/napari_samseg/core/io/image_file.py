"""Images in files as sources of planes, without loading what is not asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from napari_samseg.core.errors import InvalidImageError, MissingFileError
from napari_samseg.core.images import PlaneSource, open_image

__all__ = ["OrientationWarning", "may_hold_colours", "open_image_file"]

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".lsm", ".svs")


class OrientationWarning(UserWarning):
    """A volume does not say, or not clearly, where left, right, front and back are."""


@contextmanager
def open_image_file(
    path: Path,
    *,
    rgb: bool | None = None,
    channel_axis: int | None = None,
    canonical: bool = False,
    indices: bool = False,
) -> Iterator[PlaneSource]:
    """Open an image file as a source of planes, until the ``with`` block ends.

    TIFF, zarr, OME-Zarr, npy and NIfTI that is not compressed are read one plane at a
    time; other formats (``.nii.gz``, PNG, JPEG and what else Pillow knows) are read
    whole.

    Parameters
    ----------
    path : Path
        A file, or the folder of a zarr array or an OME-Zarr image.
    rgb, channel_axis
        As in `napari_samseg.core.images.open_image`.
    canonical : bool
        Turn NIfTI volumes to RAS, see `napari_samseg.core.io.nifti.read_nifti`; other
        formats do not say how they are oriented.
    indices : bool
        Of a picture with a palette, take the indices rather than the colours.

    Warns
    -----
    OrientationWarning
        If the orientation of a NIfTI volume is unknown or in doubt.

    Raises
    ------
    MissingFileError
        If there is no such file.
    InvalidImageError
        If it cannot be read as an image, or is a zarr group that is no image.
    """
    from napari_samseg.core.io.nifti import is_nifti

    if not path.exists():
        raise MissingFileError(f"there is no image {path}")
    if is_nifti(path) and path.is_file():
        yield _open_nifti(path, channel_axis, canonical=canonical)
        return
    with ExitStack() as stack:
        try:
            data, found_axis = _open(path, stack, indices=indices)
        # each library has its own errors for files that are not what they seem
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InvalidImageError(
                f"{path} cannot be read as an image: {reason}"
            ) from error
        axis = found_axis if channel_axis is None and not rgb else channel_axis
        try:
            source = open_image(data, rgb=rgb, channel_axis=axis)
        except InvalidImageError as error:
            raise InvalidImageError(f"{path}: {error}") from error
        yield source


def may_hold_colours(path: Path) -> bool:
    """Tell whether a file says that its last axis is one of colours, for labels.

    Three or four columns of a volume of labels look like colours too.
    """
    import tifffile

    suffix = path.suffix.lower()
    if not path.is_file() or suffix == ".npy":
        return False
    if suffix not in TIFF_SUFFIXES:
        return True
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            is_rgb = page.photometric in (
                tifffile.PHOTOMETRIC.RGB,
                tifffile.PHOTOMETRIC.YCBCR,
            )
            return is_rgb and page.dtype == "uint8"
    # what is wrong with it is told when it is opened
    except (tifffile.TiffFileError, OSError):
        return False


def _open_nifti(
    path: Path, channel_axis: int | None, *, canonical: bool
) -> PlaneSource:
    from napari_samseg.core.io.nifti import read_nifti

    volume = read_nifti(path, canonical=canonical)
    for note in volume.notes:
        warnings.warn(note, OrientationWarning, stacklevel=5)
    axis = volume.channel_axis if channel_axis is None else channel_axis
    try:
        # three voxels along an axis are no colours
        return open_image(
            volume.array, rgb=False, channel_axis=axis, space=volume.space
        )
    except InvalidImageError as error:
        raise InvalidImageError(f"{path}: {error}") from error


def _open(path: Path, stack: ExitStack, *, indices: bool) -> tuple[Any, int | None]:
    """Return an array or levels, and the axis of the channels if the file says so."""
    import zarr

    if path.is_dir():
        try:
            opened = zarr.open(path, mode="r")
        except FileNotFoundError as error:
            raise InvalidImageError(
                "it is a folder without a zarr array or group"
            ) from error
        if isinstance(opened, zarr.Group):
            from napari_samseg.core.io.ome_zarr import open_ome_zarr

            return open_ome_zarr(opened)
        return opened, None
    return _open_file(path, stack, indices=indices), None


@contextmanager
def _telling_damage(path: Path) -> Iterator[None]:
    """Say which TIFF is damaged, which only shows when its pixels are read."""
    import tifffile

    try:
        yield
    except tifffile.TiffFileError as error:
        raise InvalidImageError(
            f"{path} is damaged or cut off ({error}): copy it anew from where it "
            "comes from"
        ) from error


def _open_file(path: Path, stack: ExitStack, *, indices: bool) -> Any:
    import numpy as np
    import zarr

    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        import tifffile

        stack.enter_context(_telling_damage(path))
        tiff = stack.enter_context(tifffile.TiffFile(path))
        try:
            store = tiff.aszarr(level=0)
        except KeyError:
            # an OME header that lacks what it must have: its pages one after the other
            tiff = stack.enter_context(tifffile.TiffFile(path, is_ome=False))
            store = tiff.aszarr(level=0)
        stack.enter_context(store)
        return zarr.open_array(store, mode="r")
    if suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    from PIL import Image

    with Image.open(path) as picture:
        if indices and picture.mode == "P":
            return np.asarray(picture)
        # a palette's indices are no intensities, and transparency is no channel
        shown = {"P": "RGB", "LA": "L"}.get(picture.mode, picture.mode)
        return np.asarray(picture.convert(shown))
