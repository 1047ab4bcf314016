"""Masks of a validation as labels of the planes that they were found in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from napari_samseg.core.training.views import View
    from napari_samseg.core.types import MaskPrediction

__all__ = ["PreviewPlane", "paint_prediction", "paint_previews"]


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
