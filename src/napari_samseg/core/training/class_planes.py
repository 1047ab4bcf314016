"""Objects of class labels, found plane by plane."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.images import ArrayLike
from napari_samseg.core.instances.components import label_components
from napari_samseg.core.io.class_image import count_levels, grey_classes, snap_table

__all__ = ["ClassPlanes"]


@dataclass(frozen=True, eq=False)
class ClassPlanes:
    """Objects of class labels, found plane by plane: an array-like of instance labels.

    8-bit pictures of masks have soft edges and values such as 127 and 255: each pixel
    gets the nearest of their levels.

    Attributes
    ----------
    classes : (..., Y, X) bool or integer, array-like
    chosen : tuple of int
        Classes whose parts are objects, by their values; all but 0 if empty.
    has_palette : bool
        The values are indices of a palette, and no grey levels.
    """

    classes: ArrayLike
    chosen: tuple[int, ...] = ()
    has_palette: bool = False

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the classes."""
        return tuple(self.classes.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the objects' ids."""
        return np.dtype(np.uint32)

    def __getitem__(self, plane: tuple[int, ...]) -> npt.NDArray[np.uint32]:
        return label_components(self.class_plane(plane), 8)

    def class_plane(self, plane: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return the class of each pixel of a plane; 0 where none was chosen."""
        found = np.asarray(self.classes[plane])
        if self._class_of_grey is not None:
            found = self._class_of_grey[found]
        if self.chosen:
            found = np.where(np.isin(found, self.chosen), found, 0)
        return found

    @cached_property
    def _class_of_grey(self) -> npt.NDArray[np.uint8] | None:
        """Level that each grey value is nearest to; None if values are classes."""
        if np.dtype(self.classes.dtype) != np.uint8 or self.has_palette:
            return None
        planes = (
            count_levels(np.asarray(self.classes[plane]))
            for plane in np.ndindex(*self.shape[:-2])
        )
        levels = next(planes)
        for other in planes:
            levels = levels + other
        values = grey_classes(levels)
        if values is None:
            return None
        return np.asarray(values, np.uint8)[snap_table(values)]
