from __future__ import annotations

import math

import numpy as np
import pytest

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.metrics.instances import (
    AP_THRESHOLDS,
    InstanceScores,
    score_instances,
)


def drawing() -> tuple[np.ndarray, np.ndarray]:
    """Three true objects: one exact, one of IoU 0.6, one missed; one false."""
    true = np.zeros((20, 20), np.uint16)
    found = np.zeros((20, 20), np.uint32)
    true[1:5, 1:5], found[1:5, 1:5] = 7, 500
    true[8:10, 0:8], found[8:10, 2:10] = 3, 2  # 12 of 20
    true[14:18, 2:6] = 1
    found[14:18, 12:16] = 1
    return found, true


def test_scores_counted_by_hand() -> None:
    scores = score_instances(*drawing())
    assert (scores.n_true, scores.n_found) == (3, 3)
    assert scores.thresholds == AP_THRESHOLDS
    # IoU 0.6 is above 0.5 and 0.55, and not above 0.6
    assert scores.matches.tolist() == [2, 2, *[1] * 8]
    assert scores.ap_at(0.5) == 0.5
    assert scores.ap_at(0.75) == 0.2
    assert scores.mean_average_precision == pytest.approx((2 * 0.5 + 8 * 0.2) / 10)
    assert scores.precision == scores.recall == pytest.approx(2 / 3)
    assert scores.recognition_quality == pytest.approx(2 / 3)
    assert scores.segmentation_quality == pytest.approx(0.8)
    assert scores.panoptic_quality == pytest.approx(1.6 / 3)


def test_no_objects_at_all_and_none_found() -> None:
    nothing = np.zeros((4, 4), int)
    none = score_instances(nothing, nothing)
    assert none.panoptic_quality == none.mean_average_precision == 1
    assert math.isnan(none.precision)
    missed = score_instances(nothing, np.eye(4, dtype=int))
    assert missed.panoptic_quality == missed.mean_average_precision == 0
    assert missed.recall == 0
    assert math.isnan(missed.segmentation_quality)
    pooled = InstanceScores.pooled([missed, score_instances(*drawing())])
    assert (pooled.n_true, pooled.n_found, int(pooled.matches[0])) == (4, 3, 2)
    assert pooled.panoptic_quality == pytest.approx(2 * 1.6 / 7)


def test_halves_of_an_object_are_no_match() -> None:
    true = np.ones((4, 4), int)
    found = true.copy()
    found[:, 2:] = 2
    assert score_instances(found, true).matches[0] == 0


@pytest.mark.parametrize("thresholds", [(), (0.4,), (0.5, 1.0), (0.7, 0.6)])
def test_thresholds_out_of_bounds(thresholds) -> None:
    with pytest.raises(SettingsError, match="thresholds"):
        score_instances(*drawing(), thresholds=thresholds)


def test_volumes_and_every_pair_by_brute_force() -> None:
    rng = np.random.default_rng(1)
    true = rng.integers(0, 6, (5, 1, 1)) * np.ones((5, 8, 9), int)
    found = np.where(rng.random(true.shape) < 0.2, rng.integers(0, 6, true.shape), true)
    scores = score_instances(found, true, thresholds=(0.5, 0.7))
    iou = np.array(
        [
            ((found == i) & (true == j)).sum() / ((found == i) | (true == j)).sum()
            for i in np.unique(found[found > 0])
            for j in np.unique(true[true > 0])
        ]
    )
    assert scores.matches.tolist() == [(iou > 0.5).sum(), (iou > 0.7).sum()]
    assert scores.matched_iou == pytest.approx(iou[iou > 0.5].sum())


@pytest.mark.slow(reason="MONAI takes half a minute to import")
def test_panoptic_quality_agrees_with_monai() -> None:
    metrics = pytest.importorskip("monai.metrics", reason="MONAI compares the scores")
    import torch

    found, true = drawing()
    both = [torch.from_numpy(labels.astype(np.int64)) for labels in (found, true)]
    for name in ("pq", "sq", "rq"):
        theirs = metrics.compute_panoptic_quality(
            *both, metric_name=name, match_iou_threshold=0.5
        )
        scores = score_instances(found, true)
        ours = {
            "pq": scores.panoptic_quality,
            "sq": scores.segmentation_quality,
            "rq": scores.recognition_quality,
        }[name]
        assert ours == pytest.approx(float(theirs), abs=1e-5)
