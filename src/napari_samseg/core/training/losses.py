"""Losses on mask logits, each balanced per object.

A mean over all pixels of a plane is nearly all background where objects are small:
it is lowest for empty masks, and training collapses to them. Every loss here gives
one number per object and mask, so a small object weighs as much as a large one.

All take logits and targets of one shape (..., h, w), and return (...,). Most are made
for the window around an object that `objective.object_loss` looks at; those named in
`WHOLE_MASK_LOSSES` judge the form of a mask and are given all of it. In a target, the
cells at an edge are covered in part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import torch
from torch.nn import functional

from napari_samseg.core.errors import SettingsError, UnknownNameError
from napari_samseg.core.training.topology import (
    cldice_loss,
    load_cubical_complex,
    topology_loss,
)

__all__ = [
    "LOSSES",
    "WHOLE_MASK_LOSSES",
    "LossSum",
    "MaskLoss",
    "balanced_bce_loss",
    "bce_loss",
    "boundary_loss",
    "dice_bce_loss",
    "dice_loss",
    "dice_squared_loss",
    "focal_loss",
    "iou_mse_loss",
    "mask_loss",
    "read_loss",
    "weighted_bce_loss",
    "weighted_sum",
]

MaskLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Objects of a smaller share of the pixels do not weigh any more.
LEAST_SHARE = 1e-4
GRID = (-2, -1)
TERM = re.compile(r"((?P<weight>\d+(\.\d*)?|\.\d+)\s*\*\s*)?(?P<name>[a-z_0-9]+)")


def dice_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """One minus the soft Dice coefficient, 1 - 2 sum(p t) / (sum(p) + sum(t)).

    Parameters
    ----------
    logits : (..., h, w) float tensor
    target : (..., h, w) float tensor
        In 0..1, of a shape that broadcasts with `logits`.

    Returns
    -------
    (...,) float tensor in 0..1
        Smoothed by one pixel, so an empty prediction of an empty target costs 0.
    """
    probability = logits.sigmoid()
    total = probability.sum(GRID) + target.sum(GRID)
    return _one_minus_dice(probability, target, total)


def dice_squared_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Dice with squares below, 1 - 2 sum(p t) / (sum(p^2) + sum(t^2)).

    Milletari et al. 2016, V-Net, arXiv:1606.04797. Smoothed as `dice_loss` is.
    """
    probability = logits.sigmoid()
    total = probability.square().sum(GRID) + target.square().sum(GRID)
    return _one_minus_dice(probability, target, total)


def _one_minus_dice(
    probability: torch.Tensor, target: torch.Tensor, total: torch.Tensor
) -> torch.Tensor:
    return 1 - (2 * (probability * target).sum(GRID) + 1) / (total + 1)


def _cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of each pixel."""
    # softplus(x) - x t is the numerically stable form, without expanding the target
    return functional.softplus(logits) - logits * target


def bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, mean over the pixels that are given."""
    return _cross_entropy(logits, target).mean(GRID)


def balanced_bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy in which object and background weigh half each.

    Where one of the two is absent, the other has all the weight.
    """
    cost = _cross_entropy(logits, target)
    n_object, n_ground = target.sum(GRID), (1 - target).sum(GRID)
    on_object = (cost * target).sum(GRID) / n_object.clamp(min=1e-6)
    on_ground = (cost * (1 - target)).sum(GRID) / n_ground.clamp(min=1e-6)
    present = (n_object > 0).to(cost.dtype) + (n_ground > 0).to(cost.dtype)
    return (on_object + on_ground) / present


def weighted_bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy whose object pixels weigh (1 - f) / f, the others 1.

    f is the object's share of the pixels, at least 1e-4. Both sides then have the
    same weight in all, 1 - f; in `balanced_bce_loss` it is a half for any object.
    """
    share = target.mean(GRID, keepdim=True).clamp(min=LEAST_SHARE)
    weight = torch.lerp(torch.ones_like(share), (1 - share) / share, target)
    return (_cross_entropy(logits, target) * weight).mean(GRID)


def dice_bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Sum of `dice_loss` and `bce_loss`."""
    return dice_loss(logits, target) + bce_loss(logits, target)


def focal_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
) -> torch.Tensor:
    """Cross-entropy in which pixels that are right already hardly count.

    Lin et al. 2017, arXiv:1708.02002: the mean of -(1 - p_t)^gamma log(p_t), where
    p_t is the probability given to what the pixel is.

    Parameters
    ----------
    logits, target : (..., h, w) float tensor
    gamma : float
        0 is plain cross-entropy.
    alpha : float in 0..1, optional
        Weight of object pixels; the others weigh 1 - alpha.
    """
    cost = _cross_entropy(logits, target)
    # log(1 - p_t) as a logarithm of a sigmoid: no gradient of 0^gamma that is NaN
    wrong = functional.logsigmoid(logits * (1 - 2 * target))
    cost = (gamma * wrong).exp() * cost
    if alpha is not None:
        cost = cost * (alpha * target + (1 - alpha) * (1 - target))
    return cost.mean(GRID)


def boundary_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Wrong pixels, weighed by their distance from the true boundary.

    Kervadec et al. 2019, arXiv:1812.07032, equation 5, with the constant that makes a
    right mask cost 0, and distances divided by their mean, so that a wholly wrong
    mask costs 1 whatever its size: sum(D |p - t|) / sum(D).

    Where a target is empty, or nothing but object, there is no boundary, and all
    pixels weigh the same.
    """
    distance = _boundary_distances(target).to(logits)
    wrong = (logits.sigmoid() - target).abs()
    return (distance * wrong).sum(GRID) / distance.sum(GRID)


