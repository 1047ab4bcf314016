"""How features lie on disk: half, full, or eight bits per value."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import CacheError
from napari_samseg.core.types import FloatArray

__all__ = ["pack_features", "unpack_features"]

LEVELS = 255
# What is smaller rounds to a finite number.
TOO_LARGE = {"float16": 65520.0, "float32": np.inf}


def pack_features(
    features: FloatArray, storage: str
) -> tuple[npt.NDArray[Any], FloatArray | None]:
    """Bring features into the form in which they are stored.

    Parameters
    ----------
    features : (C, h, w) float
    storage : str
        ``float16``, ``float32``, or ``uint8``: 255 even steps between the lowest
        and the highest value of each channel, an error of at most 0.2 % of that
        range.

    Returns
    -------
    stored : (C, h, w)
    ranges : (C, 2) float32 or None
        Low and high of each channel, where they are needed to get back.

    Raises
    ------
    CacheError
        If a value does not fit.
    """
    if storage != "uint8":
        # before, as numpy takes long over half floats; NaN is not less either
        if not np.abs(features).max(initial=0) < TOO_LARGE[storage]:
            raise CacheError(
                f"these features do not fit {storage}: choose float32 storage"
            )
        return features.astype(storage), None
    low = features.min(axis=(1, 2))
    high = features.max(axis=(1, 2))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise CacheError("these features are not finite: the encoder failed")
    ranges = np.stack([low, high], axis=1).astype(np.float32)
    span = np.where(high > low, high - low, 1)[:, None, None]
    stored = np.rint((features - low[:, None, None]) / span * LEVELS)
    return stored.astype(np.uint8), ranges


def unpack_features(
    stored: npt.NDArray[Any], ranges: FloatArray | None
) -> npt.NDArray[np.float32]:
    """Return (C, h, w) float32 from what `pack_features` made."""
    if ranges is None:
        return stored.astype(np.float32)
    low, high = ranges[:, 0, None, None], ranges[:, 1, None, None]
    return np.asarray(stored * ((high - low) / LEVELS) + low, np.float32)
