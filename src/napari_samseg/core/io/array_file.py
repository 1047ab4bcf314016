"""Arrays of any kind as files, which are there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidImageError
from napari_samseg.core.io.nifti import is_nifti, write_nifti
from napari_samseg.core.io.ome_zarr_labels import check_zarr_path
from napari_samseg.core.io.voxel_space import VoxelSpace

__all__ = ["check_array_path", "create_array_file", "write_array_file"]

SUFFIXES = (".tif", ".tiff", ".png", ".npy", ".zarr", ".nii", ".nii.gz")
# TIFF needs its other edition from about here on.
BIG_TIFF_BYTES = 1 << 31
# What a PNG holds: grey of 8 and 16 bits, and colours of 8.
PNG_AXES = {"uint8": (2, 3), "uint16": (2,)}


def check_array_path(path: Path) -> None:
    """Raise an error unless an array can be written under such a name.

    Raises
    ------
    InvalidImageError
        If the suffix is none of those that are written.
    OutputError
        If it is a ``.zarr`` that is there already.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise InvalidImageError(
            f"arrays are written as {', '.join(SUFFIXES)}, not as {path.name!r}"
        )
    if path.suffix == ".zarr":
        check_zarr_path(path)


def write_array_file(
    path: Path,
    array: npt.NDArray[Any],
    *,
    rgb: bool = False,
    space: VoxelSpace | None = None,
    is_label: bool = False,
) -> None:
    """Write an array with its data type; makes its folder.

    Parameters
    ----------
    path : Path
        Ends in ``.tif``, ``.png``, ``.npy``, ``.zarr``, ``.nii`` or ``.nii.gz``.
    array : bool, integer or real
        True becomes 1 in formats that know no bits.
    rgb : bool
        The last axis holds colours.
    space, is_label
        For NIfTI, see `napari_samseg.core.io.nifti.write_nifti`.

    Raises
    ------
    InvalidImageError
        If the format cannot hold it.
    OutputError
        If it is a ``.zarr`` that is there already.
    """
    check_array_path(path)
    if is_nifti(path):
        if rgb:
            raise InvalidImageError(f"{path}: no colours are written as NIfTI")
        write_nifti(path, array, space, is_label=is_label)
        return
    if path.suffix == ".zarr":
        with create_array_file(path, array.shape, array.dtype, array.shape) as out:
            out[...] = array
        return
    suffix = path.suffix.lower()
    values = array.astype(np.uint8) if array.dtype == bool else array
    if suffix == ".png":
        _check_png(path, values, rgb=rgb)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        _write(unfinished, suffix, array if suffix == ".npy" else values, rgb=rgb)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def create_array_file(
    path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike, chunks: tuple[int, ...]
) -> Iterator[Any]:
    """Make a zarr array to be filled until the ``with`` block ends.

    Nothing is left if that happens by an error.

    Raises
    ------
    OutputError
        If `path` is there already.
    """
    import zarr

    check_zarr_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".samseg-", dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        sides = tuple(min(n, side) for n, side in zip(shape, chunks, strict=True))
        yield zarr.create_array(unfinished, shape=shape, dtype=dtype, chunks=sides)
        unfinished.rename(path)


def _check_png(path: Path, array: npt.NDArray[Any], *, rgb: bool) -> None:
    axes = PNG_AXES.get(str(array.dtype), ())
    if array.ndim not in axes or (array.ndim == 3 and not rgb):
        raise InvalidImageError(
            f"{path}: a .png holds one plane of 8 or 16 bits, or colours of 8, not "
            f"{array.dtype} of shape {array.shape}: choose .tif or .npy"
        )


def _write(path: Path, suffix: str, array: npt.NDArray[Any], *, rgb: bool) -> None:
    if suffix == ".npy":
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    elif suffix == ".png":
        from PIL import Image

        Image.fromarray(array).save(path, format="PNG")
    else:
        import tifffile

        tifffile.imwrite(
            path,
            array,
            compression="zlib",
            # three or four planes are no colours
            photometric="rgb" if rgb else "minisblack",
            bigtiff=array.nbytes > BIG_TIFF_BYTES,
        )
