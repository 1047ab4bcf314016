"""NIfTI volumes, https://nifti.nimh.nih.gov: as arrays (Z, Y, X), with their space.

NIfTI counts voxels x, y, z; arrays here are the same memory seen as (..., Z, Y, X),
without a flip, so that a plane is what ``data[:, :, z].T`` of nibabel is.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidImageError, MissingFileError
from napari_samseg.core.io.voxel_space import VoxelSpace, turn_volume

__all__ = [
    "NIFTI_SUFFIXES",
    "NiftiVolume",
    "is_nifti",
    "nifti_stem",
    "read_nifti",
    "read_nifti_space",
    "write_nifti",
]

NIFTI_SUFFIXES = (".nii.gz", ".nii")
LABEL_INTENT = 1002
# What NIfTI calls the units of time that it has.
TIME_UNITS = {"second": "sec", "millisecond": "msec", "microsecond": "usec"}
# Longest axis that the first edition of the format can hold.
LONGEST = 32_767
# Volumes in which sform and qform put a voxel farther apart disagree.
SAME_MM = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class NiftiVolume:
    """What a NIfTI file holds.

    Attributes
    ----------
    array : (Y, X), (Z, Y, X) or (T, Z, Y, X) bool, integer or real
        With the axis of channels, where there are several, in front. Of files that are
        not compressed a view of the file, read when it is asked for.
    space : VoxelSpace
    channel_axis : int or None
    is_label : bool
        The file says that its values are labels.
    notes : tuple of str
        What a person should know: an orientation that is missing or in doubt.
    time_step : (float, str)
        From one volume of a series to the next, and its unit; 1 "pixel" if not known.
    """

    array: npt.NDArray[Any]
    space: VoxelSpace
    channel_axis: int | None = None
    is_label: bool = False
    notes: tuple[str, ...] = ()
    time_step: tuple[float, str] = (1.0, "pixel")

    @property
    def steps(self) -> dict[str, Any]:
        """``scale`` and ``units`` along each axis but that of the channels."""
        n = self.array.ndim - (self.channel_axis is not None)
        found = self.space.steps(n)
        if n == 4:
            step, unit = self.time_step
            found["scale"] = (step, *found["scale"][1:])
            found["units"] = (unit, *found["units"][1:])
        return found

    def turned_to_ras(self) -> NiftiVolume:
        """Return the volume with axes that run as near as can be to right, front, head.

        Raises
        ------
        InvalidImageError
            If its orientation is unknown.
        """
        from nibabel.orientations import io_orientation

        if not self.space.orientation:
            raise InvalidImageError(
                "does not say how it is oriented, and cannot be turned to RAS: read it "
                "as it is stored"
            )
        turn = io_orientation(self.space.affine)
        array, space = turn_volume(self.array, self.space, turn)
        return replace(self, array=array, space=space)


def is_nifti(path: Path) -> bool:
    """Tell whether a path has the suffix of a NIfTI file."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def nifti_stem(path: Path) -> str:
    """Return the name of a file without ``.nii`` or ``.nii.gz``."""
    suffix = next((s for s in NIFTI_SUFFIXES if path.name.lower().endswith(s)), "")
    return path.name.removesuffix(path.name[len(path.name) - len(suffix) :])


