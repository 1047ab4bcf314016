"""Patches of an image or of labels as files, and back to one file.

A folder of patches has ``patches.json``, which says where each of them lies.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import (
    InvalidImageError,
    MissingFileError,
    OutputError,
    SettingsError,
)
from napari_samseg.core.images import PlaneSource
from napari_samseg.core.io.array_file import (
    check_array_path,
    create_array_file,
    write_array_file,
)
from napari_samseg.core.io.image_file import open_image_file
from napari_samseg.core.io.json_file import read_json, write_lines
from napari_samseg.core.io.label_image import open_label_image
from napari_samseg.core.io.nifti import is_nifti, nifti_stem, read_nifti_space
from napari_samseg.core.io.output import check_output_file, check_output_folder
from napari_samseg.core.io.voxel_space import VoxelSpace
from napari_samseg.core.patches import PatchGrid, cut_patches, stitch_patches
from napari_samseg.core.types import Progress

__all__ = ["GRID_FILE", "CutJob", "StitchJob", "cut_file", "stitch_folder"]

GRID_FILE = "patches.json"
PATCH_SUFFIXES = (".tif", ".png", ".npy")


@dataclass(frozen=True, slots=True)
class CutJob:
    """What to cut, and how.

    Attributes
    ----------
    source : Path
        See `napari_samseg.core.io.image_file.open_image_file`.
    out : Path
        Folder of the patches.
    size : tuple of int
        Of each patch along the last axes, such as (Y, X); one number is that of both. A
        stack is cut plane by plane along its other axes, and channels stay together.
    stride : tuple of int
        From one patch to the next along the same axes; the size if empty.
    suffix : str
        ``.tif``, ``.png`` or ``.npy``.
    is_label : bool
        The values are ids: what lies beyond the end of the image is background rather
        than a reflection, and of a palette the indices are taken.
    channel_axis : int or None
        As in `napari_samseg.core.images.open_image`.
    overwrite : bool
        Replace the patches of this image that are there already, all of them.
    """

    source: Path
    out: Path
    size: tuple[int, ...]
    stride: tuple[int, ...] = ()
    suffix: str = ".tif"
    is_label: bool = False
    channel_axis: int | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class StitchJob:
    """Which patches to put together, and how.

    Attributes
    ----------
    folder : Path
        Of the patches, or of what was made of them under the same names.
    out : Path
        ``.tif``, ``.png``, ``.npy``, ``.zarr`` or ``.nii.gz``.
    grid : Path or None
        Folder that the patches were cut into, or its ``patches.json``, if it is
        another.
    overlap : str
        See `napari_samseg.core.patches.stitch_patches`.
    overwrite : bool
        Replace a file that is there already.
    """

    folder: Path
    out: Path
    grid: Path | None = None
    overlap: str = "first"
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where patches lie in a file: what ``patches.json`` says."""

    source: str
    grid: PatchGrid
    n_planar: int
    channel_axis: int | None
    rgb: bool
    is_label: bool
    suffix: str
    space: VoxelSpace | None

    def without_channels(self) -> PatchGrid:
        """Return the grid of labels that were made of the patches."""
        grid, at = self.grid, self.channel_axis
        if at is None:
            return grid
        rest = [_without(part, at) for part in (grid.shape, grid.size, grid.stride)]
        return PatchGrid(*rest)

    def file_name(self, start: tuple[int, ...]) -> str:
        """Return the name of the patch at a place, which no other patch has."""
        if self.channel_axis is not None:
            start = _without(start, self.channel_axis)
        place = self.without_channels().name(start)
        return f"{self.source}_{place}{self.suffix}"

    def file_shape(self, grid: PatchGrid) -> tuple[int, ...]:
        """Return the shape of a patch in its file: axes along planes are not there."""
        channels = self.channel_axis if grid is self.grid else None
        axes = [axis for axis in range(len(grid.shape)) if axis != channels]
        along = axes[: -self.n_planar]
        return tuple(n for axis, n in enumerate(grid.size) if axis not in along)


