"""Scores of classes, pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_samseg.core.metrics.contingency import contingency

__all__ = ["PIXEL_SCORES", "PixelCounts", "count_classes"]

# Names of the scores, which are properties of `PixelCounts`.
PIXEL_SCORES = (
    "iou",
    "dice",
    "accuracy",
    "precision",
    "sensitivity",
    "specificity",
    "f1",
)


@dataclass(frozen=True, slots=True)
class PixelCounts:
    """Pixels of a class by what they were taken for, and the scores from them.

    Attributes
    ----------
    tp, fp, fn, tn : int
        True and false positives and negatives.
    """

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def pooled(cls, parts: Iterable[PixelCounts]) -> PixelCounts:
        """Return the sum over samples: one image of all their pixels."""
        counts = [(p.tp, p.fp, p.fn, p.tn) for p in parts]
        return cls(*(sum(column) for column in zip((0, 0, 0, 0), *counts, strict=True)))

    @property
    def iou(self) -> float:
        """Intersection over union; 1 if the class is in neither image."""
        return _ratio(self.tp, self.tp + self.fp + self.fn, 1.0)

    @property
    def dice(self) -> float:
        """Dice coefficient, 2 tp / (2 tp + fp + fn); 1 if the class is in neither."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn, 1.0)

    @property
    def f1(self) -> float:
        """F1 of pixels, which is the Dice coefficient."""
        return self.dice

    @property
    def accuracy(self) -> float:
        """Share of pixels that are right; NaN without pixels."""
        right = self.tp + self.tn
        return _ratio(right, right + self.fp + self.fn, math.nan)

    @property
    def precision(self) -> float:
        """Share of what was found that is right; NaN if nothing was found."""
        return _ratio(self.tp, self.tp + self.fp, math.nan)

    @property
    def sensitivity(self) -> float:
        """Share of the class that was found (recall); NaN if it is not there."""
        return _ratio(self.tp, self.tp + self.fn, math.nan)

    @property
    def specificity(self) -> float:
        """Share of the rest that was left alone; NaN if there is no rest."""
        return _ratio(self.tn, self.tn + self.fp, math.nan)


def _ratio(part: int, whole: int, otherwise: float) -> float:
    return part / whole if whole else otherwise


def count_classes(
    found: npt.NDArray[np.integer],
    true: npt.NDArray[np.integer],
    classes: Sequence[int],
) -> dict[int, PixelCounts]:
    """Compare semantic labels, or masks, class by class.

    Parameters
    ----------
    found, true : (..., Y, X) integer or bool
    classes : ints

    Returns
    -------
    dict of class to PixelCounts

    Raises
    ------
    InvalidLabelsError
        If the shapes differ, or they are no labels.
    """
    table = contingency(found, true)
    of_found = dict(
        zip(table.found_ids.tolist(), table.found_areas.tolist(), strict=True)
    )
    of_true = dict(zip(table.true_ids.tolist(), table.true_areas.tolist(), strict=True))
    counts = {}
    for value in classes:
        tp = table.overlap(value, value)
        fp, fn = of_found.get(value, 0) - tp, of_true.get(value, 0) - tp
        counts[value] = PixelCounts(tp, fp, fn, true.size - tp - fp - fn)
    return counts
