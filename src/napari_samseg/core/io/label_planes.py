"""Instance labels in files, one plane at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.images import PlaneSource, read_raw
from napari_samseg.core.io.class_image import (
    GreyLevels,
    count_levels,
    grey_classes,
    snap_note,
    snap_table,
)
from napari_samseg.core.io.image_file import may_hold_colours, open_image_file
from napari_samseg.core.io.label_doubts import instance_doubts
from napari_samseg.core.io.label_image import (
    grey_values,
    holds_palette_labels,
    palette_note,
    whole_numbers,
)
from napari_samseg.core.settings import ImageSettings

__all__ = ["LabelPlanes", "PictureWarning", "open_label_planes"]


class PictureWarning(UserWarning):
    """Instance labels look like classes or a photograph, or are those of a palette."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelPlanes:
    """Labels (..., Y, X) of which planes are read when they are asked for.

    Attributes
    ----------
    path : Path
    source : PlaneSource
    table : (256,) uint8 or None
        Of a smoothed picture of a mask: the level that each grey value goes to.
    """

    path: Path
    source: PlaneSource
    table: npt.NDArray[np.uint8] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., Y, X) in pixels."""
        return self.source.shape

    def read(self, plane: tuple[int, ...]) -> npt.NDArray[np.integer]:
        """Read the plane at a position along each axis before (Y, X).

        Returns
        -------
        (Y, X) integer

        Raises
        ------
        InvalidLabelsError
            If it holds colours, negative numbers, or real ones that are not whole.
        """
        raw = read_raw(self.source, plane, ImageSettings(), (-2, -1))
        array: npt.NDArray[Any] = raw[..., 0]
        if self.source.rgb:
            array = grey_values(raw, self.path)
        if self.table is not None:
            snapped: npt.NDArray[np.uint8] = self.table[array]
            return snapped
        if array.dtype.kind == "f":
            return whole_numbers(array, self.path)
        if array.dtype.kind == "b":
            return array.astype(np.uint8)
        if array.dtype.kind == "i" and array.min() < 0:
            raise InvalidLabelsError(
                f"{self.path} holds negative labels, {array.min()} is the lowest: 0 is "
                "the background, and ids are above"
            )
        return array


@contextmanager
def open_label_planes(path: Path, *, is_mask: bool = False) -> Iterator[LabelPlanes]:
    """Open instance labels, until the ``with`` block ends.

    Parameters
    ----------
    path : Path
        See `napari_samseg.core.io.image_file.open_image_file`.
    is_mask : bool
        They need not be instances yet: what smoothing left in a picture of a mask goes
        to the nearest of its levels.

    Warns
    -----
    PictureWarning
        If the plane in the middle does not look like instances, see
        `napari_samseg.core.io.label_doubts.instance_doubts`, or pixels of a picture of
        a mask went to the nearest level, or the ids are indices of a palette.

    Raises
    ------
    MissingFileError, InvalidImageError
        If there is no such image.
    InvalidLabelsError
        If it has several channels.
    """
    indices = holds_palette_labels(path)
    rgb = None if may_hold_colours(path) and not indices else False
    with open_image_file(path, rgb=rgb, indices=indices) as source:
        if not source.rgb and source.n_channels > 1:
            raise InvalidLabelsError(
                f"{path} has {source.n_channels} channels, and labels one value for "
                "each pixel: save the labels by themselves"
            )
        planes = LabelPlanes(path, source)
        if indices:
            note = palette_note(path, np.unique(planes.read(())).tolist())
            warnings.warn(note, PictureWarning, stacklevel=3)
        elif is_mask:
            planes, notes = _snapped(planes)
            for note in notes:
                warnings.warn(note, PictureWarning, stacklevel=3)
        else:
            middle = tuple(n // 2 for n in planes.shape[:-2])
            for note in instance_doubts(planes.read(middle), path):
                warnings.warn(note, PictureWarning, stacklevel=3)
        yield planes


def _snapped(planes: LabelPlanes) -> tuple[LabelPlanes, list[str]]:
    """Give labels the table they need if they are a smoothed picture of a mask."""
    if np.dtype(planes.source.dtype) != np.uint8:
        return planes, []
    counted: GreyLevels | None = None
    for index in np.ndindex(*planes.shape[:-2]):
        levels = count_levels(planes.read(index))
        counted = levels if counted is None else counted + levels
    values = None if counted is None else grey_classes(counted)
    if counted is None or values is None:
        return planes, []
    table = np.array(values, np.uint8)[snap_table(values)]
    notes = snap_note(planes.path, counted.count_between(values), values)
    return replace(planes, table=table), notes
