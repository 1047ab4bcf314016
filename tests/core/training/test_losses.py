from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from napari_samseg.core.errors import SettingsError, UnknownNameError
from napari_samseg.core.training.losses import (
    LOSSES,
    WHOLE_MASK_LOSSES,
    balanced_bce_loss,
    bce_loss,
    boundary_loss,
    dice_bce_loss,
    dice_loss,
    dice_squared_loss,
    focal_loss,
    iou_mse_loss,
    mask_loss,
    weighted_bce_loss,
    weighted_sum,
)

# probabilities 0.5, 0.75, 0.25, 0.5
LOGITS = torch.tensor([[0.0, math.log(3)], [-math.log(3), 0.0]])
TARGET = torch.tensor([[1.0, 1.0], [0.0, 0.0]])


def test_dice_counted_by_hand() -> None:
    # overlap 1.25, sums 2 and 2, smoothed by one
    assert dice_loss(LOGITS, TARGET).item() == pytest.approx(1 - 3.5 / 5)


def test_bce_counted_by_hand() -> None:
    half, quarter = math.log(2), math.log(4 / 3)
    expected = (half + quarter + quarter + half) / 4
    assert bce_loss(LOGITS, TARGET).item() == pytest.approx(expected)


def test_balanced_bce_weighs_object_and_background_alike() -> None:
    logits = torch.tensor([0.0] + [-math.log(3)] * 99).view(10, 10)
    target = torch.tensor([1.0] + [0.0] * 99).view(10, 10)
    expected = (math.log(2) + math.log(4 / 3)) / 2
    assert balanced_bce_loss(logits, target).item() == pytest.approx(expected)


def test_balanced_bce_without_background_or_object() -> None:
    logits = torch.full((2, 2), math.log(3))
    assert balanced_bce_loss(logits, torch.ones(2, 2)).item() == pytest.approx(
        math.log(4 / 3), rel=1e-5
    )
    assert balanced_bce_loss(logits, torch.zeros(2, 2)).item() == pytest.approx(
        math.log(4), rel=1e-5
    )


def test_dice_with_squares_counted_by_hand() -> None:
    # overlap 1.25, squares 1/4 + 9/16 + 1/16 + 1/4 and 2, smoothed by one
    assert dice_squared_loss(LOGITS, TARGET).item() == pytest.approx(1 - 3.5 / 4.125)


def test_weighted_bce_counted_by_hand() -> None:
    # one pixel of four is object: it weighs three
    target = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    half, quarter, much = math.log(2), math.log(4 / 3), math.log(4)
    expected = (3 * half + much + quarter + half) / 4
    assert weighted_bce_loss(LOGITS, target).item() == pytest.approx(expected)


def test_weighted_bce_weighs_no_object_more_than_one_in_ten_thousand() -> None:
    target = torch.zeros(1000, 1000)
    target[0, 0] = 1
    cost = weighted_bce_loss(torch.zeros(1000, 1000), target).item()
    assert cost == pytest.approx(math.log(2) * (9999 + 999_999) / 1e6)


def test_focal_counted_by_hand() -> None:
    half, quarter = math.log(2) / 4, math.log(4 / 3) / 16
    expected = (half + quarter) / 2
    assert focal_loss(LOGITS, TARGET).item() == pytest.approx(expected)
    weighed = (0.8 * half + 0.8 * quarter + 0.2 * quarter + 0.2 * half) / 4
    assert focal_loss(LOGITS, TARGET, alpha=0.8).item() == pytest.approx(weighed)
    assert focal_loss(LOGITS, TARGET, gamma=0).item() == pytest.approx(
        bce_loss(LOGITS, TARGET).item()
    )


def test_boundary_counted_by_hand() -> None:
    # centres of pixels are 1.5, 0.5, 0.5 and 1.5 pixels from the boundary
    target = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    logits = torch.tensor([[-50.0, 50.0, 0.0, -50.0]])
    expected = (1.5 + 0.5 * 0.5) / 4
    assert boundary_loss(logits, target).item() == pytest.approx(expected)


def test_boundary_is_kervadecs_up_to_a_constant_and_a_factor() -> None:
    target = torch.zeros(12, 12)
    target[3:8, 2:9] = 1
    inside = torch.from_numpy(distance_transform_edt(target.numpy()))
    outside = torch.from_numpy(distance_transform_edt(1 - target.numpy()))
    signed = torch.where(target > 0, 0.5 - inside, outside - 0.5)
    logits = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(0))
    theirs = (signed * logits.sigmoid()).sum((-2, -1))
    ours = boundary_loss(logits, target) * signed.abs().sum()
    assert (ours[0] - ours[1]).item() == pytest.approx((theirs[0] - theirs[1]).item())


