"""The loss of prompted objects: a first prompt, then clicks on what was wrong.

As SAM was trained (Kirillov et al. 2023, appendix A): a box or a point, and then
points drawn from the error of the mask before, with or without that mask as a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from napari_samseg.core.models.decoding import DistantTokens, decode_objects
from napari_samseg.core.models.frame import (
    boxes_to_frame,
    points_to_frame,
)
from napari_samseg.core.training.cutting import TokenWindows, sparsely
from napari_samseg.core.training.losses import LossSum
from napari_samseg.core.training.objective import ObjectLoss, object_loss
from napari_samseg.core.training.targets import ObjectTargets, window_grid
from napari_samseg.core.types import PlanePrompts

if TYPE_CHECKING:
    from napari_samseg.core.models.sam import SamModel

__all__ = ["FramePrompts", "PromptedLoss", "nothing_loss", "prompted_loss"]


@dataclass(frozen=True, slots=True, eq=False)
class FramePrompts:
    """Prompts of N objects in pixels of the model's square.

    Attributes
    ----------
    points_xy : (N, P, 2) float tensor
    labels : (N, P) float tensor
        1 foreground, 0 background.
    boxes_xyxy : (N, 4) float tensor or None
    masks : (N, 1, h, w) float tensor or None
    """

    points_xy: torch.Tensor
    labels: torch.Tensor
    boxes_xyxy: torch.Tensor | None
    masks: torch.Tensor | None = None

    @property
    def is_lone_point(self) -> bool:
        """Whether it is ambiguous what is meant, so that three masks answer."""
        alone = self.boxes_xyxy is None and self.masks is None
        return alone and self.points_xy.shape[1] == 1

    @classmethod
    def of(
        cls, prompts: PlanePrompts, size: tuple[int, int], model: SamModel
    ) -> FramePrompts:
        """Turn prompts in pixels of a view into those of the model's square.

        Parameters
        ----------
        prompts : PlanePrompts
            All of the same kinds, without padding.
        size : (int, int)
            (Y, X) of the view, in pixels.
        model : SamModel
        """
        side, device = model.input_size, model.device
        points = points_to_frame(prompts.points_yx, size, side)
        labels = prompts.point_labels.astype(np.float32)
        boxes = None
        if prompts.has_box.all():
            boxes = torch.from_numpy(boxes_to_frame(prompts.boxes_yx, size, side))
            boxes = boxes.to(device)
        return cls(
            torch.from_numpy(points).to(device),
            torch.from_numpy(labels).to(device),
            boxes,
        )

    def to(self, device: torch.device) -> FramePrompts:
        """Return a copy on a device."""
        boxes, masks = self.boxes_xyxy, self.masks
        return FramePrompts(
            self.points_xy.to(device),
            self.labels.to(device),
            None if boxes is None else boxes.to(device),
            None if masks is None else masks.to(device),
        )

    def with_clicks(
        self, points_xy: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor | None
    ) -> FramePrompts:
        """Add a point (N, 2) with its label (N,), and replace the masks."""
        return FramePrompts(
            torch.cat([self.points_xy, points_xy[:, None]], dim=1),
            torch.cat([self.labels, labels[:, None]], dim=1),
            self.boxes_xyxy,
            masks,
        )


@dataclass(frozen=True, slots=True, eq=False)
class PromptedLoss:
    """What a batch of objects costs, and how well they were found.

    Attributes
    ----------
    total : scalar tensor
    first_iou, last_iou : (N,) float tensor
        Actual IoU after the first prompt, and after the last click.
    """

    total: torch.Tensor
    first_iou: torch.Tensor
    last_iou: torch.Tensor


def prompted_loss(
    model: SamModel,
    features: torch.Tensor,
    prompts: FramePrompts,
    targets: ObjectTargets,
    loss: LossSum,
    rng: np.random.Generator,
    *,
    windows: TokenWindows | None = None,
    iou_weight: float = 1.0,
    corrections: int = 0,
    previous: float = 0.5,
) -> PromptedLoss:
    """Decode prompted objects, correct them, and compare with their targets.

    Parameters
    ----------
    model : SamModel
        Whatever of its prompt encoder and mask decoder requires gradients learns.
    features : (1 or N, C, h, w) float tensor
        Of the view, or of each object's; where there are windows, also (N, C, side,
        side) of these alone.
    prompts : FramePrompts
    targets : ObjectTargets
    loss : LossSum
    rng : numpy.random.Generator
        Of the clicks.
    windows : TokenWindows, optional
        Decode these parts of the features only, with a coarse look at the rest; not
        with losses on whole masks.
    iou_weight : float
        Of the error of the predicted IoU.
    corrections : int
        Clicks after the first prompt.
    previous : float
        Share of them with the mask before as a prompt.
    """
    results: list[ObjectLoss] = []
    if windows is not None:
        targets = windows.move(targets)
    for round_ in range(corrections + 1):
        logits, quality = _decode(model, features, prompts, windows)
        results.append(object_loss(logits, quality, targets, loss=loss))
        if round_ < corrections:
            shown = _shown(logits.detach(), quality.detach())
            points, labels = _error_clicks(shown, targets, rng)
            if windows is not None:
                points = windows.points_to_whole(points)
            masks = shown if rng.random() < previous else None
            # an integer is the centre of a pixel
            points = points * model.input_size - 0.5
            prompts = prompts.with_clicks(points, labels, masks)
    total = torch.stack(
        [(r.mask + iou_weight * r.iou_error).mean() for r in results]
    ).mean()
    return PromptedLoss(total, results[0].iou, results[-1].iou)


def nothing_loss(
    model: SamModel,
    features: torch.Tensor,
    prompts: FramePrompts,
    *,
    windows: TokenWindows | None = None,
) -> torch.Tensor:
    """Return what it costs to think much of masks where there is nothing to find.

    Whatever the masks are, their IoU with what was meant is 0.

    Parameters
    ----------
    model : SamModel
    features : (1 or N, C, h, w) float tensor
    prompts : FramePrompts
        That lie on no object.
    windows : TokenWindows, optional
        As for `prompted_loss`.

    Returns
    -------
    (N,) float tensor
        Mean squared predicted IoU.
    """
    _, quality = _decode(model, features, prompts, windows)
    return quality.square().mean(1)


def _decode(
    model: SamModel,
    features: torch.Tensor,
    prompts: FramePrompts,
    windows: TokenWindows | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and predicted IoU of three masks by a lone point, else of one."""
    encoder = model.sam.prompt_encoder
    is_whole = windows is None or features.shape[-1] == windows.tokens
    masks = prompts.masks
    if masks is None:
        masks = _guess(model, prompts, None if is_whole else windows)
    rest = None
    if windows is not None and is_whole:
        rest = _distant(model, features, masks, windows)
        features = windows.cut(features)
        if masks is not None and prompts.masks is None:
            masks = windows.cut(masks, model.low_res_size // windows.tokens)
    points = (prompts.points_xy, prompts.labels) if prompts.points_xy.shape[1] else None
    sparse, dense = encoder(points=points, boxes=prompts.boxes_xyxy, masks=masks)
    positions = encoder.get_dense_pe()
    if windows is not None:
        positions = windows.cut(positions)
        # without a mask, it is the same everywhere
        dense = dense[..., : windows.side, : windows.side]
    features = features.expand(len(sparse), -1, -1, -1)
    return decode_objects(
        model.sam.mask_decoder,
        features,
        positions,
        sparse,
        dense,
        rest,
        masks=slice(1, None) if prompts.is_lone_point else slice(0, 1),
    )


def _guess(
    model: SamModel, prompts: FramePrompts, windows: TokenWindows | None
) -> torch.Tensor | None:
    """Draw the mask prompt that the model wants where none was given."""
    if model.prior is None:
        return None
    given = prompts.points_xy.shape[1] > 0
    points = prompts.points_xy if given else None
    labels = prompts.labels if given else None
    boxes = prompts.boxes_xyxy
    if windows is None:
        low, side = model.low_res_size, model.input_size
        return model.prior(points, labels, boxes, low, side)
    # it follows from distances alone: drawn where it is needed, from there
    stride = model.input_size // windows.tokens
    corner = torch.flip(windows.origins_yx, (1,)) * stride
    return model.prior(
        None if points is None else points - corner[:, None],
        labels,
        None if boxes is None else boxes - corner.repeat(1, 2),
        windows.side * (model.low_res_size // windows.tokens),
        windows.side * stride,
    )


def _distant(
    model: SamModel,
    features: torch.Tensor,
    masks: torch.Tensor | None,
    windows: TokenWindows,
) -> DistantTokens:
    """Return the tokens that stand for what lies beyond the windows.

    `masks` are those of the whole, or of the windows alone where they come from a
    decoding before: beyond, these are as low as anywhere in the window.
    """
    encoder, n = model.sam.prompt_encoder, len(windows.origins_yx)
    scale = model.low_res_size // windows.tokens
    keys, positions = sparsely(features), sparsely(encoder.get_dense_pe())
    if masks is None:
        dense = encoder.no_mask_embed.weight[..., None, None]
    elif masks.shape[-1] == model.low_res_size:
        dense = encoder.mask_downscaling(sparsely(masks, scale))
    else:
        side = keys.shape[-1] * scale
        lowest = masks.amin((2, 3), keepdim=True)
        dense = encoder.mask_downscaling(lowest.expand(-1, -1, side, side))
    return DistantTokens(
        (keys + dense).flatten(2).transpose(1, 2).expand(n, -1, -1),
        positions.flatten(2).transpose(1, 2).expand(n, -1, -1),
        windows.log_counts(),
    )


def _shown(logits: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Return the mask that a person would be shown of each object, (N, 1, h, w)."""
    best = quality.argmax(dim=1)
    return logits[torch.arange(len(logits), device=logits.device), best][:, None]


def _error_clicks(
    logits: torch.Tensor,
    targets: ObjectTargets,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a point on what is wrong with each mask, or on the object if nothing is.

    Returns
    -------
    points_xy : (N, 2) float tensor
        As fractions of what the logits show.
    labels : (N,) float tensor
    """
    k = targets.masks.shape[-1]
    grid = window_grid(targets.windows_xyxy, (k, k))
    found = functional.grid_sample(
        logits, grid, mode="bilinear", padding_mode="border", align_corners=False
    )[:, 0]
    true = targets.is_object
    wrong = ((found > 0) != true).flatten(1)
    wrong = torch.where(wrong.any(1, keepdim=True), wrong, true.flatten(1))
    draws = torch.from_numpy(rng.random(len(wrong))).to(wrong.device)
    counts = wrong.cumsum(1)
    nth = (draws * counts[:, -1]).long() + 1
    at = (counts >= nth[:, None]).int().argmax(1)
    picked = torch.arange(len(at), device=at.device)
    points = (grid.flatten(1, 2)[picked, at] + 1) / 2
    if targets.spots_xy is not None:
        windows = targets.windows_xyxy
        off = targets.spots_xy.flatten(1, 2)[picked, at] - 0.5
        points = points + off * (windows[:, 2:] - windows[:, :2]) / k
    return points, true.flatten(1)[picked, at].to(points.dtype)