def read_nifti(path: Path, *, canonical: bool = False) -> NiftiVolume:
    """Read a NIfTI file.

    Parameters
    ----------
    path : Path
    canonical : bool
        Turn the axes so that x, y and z run to the patient's right, front and head
        (RAS), as near as flips and swaps bring them; as stored if not.

    Raises
    ------
    MissingFileError
        If there is no such file.
    InvalidImageError
        If it is no NIfTI file, is cut off, holds colours, or is to be turned and does
        not say how it is oriented.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    if not path.is_file():
        raise MissingFileError(f"there is no file {path}")
    try:
        # nibabel's types know no subclass of what `load` returns
        image: Any = nibabel.load(path, mmap="r")
        data = _read_values(image)
    except InvalidImageError as error:
        raise InvalidImageError(f"{path} {error}") from error
    except (
        ImageFileError,
        HeaderDataError,
        EOFError,
        OSError,
        ValueError,
        zlib.error,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidImageError(f"{path} cannot be read as NIfTI: {reason}") from error
    space, notes = _read_space(image.header, path)
    channel_axis = 0 if data.ndim == 5 else None
    array = data.T
    if array.ndim == 5 and array.shape[1] == 1:
        array = array[:, 0]
    is_label = int(image.header["intent_code"]) == LABEL_INTENT
    volume = NiftiVolume(
        array, space, channel_axis, is_label, notes, _time_step(image.header)
    )
    if not canonical:
        return volume
    try:
        return volume.turned_to_ras()
    except InvalidImageError as error:
        raise InvalidImageError(f"{path} {error}") from error


def read_nifti_space(path: Path) -> VoxelSpace:
    """Return where the voxels of a file lie that `read_nifti` can read."""
    import nibabel

    image: Any = nibabel.load(path)
    return _read_space(image.header, path)[0]


def write_nifti(
    path: Path,
    array: npt.NDArray[Any],
    space: VoxelSpace | None = None,
    *,
    is_label: bool = False,
    time_step: tuple[float, str] = (1.0, "pixel"),
) -> None:
    """Write a NIfTI file, which is there whole or not at all; makes its folder.

    Parameters
    ----------
    path : Path
        Ends in ``.nii.gz`` or ``.nii``.
    array : (Y, X), (Z, Y, X) or (T, Z, Y, X) integer or real
    space : VoxelSpace, optional
        Voxels of 1 mm and unknown orientation if not given.
    is_label : bool
        Say in the file that its values are labels.
    time_step : (float, str)
        From one volume of a series to the next, and its unit, such as "second".

    Raises
    ------
    InvalidImageError
        If the name, the axes or the values are not those of a NIfTI file.
    """
    import nibabel
    from nibabel.spatialimages import HeaderDataError

    if not is_nifti(path):
        raise InvalidImageError(
            f"NIfTI files are written as .nii.gz or .nii, not as {path.name!r}"
        )
    if not 2 <= array.ndim <= 4:
        raise InvalidImageError(
            f"{path}: a NIfTI file holds (Y, X) up to (T, Z, Y, X), not {array.shape}"
        )
    space = space or VoxelSpace.from_spacing((1, 1, 1))
    values = array.astype(np.uint8) if array.dtype == bool else array
    kind: Any = (
        nibabel.Nifti2Image if max(values.shape) > LONGEST else nibabel.Nifti1Image
    )
    try:
        image = kind(values.T, None, dtype=values.dtype)
    except (HeaderDataError, ValueError) as error:
        raise InvalidImageError(
            f"{path}: a NIfTI file cannot hold {array.dtype}"
        ) from error
    step, unit = time_step
    image.header.set_zooms((*space.spacing[::-1], step)[: values.ndim])
    image.header.set_xyzt_units("mm", TIME_UNITS.get(unit, "unknown"))
    if space.code > 0:
        image.set_sform(space.affine, space.code)
        image.set_qform(space.affine, space.code)
    if is_label:
        image.header.set_intent(LABEL_INTENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".part-{path.name}")
    try:
        nibabel.save(image, unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _read_values(image: Any) -> npt.NDArray[Any]:
    """Return the values (X, Y, Z, T, C) of an image; shorter where axes are 1 long."""
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise InvalidImageError(
            f"holds {'colours' if dtype.names else dtype} rather than one whole or "
            "real number for each voxel"
        )
    proxy = image.dataobj
    data: npt.NDArray[Any] = (
        np.asanyarray(proxy)
        if (proxy.slope, proxy.inter) == (1, 0)
        else image.get_fdata(dtype=np.float32, caching="unchanged")
    )
    if data.dtype.itemsize > 8:
        data = data.astype(np.float64)
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if not 2 <= data.ndim <= 5:
        raise InvalidImageError(f"has {data.ndim} axes longer than 1: 2 to 5 are read")
    return data


def _time_step(header: Any) -> tuple[float, str]:
    """Return the time from one volume to the next, and its unit."""
    zooms = header.get_zooms()
    step = float(zooms[3]) if len(zooms) > 3 else 1.0
    try:
        stated = header.get_xyzt_units()[1]
    # a number that stands for no unit
    except KeyError:
        stated = "unknown"
    unit = next((name for name, n in TIME_UNITS.items() if n == stated), "pixel")
    # programs write 0 where they do not know it
    return (step, unit) if np.isfinite(step) and step > 0 else (1.0, "pixel")


def _read_space(header: Any, path: Path) -> tuple[VoxelSpace, tuple[str, ...]]:
    """Return the space that a header states, and what is wrong with it."""
    found = {
        name: (np.array(affine, np.float64), int(code))
        for name in ("sform", "qform")
        for affine, code in (_coded_form(header, name),)
        if affine is not None
    }
    if not found:
        zooms = [z if np.isfinite(z) and z > 0 else 1.0 for z in header.get_zooms()[:3]]
        space = VoxelSpace.from_spacing((*(1.0,) * (3 - len(zooms)), *zooms[::-1]))
        note = (
            f"{path} does not say how it is oriented (neither sform nor qform): left, "
            "right, front and back are unknown"
        )
        return space, (note,)
    affine, code = found.get("sform") or found["qform"]
    space = VoxelSpace(affine, code)
    if len(found) == 2:
        shape = (*header.get_data_shape(), 1, 1)[2::-1]
        other = VoxelSpace(*found["qform"])
        if other.orientation != space.orientation or not space.is_like(
            other, shape, SAME_MM
        ):
            note = (
                f"{path} says in two ways how it is oriented, which differ: sform "
                f"({space.orientation}) is taken, not qform ({other.orientation})"
            )
            return space, (note,)
    return space, ()


def _coded_form(header: Any, name: str) -> tuple[Any, int]:
    """Return one of the two affines of a header; None if it is not given or broken."""
    get = header.get_sform if name == "sform" else header.get_qform
    try:
        affine, code = get(coded=True)
    # a quaternion that is none
    except ValueError:
        return None, 0
    if affine is None or not np.isfinite(affine).all():
        return None, 0
    if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        return None, 0
    return affine, code