def test_boundary_without_a_boundary_weighs_pixels_alike() -> None:
    quarter = torch.full((3, 3), -math.log(3))
    assert boundary_loss(quarter, torch.zeros(3, 3)).item() == pytest.approx(0.25)
    assert boundary_loss(quarter, torch.ones(3, 3)).item() == pytest.approx(0.75)


@pytest.mark.slow(reason="MONAI takes half a minute to import")
def test_agree_with_monai() -> None:
    losses = pytest.importorskip("monai.losses", reason="MONAI compares the losses")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 1, 16, 16, generator=generator)
    target = (torch.rand(5, 1, 16, 16, generator=generator) < 0.3).float()
    smooth = {"smooth_nr": 1.0, "smooth_dr": 1.0, "reduction": "none", "sigmoid": True}
    pairs = [
        (dice_loss, losses.DiceLoss(**smooth)),
        (dice_squared_loss, losses.DiceLoss(**smooth, squared_pred=True)),
        (focal_loss, losses.FocalLoss(gamma=2.0, reduction="none")),
        (
            partial(focal_loss, gamma=1.5, alpha=0.8),
            losses.FocalLoss(gamma=1.5, alpha=0.8, reduction="none"),
        ),
    ]
    for ours, theirs in pairs:
        expected = theirs(logits, target).mean((-2, -1))
        torch.testing.assert_close(ours(logits, target), expected, msg=str(theirs))
    both = losses.DiceCELoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)
    torch.testing.assert_close(
        dice_bce_loss(logits, target).mean(), both(logits, target)
    )


def test_sum_of_losses_with_weights() -> None:
    loss = weighted_sum({"dice": 1, "bce": 0.5, "focal": 20, "boundary": 0})
    expected = (
        dice_loss(LOGITS, TARGET)
        + 0.5 * bce_loss(LOGITS, TARGET)
        + 20 * focal_loss(LOGITS, TARGET)
    )
    torch.testing.assert_close(loss(LOGITS, TARGET), expected)


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ({"dise": 1}, UnknownNameError),
        ({"dice": 1, "dise": 0}, UnknownNameError),
        ({"dice": -1}, SettingsError),
        ({"dice": math.nan}, SettingsError),
        ({"dice": 0}, SettingsError),
        ({}, SettingsError),
    ],
)
def test_weights_that_are_none(weights, error) -> None:
    with pytest.raises(error):
        weighted_sum(weights)


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


@pytest.mark.parametrize("name", sorted(set(LOSSES) - WHOLE_MASK_LOSSES))
class TestEveryLossOfWindows:
    def test_gives_one_number_per_object(self, name: str) -> None:
        logits, target = torch.randn(3, 2, 5, 9), torch.ones(3, 1, 5, 9)
        assert mask_loss(name)(logits, target).shape == (3, 2)

    def test_right_masks_cost_little_and_wrong_ones_much(self, name: str) -> None:
        target = (torch.arange(100) < 30).float().view(10, 10)
        right = 20 * (2 * target - 1)
        loss = mask_loss(name)
        assert loss(right, target).item() < 0.02
        assert loss(-right, target).item() > 0.9

    def test_gradient_leads_to_the_target(self, name: str) -> None:
        torch.manual_seed(0)
        target = (torch.arange(64) % 5 == 0).float().view(8, 8)
        logits = torch.randn(8, 8, requires_grad=True)
        mask_loss(name)(logits, target).backward()
        assert logits.grad is not None
        assert (logits.grad[target == 1] < 0).all()
        assert (logits.grad[target == 0] > 0).all()

    @given(st.floats(-1e4, 1e4), st.booleans())
    @settings(max_examples=30, deadline=None)
    def test_stays_finite(self, name: str, value: float, empty: bool) -> None:
        logits = torch.full((3, 3), value, requires_grad=True)
        target = torch.zeros(3, 3) if empty else torch.ones(3, 3)
        loss = mask_loss(name)(logits, target)
        loss.backward()
        assert torch.isfinite(loss)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_unknown_loss_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="balanced_bce"):
        mask_loss("hinge")
