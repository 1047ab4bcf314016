"""Planes of any image: numpy, dask, zarr, multiscale; any dtype, axes and channels.

The only place that turns pixels into what a model sees: (Y, X, 3) float32 in
0..255. Nothing here loads more than one plane, except for the sample from which
the contrast of a whole volume is taken, which is bounded. A plane larger than asked
for is read in bands and averaged down on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidImageError
from napari_samseg.core.settings import ImageSettings
from napari_samseg.core.types import FloatArray

__all__ = [
    "MODEL_PIXELS",
    "ArrayLike",
    "IntensityLimits",
    "PlaneSource",
    "measure_limits",
    "normalise_plane",
    "open_image",
    "read_plane",
]

# Percentiles of more pixels than this are taken from an evenly spaced sample.
LIMIT_PIXELS = 1 << 21
# More than this a model need not get: it makes 1024 x 1024 of a plane at most.
MODEL_PIXELS = 1 << 24
# Values read at once of a plane that is averaged down.
BAND_VALUES = 1 << 24
# Planes looked at for the contrast of a volume.
LIMIT_PLANES = 16

# (C, 2) float64: low and high of each channel
IntensityLimits = npt.NDArray[np.float64]


class ArrayLike(Protocol):
    """What numpy, dask and zarr arrays have in common."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def dtype(self) -> Any: ...  # noqa: D102

    def __getitem__(self, key: Any, /) -> Any: ...


class PlaneSource:
    """An image from which planes are read one at a time.

    Attributes
    ----------
    levels : tuple of array-like
        Resolution levels, finest first; one for an ordinary image.
    channel_axis : int or None
        Axis of the channels, counted from the front.
    rgb : bool
        The channels are red, green, blue (and alpha, which is ignored).
    """

    def __init__(
        self, levels: Sequence[ArrayLike], *, channel_axis: int | None, rgb: bool
    ) -> None:
        self.levels = tuple(levels)
        self.channel_axis = channel_axis
        self.rgb = rgb
        self._volume_limits: dict[object, IntensityLimits] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the finest level without the channel axis, in pixels."""
        return self.level_shape(0)

    @property
    def ndim(self) -> int:
        """Number of axes without the channel axis."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the pixels."""
        dtype: np.dtype[Any] = np.dtype(self.levels[0].dtype)
        return dtype

    @property
    def n_channels(self) -> int:
        """Number of channels that can be chosen; 1 without a channel axis."""
        if self.channel_axis is None:
            return 1
        return 3 if self.rgb else self.levels[0].shape[self.channel_axis]

    def level_shape(self, level: int) -> tuple[int, ...]:
        """Shape of one level without the channel axis, in its own pixels."""
        shape = tuple(int(n) for n in self.levels[level].shape)
        if self.channel_axis is None:
            return shape
        return shape[: self.channel_axis] + shape[self.channel_axis + 1 :]

    def plane_size(
        self, level: int = 0, plane_axes: tuple[int, int] = (-2, -1)
    ) -> tuple[int, int]:
        """(Y, X) of the planes of a level, in its own pixels."""
        shape, (rows, columns) = self.level_shape(level), _axes(self, plane_axes)
        return shape[rows], shape[columns]

    def volume_limits(
        self, settings: ImageSettings, plane_axes: tuple[int, int] = (-2, -1)
    ) -> IntensityLimits:
        """Contrast limits of the whole volume, from a bounded sample, kept.

        Up to 16 planes spread evenly over the other axes are read, and of each
        an even grid of pixels.

        Returns
        -------
        (C, 2) float64
            Low and high of each chosen channel, in the image's intensities.
        """
        key = (settings, plane_axes)
        if key not in self._volume_limits:
            samples = [
                _sample_plane(self, index, settings, plane_axes, LIMIT_PLANES)
                for index in self._sample_indices(settings.level, plane_axes)
            ]
            flat = [sample.reshape(-1, sample.shape[-1]) for sample in samples]
            stacked = np.concatenate(flat)[:, np.newaxis]
            self._volume_limits[key] = measure_limits(stacked, settings, joint=self.rgb)
        return self._volume_limits[key]

    def _sample_indices(
        self, level: int, plane_axes: tuple[int, int]
    ) -> list[tuple[int, ...]]:
        shape = self.level_shape(level)
        in_plane = _axes(self, plane_axes)
        lead = [n for axis, n in enumerate(shape) if axis not in in_plane]
        if not lead:
            return [()]
        total = math.prod(lead)
        flat = {round(i) for i in np.linspace(0, total - 1, min(total, LIMIT_PLANES))}
        return [tuple(int(i) for i in np.unravel_index(k, lead)) for k in sorted(flat)]


