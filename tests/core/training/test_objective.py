from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
import torch

from napari_samseg.core.training.losses import read_loss
from napari_samseg.core.training.objective import object_loss
from napari_samseg.core.training.targets import ObjectTargets

if TYPE_CHECKING:
    pass


def square_target() -> tuple[torch.Tensor, ObjectTargets]:
    """A square of 8 x 8 in logits of 32 x 32, and its target in a window around it."""
    mask = torch.zeros(32, 32)
    mask[8:16, 12:20] = 1
    window = mask[4:20, 8:24].repeat_interleave(2, 0).repeat_interleave(2, 1)
    box = torch.tensor([[8 / 32, 4 / 32, 24 / 32, 20 / 32]])
    return mask, ObjectTargets(box, window[None])


def test_the_true_mask_costs_nothing_and_has_iou_one() -> None:
    mask, targets = square_target()
    logits = (40 * (mask - 0.5))[None, None]
    result = object_loss(logits, torch.ones(1, 1), targets)
    # bilinear sampling between the two sides of an edge
    assert result.mask.item() < 0.05
    assert result.iou.item() == pytest.approx(1.0)
    assert result.iou_error.item() == pytest.approx(0.0)


def test_actual_iou_counts_what_lies_outside_of_the_window() -> None:
    mask, targets = square_target()
    stray = mask.clone()
    stray[24:32, 0:8] = 1  # as many pixels again, far away
    logits = (40 * (stray - 0.5))[None, None]
    result = object_loss(logits, torch.full((1, 1), 0.5), targets)
    assert result.iou.item() == pytest.approx(0.5)
    clean = object_loss((40 * (mask - 0.5))[None, None], torch.ones(1, 1), targets)
    assert result.mask.item() > clean.mask.item() + 0.4


def test_of_three_masks_the_best_learns_most() -> None:
    mask, targets = square_target()
    other = torch.zeros(32, 32)
    other[5:9, 9:12] = 1
    logits = torch.stack([4 * (other - 0.5), 4 * (mask - 0.5), -4 * (mask - 0.5)])
    logits = logits[None].requires_grad_()
    object_loss(logits, torch.zeros(1, 3), targets).mask.sum().backward()
    assert logits.grad is not None
    moved = logits.grad.abs().amax(dim=(0, 2, 3))
    assert (moved > 0).all()
    result = object_loss(logits.detach(), torch.tensor([[0.1, 0.9, 0.2]]), targets)
    assert result.iou.item() == pytest.approx(1.0)
    best = object_loss(logits.detach()[:, 1:2], torch.zeros(1, 1), targets).mask
    # the minimum over the masks, and a trace of the mean
    assert best.item() < result.mask.item() < best.item() + 0.05 * 5


def test_chosen_mask_is_the_one_the_model_believes_in() -> None:
    mask, targets = square_target()
    logits = torch.stack([40 * (mask - 0.5), -40 * torch.ones(32, 32)])[None]
    wrong = object_loss(logits, torch.tensor([[0.2, 0.8]]), targets)
    assert wrong.iou.item() == 0.0
    # actual IoUs are 1 and 0
    assert wrong.iou_error.item() == pytest.approx((0.8**2 + 0.8**2) / 2)


def test_a_small_object_weighs_as_much_as_a_large_one() -> None:
    costs = []
    for side in (4, 16):
        mask = torch.zeros(64, 64)
        mask[20 : 20 + side, 20 : 20 + side] = 1
        low, high = (20 - side / 2) / 64, (20 + 1.5 * side) / 64
        at = ((torch.arange(48) + 0.5) / 48 * (high - low) + low) * 64
        window = mask[at.long()][:, at.long()]
        targets = ObjectTargets(torch.tensor([[low, low, high, high]]), window[None])
        empty = torch.full((1, 1, 64, 64), -16.0)
        costs.append(object_loss(empty, torch.zeros(1, 1), targets).mask.item())
    # a quarter of the window missed by 16, and no overlap
    assert costs == pytest.approx([0.25 * 16 + 1] * 2, abs=0.01)


def test_what_logits_are_in_padding_is_neither_right_nor_wrong() -> None:
    mask, targets = square_target()
    logits = (40 * (mask - 0.5))[None, None]
    # the view is wider than it is high: what is below is padding
    wide = dataclasses.replace(targets, extents_xy=torch.tensor([[1.0, 21 / 32]]))
    clean = object_loss(logits, torch.ones(1, 1), wide)
    logits = logits.clone()
    logits[..., 21:, :] = 20
    for found in (clean, object_loss(logits, torch.ones(1, 1), wide)):
        assert found.iou.item() == pytest.approx(1.0)
        assert found.mask.item() == pytest.approx(clean.mask.item())
    assert object_loss(logits, torch.ones(1, 1), targets).iou.item() < 0.3


def test_losses_on_whole_masks_see_what_is_far_from_the_object() -> None:
    def cost(stray: bool, loss: str) -> float:
        logits = (12 * (mask - 0.5))[None, None].clone()
        if stray:
            logits[..., 24:29, 24:29] = 6
        near = object_loss(logits, torch.ones(1, 1), whole, loss=read_loss("dice"))
        found = object_loss(logits, torch.ones(1, 1), whole, loss=read_loss(loss))
        return (found.mask - near.mask).item()

    mask, targets = square_target()
    extents = torch.tensor([[1.0, 1.0]])
    whole = dataclasses.replace(targets, extents_xy=extents, whole=mask[None])
    for loss in ("dice + topology", "dice + cldice"):
        assert cost(True, loss) > cost(False, loss) + 0.05
    far, near = (cost(stray, "dice + bce") for stray in (True, False))
    assert far == pytest.approx(near, abs=1e-5)