def cut_file(job: CutJob) -> Generator[Progress, None, int]:
    """Cut an image or labels into patches, of which one at a time is in memory.

    Returns
    -------
    int
        How many patches were written.

    Raises
    ------
    SamSegError
        If the file is missing or of the wrong kind, the sizes do not fit it, or files
        are there already; the message says which.
    """
    if job.suffix not in PATCH_SUFFIXES:
        raise SettingsError(
            f"patches are {', '.join(PATCH_SUFFIXES)}, not {job.suffix!r}"
        )
    check_output_folder(job.out)
    yield Progress("reading")
    with _open(job) as source:
        array = source.levels[0]
        layout = _lay_out(job, source)
        grid = layout.grid
        names = {start: layout.file_name(start) for start in grid.starts}
        for name in (*names.values(), GRID_FILE):
            check_output_file(
                job.out / name, inputs=(job.source,), overwrite=job.overwrite
            )
        old = _old_patches(job, layout) - set(names.values())
        fill = "constant" if job.is_label else "reflect"
        shape = layout.file_shape(grid)
        for done, (start, patch) in enumerate(cut_patches(array, grid, fill=fill)):
            yield Progress("cutting", done, len(grid), names[start])
            path = job.out / names[start]
            write_array_file(path, patch.reshape(shape), rgb=layout.rgb)
        for name in old:
            (job.out / name).unlink(missing_ok=True)
        # what is cut off has none, and is not taken for whole
        write_lines(job.out / GRID_FILE, [_describe(layout, list(names.values()))])
    return len(grid)


def stitch_folder(job: StitchJob) -> Generator[Progress, None, tuple[int, ...]]:
    """Put patches together to an array of the shape they were cut from.

    What `cut_file` made comes back exactly. Of labels that a program has made of
    patches with channels, under the same names, the channels are left out.

    Returns
    -------
    tuple of int
        Shape of what was written.

    Raises
    ------
    SamSegError
        If patches are missing, do not fit, or the file cannot be written.
    """
    check_array_path(job.out)
    yield Progress("reading")
    layout = _read_layout(job.grid or job.folder)
    names = {start: layout.file_name(start) for start in layout.grid.starts}
    paths = {start: _find(job.folder, name) for start, name in names.items()}
    check_output_file(job.out, inputs=tuple(paths.values()), overwrite=job.overwrite)
    first = _read_patch(next(iter(paths.values())))
    grid, at = layout.grid, layout.channel_axis
    if at is not None and not _fits(first.shape, layout.file_shape(grid)):
        grid = layout.without_channels()
        paths = {_without(start, at): path for start, path in paths.items()}
    shape = layout.file_shape(grid)
    yield Progress("stitching", 0, len(grid))

    def read() -> Iterator[tuple[tuple[int, ...], npt.NDArray[Any]]]:
        for start, path in paths.items():
            patch = _read_patch(path)
            if not _fits(patch.shape, shape):
                raise InvalidImageError(
                    f"{path} has shape {patch.shape} instead of {shape}"
                )
            yield start, patch.reshape(grid.size)

    rgb = layout.rgb and grid is layout.grid
    if job.out.suffix == ".zarr" and job.overlap == "first":
        with create_array_file(job.out, grid.shape, first.dtype, grid.size) as out:
            stitch_patches(read(), grid, out=out)
    else:
        whole = stitch_patches(read(), grid, overlap=job.overlap)
        write_array_file(
            job.out, whole, rgb=rgb, space=layout.space, is_label=layout.is_label
        )
    return grid.shape


def _old_patches(job: CutJob, layout: _Layout) -> set[str]:
    """Return the names of patches that were cut into the folder before.

    Raises
    ------
    OutputError
        If they are of another image, of which nobody could say any more where they lie.
    """
    path = job.out / GRID_FILE
    if not path.exists():
        return set()
    about = read_json(path)
    about = about if isinstance(about, dict) else {}
    if about.get("source") != layout.source:
        raise OutputError(
            f"{path} says where the patches of {about.get('source')!r} lie, and these "
            f"are of {layout.source!r}: choose a folder for each image"
        )
    names = [name for name in about.get("files", ()) if isinstance(name, str)]
    # a name with a folder in it is none that was written here
    return {name for name in names if Path(name).name == name}


