"""Brain mask, registration and orientation by FSL, https://fsl.fmrib.ox.ac.uk."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import MissingDependencyError, ToolError
from napari_samseg.core.io.nifti import NiftiVolume, read_nifti, write_nifti
from napari_samseg.core.io.voxel_space import VoxelSpace
from napari_samseg.core.types import BoolArray, Progress

__all__ = ["brain_mask_steps", "find_tool", "register_steps", "reorient_steps"]

DEGREES_OF_FREEDOM = {"rigid": 6, "affine": 12}
# Between two looks at whether a program has ended, or somebody cancelled.
POLL_SECONDS = 0.2


def find_tool(name: str) -> str:
    """Return the path of a program of FSL.

    Raises
    ------
    MissingDependencyError
        If it is not there.
    """
    folder = os.environ.get("FSLDIR")
    inside = None if folder is None else str(Path(folder) / "bin")
    found = shutil.which(name) or (inside and shutil.which(name, path=inside))
    if not found:
        raise MissingDependencyError(
            f"FSL's {name} is neither on the PATH nor in FSLDIR: install FSL "
            "(https://fsl.fmrib.ox.ac.uk), or leave --tools at simpleitk"
        )
    return found


def brain_mask_steps(volume: NiftiVolume) -> Generator[Progress, None, BoolArray]:
    """Find the brain with bet (Smith, Human Brain Mapping 2002), robust centre."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder / "in.nii.gz", volume)
        yield from _run("bet", (folder / "in", folder / "out", "-R", "-m", "-n"))
        return read_nifti(folder / "out_mask.nii.gz").array > 0


def register_steps(
    moving: NiftiVolume, fixed: NiftiVolume, kind: str
) -> Generator[Progress, None, npt.NDArray[np.float64]]:
    """Find where a volume lies in another one with flirt, by mutual information.

    Returns
    -------
    (4, 4) float64
        As `napari_samseg.core.mri_itk.register_steps`.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder / "in.nii.gz", moving)
        _write(folder / "ref.nii.gz", fixed)
        files = ("-in", folder / "in", "-ref", folder / "ref", "-omat", folder / "mat")
        freedom = ("-dof", DEGREES_OF_FREEDOM[kind], "-cost", "mutualinfo")
        yield from _run("flirt", (*files, *freedom))
        found = np.loadtxt(folder / "mat")
    # flirt takes scaled voxels of `moving` to those of `fixed`
    to_world = [
        v.space.affine @ np.linalg.inv(_scaled_voxels(v)) for v in (moving, fixed)
    ]
    back: npt.NDArray[np.float64] = np.linalg.inv(
        to_world[1] @ found @ np.linalg.inv(to_world[0])
    ).astype(np.float64)
    return back


def reorient_steps(volume: NiftiVolume) -> Generator[Progress, None, NiftiVolume]:
    """Turn axes as MNI's templates have them, with fslreorient2std."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder / "in.nii.gz", volume)
        yield from _run("fslreorient2std", (folder / "in", folder / "out"))
        turned = read_nifti(folder / "out.nii.gz")
        array = turned.array.astype(volume.array.dtype)
        return NiftiVolume(array, VoxelSpace(turned.space.affine, volume.space.code))


def _write(path: Path, volume: NiftiVolume) -> None:
    write_nifti(path, volume.array, volume.space)


def _scaled_voxels(volume: NiftiVolume) -> npt.NDArray[np.float64]:
    """Return what takes an index (x, y, z, 1) to FSL's millimetres.

    FSL flips x where the file says that the axes of the volume are right-handed.
    """
    z, y, x = volume.space.spacing
    scaled = np.diag([x, y, z, 1.0])
    if volume.space.code and np.linalg.det(volume.space.affine[:3, :3]) > 0:
        scaled[0, 0], scaled[0, 3] = -x, x * (volume.array.shape[-1] - 1)
    return scaled


def _run(name: str, words: Sequence[object]) -> Generator[Progress, None, None]:
    """Run a program, which ends when the generator is closed."""
    command = [find_tool(name), *map(str, words)]
    environment = {**os.environ, "FSLOUTPUTTYPE": "NIFTI_GZ"}
    with TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while True:
                try:
                    status = process.wait(POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    yield Progress(f"FSL's {name}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    if status:
        reason = lines[-1] if lines else f"it returned {status}"
        raise ToolError(f"FSL's {name} failed: {reason}")
