"""Losses on mask logits, each balanced per object.

A mean over all pixels of a plane is nearly all background where objects are small:
it is lowest for empty masks, and training collapses to them. Every loss here gives
one number per object and mask, so a small object weighs as much as a large one.

All take logits and targets of one shape (..., P) with the pixels last, and return
(...,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

from napari_samseg.core.errors import UnknownNameError

__all__ = [
    "LOSSES",
    "MaskLoss",
    "balanced_bce_loss",
    "bce_loss",
    "dice_bce_loss",
    "dice_loss",
    "iou_mse_loss",
    "mask_loss",
]

MaskLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def dice_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """One minus the soft Dice coefficient, 1 - 2 sum(p t) / (sum(p) + sum(t)).

    Parameters
    ----------
    logits : (..., P) float tensor
    target : (..., P) float tensor
        In 0..1, of a shape that broadcasts with `logits`.

    Returns
    -------
    (...,) float tensor in 0..1
        Smoothed by one pixel, so an empty prediction of an empty target costs 0.
    """
    probability = logits.sigmoid()
    overlap = (probability * target).sum(-1)
    total = probability.sum(-1) + target.sum(-1)
    return 1 - (2 * overlap + 1) / (total + 1)


def bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, mean over the pixels that are given."""
    # softplus(x) - x t is the numerically stable form, without expanding the target
    return (functional.softplus(logits) - logits * target).mean(-1)


def balanced_bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy in which object and background weigh half each.

    Where one of the two is absent, the other has all the weight.
    """
    cost = functional.softplus(logits) - logits * target
    n_object, n_ground = target.sum(-1), (1 - target).sum(-1)
    on_object = (cost * target).sum(-1) / n_object.clamp(min=1e-6)
    on_ground = (cost * (1 - target)).sum(-1) / n_ground.clamp(min=1e-6)
    present = (n_object > 0).to(cost.dtype) + (n_ground > 0).to(cost.dtype)
    return (on_object + on_ground) / present


def dice_bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Sum of `dice_loss` and `bce_loss`."""
    return dice_loss(logits, target) + bce_loss(logits, target)


LOSSES: Mapping[str, MaskLoss] = {
    "dice": dice_loss,
    "bce": bce_loss,
    "balanced_bce": balanced_bce_loss,
    "dice_bce": dice_bce_loss,
}


def mask_loss(name: str) -> MaskLoss:
    """Return the loss called `name`.

    Raises
    ------
    UnknownNameError
        If no loss has that name.
    """
    try:
        return LOSSES[name]
    except KeyError:
        raise UnknownNameError(
            f"there is no loss '{name}'; choose one of {', '.join(sorted(LOSSES))}"
        ) from None


def iou_mse_loss(predicted: torch.Tensor, actual: torch.Tensor) -> torch.Tensor:
    """Squared error of the predicted IoU, elementwise; no gradient to `actual`."""
    return (predicted - actual.detach()).square()
