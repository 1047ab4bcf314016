"""Where the pixels of label files lie, as far as the files say so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_samseg.core.io.nifti import is_nifti, read_nifti_space
from napari_samseg.core.io.pixel_size import read_pixel_steps
from napari_samseg.core.io.units import MILLIMETRES, SECONDS, UNKNOWN

__all__ = [
    "axes_without_size",
    "image_steps",
    "read_placement",
    "relative_spacing",
]


def read_placement(path: Path, n_axes: int) -> dict[str, Any]:
    """Return where the pixels of a file lie.

    Parameters
    ----------
    path : Path
        See `napari_samseg.core.io.pixel_size.read_pixel_steps`.
    n_axes : int
        Of the labels (..., Y, X) in it.

    Returns
    -------
    dict
        ``scale``, ``units``, ``translation`` and ``space`` of
        `napari_samseg.core.io.instance_labels.InstanceLabels`, as far as it says so.
    """
    if is_nifti(path) and path.is_file():
        space = read_nifti_space(path)
        return {"space": space, **space.steps(n_axes)}
    return {key: v for key, v in read_pixel_steps(path).items() if len(v) == n_axes}


def relative_spacing(placement: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Return the size of a pixel along each axis, 1 along the finest.

    So distances count in pixels of the finest axis, whatever the unit.

    Returns
    -------
    tuple of float or None
        None where all are equal, an axis is none of space, or one has a length and
        another has not.
    """
    scale = placement.get("scale")
    units = ["" if unit in UNKNOWN else unit for unit in placement.get("units") or ()]
    if scale is None or any(unit in SECONDS for unit in units):
        return None
    is_one = len(set(units)) < 2
    # a pixel of unknown size is no millimetre
    if not is_one and any(unit not in MILLIMETRES for unit in units):
        return None
    factors = 1.0 if is_one else np.array([MILLIMETRES[unit] for unit in units])
    sizes = np.abs(scale) * factors
    if not sizes.min() or np.allclose(sizes, sizes.min(), rtol=1e-3):
        return None
    return tuple((sizes / sizes.min()).tolist())


def axes_without_size(placement: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the axes of which nothing is known, where something is of others.

    Those of TIFF stacks that hold the size of a pixel and not the distance of planes.
    """
    units = ["" if unit in UNKNOWN else unit for unit in placement.get("units") or ()]
    if any(unit in SECONDS for unit in units):
        return ()
    unknown = tuple(axis for axis, unit in enumerate(units) if not unit)
    return unknown if len(unknown) < len(units) else ()


def image_steps(path: Path, channel_axis: int | None = None) -> dict[str, Any]:
    """Return where the pixels of an image lie, without its channels.

    Returns
    -------
    dict
        See `napari_samseg.core.io.pixel_size.read_pixel_steps`.
    """
    steps = read_pixel_steps(path)
    if channel_axis is None:
        return steps
    return {k: v[:channel_axis] + v[channel_axis + 1 :] for k, v in steps.items()}
