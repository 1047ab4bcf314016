"""Masks of a validation as labels of the planes that they were found in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from napari_samseg.core.training.views import View
    from napari_samseg.core.types import BoolArray, IntArray, MaskPrediction

__all__ = ["PreviewPlane", "paint_prediction", "paint_previews", "place_crop"]


@dataclass(frozen=True, slots=True, eq=False)
class PreviewPlane:
    """Masks in a part of a plane.

    Attributes
    ----------
    image : str
        Name of the image.
    plane : tuple of int
    box_yx : (y0, x0, y1, x1)
        Half-open, in pixels of the plane.
    labels : (y1 - y0, x1 - x0) uint32
        Ids of the objects, as in the labels that they were learned from.
    """

    image: str
    plane: tuple[int, ...]
    box_yx: tuple[int, int, int, int]
    labels: npt.NDArray[np.uint32]


def paint_previews(
    shown: Iterable[tuple[View, MaskPrediction, Sequence[int]]],
) -> list[PreviewPlane]:
    """Put masks where they lie.

    Parameters
    ----------
    shown : iterable of View, MaskPrediction and object ids
        The masks in pixels of their view, and the ids they are to get.
    """
    return [
        PreviewPlane(
            view.image,
            view.plane,
            view.tile,
            _stretch(paint_prediction(masks, ids), view.tile),
        )
        for view, masks, ids in shown
    ]


def paint_prediction(
    masks: MaskPrediction, ids: Sequence[int]
) -> npt.NDArray[np.uint32]:
    """Return masks as labels (Y, X); large ones first, so that none is hidden."""
    painted = np.zeros(masks.plane_size, np.uint32)
    areas = np.array([crop.sum() for crop in masks.crops])
    for row in np.argsort(-areas, kind="stable").tolist():
        y0, x0, y1, x1 = masks.boxes_yx[row].tolist()
        painted[y0:y1, x0:x1][masks.crops[row]] = ids[row]
    return painted


def place_crop(
    crop: BoolArray, box_yx: Sequence[int], view: View
) -> tuple[BoolArray, tuple[int, int, int, int]]:
    """Return a mask of a view, which may be coarser, where it lies in the plane.

    Parameters
    ----------
    crop : (y, x) bool
        The mask inside its box.
    box_yx : (y0, x0, y1, x1)
        Half-open, in pixels of the view.
    view : View

    Returns
    -------
    crop : (y, x) bool
    box_yx : (y0, x0, y1, x1)
        In pixels of the plane.
    """
    rows, columns = (
        _spread(box_yx[axis], box_yx[axis + 2], view.size[axis], tile)
        for axis, tile in enumerate(
            view.tile[axis + 2] - view.tile[axis] for axis in (0, 1)
        )
    )
    top, left = view.tile[0] + rows[0], view.tile[1] + columns[0]
    placed = crop[np.ix_(rows[1], columns[1])]
    return placed, (top, left, top + placed.shape[0], left + placed.shape[1])


def _spread(start: int, end: int, n: int, length: int) -> tuple[int, IntArray]:
    """Return where `n` cells over a length begin at `start`, and the cell of each."""
    cells = ((np.arange(length) + 0.5) * n / length).astype(np.int64)
    inside = np.flatnonzero((cells >= start) & (cells < end))
    first = int(inside[0]) if len(inside) else 0
    return first, cells[inside] - start


def _stretch(
    labels: npt.NDArray[np.uint32], tile: tuple[int, int, int, int]
) -> npt.NDArray[Any]:
    """Bring the labels of a view, which may be coarser, to the pixels of its tile."""
    y0, x0, y1, x1 = tile
    if labels.shape == (y1 - y0, x1 - x0):
        return labels
    rows, columns = (
        ((np.arange(length) + 0.5) * n / length).astype(np.int64)
        for n, length in zip(labels.shape, (y1 - y0, x1 - x0), strict=True)
    )
    return labels[np.ix_(rows, columns)]
