"""A plane of an image as a model sees it: whole, a tile of it, or averaged down.

The only place that turns pixels into (Y, X, 3) float32 in 0..255. All parts of a
plane share its contrast limits, which are measured once, together with the digest
of its pixels. A plane too large to be held is read in bands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from napari_samseg.core.contrast import (
    IntensityLimits,
    grid_step,
    measure_limits,
    normalise_plane,
    stretch,
)
from napari_samseg.core.geometry import Box
from napari_samseg.core.images import (
    BAND_VALUES,
    PlaneSource,
    chosen_channels,
    read_bands,
    read_raw,
    thin_band,
)
from napari_samseg.core.settings import ImageSettings
from napari_samseg.core.types import FloatArray

__all__ = [
    "MODEL_PIXELS",
    "MeasuredPlane",
    "describe_preprocessing",
    "digest_plane",
    "measure_plane",
    "read_plane",
]

# More than this a model need not get: it makes 1024 x 1024 of a plane at most.
MODEL_PIXELS = 1 << 22
# A plane of no more values stays in memory between its tiles.
HELD_VALUES = 1 << 25


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredPlane:
    """A plane whose pixels are known by digest and whose contrast is settled.

    Attributes
    ----------
    source : PlaneSource
    index : tuple of int
        Position along each axis that is neither in the plane nor the channels.
    settings : ImageSettings
    plane_axes : (int, int)
        The axes, channels not counted, that are rows and columns.
    limits : (C, 2) float64
        Intensities of each channel that become 0 and 255.
    digest : str
        Hash of shape, data type and pixels of the chosen channels (xxh3, 128
        bits).
    held : (Y, X, C) or None
        The pixels, unless they are too many.
    """

    source: PlaneSource
    index: tuple[int, ...]
    settings: ImageSettings
    plane_axes: tuple[int, int]
    limits: IntensityLimits
    digest: str
    held: npt.NDArray[Any] | None

    @property
    def size(self) -> tuple[int, int]:
        """(Y, X) in pixels."""
        return self.source.plane_size(self.settings.level, self.plane_axes)

    def read(self, box: Box | None = None, max_pixels: int | None = None) -> FloatArray:
        """Read a part of the plane as a model sees it.

        Parameters
        ----------
        box : (y0, x0, y1, x1), optional
            Half-open, in pixels; the whole plane if not given.
        max_pixels : int, optional
            A part of more pixels is averaged down to about this many;
            `MODEL_PIXELS` are enough for every model.

        Returns
        -------
        (y, x, 3) float32
            In 0..255. NaN becomes 0, infinities become 0 or 255, and a constant
            plane becomes 0 (unless the contrast is "none").
        """
        box = (0, 0, *self.size) if box is None else box
        y0, x0, y1, x1 = box
        height, width = y1 - y0, x1 - x0
        if max_pixels is not None and height * width > max_pixels:
            scale = math.sqrt(max_pixels / (height * width))
            size = max(1, round(height * scale)), max(1, round(width * scale))
            return self._averaged(box, size)
        raw = self._pixels(slice(y0, y1), slice(x0, x1))
        return normalise_plane(
            raw, self.settings, limits=self.limits, rgb=self.source.rgb
        )

    def _pixels(self, rows: slice, columns: slice) -> npt.NDArray[Any]:
        if self.held is not None:
            return self.held[rows, columns]
        return read_raw(
            self.source, self.index, self.settings, self.plane_axes, rows, columns
        )

    def _averaged(self, box: Box, size: tuple[int, int]) -> FloatArray:
        """Read a part as means of its blocks, `size` of them."""
        # blocks of whole pixels, not all of the same size, which end where it does
        tops, lefts = (
            start + (np.arange(n + 1) * (stop - start) + n // 2) // n
            for n, start, stop in zip(size, box[:2], box[2:], strict=True)
        )
        columns = slice(box[1], box[3])
        widths = np.diff(lefts)
        plane = np.empty((*size, 3), np.float32)
        step = max(1, BAND_VALUES // widths.sum() * size[0] // (box[2] - box[0]))
        for start in range(0, size[0], step):
            stop = min(start + step, size[0])
            raw = self._pixels(slice(int(tops[start]), int(tops[stop])), columns)
            block_tops = tops[start:stop] - tops[start]
            areas = np.diff(tops[start : stop + 1])[:, np.newaxis] * widths
            block = plane[start:stop]
            block[...] = 0
            for channel, (low, high) in enumerate(self.limits):
                values = stretch(raw[..., channel], float(low), float(high))
                sums = np.add.reduceat(values, lefts[:-1] - lefts[0], axis=1)
                block[..., channel] = np.add.reduceat(sums, block_tops, axis=0) / areas
            if raw.shape[-1] == 1:
                block[..., 1:] = block[..., :1]
        return plane


def measure_plane(
    source: PlaneSource,
    index: tuple[int, ...] = (),
    settings: ImageSettings | None = None,
    *,
    plane_axes: tuple[int, int] = (-2, -1),
) -> MeasuredPlane:
    """Read a plane through once, for the hash of its pixels and its contrast.

    Parameters
    ----------
    source : PlaneSource
        See `napari_samseg.core.images.open_image`.
    index : tuple of int
        Position along each axis that is neither in the plane nor the channels.
    settings : ImageSettings, optional
        Channels, resolution level and contrast.
    plane_axes : (int, int)
        The axes, channels not counted, that become rows and columns.

    Raises
    ------
    InvalidImageError
        If the index, an axis, a channel or the level is not in the image.
    """
    settings = ImageSettings() if settings is None else settings
    channels = chosen_channels(source, settings)
    limits = None
    if settings.scope == "volume" and settings.normalisation != "none":
        limits = source.volume_limits(settings, plane_axes)
    size = source.plane_size(settings.level, plane_axes)
    grid = grid_step(size, share=1)
    is_held = math.prod(size) * len(channels) <= HELD_VALUES
    held = read_raw(source, index, settings, plane_axes) if is_held else None
    if held is not None and isinstance(source.levels[settings.level], np.ndarray):
        # a view: what is written into the image now must not get into later tiles
        held = held.copy()
    bands = (
        read_bands(source, index, settings, plane_axes, grid)
        if held is None
        else iter([held])
    )
    digest, samples = None, []
    for band in bands:
        # the same pixels in another order of bytes are the same pixels
        native = band.astype(band.dtype.newbyteorder("<"), copy=False)
        if digest is None:
            text = f"{size} {len(channels)} {native.dtype.str}"
            digest = xxhash.xxh3_128(text.encode())
        digest.update(np.ascontiguousarray(native).data)
        if limits is None:
            samples.append(thin_band(band, grid, settings))
    if limits is None:
        sample = samples[0] if len(samples) == 1 else np.concatenate(samples)
        limits = measure_limits(sample, settings, joint=source.rgb)
    assert digest is not None  # a plane has at least one band
    return MeasuredPlane(
        source, index, settings, plane_axes, limits, digest.hexdigest(), held
    )


def digest_plane(
    source: PlaneSource,
    index: tuple[int, ...],
    settings: ImageSettings,
    plane_axes: tuple[int, int] = (-2, -1),
) -> str | None:
    """Return the digest of a plane (`MeasuredPlane.digest`), None if it is unreadable.

    To look for an image by its pixels: what is wrong with it is told when it is read.
    """
    try:
        return measure_plane(source, index, settings, plane_axes=plane_axes).digest
    except MemoryError:
        raise
    # whatever the library of a file format raises
    except Exception:  # noqa: BLE001
        return None


def read_plane(
    source: PlaneSource,
    index: tuple[int, ...] = (),
    settings: ImageSettings | None = None,
    *,
    plane_axes: tuple[int, int] = (-2, -1),
    max_pixels: int | None = None,
) -> FloatArray:
    """Read one plane as a model sees it, (Y, X, 3) float32 in 0..255.

    See `measure_plane` and `MeasuredPlane.read` for the parameters and errors.
    """
    plane = measure_plane(source, index, settings, plane_axes=plane_axes)
    return plane.read(max_pixels=max_pixels)


def describe_preprocessing(
    source: PlaneSource,
    settings: ImageSettings,
    plane_axes: tuple[int, int] = (-2, -1),
) -> tuple[tuple[str, str | int | float | None], ...]:
    """Return by name all that decides how pixels become what a model sees.

    With the limits of the contrast where they are those of the whole volume; where
    they are each plane's own they follow from its pixels. Two images whose planes
    have the same digest and the same description look the same to a model.
    """
    described: list[tuple[str, str | int | float | None]] = [
        ("level", settings.level),
        ("axes", _numbers(axis % source.ndim for axis in plane_axes)),
        ("channel axis", source.channel_axis),
        ("channels", _numbers(chosen_channels(source, settings))),
        ("colour", "rgb" if source.rgb else "channels"),
        ("normalisation", settings.normalisation),
    ]
    if settings.colour_map != "grey":
        described.append(("colour map", settings.colour_map))
    if settings.normalisation == "percentile":
        described += [("low", settings.low), ("high", settings.high)]
    if settings.normalisation != "none" and settings.scope == "volume":
        limits = source.volume_limits(settings, plane_axes)
        described.append(("limits", _numbers(limits.ravel().tolist())))
    return tuple(described)


def _numbers(values: Any) -> str:
    return ", ".join(repr(value) for value in values)
