from __future__ import annotations

import math

import numpy as np
import pytest

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.metrics.contingency import contingency
from napari_samseg.core.metrics.overlap import mask_dice, mask_iou
from napari_samseg.core.metrics.pixels import PixelCounts, count_classes


def test_scores_counted_by_hand() -> None:
    found = np.array([[1, 1, 0, 0], [1, 2, 2, 0]])
    true = np.array([[1, 0, 0, 0], [1, 1, 2, 2]])
    one = count_classes(found, true, (1, 2))[1]
    assert one == PixelCounts(tp=2, fp=1, fn=1, tn=4)
    assert one.iou == 0.5
    assert one.dice == one.f1 == pytest.approx(2 / 3)
    assert one.accuracy == 0.75
    assert one.precision == one.sensitivity == pytest.approx(2 / 3)
    assert one.specificity == 0.8
    pooled = PixelCounts.pooled(count_classes(found, true, (1, 2)).values())
    assert pooled == PixelCounts(tp=3, fp=2, fn=2, tn=9)


def test_class_that_is_in_neither_image() -> None:
    counts = count_classes(np.zeros((2, 3), int), np.zeros((2, 3), int), (7,))[7]
    assert counts == PixelCounts(0, 0, 0, 6)
    assert counts.iou == counts.dice == counts.accuracy == counts.specificity == 1
    assert math.isnan(counts.sensitivity)
    assert math.isnan(counts.precision)


@pytest.mark.parametrize("shape", [(40, 50), (6, 20, 30)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint32])
def test_agree_with_masks(shape, dtype) -> None:
    rng = np.random.default_rng(0)
    found, true = (rng.integers(0, 5, shape).astype(dtype) for _ in range(2))
    for value, counts in count_classes(found, true, range(5)).items():
        assert counts.iou == pytest.approx(mask_iou(found == value, true == value))
        assert counts.dice == pytest.approx(mask_dice(found == value, true == value))
        assert counts.tp + counts.fp + counts.fn + counts.tn == found.size


def test_table_of_large_ids() -> None:
    found = np.array([[0, 2**40, 2**40], [0, 0, 3]])
    true = np.array([[9, 9, 2**50], [0, 9, 3]])
    table = contingency(found, true)
    assert table.found_ids.tolist() == [0, 3, 2**40]
    assert table.found_areas.tolist() == [3, 1, 2]
    assert table.true_ids.tolist() == [0, 3, 9, 2**50]
    assert table.true_areas.tolist() == [1, 1, 3, 1]
    assert table.overlap(2**40, 9) == table.overlap(2**40, 2**50) == 1
    assert table.overlap(0, 9) == 2
    assert table.overlap(3, 9) == table.overlap(77, 0) == 0
    assert table.shared.sum() == found.size


def test_what_are_no_labels_of_one_image() -> None:
    with pytest.raises(InvalidLabelsError, match="one shape"):
        contingency(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(InvalidLabelsError, match="integers"):
        contingency(np.zeros((2, 2)), np.zeros((2, 2)))
