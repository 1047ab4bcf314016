"""How much masks and objects overlap."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.types import BoolArray

__all__ = ["mask_dice", "mask_iou", "matched_iou"]


def mask_iou(found: BoolArray, true: BoolArray) -> float:
    """Intersection over union of two masks of one shape; 1 if both are empty.

    Raises
    ------
    InvalidLabelsError
        If the shapes differ.
    """
    shared, total = _overlap(found, true)
    union = total - shared
    return shared / union if union else 1.0


def mask_dice(found: BoolArray, true: BoolArray) -> float:
    """Dice coefficient, 2 |A and B| / (|A| + |B|); 1 if both are empty.

    Raises
    ------
    InvalidLabelsError
        If the shapes differ.
    """
    shared, total = _overlap(found, true)
    return 2 * shared / total if total else 1.0


def _overlap(found: BoolArray, true: BoolArray) -> tuple[int, int]:
    """Pixels in both, and the sum of the pixels of each."""
    _check_shapes(found, true)
    shared = int(np.count_nonzero(found & true))
    return shared, int(np.count_nonzero(found)) + int(np.count_nonzero(true))


def matched_iou(
    found: npt.NDArray[np.integer], true: npt.NDArray[np.integer]
) -> dict[int, float]:
    """IoU of each true object with the found object that fits it best.

    Parameters
    ----------
    found, true : integer label images of one shape
        0 is background.

    Returns
    -------
    dict of int to float
        True id to IoU, 0 where nothing was found; a found object may be the best
        of several true ones.

    Raises
    ------
    InvalidLabelsError
        If the shapes differ.
    """
    _check_shapes(found, true)
    true_ids, true_index = np.unique(true, return_inverse=True)
    found_ids, found_index = np.unique(found, return_inverse=True)
    pairs = true_index.ravel() * len(found_ids) + found_index.ravel()
    shared = np.bincount(pairs, minlength=len(true_ids) * len(found_ids))
    shared = shared.reshape(len(true_ids), len(found_ids))
    areas = shared.sum(1, keepdims=True) + shared.sum(0, keepdims=True)
    iou = np.where(found_ids == 0, 0.0, shared / (areas - shared))
    return {
        int(i): float(best)
        for i, best in zip(true_ids, iou.max(axis=1, initial=0.0), strict=True)
        if i != 0
    }


def _check_shapes(
    found: npt.NDArray[np.generic], true: npt.NDArray[np.generic]
) -> None:
    if found.shape != true.shape:
        raise InvalidLabelsError(
            f"masks of one image have one shape, got {found.shape} and {true.shape}"
        )