@contextmanager
def _open(job: CutJob) -> Iterator[PlaneSource]:
    if not job.is_label:
        with open_image_file(job.source, channel_axis=job.channel_axis) as source:
            yield source
        return
    with open_label_image(job.source) as labels:
        space = read_nifti_space(job.source) if is_nifti(job.source) else None
        yield PlaneSource([labels], channel_axis=None, rgb=False, space=space)


def _lay_out(job: CutJob, source: PlaneSource) -> _Layout:
    size = job.size * 2 if len(job.size) == 1 else job.size
    stride = job.stride * 2 if len(job.stride) == 1 else job.stride or size
    if len(size) > source.ndim or len(stride) > len(size) or not size:
        raise SettingsError(
            f"patches of {job.size} with strides {job.stride or job.size} do not fit "
            f"{job.source} of shape {source.shape}: give a number for each of the last "
            "axes, such as 256,256"
        )
    lead = source.ndim - len(size)
    sizes = [*(1,) * lead, *size]
    strides = [*(1,) * lead, *size[: len(size) - len(stride)], *stride]
    shape, at = tuple(int(n) for n in source.levels[0].shape), source.channel_axis
    if at is not None:
        sizes.insert(at, shape[at])
        strides.insert(at, shape[at])
    name = job.source.name
    stem = nifti_stem(job.source) if is_nifti(job.source) else Path(name).stem
    return _Layout(
        source=stem,
        grid=PatchGrid(shape, tuple(sizes), tuple(strides)),
        n_planar=len(size),
        channel_axis=at,
        rgb=source.rgb,
        is_label=job.is_label,
        suffix=job.suffix,
        space=source.space,
    )


def _describe(layout: _Layout, names: list[str]) -> str:
    grid, space = layout.grid, layout.space
    about: dict[str, Any] = {
        "source": layout.source,
        "shape": grid.shape,
        "size": grid.size,
        "stride": grid.stride,
        "n_planar": layout.n_planar,
        "channel_axis": layout.channel_axis,
        "rgb": layout.rgb,
        "is_label": layout.is_label,
        "suffix": layout.suffix,
        "files": names,
    }
    if space is not None:
        about["space"] = {"affine": space.affine.tolist(), "code": space.code}
    return json.dumps(about, indent=1)


def _read_layout(place: Path) -> _Layout:
    path = place / GRID_FILE if place.is_dir() else place
    if not path.is_file():
        raise MissingFileError(
            f"there is no {path}, which says where the patches lie: `patches cut` "
            "writes it, and --grid names the folder that it lies in"
        )
    about = read_json(path)
    try:
        known = about.get("space")
        sides = (tuple(map(int, about[key])) for key in ("shape", "size", "stride"))
        return _Layout(
            source=str(about["source"]),
            grid=PatchGrid(*sides),
            n_planar=int(about["n_planar"]),
            channel_axis=about["channel_axis"],
            rgb=bool(about["rgb"]),
            is_label=bool(about["is_label"]),
            suffix=str(about["suffix"]),
            space=None
            if known is None
            else VoxelSpace(np.array(known["affine"], np.float64), int(known["code"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidImageError(
            f"{path} does not say where patches lie, as `patches cut` writes it"
        ) from error


def _find(folder: Path, name: str) -> Path:
    """Return the patch of a name, which another program may have in another format."""
    if (folder / name).is_file():
        return folder / name
    stem = Path(name).stem
    found = [folder / (stem + suffix) for suffix in (*PATCH_SUFFIXES, ".tiff")]
    found = [path for path in found if path.is_file()]
    if len(found) != 1:
        what = "there are several patches" if found else "there is no patch"
        raise MissingFileError(f"{what} {stem} in {folder}")
    return found[0]


def _read_patch(path: Path) -> npt.NDArray[Any]:
    # through zarr, 1,638 patches took 25 s instead of 5
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        try:
            patch: npt.NDArray[Any] = tifffile.imread(path)
        except (tifffile.TiffFileError, ValueError) as error:
            raise InvalidImageError(f"{path} cannot be read: {error}") from error
        return patch
    with open_image_file(path, indices=True) as source:
        return np.asarray(source.levels[0][...])


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Tell whether shapes are the same; TIFF forgets axes of one pixel."""
    long = [tuple(n for n in shape if n > 1) for shape in (found, wanted)]
    return long[0] == long[1]


def _without(values: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return values[:axis] + values[axis + 1 :]
