"""Any image as a source of planes: numpy, dask, zarr, multiscale; any axes.

Pixels are read as they are, a band of rows at a time where a plane is large;
`core.planes` makes of them what a model sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from napari_samseg.core.contrast import IntensityLimits, grid_step, measure_limits
from napari_samseg.core.errors import InvalidImageError, SamSegError
from napari_samseg.core.settings import ImageSettings

if TYPE_CHECKING:
    from napari_samseg.core.io.voxel_space import VoxelSpace

__all__ = [
    "ArrayLike",
    "PlaneSource",
    "chosen_channels",
    "open_image",
    "read_bands",
    "read_raw",
    "thin_band",
]

# Values read at once of a large plane.
BAND_VALUES = 1 << 24
# Planes looked at for the contrast of a volume.
LIMIT_PLANES = 16


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
    space : VoxelSpace or None
        Where the voxels of a volume lie in the patient, of files that say so.
    """

    def __init__(
        self,
        levels: Sequence[ArrayLike],
        *,
        channel_axis: int | None,
        rgb: bool,
        space: VoxelSpace | None = None,
    ) -> None:
        self.levels = tuple(levels)
        self.channel_axis = channel_axis
        self.rgb = rgb
        self.space = space
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
        """Shape of one level without the channel axis, in its own pixels.

        Raises
        ------
        InvalidImageError
            If there is no such level.
        """
        if level >= len(self.levels):
            raise InvalidImageError(
                f"resolution level {level} is not in an image of {len(self.levels)} "
                "levels"
            )
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
        an even grid of pixels. Planes that cannot be read are left out.

        Returns
        -------
        (C, 2) float64
            Low and high of each chosen channel, in the image's intensities.

        Raises
        ------
        InvalidImageError
            If none of these planes can be read.
        """
        key = (settings, plane_axes)
        if key not in self._volume_limits:
            size = self.plane_size(settings.level, plane_axes)
            grid = grid_step(size, LIMIT_PLANES)
            samples, errors = [], []
            for index in self._sample_indices(settings.level, plane_axes):
                try:
                    bands = [
                        band[::grid, ::grid].reshape(-1, band.shape[-1])
                        for band in read_bands(self, index, settings, plane_axes, grid)
                    ]
                except (SamSegError, MemoryError):
                    raise
                # whatever the library of a file format raises: others will do
                except Exception as error:  # noqa: BLE001
                    errors.append(error)
                else:
                    samples += bands
            if not samples:
                raise InvalidImageError(
                    "no plane from which the contrast of the volume is taken can be "
                    f"read, {len(errors)} tried: {errors[0]}"
                )
            stacked = np.concatenate(samples)[:, np.newaxis]
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
    data: Any,
    *,
    rgb: bool | None = None,
    channel_axis: int | None = None,
    space: VoxelSpace | None = None,
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
    space : VoxelSpace, optional
        Where the voxels of a volume lie in the patient.

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
        return _source(levels, None, rgb=False, space=space)
    if rgb:
        raise InvalidImageError("give either rgb=True or a channel_axis, not both")
    if not -len(shape) <= channel_axis < len(shape):
        raise InvalidImageError(
            f"channel_axis {channel_axis} is not an axis of an image of shape {shape}"
        )
    return _source(levels, channel_axis % len(shape), rgb=False, space=space)


def read_bands(
    source: PlaneSource,
    index: tuple[int, ...],
    settings: ImageSettings,
    plane_axes: tuple[int, int],
    multiple: int = 1,
) -> Iterator[npt.NDArray[Any]]:
    """Yield a plane (Y, X, C) as bands of rows that need little memory.

    Each but the last has a number of rows that is a multiple of `multiple`.
    """
    length, width = source.plane_size(settings.level, plane_axes)
    height = max(multiple, BAND_VALUES // width // multiple * multiple)
    for top in range(0, length, height):
        rows = slice(top, min(top + height, length))
        yield read_raw(source, index, settings, plane_axes, rows)


def thin_band(
    band: npt.NDArray[Any], grid: int, settings: ImageSettings
) -> npt.NDArray[Any]:
    """Return what limits are measured on of a band of rows (y, x, C).

    An even grid of pixels, or for ``minmax`` the extremes of each channel.
    """
    if settings.normalisation == "minmax":
        return np.concatenate(list(_extremes(band)))
    return band[::grid, ::grid].copy()


def _extremes(raw: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield the smallest and the largest finite values as planes (1, 1, C)."""
    is_float = raw.dtype.kind == "f"
    for reduce, start in ((np.min, np.inf), (np.max, -np.inf)):
        finite = {"initial": start, "where": np.isfinite(raw)} if is_float else {}
        yield reduce(raw, axis=(0, 1), keepdims=True, **finite).astype(raw.dtype)


def read_raw(
    source: PlaneSource,
    index: tuple[int, ...],
    settings: ImageSettings,
    plane_axes: tuple[int, int] = (-2, -1),
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> npt.NDArray[Any]:
    """Read a part of a plane as it is, (y, x, C), with the chosen channels last.

    Raises
    ------
    InvalidImageError
        If the index, an axis, a channel or the level is not in the image.
    """
    shape = source.level_shape(settings.level)
    y_axis, x_axis = _axes(source, plane_axes)
    selection = _selection(shape, index, (y_axis, x_axis))
    selection[y_axis], selection[x_axis] = rows, columns
    data = source.levels[settings.level]
    axis = source.channel_axis
    channels = chosen_channels(source, settings)
    if axis is None:
        raw = np.asarray(data[tuple(selection)])[..., np.newaxis]
    else:
        planes = []
        for channel in channels:
            key = (*selection[:axis], channel, *selection[axis:])
            planes.append(np.asarray(data[key]))
        raw = np.stack(planes, axis=-1)
    return raw.swapaxes(0, 1) if y_axis > x_axis else raw


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


def chosen_channels(source: PlaneSource, settings: ImageSettings) -> tuple[int, ...]:
    """Return the channels that make the plane, in the order red, green, blue.

    Raises
    ------
    InvalidImageError
        If a channel is not in the image.
    """
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
    levels: list[ArrayLike],
    channel_axis: int | None,
    *,
    rgb: bool,
    space: VoxelSpace | None = None,
) -> PlaneSource:
    n_axes = len(levels[0].shape) - (channel_axis is not None)
    if n_axes < 2:
        raise InvalidImageError(
            f"an image needs two axes besides its channels, got shape {levels[0].shape}"
        )
    return PlaneSource(levels, channel_axis=channel_axis, rgb=rgb, space=space)


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
