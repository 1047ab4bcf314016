"""Intensities of any kind become the 0..255 that a model sees."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidImageError
from napari_samseg.core.settings import ImageSettings
from napari_samseg.core.types import FloatArray

__all__ = [
    "IntensityLimits",
    "grid_step",
    "measure_limits",
    "normalise_plane",
    "stretch",
]

# Percentiles of more pixels than this are taken from an evenly spaced sample.
LIMIT_PIXELS = 1 << 21
# Of the pictures that SAM was trained on, the mean over red, green and blue of what
# `segment_anything` subtracts and divides by.
SAM_MEAN, SAM_DEVIATION = 114.495, 57.63

# (C, 2) float64: low and high of each channel
IntensityLimits = npt.NDArray[np.float64]


def normalise_plane(
    raw: npt.NDArray[Any],
    settings: ImageSettings | None = None,
    *,
    limits: IntensityLimits | None = None,
    rgb: bool = True,
) -> FloatArray:
    """Map the intensities of one plane to 0..255 and its channels to RGB.

    Parameters
    ----------
    raw : (Y, X) or (Y, X, C)
        One to three channels (a fourth, alpha, is dropped when `rgb`). One
        channel becomes grey; the third of two is black.
    settings : ImageSettings, optional
        How the limits are found when they are not given.
    limits : (C, 2) float64, optional
        Low and high of each channel, in the intensities of `raw`.
    rgb : bool
        The channels are colours of one picture, so they share their limits,
        which keeps the hue; independent channels get limits each.

    Returns
    -------
    (Y, X, 3) float32
        In 0..255, C-contiguous.
    """
    settings = ImageSettings() if settings is None else settings
    raw = raw[..., np.newaxis] if raw.ndim == 2 else raw
    if rgb and raw.shape[-1] == 4:
        raw = raw[..., :3]
    if not 1 <= raw.shape[-1] <= 3:
        raise InvalidImageError(
            f"a plane has one to three channels, got shape {raw.shape}"
        )
    if limits is None:
        limits = measure_limits(raw, settings, joint=rgb)
    plane = np.zeros((*raw.shape[:2], 3), np.float32)
    if raw.shape[-1] == 1:
        ((low, high),) = limits
        grey = stretch(raw, float(low), float(high))
        plane[...] = grey if settings.colour_map == "grey" else _colours(grey, settings)
        return plane
    for channel, (low, high) in enumerate(limits):
        plane[..., channel] = stretch(raw[..., channel], float(low), float(high))
    return plane


def _colours(grey: FloatArray, settings: ImageSettings) -> npt.NDArray[np.float32]:
    """Return grey values (Y, X, 1) in 0..255 as colours of a map, (Y, X, 3)."""
    # seldom asked for, and not quick to import
    from cmap import Colormap

    steps = np.linspace(0, 1, 256)
    table = 255 * Colormap(settings.colour_map)(steps)[:, :3]
    colours = [np.interp(grey[..., 0], 255 * steps, table[:, i]) for i in range(3)]
    return np.stack(colours, axis=-1).astype(np.float32)


def measure_limits(
    raw: npt.NDArray[Any], settings: ImageSettings, *, joint: bool = True
) -> IntensityLimits:
    """Find the intensities that become 0 and 255.

    Of more than two million pixels an evenly spaced sample is used. Values that
    are not finite are left out.

    Parameters
    ----------
    raw : (Y, X, C)
    settings : ImageSettings
    joint : bool
        One pair of limits for all channels.

    Returns
    -------
    (C, 2) float64
        Low and high of each channel; equal where it is constant or has no
        finite value.
    """
    n_channels = raw.shape[-1]
    if settings.normalisation == "none":
        return np.tile(_full_range(raw.dtype), (n_channels, 1))
    if raw.dtype == bool:
        return np.tile([0.0, 1.0], (n_channels, 1))
    sample = raw if settings.normalisation == "minmax" else _thin(raw)
    if joint:
        return np.tile(_limits_of(sample, settings), (n_channels, 1))
    return np.stack([_limits_of(sample[..., c], settings) for c in range(n_channels)])


def _limits_of(values: npt.NDArray[Any], settings: ImageSettings) -> Any:
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size == 0:
        return np.zeros(2)
    if settings.normalisation == "minmax":
        return np.array([values.min(), values.max()], np.float64)
    if settings.normalisation == "standard":
        mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
        ends = (np.array([0.0, 255.0]) - SAM_MEAN) / SAM_DEVIATION
        return mean + deviation * ends
    limits = np.percentile(values, [settings.low, settings.high]).astype(np.float64)
    if limits[0] == limits[1]:
        # a few bright spots on an even background: percentiles see only that
        return np.array([values.min(), values.max()], np.float64)
    return limits


def _full_range(dtype: np.dtype[Any]) -> npt.NDArray[np.float64]:
    # floats are taken as 0..1, as napari and matplotlib do for RGB images
    return np.array([0.0, 1.0 if dtype.kind in "fb" else 255.0])


def stretch(values: npt.NDArray[Any], low: float, high: float) -> FloatArray:
    """Map `low`..`high` to 0..255 float32, clipped.

    What is not finite goes to an end, and NaN to the lower one.
    """
    if not high > low:
        return np.zeros(values.shape, np.float32)
    # wide integers and doubles lose their differences in float32, and extreme
    # ranges leave it
    narrow = values.dtype.itemsize <= 2 or values.dtype == np.float32
    wide = not narrow or not 1e-30 < high - low < 1e30
    work: npt.NDArray[Any]
    work = values.astype(np.float64 if wide else np.float32)
    if work.dtype.kind == values.dtype.kind:
        work = np.nan_to_num(work, copy=False, nan=low, posinf=high, neginf=low)
    work -= low
    work *= 255.0 / (high - low)
    stretched: FloatArray = np.clip(work, 0.0, 255.0).astype(np.float32, copy=False)
    return stretched


def _thin(raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an even grid of at most `LIMIT_PIXELS` pixels of a plane."""
    step = grid_step(raw.shape[:2], share=1)
    return raw[::step, ::step]


def grid_step(plane_size: tuple[int, ...], share: int) -> int:
    """Step of an even grid of pixels, on which percentiles are taken.

    `share` planes together have at most about two million of its pixels.
    """
    return max(1, math.ceil(math.sqrt(math.prod(plane_size) * share / LIMIT_PIXELS)))
