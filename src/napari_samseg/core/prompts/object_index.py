"""Where the objects of a plane are, found once for all that is sampled from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.types import BoolArray, IntArray

__all__ = ["ObjectIndex", "index_objects"]


@dataclass(frozen=True, slots=True, eq=False)
class ObjectIndex:
    """Where the objects of a label image are.

    Attributes
    ----------
    labels : (Y, X) integer
        The label image itself.
    object_ids : (N,) int64
        Ids in rising order, without the background 0.
    boxes_yx : (N, 4) int64
        Tight half-open boxes.
    areas : (N,) int64
        In pixels.
    pixels : (sum of areas,) int64
        Flat indices into `labels`, object by object.
    """

    labels: npt.NDArray[np.integer]
    object_ids: IntArray
    boxes_yx: IntArray
    areas: IntArray
    pixels: IntArray

    def __len__(self) -> int:
        return len(self.object_ids)

    @property
    def starts(self) -> IntArray:
        """Where the pixels of each object begin in `pixels`, (N,) int64."""
        return np.asarray(np.cumsum(self.areas) - self.areas)

    @property
    def owners(self) -> IntArray:
        """Position of the object of each of `pixels`."""
        return np.repeat(np.arange(len(self)), self.areas)

    @property
    def positions_yx(self) -> tuple[IntArray, IntArray]:
        """Rows and columns of `pixels`."""
        rows, columns = np.divmod(self.pixels, self.labels.shape[1])
        return rows, columns

    @property
    def at_border(self) -> BoolArray:
        """Objects that touch the border of the plane, (N,) bool."""
        ends = np.array(self.labels.shape)
        touches = (self.boxes_yx[:, :2] == 0) | (self.boxes_yx[:, 2:] == ends)
        return np.asarray(touches.any(axis=1))

    def paint_positions(self) -> npt.NDArray[np.uint32]:
        """Paint each object with its position plus 1; all else is 0, (Y, X) uint32."""
        painted = np.zeros(self.labels.size, np.uint32)
        painted[self.pixels] = self.owners + 1
        return painted.reshape(self.labels.shape)

    def first_highest(self, values: npt.NDArray[np.generic]) -> IntArray:
        """Return where the highest value of each object is.

        Parameters
        ----------
        values : real, one for each of `pixels`

        Returns
        -------
        (N,) int64
            Index into `pixels`; of equal values the first in reading order.
        """
        if not len(self):
            return np.zeros(0, np.int64)
        highest = np.maximum.reduceat(values, self.starts)
        owners = self.owners
        candidates = np.flatnonzero(values == highest[owners])
        first = np.searchsorted(owners[candidates], np.arange(len(self)))
        return np.asarray(candidates[first], np.int64)

    def keep_pixels(self, is_kept: BoolArray) -> ObjectIndex:
        """Return the same objects with some of `pixels` only; areas may become 0."""
        return ObjectIndex(
            self.labels,
            self.object_ids,
            self.boxes_yx,
            np.bincount(self.owners[is_kept], minlength=len(self)).astype(np.int64),
            self.pixels[is_kept],
        )

    def select(
        self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]
    ) -> ObjectIndex:
        """Return the index of some objects, with `rows` a mask or positions."""
        positions = np.arange(len(self))[rows]
        starts = self.starts
        parts = [self.pixels[starts[i] : starts[i] + self.areas[i]] for i in positions]
        return ObjectIndex(
            self.labels,
            self.object_ids[positions],
            self.boxes_yx[positions],
            self.areas[positions],
            np.concatenate(parts) if parts else np.zeros(0, np.int64),
        )


def index_objects(labels: npt.NDArray[np.integer], *, min_area: int = 1) -> ObjectIndex:
    """Find the objects of a label image.

    Parameters
    ----------
    labels : (Y, X) integer
        0 is background; an object may have several parts.
    min_area : int
        Smaller objects, in pixels, are left out.

    Raises
    ------
    InvalidLabelsError
        If the labels are not a plane of integers, negative, or above what 64 bits
        with a sign hold.
    """
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidLabelsError(
            f"labels of a plane are (Y, X) integers, got {labels.dtype} {labels.shape}"
        )
    if labels.size and labels.min() < 0:
        raise InvalidLabelsError("labels must not be negative: 0 is the background")
    if labels.dtype == np.uint64 and labels.max(initial=0) > np.iinfo(np.int64).max:
        raise InvalidLabelsError(
            f"label id {labels.max()} is above {np.iinfo(np.int64).max}: relabel "
            "without gaps"
        )
    inside = np.flatnonzero(labels)
    ids = labels.ravel()[inside].astype(np.int64)
    # a stable sort keeps each object's pixels in reading order
    order = np.argsort(ids, kind="stable")
    pixels = inside[order]
    object_ids, starts, areas = np.unique(
        ids[order], return_index=True, return_counts=True
    )
    boxes = np.zeros((len(object_ids), 4), np.int64)
    if len(object_ids):
        for axis, position in enumerate(np.divmod(pixels, labels.shape[1])):
            boxes[:, axis] = np.minimum.reduceat(position, starts)
            boxes[:, axis + 2] = np.maximum.reduceat(position, starts) + 1
    index = ObjectIndex(labels, object_ids, boxes, areas.astype(np.int64), pixels)
    is_small = index.areas < min_area
    return index.select(~is_small) if is_small.any() else index