def _boundary_distances(target: torch.Tensor) -> torch.Tensor:
    """Distance of each pixel's centre from the boundary, in pixels."""
    from edt import edt

    # all cells of a thin object may be covered by a little
    half = 0.5 * target.amax(GRID, keepdim=True)
    masks = (target.detach() > half).cpu().numpy()
    distances = np.ones(masks.shape, np.float32)
    size = masks.shape[-2:]
    pairs = zip(masks.reshape(-1, *size), distances.reshape(-1, *size), strict=True)
    for mask, distance in pairs:
        if mask.any() and not mask.all():
            distance[...] = edt(mask) + edt(~mask) - 0.5
    return torch.from_numpy(distances)


def iou_mse_loss(predicted: torch.Tensor, actual: torch.Tensor) -> torch.Tensor:
    """Squared error of the predicted IoU, elementwise; no gradient to `actual`."""
    return (predicted - actual.detach()).square()


LOSSES: Mapping[str, MaskLoss] = MappingProxyType(
    {
        "dice": dice_loss,
        "dice_squared": dice_squared_loss,
        "bce": bce_loss,
        "balanced_bce": balanced_bce_loss,
        "weighted_bce": weighted_bce_loss,
        "dice_bce": dice_bce_loss,
        "focal": focal_loss,
        "boundary": boundary_loss,
        "topology": topology_loss,
        "topology_h0": partial(topology_loss, dimensions=(0,)),
        "topology_both": partial(topology_loss, dimensions=(0, 1)),
        "cldice": cldice_loss,
    }
)

# These judge the form of a mask as a whole. A window cuts off what lies outside, and
# with it loops and branches, so that trainers give them all of a mask.
WHOLE_MASK_LOSSES = frozenset({"topology", "topology_h0", "topology_both", "cldice"})


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


@dataclass(frozen=True, slots=True)
class LossSum:
    """A sum of losses, told apart by what they look at.

    Attributes
    ----------
    terms : tuple of (str, float)
        Names of `LOSSES`, and their weights.
    """

    terms: tuple[tuple[str, float], ...]

    @property
    def needs_whole(self) -> bool:
        """Whether some of them judge whole masks."""
        return any(name in WHOLE_MASK_LOSSES for name, _ in self.terms)

    def on_window(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the sum of those that look at a window; 0 if there is none."""
        return self._add(logits, target, is_whole=False)

    def on_whole(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the sum of those that judge whole masks; 0 if there is none."""
        return self._add(logits, target, is_whole=True)

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the sum of all of them, where a window is the whole mask."""
        return self.on_window(logits, target) + self.on_whole(logits, target)

    def _add(
        self, logits: torch.Tensor, target: torch.Tensor, *, is_whole: bool
    ) -> torch.Tensor:
        # of numpy: that of torch imports sympy, which takes seconds
        shape = np.broadcast_shapes(logits.shape[:-2], target.shape[:-2])
        total = logits.new_zeros(shape)
        for name, weight in self.terms:
            if (name in WHOLE_MASK_LOSSES) == is_whole:
                total = total + weight * LOSSES[name](logits, target)
        return total


def read_loss(text: str) -> LossSum:
    """Return the sum of losses that a text says, such as ``dice + 20*focal``.

    Raises
    ------
    UnknownNameError
        If there is no such loss.
    SettingsError
        If it is no such sum.
    MissingDependencyError
        If a library that a loss needs is not installed.
    """
    weights: dict[str, float] = {}
    if "topology" in text:
        load_cubical_complex()  # not found out after everything is encoded
    for term in text.split("+"):
        found = TERM.fullmatch(term.strip())
        if found is None:
            raise SettingsError(
                f"{text!r} is no sum of losses with weights, such as dice + 20*focal"
            )
        name = found["name"]
        weights[name] = weights.get(name, 0.0) + float(found["weight"] or 1)
    return weighted_sum(weights)


def weighted_sum(weights: Mapping[str, float]) -> LossSum:
    """Return the sum of some losses, each times its weight.

    Parameters
    ----------
    weights : mapping of name to float
        Names of `LOSSES`, such as ``{"dice": 1, "bce": 1, "focal": 20}``, or
        ``{"dice_bce": 1, "topology": 0.1}`` for the loss of the OCT project. A loss of
        weight 0 is not computed.

    Raises
    ------
    UnknownNameError
        If there is no such loss.
    SettingsError
        If a weight is negative or no number, or none is above 0.
    """
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise SettingsError(
                f"the weight of the loss '{name}' is a number from 0 up, not {weight}"
            )
    # names are looked up before those of weight 0 are dropped: one may be misspelt
    for name in weights:
        mask_loss(name)
    terms = tuple((name, weight) for name, weight in weights.items() if weight)
    if not terms:
        raise SettingsError("give at least one loss a weight above 0")
    return LossSum(terms)