def open_image(
    data: Any, *, rgb: bool | None = None, channel_axis: int | None = None
) -> PlaneSource:
    """Open any array-like as a source of planes; nothing is read yet.

    Parameters
    ----------
    data : array-like, or sequence of array-likes
        (..., Y, X) of bool, integer or real values, with a channel axis
        anywhere; a sequence is a multiscale image, finest level first.
    rgb : bool, optional
        The last axis holds RGB or RGBA. Found out when not given: a last axis
        of 3 or 4 after two larger ones, unless `channel_axis` is given.
    channel_axis : int, optional
        Axis that holds independent channels.

    Raises
    ------
    InvalidImageError
        If there are fewer than two axes besides the channels, the image is
        empty, or its values are not real numbers.
    """
    levels = list(data) if _is_multiscale(data) else [_as_array(data)]
    shape = tuple(levels[0].shape)
    _check_array(levels[0], shape)
    if channel_axis is None:
        if rgb or (rgb is None and _looks_rgb(shape)):
            if shape[-1] not in (3, 4):
                raise InvalidImageError(
                    f"an RGB image needs a last axis of 3 or 4, got shape {shape}"
                )
            return _source(levels, len(shape) - 1, rgb=True)
        return _source(levels, None, rgb=False)
    if rgb:
        raise InvalidImageError("give either rgb=True or a channel_axis, not both")
    if not -len(shape) <= channel_axis < len(shape):
        raise InvalidImageError(
            f"channel_axis {channel_axis} is not an axis of an image of shape {shape}"
        )
    return _source(levels, channel_axis % len(shape), rgb=False)


def read_plane(
    source: PlaneSource,
    index: tuple[int, ...] = (),
    settings: ImageSettings | None = None,
    *,
    plane_axes: tuple[int, int] = (-2, -1),
    max_pixels: int | None = None,
) -> FloatArray:
    """Read one plane as a model sees it.

    Parameters
    ----------
    source : PlaneSource
        See `open_image`.
    index : tuple of int
        Position along each axis that is neither in the plane nor the channels.
    settings : ImageSettings, optional
        Channels, resolution level and contrast.
    plane_axes : (int, int)
        The axes, channels not counted, that become rows and columns.
    max_pixels : int, optional
        A plane of more pixels is averaged down to about this many, reading a band
        at a time; `MODEL_PIXELS` are enough for every model.

    Returns
    -------
    (Y, X, 3) float32
        In 0..255. NaN becomes 0, infinities become 0 or 255, and a constant
        plane becomes 0 (unless the contrast is "none").

    Raises
    ------
    InvalidImageError
        If the index, an axis, a channel or the level is not in the image.
    """
    settings = ImageSettings() if settings is None else settings
    _check_level(source, settings)
    is_volume = settings.scope == "volume" and settings.normalisation != "none"
    limits = source.volume_limits(settings, plane_axes) if is_volume else None
    y, x = source.plane_size(settings.level, plane_axes)
    if max_pixels is not None and y * x > max_pixels:
        if limits is None:
            sample = _sample_plane(source, index, settings, plane_axes)
            limits = measure_limits(sample, settings, joint=source.rgb)
        scale = math.sqrt(max_pixels / (y * x))
        size = max(1, round(y * scale)), max(1, round(x * scale))
        return _read_averaged(source, index, settings, plane_axes, limits, size)
    raw = _read_raw(source, index, settings, plane_axes)
    return normalise_plane(raw, settings, limits=limits, rgb=source.rgb)


