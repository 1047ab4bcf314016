"""The values that flow between rooms refuse what makes no sense."""

from __future__ import annotations

import numpy as np
import pytest

import napari_samseg.core.errors as errors
from napari_samseg.core.errors import InvalidPromptError, SamSegError
from napari_samseg.core.types import MaskPrediction, PlanePrompts


def _prompts(**changes) -> PlanePrompts:
    fields = {
        "object_ids": [3, 7],
        "points_yx": [[[1, 2], [0, 0]], [[4, 5], [6, 7]]],
        "point_labels": [[1, -1], [1, 0]],
        "boxes_yx": [[np.nan] * 4, [0, 0, 9, 9]],
    }
    return PlanePrompts(**{**fields, **changes})


def test_prompts_know_what_each_object_has() -> None:
    prompts = _prompts()
    assert prompts.n_points.tolist() == [1, 2]
    assert prompts.has_box.tolist() == [False, True]
    assert prompts.has_mask.tolist() == [False, False]


def test_a_row_of_nan_is_no_mask_prompt() -> None:
    masks = np.full((2, 4, 4), np.nan)
    masks[0] = 1
    assert _prompts(low_res_masks=masks).has_mask.tolist() == [True, False]


def test_selecting_keeps_rows_together() -> None:
    second = _prompts().select(np.array([1]))
    assert second.object_ids.tolist() == [7]
    assert second.boxes_yx.tolist() == [[0, 0, 9, 9]]


def test_prompts_cannot_be_changed_behind_the_back() -> None:
    points = np.ones((1, 1, 2), np.float32)
    prompts = PlanePrompts([1], points, [[1]], [[np.nan] * 4])
    points[:] = 5
    assert prompts.points_yx.max() == 1
    with pytest.raises(ValueError, match="read-only"):
        prompts.points_yx[0] = 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"object_ids": [3, 3]}, "unique"),
        ({"object_ids": [0, 1]}, "start at 1"),
        ({"object_ids": [3]}, "do not match"),
        ({"points_yx": [[1, 2], [3, 4]]}, "points_yx"),
        ({"point_labels": [[1, 2], [1, 0]]}, "point labels"),
        ({"point_labels": [[0, -1], [1, 0]]}, "object 3 has only background"),
        ({"point_labels": [[-1, -1], [1, 0]]}, "object 3 has no prompt"),
        ({"boxes_yx": [[np.nan, 0, 1, 1], [0, 0, 9, 9]]}, "not finite"),
        ({"boxes_yx": [[5, 5, 5, 9], [0, 0, 9, 9]]}, "empty"),
        ({"boxes_yx": [[0, 0, 9, 9]]}, "boxes_yx must be"),
        ({"low_res_masks": np.zeros((3, 4, 4))}, "low_res_masks"),
        (
            {"points_yx": [[[np.inf, 2], [0, 0]], [[4, 5], [6, 7]]]},
            "not finite",
        ),
    ],
)
def test_contradictory_prompts_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InvalidPromptError, match=message):
        _prompts(**changes)


def _prediction() -> MaskPrediction:
    crops = (np.ones((3, 3), bool), np.ones((2, 4), bool), np.zeros((0, 0), bool))
    return MaskPrediction(
        object_ids=np.array([4, 9, 11]),
        crops=crops,
        boxes_yx=np.array([[0, 0, 3, 3], [2, 2, 4, 6], [0, 0, 0, 0]]),
        plane_size=(6, 8),
        iou_predictions=np.array([0.9, 0.5, 0.99], np.float32),
        low_res_masks=np.zeros((3, 4, 4), np.float32),
    )


def test_masks_are_pasted_where_their_boxes_are() -> None:
    masks = _prediction().masks
    assert masks.shape == (3, 6, 8)
    assert masks.sum(axis=(1, 2)).tolist() == [9, 8, 0]
    assert masks[1, 2:4, 2:6].all()


def test_the_better_mask_wins_where_two_overlap() -> None:
    labels = _prediction().to_labels()
    assert labels.dtype == np.uint32
    assert labels[2, 2] == 4
    assert np.unique(labels).tolist() == [0, 4, 9]


def test_a_prediction_is_shown_in_a_line() -> None:
    n, crop = 7, np.ones((40, 40), bool)
    boxes = np.tile([0, 0, 40, 40], (n, 1))
    logits = np.zeros((n, 64, 64), np.float32)
    found = MaskPrediction(
        np.arange(1, n + 1), (crop,) * n, boxes, (50, 60), np.ones(n), logits
    )
    assert repr(found) == (
        "<MaskPrediction of 7 objects (1, 2, 3, 4, 5, ...) in a plane of "
        "50 x 60 pixels>"
    )


def test_a_prediction_needs_a_mask_per_object() -> None:
    ones = np.ones(1, np.float32)
    with pytest.raises(ValueError, match="of 1 object has"):
        MaskPrediction(np.array([1]), (), np.zeros((0, 4)), (4, 4), ones, ones)


def test_no_error_of_ours_is_a_runtime_error() -> None:
    # napari swallows those in generator workers
    named = [getattr(errors, name) for name in errors.__all__]
    ours = [error for error in named if isinstance(error, type)]
    assert len(ours) > 10
    assert all(issubclass(error, SamSegError) for error in ours)
    assert not any(issubclass(error, RuntimeError) for error in ours)
