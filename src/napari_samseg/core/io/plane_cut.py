"""Planes of a volume of labels: which of them, and across which axis."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.io.instance_labels import InstanceLabels, PlaneCut
from napari_samseg.core.io.voxel_space import STORED

if TYPE_CHECKING:
    from napari_samseg.core.settings import ConvertSettings

__all__ = ["cut_planes", "read_slice"]

T = TypeVar("T")


def cut_planes(found: InstanceLabels, settings: ConvertSettings) -> InstanceLabels:
    """Choose planes of a volume, and put the axis across them first.

    Parameters
    ----------
    found : InstanceLabels
    settings : ConvertSettings
        Of which ``axis``, ``slices`` and ``drop_empty`` count. With the defaults the
        labels stay as they are, whatever their axes.

    Returns
    -------
    InstanceLabels
        With the planes that are left, and their positions in the volume as ``cut``.

    Raises
    ------
    InvalidLabelsError
        If the labels are no volume, or no plane is left.
    InvalidImageError
        If the axis is one of the patient and the orientation is unknown.
    SettingsError
        If the slices are no range, such as ``10:100:2``.
    """
    chosen = read_slice(settings.slices)
    if settings.axis == "z" and not settings.drop_empty and chosen == slice(None):
        return found
    if len(found.shape) != 3:
        raise InvalidLabelsError(
            f"planes are chosen of a volume (Z, Y, X), not of labels of shape "
            f"{found.shape}"
        )
    axis = _axis_of(found, settings.axis)
    numbers = np.arange(found.shape[axis])[chosen]
    key = (*(slice(None),) * axis, chosen)
    planes = np.moveaxis(np.asarray(found.labels[key]), axis, 0)
    notes = list(found.notes)
    if settings.drop_empty:
        is_kept = planes.any(axis=(1, 2))
        planes, n_all = planes[is_kept], len(numbers)
        numbers = numbers[is_kept]
        notes.append(
            f"{n_all - len(numbers)} of {count_things(n_all, 'plane')} empty: left out"
        )
    if not len(numbers):
        raise InvalidLabelsError(
            f"no plane is left of {found.shape[axis]} across {settings.axis}"
            + (" that is not empty" if settings.drop_empty else "")
        )
    step = chosen.step or 1
    scale = _first(found.scale or (1.0,) * 3, axis)
    return dataclasses.replace(
        found,
        labels=np.ascontiguousarray(planes),
        scale=None if found.scale is None else (scale[0] * step, *scale[1:]),
        translation=_start(found, axis, int(numbers[0])),
        units=None if found.units is None else _first(found.units, axis),
        notes=tuple(notes),
        cut=PlaneCut(axis, tuple(numbers.tolist()), found.shape[axis]),
    )


def read_slice(text: str) -> slice:
    """Read a range as Python writes it: ``10:100:2``, ``:50``, ``7``; all if empty.

    Raises
    ------
    SettingsError
        If it is something else, or does not run upwards.
    """
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) == 1 and parts[0] is not None:
        parts = [parts[0], parts[0] + 1 or None]
    step = parts[2] if len(parts) == 3 else None
    if not 1 <= len(parts) <= 3 or (step is not None and step < 1):
        raise SettingsError(
            f"planes are a range from:to:step, such as 10:100:2, not {text!r}"
        )
    start, stop = (*parts, None)[:2]
    return slice(start, stop, step)


def _axis_of(found: InstanceLabels, name: str) -> int:
    if found.space is not None:
        return found.space.plane_axis(name)
    if name in STORED:
        return STORED[name]
    raise InvalidLabelsError(
        f"nothing says which planes are {name}: name the image with --like, or choose "
        "z, y or x"
    )


def _start(found: InstanceLabels, axis: int, number: int) -> tuple[float, ...] | None:
    """Return where the first pixel of the first plane lies, the axis across first."""
    if found.translation is None:
        return None
    first, *others = _first(found.translation, axis)
    step = 1.0 if found.scale is None else found.scale[axis]
    return (first + number * step, *others)


def _first(values: tuple[T, ...], axis: int) -> tuple[T, ...]:
    return (values[axis], *values[:axis], *values[axis + 1 :])
