from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.metrics.overlap import mask_dice, mask_iou, matched_iou


def test_counted_by_hand() -> None:
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    a[:2], b[1:3] = True, True  # 8 pixels each, 4 shared
    assert mask_iou(a, b) == pytest.approx(4 / 12)
    assert mask_dice(a, b) == pytest.approx(8 / 16)


def test_two_empty_masks_agree() -> None:
    empty = np.zeros((3, 3), bool)
    assert mask_iou(empty, empty) == mask_dice(empty, empty) == 1
    assert mask_iou(empty, ~empty) == 0


@given(hnp.arrays(bool, (2, 5, 6)))
def test_dice_follows_from_iou(masks: np.ndarray) -> None:
    iou = mask_iou(*masks)
    assert mask_dice(*masks) == pytest.approx(2 * iou / (1 + iou))
    assert mask_iou(masks[1], masks[0]) == iou


def test_each_true_object_gets_its_best_match() -> None:
    true, found = np.zeros((6, 6), int), np.zeros((6, 6), int)
    true[:3, :3], true[4:, :], true[0, 5] = 5, 900_000, 7
    found[:3, :2], found[5, :], found[4, 5] = 1, 2, 3
    scores = matched_iou(found, true)
    assert scores == pytest.approx({5: 6 / 9, 900_000: 6 / 12, 7: 0.0})


def test_nothing_found_or_nothing_true() -> None:
    true = np.ones((2, 2), int)
    assert matched_iou(np.zeros((2, 2), int), true) == {1: 0.0}
    assert matched_iou(true, np.zeros((2, 2), int)) == {}


@pytest.mark.parametrize("score", [mask_iou, mask_dice, matched_iou])
def test_other_shape_is_refused(score: object) -> None:
    with pytest.raises(InvalidLabelsError, match=r"\(2, 2\) and \(2, 3\)"):
        score(np.ones((2, 2), bool), np.ones((2, 3), bool))  # type: ignore[operator]
