"""Scores of instances: which objects were found, and how well.

A found and a true object match at a threshold t if their IoU is above it. From t = 0.5
on an object can match one other at most, so that nothing has to be assigned.

Average precision is that of the Data Science Bowl 2018 and of StarDist,
TP / (TP + FP + FN), for each threshold, and its mean over 0.5, 0.55, ... 0.95. Labels
carry no confidence, so that COCO's, an area under a curve over confidences, is not
defined for them: it is another number under the same name.

Panoptic quality: Kirillov et al. 2019, arXiv:1801.00868.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.metrics.contingency import Contingency, contingency

__all__ = ["AP_THRESHOLDS", "InstanceScores", "score_instances"]

AP_THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


@dataclass(frozen=True, slots=True, eq=False)
class InstanceScores:
    """Objects that match, at each threshold.

    Attributes
    ----------
    thresholds : tuple of float
        Of IoU, from 0.5 up; the first is that of panoptic quality and F1.
    n_true, n_found : int
        Objects.
    matches : (len(thresholds),) int64
        Pairs that match.
    matched_iou : float
        Sum of the IoU of the pairs that match at the first threshold.
    """

    thresholds: tuple[float, ...]
    n_true: int
    n_found: int
    matches: npt.NDArray[np.int64]
    matched_iou: float

    @classmethod
    def pooled(cls, parts: Sequence[InstanceScores]) -> InstanceScores:
        """Return the scores of all objects of several samples; at least one sample.

        Raises
        ------
        SettingsError
            If their thresholds differ.
        """
        thresholds = parts[0].thresholds
        if any(part.thresholds != thresholds for part in parts):
            raise SettingsError("scores at different thresholds cannot be pooled")
        return cls(
            thresholds,
            sum(part.n_true for part in parts),
            sum(part.n_found for part in parts),
            np.sum([part.matches for part in parts], axis=0),
            sum(part.matched_iou for part in parts),
        )

    @property
    def average_precision(self) -> npt.NDArray[np.float64]:
        """TP / (TP + FP + FN) at each threshold; 1 if there are no objects at all."""
        total = self.n_true + self.n_found - self.matches
        return np.where(total > 0, self.matches / np.maximum(total, 1), 1.0)

    @property
    def mean_average_precision(self) -> float:
        """Mean of `average_precision` over the thresholds."""
        return float(self.average_precision.mean())

    def ap_at(self, threshold: float) -> float:
        """Return the average precision at one of the thresholds."""
        return float(self.average_precision[self.thresholds.index(threshold)])

    @property
    def precision(self) -> float:
        """Share of found objects that match; NaN if nothing was found."""
        return self._share(self.n_found)

    @property
    def recall(self) -> float:
        """Share of true objects that match; NaN if there are none."""
        return self._share(self.n_true)

    @property
    def recognition_quality(self) -> float:
        """F1 of objects, 2 TP / (2 TP + FP + FN); 1 if there are no objects at all."""
        total = self.n_true + self.n_found
        return 2 * int(self.matches[0]) / total if total else 1.0

    @property
    def segmentation_quality(self) -> float:
        """Mean IoU of the pairs that match; NaN if none does."""
        count = int(self.matches[0])
        return self.matched_iou / count if count else math.nan

    @property
    def panoptic_quality(self) -> float:
        """Sum of the IoU of matches / (TP + FP / 2 + FN / 2); 1 without objects."""
        total = self.n_true + self.n_found
        return 2 * self.matched_iou / total if total else 1.0

    def _share(self, whole: int) -> float:
        return int(self.matches[0]) / whole if whole else math.nan


def score_instances(
    found: npt.NDArray[np.integer],
    true: npt.NDArray[np.integer],
    *,
    thresholds: Sequence[float] = AP_THRESHOLDS,
) -> InstanceScores:
    """Compare instance labels.

    Parameters
    ----------
    found, true : (..., Y, X) integer
        0 is background.
    thresholds : floats in 0.5..1
        Of IoU, rising.

    Raises
    ------
    InvalidLabelsError
        If the shapes differ, or they are no labels.
    SettingsError
        If a threshold is below 0.5, where matches are not unique, or they do not rise.
    """
    limits = np.asarray(thresholds, float)
    in_bounds = bool(limits.size) and bool(((limits >= 0.5) & (limits < 1)).all())
    if not in_bounds or (np.diff(limits) <= 0).any():
        raise SettingsError(
            "thresholds of IoU rise from 0.5, below which matches are not unique, to "
            f"less than 1; not {tuple(thresholds)}"
        )
    table = contingency(found, true)
    iou = _pair_ious(table)
    return InstanceScores(
        tuple(thresholds),
        int(np.count_nonzero(table.true_ids)),
        int(np.count_nonzero(table.found_ids)),
        (iou[:, np.newaxis] > limits).sum(axis=0),
        float(iou[iou > limits[0]].sum()),
    )


def _pair_ious(table: Contingency) -> npt.NDArray[np.float64]:
    """IoU of each pair of objects that share pixels."""
    i, j = table.pairs.T
    objects = (table.found_ids[i] != 0) & (table.true_ids[j] != 0)
    shared = table.shared[objects]
    areas = table.found_areas[i[objects]] + table.true_areas[j[objects]]
    iou: npt.NDArray[np.float64] = shared / (areas - shared)
    return iou