def _read_averaged(
    source: PlaneSource,
    index: tuple[int, ...],
    settings: ImageSettings,
    plane_axes: tuple[int, int],
    limits: IntensityLimits,
    size: tuple[int, int],
) -> FloatArray:
    """Read a plane as means of its blocks, `size` of them, as a model sees it."""
    length, width = source.plane_size(settings.level, plane_axes)
    # blocks of whole pixels, not all of the same size, which end where the plane does
    tops, lefts = (
        (np.arange(n + 1) * whole + n // 2) // n
        for n, whole in zip(size, (length, width), strict=True)
    )
    plane = np.empty((*size, 3), np.float32)
    step = max(1, BAND_VALUES // width * size[0] // length)
    for start in range(0, size[0], step):
        stop = min(start + step, size[0])
        rows = slice(int(tops[start]), int(tops[stop]))
        raw = _read_raw(source, index, settings, plane_axes, rows)
        block_tops = tops[start:stop] - tops[start]
        areas = np.diff(tops[start : stop + 1])[:, np.newaxis] * np.diff(lefts)
        block = plane[start:stop]
        block[...] = 0
        for channel, (low, high) in enumerate(limits):
            values = _stretch(raw[..., channel], float(low), float(high))
            sums = np.add.reduceat(values, lefts[:-1], axis=1)
            block[..., channel] = np.add.reduceat(sums, block_tops, axis=0) / areas
        if raw.shape[-1] == 1:
            block[..., 1:] = block[..., :1]
    return plane


def _sample_plane(
    source: PlaneSource,
    index: tuple[int, ...],
    settings: ImageSettings,
    plane_axes: tuple[int, int],
    share: int = 1,
) -> npt.NDArray[Any]:
    """Read what limits are measured on, (y, x, C), holding a band at a time.

    An even grid of pixels, or for ``minmax`` the extremes of each band.
    """
    length, width = source.plane_size(settings.level, plane_axes)
    grid = _grid_step((length, width), share)
    height = max(grid, BAND_VALUES // width // grid * grid)
    parts: list[npt.NDArray[Any]] = []
    for top in range(0, length, height):
        rows = slice(top, min(top + height, length))
        raw = _read_raw(source, index, settings, plane_axes, rows)
        if settings.normalisation == "minmax" and share == 1:
            parts.extend(_extremes(raw))
        else:
            parts.append(raw[::grid, ::grid].copy())
    return np.concatenate(parts)


def _extremes(raw: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield the smallest and the largest finite values as planes (1, 1, C)."""
    is_float = raw.dtype.kind == "f"
    for reduce, start in ((np.min, np.inf), (np.max, -np.inf)):
        finite = {"initial": start, "where": np.isfinite(raw)} if is_float else {}
        yield reduce(raw, axis=(0, 1), keepdims=True, **finite).astype(raw.dtype)


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
    for channel, (low, high) in enumerate(limits):
        plane[..., channel] = _stretch(raw[..., channel], float(low), float(high))
    if raw.shape[-1] == 1:
        plane[..., 1:] = plane[..., :1]
    return plane


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
    sample = _thin(raw) if settings.normalisation == "percentile" else raw
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
    limits = np.percentile(values, [settings.low, settings.high]).astype(np.float64)
    if limits[0] == limits[1]:
        # a few bright spots on an even background: percentiles see only that
        return np.array([values.min(), values.max()], np.float64)
    return limits


def _full_range(dtype: np.dtype[Any]) -> npt.NDArray[np.float64]:
    # floats are taken as 0..1, as napari and matplotlib do for RGB images
    return np.array([0.0, 1.0 if dtype.kind in "fb" else 255.0])


def _stretch(values: npt.NDArray[Any], low: float, high: float) -> FloatArray:
    """Map `low`..`high` to 0..255, clipped; what is not finite goes to an end."""
    if not high > low:
        return np.zeros(values.shape, np.float32)
    # wide integers and doubles lose their differences in float32, and extreme
    # ranges leave it
    narrow = values.dtype.itemsize <= 2 or values.dtype == np.float32
    wide = not narrow or not 1e-30 < high - low < 1e30
    work = values.astype(np.float64 if wide else np.float32)
    work = np.nan_to_num(work, copy=False, nan=low, posinf=high, neginf=low)
    work -= low
    work *= 255.0 / (high - low)
    stretched: FloatArray = np.clip(work, 0.0, 255.0).astype(np.float32)
    return stretched


def _thin(raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an even grid of at most `LIMIT_PIXELS` pixels of a plane."""
    step = _grid_step(raw.shape[:2], share=1)
    return raw[::step, ::step]


def _grid_step(plane_size: tuple[int, ...], share: int) -> int:
    return max(1, math.ceil(math.sqrt(math.prod(plane_size) * share / LIMIT_PIXELS)))


def _read_raw(
    source: PlaneSource,
    index: tuple[int, ...],
    settings: ImageSettings,
    plane_axes: tuple[int, int],
    band: slice = slice(None),
) -> npt.NDArray[Any]:
    """Read rows of a plane as they are, (Y, X, C), with the chosen channels last."""
    _check_level(source, settings)
    shape = source.level_shape(settings.level)
    rows, columns = _axes(source, plane_axes)
    selection = _selection(shape, index, (rows, columns))
    selection[rows] = band
    data = source.levels[settings.level]
    axis = source.channel_axis
    channels = _channels(source, settings)
    if axis is None:
        raw = np.asarray(data[tuple(selection)])[..., np.newaxis]
    else:
        planes = []
        for channel in channels:
            key = (*selection[:axis], channel, *selection[axis:])
            planes.append(np.asarray(data[key]))
        raw = np.stack(planes, axis=-1)
    return raw.swapaxes(0, 1) if rows > columns else raw


def _check_level(source: PlaneSource, settings: ImageSettings) -> None:
    if settings.level >= len(source.levels):
        raise InvalidImageError(
            f"resolution level {settings.level} is not in an image of "
            f"{len(source.levels)} levels"
        )


def _axes(source: PlaneSource, plane_axes: tuple[int, int]) -> tuple[int, int]:
    ndim = source.ndim
    axes = tuple(axis + ndim if axis < 0 else axis for axis in plane_axes)
    if len(set(axes)) != 2 or not all(0 <= axis < ndim for axis in axes):
        raise InvalidImageError(
            f"plane_axes {plane_axes} do not name two axes of an image with {ndim}"
        )
    return axes[0], axes[1]


def _selection(
    shape: tuple[int, ...], index: tuple[int, ...], axes: tuple[int, int]
) -> list[int | slice]:
    lead = [axis for axis in range(len(shape)) if axis not in axes]
    if len(index) != len(lead):
        raise InvalidImageError(
            f"an image of shape {shape} needs {len(lead)} plane indices, got "
            f"{tuple(index)}"
        )
    selection: list[int | slice] = [slice(None)] * len(shape)
    for axis, position in zip(lead, index, strict=True):
        if not 0 <= position < shape[axis]:
            raise InvalidImageError(
                f"plane {position} is outside axis {axis} of length {shape[axis]}"
            )
        selection[axis] = int(position)
    return selection


def _channels(source: PlaneSource, settings: ImageSettings) -> tuple[int, ...]:
    if settings.channels is None:
        return (0, 1, 2) if source.rgb else (0,)
    if source.channel_axis is None and set(settings.channels) != {0}:
        raise InvalidImageError(
            f"there is no channel {max(settings.channels)} in an image without a "
            "channel axis: choose no channels, or name the axis that holds them"
        )
    for channel in settings.channels:
        if not 0 <= channel < source.n_channels:
            raise InvalidImageError(
                f"channel {channel} is not in an image of {source.n_channels} channels"
            )
    return settings.channels


def _source(
    levels: list[ArrayLike], channel_axis: int | None, *, rgb: bool
) -> PlaneSource:
    n_axes = len(levels[0].shape) - (channel_axis is not None)
    if n_axes < 2:
        raise InvalidImageError(
            f"an image needs two axes besides its channels, got shape {levels[0].shape}"
        )
    return PlaneSource(levels, channel_axis=channel_axis, rgb=rgb)


def _is_multiscale(data: Any) -> TypeGuard[Sequence[ArrayLike]]:
    # napari's own multiscale data has a shape but is a Sequence; arrays are not
    return (
        isinstance(data, Sequence)
        and len(data) > 0
        and all(len(getattr(level, "shape", ())) >= 2 for level in data)
    )


def _as_array(data: Any) -> ArrayLike:
    if hasattr(data, "shape") and hasattr(data, "dtype"):
        array: ArrayLike = data
        return array
    try:
        return np.asarray(data)
    except ValueError as error:
        raise InvalidImageError(f"this is not an image: {error}") from error


def _check_array(array: ArrayLike, shape: tuple[int, ...]) -> None:
    kind = np.dtype(array.dtype).kind
    if kind not in "buif":
        raise InvalidImageError(
            f"an image holds bool, integer or real values, not {array.dtype}"
        )
    if math.prod(shape) == 0:
        raise InvalidImageError(f"the image of shape {shape} has no pixels")


def _looks_rgb(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 3 and shape[-1] in (3, 4) and min(shape[-3:-1]) > shape[-1]
