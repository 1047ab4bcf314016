"""What a promptable model is trained for: one loss per prompted object.

Each object is compared with its target in a window around it, in a fixed number of
cells whatever the object's size, so that a nucleus of ten pixels is judged as finely as
one of two hundred. What the mask claims outside of the window is penalised apart,
relative to the object's area; losses on the form of a mask see all of it. What the
logits are in the padding of views that are not square is nobody's concern.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from napari_samseg.core.training.losses import LossSum, iou_mse_loss, weighted_sum
from napari_samseg.core.training.targets import ObjectTargets, window_grid

__all__ = ["ObjectLoss", "object_loss"]

DICE_BCE = weighted_sum({"dice_bce": 1})


@dataclass(frozen=True, slots=True, eq=False)
class ObjectLoss:
    """Losses of N objects (before any mean) and how well they were found.

    Attributes
    ----------
    mask, iou_error : (N,) float tensor
        Loss of the mask that counts, and of the predicted IoU.
    iou : (N,) float tensor
        Actual IoU of the mask that the model itself would choose; no gradient.
    """

    mask: torch.Tensor
    iou_error: torch.Tensor
    iou: torch.Tensor


def object_loss(
    logits: torch.Tensor,
    iou_predictions: torch.Tensor,
    targets: ObjectTargets,
    *,
    loss: LossSum = DICE_BCE,
) -> ObjectLoss:
    """Compare M masks of each object with its target; the best mask counts.

    Parameters
    ----------
    logits : (N, M, h, w) float tensor
        M = 1 for clear prompts, M = 3 where a prompt is ambiguous: then only the mask
        of lowest loss learns (with a trace of the others, which would otherwise never
        wake up), and the predicted IoU of all of them.
    iou_predictions : (N, M) float tensor
    targets : ObjectTargets
    loss : LossSum
        Applied to the k x k cells of the window; those of its losses that judge whole
        masks, to the whole view, which must then be in the targets.
    """
    k = targets.masks.shape[-1]
    target = targets.masks[:, None]
    grid = window_grid(targets.windows_xyxy, (k, k))
    outside, n_cells = _outside(targets, logits)
    inside = functional.grid_sample(
        logits, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    # pixels of the decoder's grid that one cell of the window stands for
    width, height = (targets.windows_xyxy[:, 2:] - targets.windows_xyxy[:, :2]).unbind(
        1
    )
    share = width * height * logits.shape[-1] * logits.shape[-2] / k**2
    area = (target.sum((-2, -1)) * share[:, None]).clamp(min=1.0)
    stray = (logits.sigmoid() * outside).sum((-2, -1))
    far_cost = (functional.softplus(logits) * outside).sum((-2, -1)) / n_cells
    per_mask = loss.on_window(inside, target) + stray / (stray + area) + far_cost
    if loss.needs_whole:
        assert targets.whole is not None
        view = _view_of(logits, targets)
        per_mask = per_mask + loss.on_whole(view, targets.whole[:, None])

    with torch.no_grad():
        found, true = inside > 0, targets.is_object[:, None]
        shared = (found & true).sum((-2, -1)) * share[:, None]
        union = (found | true).sum((-2, -1)) * share[:, None]
        union = union + ((logits > 0) * outside).sum((-2, -1))
        actual = shared / union.clamp(min=1e-6)
    chosen = actual.gather(1, iou_predictions.argmax(1, keepdim=True))[:, 0]
    mask = per_mask.min(1).values
    if logits.shape[1] > 1:
        mask = mask + 0.05 * per_mask.mean(1)
    return ObjectLoss(mask, iou_mse_loss(iou_predictions, actual).mean(1), chosen)


def _outside(
    targets: ObjectTargets, logits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what of the view lies outside of each window.

    Returns
    -------
    outside : (N, 1, h, w) tensor of the logits' type
        0 or 1.
    n_cells : (N, 1) tensor of the logits' type
        Cells that show the view at all.
    """
    size = logits.shape[-2:]
    outside = ~_in_boxes(targets.windows_xyxy, size)
    is_view = torch.ones_like(outside)
    if targets.extents_xy is not None:
        # parts of a plane may begin anywhere in the view
        corner = torch.full_like(targets.extents_xy, -torch.inf)
        is_view = _in_boxes(torch.cat([corner, targets.extents_xy], dim=1), size)
    n_cells = is_view.sum((-2, -1)).clamp(min=1).to(logits.dtype)
    return (outside & is_view).to(logits.dtype), n_cells


def _view_of(logits: torch.Tensor, targets: ObjectTargets) -> torch.Tensor:
    """Take logits (N, M, h, w) at the cells of the whole masks, without padding."""
    assert targets.whole is not None  # made for losses on whole masks
    assert targets.extents_xy is not None
    corner = torch.zeros_like(targets.extents_xy)
    windows = torch.cat([corner, targets.extents_xy], dim=1)
    grid = window_grid(windows, (targets.whole.shape[1], targets.whole.shape[2]))
    return functional.grid_sample(
        logits, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def _in_boxes(boxes_xyxy: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Return which of the logits lie in a box of each object, (N, 1, h, w) bool."""
    x0, y0, x1, y1 = boxes_xyxy.unbind(1)
    cy = (torch.arange(size[0], device=boxes_xyxy.device) + 0.5) / size[0]
    cx = (torch.arange(size[1], device=boxes_xyxy.device) + 0.5) / size[1]
    in_x = (cx >= x0[:, None]) & (cx <= x1[:, None])
    in_y = (cy >= y0[:, None]) & (cy <= y1[:, None])
    return (in_y[:, :, None] & in_x[:, None, :])[:, None]
