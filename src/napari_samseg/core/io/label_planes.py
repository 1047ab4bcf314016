"""Instance labels in files, one plane at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.images import PlaneSource, read_raw
from napari_samseg.core.io.class_image import is_picture, picture_note
from napari_samseg.core.io.image_file import may_hold_colours, open_image_file
from napari_samseg.core.io.label_image import (
    grey_values,
    holds_palette_labels,
    palette_note,
    whole_numbers,
)
from napari_samseg.core.settings import ImageSettings

__all__ = ["LabelPlanes", "PictureWarning", "open_label_planes"]


class PictureWarning(UserWarning):
    """Instance labels look like a picture of a mask, or are those of a palette."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelPlanes:
    """Labels (..., Y, X) of which planes are read when they are asked for.

    Attributes
    ----------
    path : Path
    source : PlaneSource
    """

    path: Path
    source: PlaneSource

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
def open_label_planes(path: Path, *, warns: bool = True) -> Iterator[LabelPlanes]:
    """Open instance labels, until the ``with`` block ends.

    Parameters
    ----------
    path : Path
        See `napari_samseg.core.io.image_file.open_image_file`.
    warns : bool
        The labels are to be instances already.

    Warns
    -----
    PictureWarning
        If a plane looks like a picture of a mask, or the ids are indices of a palette.

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
        elif warns and planes.shape[:-2] == () and is_picture(planes.read(())):
            warnings.warn(picture_note(path), PictureWarning, stacklevel=3)
        yield planes
