"""Points and boxes have to lie in their plane."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidPromptError
from napari_samseg.core.types import BoolArray, FloatArray

__all__ = ["check_inside", "clip_box", "describe_size", "is_inside"]


def clip_box(
    box: npt.NDArray[Any], plane_size: tuple[int, int], name: str
) -> FloatArray:
    """Return the part of a half-open box that lies in a plane, (4,) float32.

    Raises
    ------
    InvalidPromptError
        If nothing of it does, it is empty, or a value is not finite.
    """
    if not np.isfinite(box).all():
        raise InvalidPromptError(f"{name} has a coordinate that is not finite")
    if (box[2:] <= box[:2]).any():
        raise InvalidPromptError(
            f"{name} {_coordinates(box)} is empty: y0 < y1 and x0 < x1 are needed"
        )
    limits = np.array([*plane_size, *plane_size], np.float64)
    clipped = np.clip(box, 0, limits)
    if (clipped[2:] <= clipped[:2]).any():
        raise InvalidPromptError(
            f"{name} {_coordinates(box)} lies outside the plane of "
            f"{describe_size(plane_size)} pixels"
        )
    result: FloatArray = clipped.astype(np.float32)
    return result


def check_inside(points: npt.NDArray[Any], plane_size: tuple[int, ...]) -> None:
    """Raise `InvalidPromptError` for the first point (N, 2) outside a plane."""
    for i in np.flatnonzero(~is_inside(points, plane_size)):
        raise InvalidPromptError(
            f"point {i} {_coordinates(points[i])} lies outside the plane of "
            f"{describe_size(plane_size)} pixels"
        )


def is_inside(points: npt.NDArray[Any], plane_size: tuple[int, ...]) -> BoolArray:
    """Tell which points (..., 2) lie on pixels of a plane."""
    # a pixel reaches half a pixel beyond its centre; NaN compares false
    limits = np.asarray(plane_size) - 0.5
    return np.asarray(((points >= -0.5) & (points <= limits)).all(axis=-1), bool)


def _coordinates(values: npt.NDArray[Any]) -> str:
    names = ("y", "x") if len(values) == 2 else ("y0", "x0", "y1", "x1")
    pairs = (f"{name}={float(v):g}" for name, v in zip(names, values, strict=True))
    return f"({', '.join(pairs)})"


def describe_size(plane_size: tuple[int, ...]) -> str:
    """Return the size of a plane for messages, ``512 x 640``."""
    return " x ".join(str(side) for side in plane_size)
