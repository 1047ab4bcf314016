"""How far apart the surfaces of masks are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.types import BoolArray

__all__ = ["hausdorff_distance"]


def hausdorff_distance(
    found: BoolArray,
    true: BoolArray,
    *,
    spacing: Sequence[float] | None = None,
    percentile: float = 95.0,
) -> float:
    """Hausdorff distance of two masks, of a percentile: HD95.

    For each pixel on the surface of one mask, the distance to the nearest on the
    surface of the other; of those distances the percentile, and of both directions the
    larger. A surface pixel is one that touches what is not mask with an edge (a face in
    a volume), the border of the image included; as MONAI has it.

    Parameters
    ----------
    found, true : (Y, X) or (Z, Y, X) bool
    spacing : floats, optional
        Size of a pixel along each axis; 1 if left out.
    percentile : float in 0..100
        100 is the Hausdorff distance itself.

    Returns
    -------
    float
        In units of `spacing`. 0 if both masks are empty; the diagonal of the image if
        one is, as nothing in it can be further away.

    Raises
    ------
    InvalidLabelsError
        If the shapes differ.
    SettingsError
        If the spacing is not one positive number for each axis.
    """
    if found.shape != true.shape:
        raise InvalidLabelsError(
            f"masks of one image have one shape, got {found.shape} and {true.shape}"
        )
    steps = (1.0,) * true.ndim if spacing is None else tuple(float(s) for s in spacing)
    if len(steps) != true.ndim or not all(0 < s < math.inf for s in steps):
        raise SettingsError(
            f"the size of a pixel is one positive number for each of {true.ndim} axes, "
            f"not {steps}"
        )
    if not found.any() or not true.any():
        if found.any() == true.any():
            return 0.0
        sides = (n * step for n, step in zip(true.shape, steps, strict=True))
        return math.hypot(*sides)
    (box,) = ndimage.find_objects((found | true).view(np.uint8))
    surfaces = _surface(found[box]), _surface(true[box])
    return max(
        _directed(*surfaces, steps, percentile),
        _directed(*surfaces[::-1], steps, percentile),
    )


def _surface(mask: BoolArray) -> BoolArray:
    # beyond a box around both masks there is no mask
    return np.asarray(mask & ~ndimage.binary_erosion(mask))


def _directed(
    start: BoolArray, end: BoolArray, steps: tuple[float, ...], percentile: float
) -> float:
    from edt import edt

    away: npt.NDArray[np.float32] = edt(
        np.ascontiguousarray(~end), anisotropy=steps, black_border=False
    )
    return float(np.percentile(away[start], percentile))
