from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_samseg.core.errors import UnknownNameError
from napari_samseg.core.training.losses import (
    LOSSES,
    balanced_bce_loss,
    bce_loss,
    dice_bce_loss,
    dice_loss,
    iou_mse_loss,
    mask_loss,
)

# probabilities 0.5, 0.75, 0.25, 0.5
LOGITS = torch.tensor([0.0, math.log(3), -math.log(3), 0.0])
TARGET = torch.tensor([1.0, 1.0, 0.0, 0.0])


def test_dice_counted_by_hand() -> None:
    # overlap 1.25, sums 2 and 2, smoothed by one
    assert dice_loss(LOGITS, TARGET).item() == pytest.approx(1 - 3.5 / 5)


def test_bce_counted_by_hand() -> None:
    half, quarter = math.log(2), math.log(4 / 3)
    expected = (half + quarter + quarter + half) / 4
    assert bce_loss(LOGITS, TARGET).item() == pytest.approx(expected)


def test_balanced_bce_weighs_object_and_background_alike() -> None:
    logits = torch.tensor([0.0] + [-math.log(3)] * 99)
    target = torch.tensor([1.0] + [0.0] * 99)
    expected = (math.log(2) + math.log(4 / 3)) / 2
    assert balanced_bce_loss(logits, target).item() == pytest.approx(expected)


def test_balanced_bce_without_background_or_object() -> None:
    logits = torch.full((4,), math.log(3))
    assert balanced_bce_loss(logits, torch.ones(4)).item() == pytest.approx(
        math.log(4 / 3), rel=1e-5
    )
    assert balanced_bce_loss(logits, torch.zeros(4)).item() == pytest.approx(
        math.log(4), rel=1e-5
    )


def test_dice_bce_is_the_sum() -> None:
    both = dice_loss(LOGITS, TARGET) + bce_loss(LOGITS, TARGET)
    assert torch.equal(dice_bce_loss(LOGITS, TARGET), both)


def test_iou_error_is_squared_and_teaches_the_prediction_alone() -> None:
    predicted = torch.tensor([0.5, 0.9], requires_grad=True)
    actual = torch.tensor([0.7, 0.9], requires_grad=True)
    error = iou_mse_loss(predicted, actual)
    assert error.tolist() == pytest.approx([0.04, 0.0], abs=1e-6)
    error.sum().backward()
    assert predicted.grad is not None
    assert actual.grad is None


@pytest.mark.parametrize("name", sorted(LOSSES))
class TestEveryLoss:
    def test_gives_one_number_per_object(self, name: str) -> None:
        logits, target = torch.randn(3, 2, 50), torch.ones(3, 1, 50)
        assert mask_loss(name)(logits, target).shape == (3, 2)

    def test_right_masks_cost_little_and_wrong_ones_much(self, name: str) -> None:
        target = (torch.arange(100) < 30).float()
        right = 20 * (2 * target - 1)
        loss = mask_loss(name)
        assert loss(right, target).item() < 0.02
        assert loss(-right, target).item() > 0.9

    def test_gradient_leads_to_the_target(self, name: str) -> None:
        torch.manual_seed(0)
        target = (torch.arange(64) % 5 == 0).float()
        logits = torch.randn(64, requires_grad=True)
        mask_loss(name)(logits, target).backward()
        assert logits.grad is not None
        assert (logits.grad[target == 1] < 0).all()
        assert (logits.grad[target == 0] > 0).all()

    @given(st.floats(-1e4, 1e4), st.booleans())
    @settings(max_examples=30, deadline=None)
    def test_stays_finite(self, name: str, value: float, empty: bool) -> None:
        logits = torch.full((9,), value, requires_grad=True)
        target = torch.zeros(9) if empty else torch.ones(9)
        loss = mask_loss(name)(logits, target)
        loss.backward()
        assert torch.isfinite(loss)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_unknown_loss_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="balanced_bce"):
        mask_loss("hinge")
