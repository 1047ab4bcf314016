"""Labels in NIfTI files, with the space of their voxels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from napari_samseg.core.errors import InvalidLabelsError, LabelOverflowError
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.label_image import whole_numbers
from napari_samseg.core.io.nifti import TIME_UNITS, read_nifti, write_nifti
from napari_samseg.core.io.units import MILLIMETRES, SECONDS, UNKNOWN
from napari_samseg.core.io.voxel_space import VoxelSpace, arithmetic_step

__all__ = ["read_nifti_labels", "write_nifti_labels"]


def read_nifti_labels(path: Path, *, canonical: bool = False) -> InstanceLabels:
    """Read labels from a NIfTI file.

    Raises
    ------
    MissingFileError, InvalidImageError
        See `read_nifti`.
    InvalidLabelsError
        If the values are not whole, negative, or several for each voxel.
    """
    volume = read_nifti(path, canonical=canonical)
    if volume.channel_axis is not None:
        raise InvalidLabelsError(
            f"{path} has {volume.array.shape[0]} values for each voxel, and labels one"
        )
    labels = whole_numbers(volume.array, path)
    return InstanceLabels(
        labels,
        **volume.steps,
        notes=(f"{path.name}: {volume.space}", *volume.notes),
        space=volume.space,
    )


def write_nifti_labels(path: Path, instances: InstanceLabels) -> None:
    """Write labels as NIfTI, in the smallest unsigned integers that hold their ids.

    Planes that were cut from a volume become the part of it in which they lie. Planes
    (T, Y, X) whose first axis has a unit of time become volumes (T, 1, Y, X) of one
    plane, for time is the fourth axis of the format.

    Raises
    ------
    InvalidLabelsError
        If the labels are no integers, an id is negative, planes are missing between
        those that were cut, or an axis of space has a unit that is no known length.
    LabelOverflowError
        If an id does not fit 32 bits.
    """
    labels = np.asarray(instances.labels[...])
    if labels.dtype.kind not in "biu":
        raise InvalidLabelsError(f"labels are integers, not {labels.dtype}")
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0:
        raise InvalidLabelsError(f"label ids from {low} up are no objects")
    if high > np.iinfo(np.uint32).max:
        raise LabelOverflowError(
            f"id {high} does not fit the 32 bits of {path.name}: write a .zarr, or "
            "relabel without gaps"
        )
    space, cut = instances.space, instances.cut
    scale = instances.scale or (1.0,) * labels.ndim
    units = instances.units or ("pixel",) * labels.ndim
    time_step = (1.0, "pixel")
    if labels.ndim in (3, 4) and units[0] in SECONDS:
        time_step = _in_time_units(scale[0], units[0])
    if labels.ndim == 3 and units[0] in SECONDS:
        labels = labels[:, np.newaxis]
        scale, units = (1.0, 1.0, *scale[1:]), ("pixel", "pixel", *units[1:])
    if space is None and instances.scale is not None:
        steps = _in_millimetres(scale[-3:], units[-3:], path)
        space = VoxelSpace.from_spacing((*(1.0,) * 3, *steps)[-3:])
    if cut is not None:
        step = arithmetic_step(cut.numbers)
        if step is None:
            raise InvalidLabelsError(
                "the planes that are kept do not follow each other at one distance, "
                f"and {path.name} is a volume: keep the empty planes as well"
            )
        labels = np.moveaxis(labels, 0, cut.axis)
        # without a space of the volume, the scale is that of the planes already
        if instances.space is not None:
            space = instances.space.cut(cut.axis, cut.numbers[0], step)
    write_nifti(
        path,
        labels.astype(np.min_scalar_type(high)),
        space,
        is_label=True,
        time_step=time_step,
    )


def _in_time_units(step: float, unit: str) -> tuple[float, str]:
    """Return a time in a unit that NIfTI has."""
    return (step, unit) if unit in TIME_UNITS else (step * SECONDS[unit], "second")


def _in_millimetres(
    scale: Sequence[float], units: Sequence[str], path: Path
) -> list[float]:
    """Return steps in millimetres.

    A pixel of unknown size is as large as the finest that is known, for the format has
    no word for it: 1 mm beside steps of micrometres would be a thousandfold too thick.
    """
    known = [
        step * _millimetres(unit, path)
        for step, unit in zip(scale, units, strict=True)
        if unit not in UNKNOWN
    ]
    pixel = min(map(abs, known), default=1.0)
    steps = zip(scale, units, strict=True)
    return [
        step * (pixel if unit in UNKNOWN else MILLIMETRES[unit]) for step, unit in steps
    ]


def _millimetres(unit: str, path: Path) -> float:
    """Return how many millimetres a unit is."""
    if unit not in MILLIMETRES:
        raise InvalidLabelsError(
            f"{path.name} has voxels in millimetres, and the labels have the unit "
            f"{unit!r}: give them a scale in one such as micrometer, or pixel; an axis "
            "of time stands in front"
        )
    return MILLIMETRES[unit]
