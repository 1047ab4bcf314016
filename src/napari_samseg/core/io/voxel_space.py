"""Where the voxels of a volume lie in a patient: the affine of NIfTI files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidImageError

__all__ = ["STORED", "VoxelSpace", "arithmetic_step", "turn_volume"]

Affine = npt.NDArray[np.float64]

# Letters of the two ends of the axis across which such planes lie.
ANATOMICAL = {"axial": "IS", "coronal": "PA", "sagittal": "LR"}
# Axes of a volume (Z, Y, X).
STORED = {"z": 0, "y": 1, "x": 2}
# Corners of two volumes that lie closer together than this are the same place.
SAME_PLACE_MM = 0.01
# Axes that are nearer to each other, as parts of a voxel, are the same axis.
SAME_TURN = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class VoxelSpace:
    """Where the voxels of a volume (Z, Y, X) lie.

    Attributes
    ----------
    affine : (4, 4) float64
        Takes an index (x, y, z, 1) to millimetres towards the patient's right, front
        and head (R, A, S), as in NIfTI.
    code : int
        What NIfTI says the origin is: 1 scanner, 2 another volume, 3 Talairach, 4 MNI;
        0 if the file does not say, so that only the spacing is known.
    """

    affine: Affine
    code: int = 0

    @classmethod
    def from_spacing(cls, spacing: Sequence[float]) -> VoxelSpace:
        """Return a space of unknown orientation with voxels (z, y, x) of some size."""
        return cls(np.diag([*map(float, spacing[::-1]), 1.0]))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel along z, y and x, in millimetres."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return (z, y, x)

    def steps(self, n_axes: int) -> dict[str, Any]:
        """Return ``scale`` and ``units`` of an array (..., Z, Y, X) or (Y, X)."""
        n = min(n_axes, 3)
        return {
            "scale": (*(1.0,) * (n_axes - n), *self.spacing[-n:]),
            "units": (*("pixel",) * (n_axes - n), *("millimeter",) * n),
        }

    @property
    def orientation(self) -> str:
        """Letters of the ends to which x, y and z run, such as "RAS"; "" if unknown."""
        from nibabel.orientations import aff2axcodes

        return "".join(aff2axcodes(self.affine)) if self.code > 0 else ""

    def __str__(self) -> str:
        z, y, x = self.spacing
        size = f"voxels (z, y, x) of {z:.4g} x {y:.4g} x {x:.4g} mm"
        letters = self.orientation
        return (
            f"{size}; x, y, z run to {', '.join(letters)}"
            if letters
            else f"{size}; their orientation is unknown"
        )

    def plane_axis(self, name: str) -> int:
        """Return the axis of (Z, Y, X) across which planes lie.

        Parameters
        ----------
        name : str
            ``z``, ``y``, ``x`` of the file, or ``axial``, ``coronal``, ``sagittal``.

        Raises
        ------
        InvalidImageError
            If planes of the patient are asked for and the orientation is unknown.
        """
        if name in STORED:
            return STORED[name]
        if not self.orientation:
            raise InvalidImageError(
                f"the orientation of the volume is unknown, and so are its {name} "
                "planes: choose z, y or x"
            )
        ends = ANATOMICAL[name]
        return 2 - next(i for i, c in enumerate(self.orientation) if c in ends)

    def cut(self, axis: int, start: int, step: int) -> VoxelSpace:
        """Return the space of every `step`-th plane across an axis of (Z, Y, X)."""
        affine = self.affine.copy()
        affine[:3, 3] += start * affine[:3, 2 - axis]
        affine[:3, 2 - axis] *= step
        return dataclasses.replace(self, affine=affine)

    def turn_to(self, other: VoxelSpace) -> npt.NDArray[np.int64] | None:
        """Return which flips and swaps of axes bring the voxels to another order.

        Returns
        -------
        (3, 2) int64 or None
            For each axis x, y, z the one that it becomes, and -1 if it is flipped, see
            `turn_volume`; None if the axes are not the same up to flips and swaps.
        """
        turn = np.linalg.solve(self.affine, other.affine)[:3, :3]
        whole = np.rint(turn).astype(np.int64)
        is_permuted = (np.abs(whole).sum(axis=0) == 1).all() and (
            np.abs(whole).sum(axis=1) == 1
        ).all()
        if not is_permuted or not np.allclose(turn, whole, atol=SAME_TURN):
            return None
        target = np.abs(whole).argmax(axis=1)
        return np.stack([target, whole[np.arange(3), target]], axis=1)

    def is_like(
        self, other: VoxelSpace, shape: Sequence[int], nearest: float = SAME_PLACE_MM
    ) -> bool:
        """Tell whether voxels of volumes (Z, Y, X) lie in the same places, in mm."""
        corners = np.array(np.meshgrid(*([0, n - 1] for n in shape[::-1]), [1]))
        apart = (self.affine - other.affine) @ corners.reshape(4, -1)
        return bool(np.abs(apart).max() <= nearest)


def turn_volume(
    array: npt.NDArray[Any], space: VoxelSpace, turn: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], VoxelSpace]:
    """Flip and swap the axes of a volume, whose voxels stay where they are.

    Parameters
    ----------
    array : (Y, X), (Z, Y, X) or more axes in front
    space : VoxelSpace
    turn : (3, 2) int
        Of x, y and z, as nibabel's orientations; see `VoxelSpace.turn_to`.
    """
    from nibabel.orientations import apply_orientation, inv_ornt_aff

    axes = array.T
    is_plane = axes.ndim == 2
    axes = axes[..., np.newaxis] if is_plane else axes
    affine = space.affine @ inv_ornt_aff(turn, axes.shape[:3])
    turned = apply_orientation(axes, turn)
    if is_plane and turned.shape[2] == 1:
        turned = turned[..., 0]
    return turned.T, dataclasses.replace(space, affine=affine)


def arithmetic_step(numbers: Sequence[int]) -> int | None:
    """Return the step between rising numbers, None if it is not the same everywhere."""
    steps: set[Any] = set(np.diff(numbers).tolist())
    if len(steps) > 1:
        return None
    return int(steps.pop()) if steps else 1
