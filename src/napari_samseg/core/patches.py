"""Cut arrays into patches of any size and stride, and stitch them together again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import SettingsError

__all__ = ["PatchGrid", "cut_patches", "stitch_patches"]


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """Where patches lie in an array.

    Every value of the array is in a patch: the last patch along an axis is moved back
    so that it ends with the array, and one that is larger than the array is filled up.

    Attributes
    ----------
    shape : tuple of int
        Of the array.
    size : tuple of int
        Of each patch, along the same axes; an axis that is not cut has its length.
    stride : tuple of int
        From one patch to the next; the size where patches do not overlap.

    Raises
    ------
    SettingsError
        If the numbers of axes differ, a number is below 1, or a stride above the size,
        which would leave gaps.
    """

    shape: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.shape) == len(self.size) == len(self.stride):
            raise SettingsError(
                f"patches of {self.size} with strides {self.stride} do not fit an "
                f"array of shape {self.shape}: give a number for each axis"
            )
        if min((*self.shape, *self.size, *self.stride), default=0) < 1:
            raise SettingsError("shape, size and stride of patches are 1 or more")
        if any(step > side for step, side in zip(self.stride, self.size, strict=True)):
            raise SettingsError(
                f"strides {self.stride} above the size {self.size} would leave gaps"
            )

    @property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """Where each patch begins, in reading order."""
        along = [
            [*range(0, length - side, step), length - side] if length > side else [0]
            for length, side, step in zip(
                self.shape, self.size, self.stride, strict=True
            )
        ]
        return tuple(itertools.product(*along))

    def __len__(self) -> int:
        return len(self.starts)

    def name(self, start: tuple[int, ...]) -> str:
        """Return a name that no other patch has, and that sorts in reading order."""
        widths = [len(str(length - 1)) for length in self.shape]
        return "_".join(
            f"{place:0{width}}" for place, width in zip(start, widths, strict=True)
        )

    def region(self, start: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the part of the array that a patch shows."""
        return tuple(
            slice(place, min(place + side, length))
            for place, side, length in zip(start, self.size, self.shape, strict=True)
        )


def cut_patches(
    array: Any, grid: PatchGrid, *, fill: str = "reflect"
) -> Iterator[tuple[tuple[int, ...], npt.NDArray[Any]]]:
    """Cut an array into patches, of which one at a time is in memory.

    Parameters
    ----------
    array : array-like of shape `grid.shape`
        numpy, dask or zarr.
    grid : PatchGrid
    fill : str
        What lies beyond the end of an array smaller than a patch, a mode of
        `numpy.pad`. Labels want ``"constant"``: reflected objects would be others.

    Yields
    ------
    start : tuple of int
        See `PatchGrid.name`.
    patch : array of shape `grid.size`
        A copy.

    Raises
    ------
    SettingsError
        If the array has another shape.
    """
    _check_shape(tuple(array.shape), grid.shape, "the array")
    for start in grid.starts:
        patch = np.array(array[grid.region(start)])
        beyond = [
            (0, side - length)
            for side, length in zip(grid.size, patch.shape, strict=True)
        ]
        if any(after for _, after in beyond):
            patch = np.pad(patch, beyond, mode=fill)  # type: ignore[call-overload]
        yield start, patch


def stitch_patches(
    patches: Iterable[tuple[tuple[int, ...], npt.NDArray[Any]]],
    grid: PatchGrid,
    *,
    overlap: str = "first",
    out: Any = None,
) -> Any:
    """Put patches back into an array of the shape they were cut from.

    What `cut_patches` made comes back exactly, with either rule.

    Parameters
    ----------
    patches : iterable of (start, patch)
        In any order, each once.
    grid : PatchGrid
    overlap : "first" or "mean"
        Where patches overlap, keep the one that came first, or average, for
        predictions. Labels cannot be averaged.
    out : array-like, optional
        Written into instead of a new array, such as zarr; for "first" alone.

    Raises
    ------
    SettingsError
        If a patch is missing, there twice, of another shape or elsewhere, or `out` is
        given with "mean".
    """
    if overlap not in ("first", "mean"):
        raise SettingsError(f"overlaps are 'first' or 'mean', not {overlap!r}")
    if overlap == "mean" and out is not None:
        raise SettingsError("averages are made in memory: give no `out`")
    missing = set(grid.starts)
    done = np.zeros(grid.shape, np.uint16 if overlap == "mean" else bool)
    total: Any = None
    dtype: np.dtype[Any] = np.dtype(float)
    for start, patch in patches:
        if start not in missing:
            raise SettingsError(f"there is no patch at {start}, or it came twice")
        missing.discard(start)
        _check_shape(patch.shape, grid.size, f"the patch at {start}")
        region = grid.region(start)
        inside = patch[tuple(slice(0, part.stop - part.start) for part in region)]
        if overlap == "mean":
            if total is None:
                total, dtype = np.zeros(grid.shape, np.float64), patch.dtype
            total[region] += inside
            done[region] += 1
            continue
        if out is None:
            out = np.zeros(grid.shape, patch.dtype)
        fresh = ~done[region]
        out[region] = np.where(fresh, inside, np.asarray(out[region]))
        done[region] = True
    if missing:
        raise SettingsError(
            f"{count_things(len(missing), 'patch', 'patches')} of {len(grid)} missing, "
            f"the first at {min(missing)}"
        )
    if overlap == "first":
        return out
    mean = total / done
    return (np.rint(mean) if dtype.kind in "iu" else mean).astype(dtype)


def _check_shape(found: tuple[int, ...], wanted: tuple[int, ...], what: str) -> None:
    if found != wanted:
        raise SettingsError(f"{what} has shape {found} instead of {wanted}")
