"""What a promptable model is trained for: one loss per prompted object.

Each object is compared with its target in a window around it, sampled at a fixed
number of points whatever the object's size, so that a nucleus of ten pixels is judged
as finely as one of two hundred. What the mask claims outside of the window is
penalised apart, relative to the object's area.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder
from torch.nn import functional

from napari_samseg.core.training.losses import MaskLoss, dice_bce_loss, iou_mse_loss

__all__ = [
    "ObjectLoss",
    "ObjectTargets",
    "decode_objects",
    "object_loss",
    "window_grid",
]


@dataclass(frozen=True, slots=True, eq=False)
class ObjectTargets:
    """The true masks of N objects, sampled in windows.

    Attributes
    ----------
    windows_xyxy : (N, 4) float tensor
        Window of each object, as fractions 0..1 of the area the logits cover.
    masks : (N, k, k) float tensor
        1 on the object, 0 elsewhere, at the centres of a k x k grid in the window.
    """

    windows_xyxy: torch.Tensor
    masks: torch.Tensor

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, rows: torch.Tensor) -> ObjectTargets:
        """Return the targets of some objects."""
        return ObjectTargets(self.windows_xyxy[rows], self.masks[rows])

    def to(self, device: torch.device) -> ObjectTargets:
        """Return a copy on a device."""
        return ObjectTargets(self.windows_xyxy.to(device), self.masks.to(device))


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


def decode_objects(
    decoder: MaskDecoder,
    embeddings: torch.Tensor,
    positions: torch.Tensor,
    sparse: torch.Tensor,
    dense: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode N objects that may come from different images.

    `MaskDecoder.predict_masks` takes one image and many prompts; a training batch has
    a row of embeddings for each object instead, and may be a part of the canvas.

    Parameters
    ----------
    embeddings : (N, C, h, w) float tensor
    positions : (1, C, h, w) float tensor
        Dense positional encoding of that part.
    sparse : (N, T, C) float tensor
    dense : (N, C, h, w) float tensor

    Returns
    -------
    logits : (N, M, 4h, 4w) float tensor
    iou_predictions : (N, M) float tensor
        M is four in SAM: the mask for clear prompts, then three for ambiguous ones.
    """
    n, c, h, w = embeddings.shape
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([outputs.expand(n, -1, -1), sparse], dim=1)
    hidden, source = decoder.transformer(
        embeddings + dense, positions.expand(n, -1, -1, -1), tokens
    )
    source = source.transpose(1, 2).reshape(n, c, h, w)
    upscaled = decoder.output_upscaling(source)
    weights = torch.stack(
        [
            head(hidden[:, 1 + i])
            for i, head in enumerate(decoder.output_hypernetworks_mlps)
        ],
        dim=1,
    )
    logits = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
    return logits, decoder.iou_prediction_head(hidden[:, 0])


def object_loss(
    logits: torch.Tensor,
    iou_predictions: torch.Tensor,
    targets: ObjectTargets,
    *,
    loss: MaskLoss = dice_bce_loss,
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
    loss : MaskLoss
        Applied to the k x k points of the window.
    """
    k = targets.masks.shape[-1]
    target = targets.masks[:, None]
    grid = window_grid(targets.windows_xyxy, k)
    outside = _outside(targets.windows_xyxy, logits.shape[-2:]).to(logits.dtype)
    inside = functional.grid_sample(
        logits, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    # pixels of the decoder's grid that one sample of the window stands for
    width, height = (targets.windows_xyxy[:, 2:] - targets.windows_xyxy[:, :2]).unbind(
        1
    )
    share = width * height * logits.shape[-1] * logits.shape[-2] / k**2
    area = (target.sum((-2, -1)) * share[:, None]).clamp(min=1.0)
    stray = (logits.sigmoid() * outside).sum((-2, -1))
    far_cost = (functional.softplus(logits) * outside).mean((-2, -1))
    per_mask = loss(inside, target) + stray / (stray + area) + far_cost

    with torch.no_grad():
        found, true = inside > 0, target > 0.5
        shared = (found & true).sum((-2, -1)) * share[:, None]
        union = (found | true).sum((-2, -1)) * share[:, None]
        union = union + ((logits > 0) * outside).sum((-2, -1))
        actual = shared / union.clamp(min=1e-6)
    chosen = actual.gather(1, iou_predictions.argmax(1, keepdim=True))[:, 0]
    mask = per_mask.min(1).values
    if logits.shape[1] > 1:
        mask = mask + 0.05 * per_mask.mean(1)
    return ObjectLoss(mask, iou_mse_loss(iou_predictions, actual).mean(1), chosen)


def window_grid(windows_xyxy: torch.Tensor, k: int) -> torch.Tensor:
    """Return the points of windows as `grid_sample` takes them, (N, k, k, 2) in -1..1.

    Parameters
    ----------
    windows_xyxy : (N, 4) float tensor
        As fractions 0..1 of the area that the logits cover.
    k : int
        Points along each side.
    """
    x0, y0, x1, y1 = windows_xyxy.unbind(1)
    steps = (torch.arange(k, device=windows_xyxy.device) + 0.5) / k
    x = x0[:, None] + (x1 - x0)[:, None] * steps
    y = y0[:, None] + (y1 - y0)[:, None] * steps
    grid = torch.stack(
        [x[:, None, :].expand(-1, k, -1), y[:, :, None].expand(-1, -1, k)], dim=-1
    )
    return grid * 2 - 1


def _outside(windows: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Return what of the logits lies outside of each window, (N, 1, h, w) bool."""
    x0, y0, x1, y1 = windows.unbind(1)
    cy = (torch.arange(size[0], device=windows.device) + 0.5) / size[0]
    cx = (torch.arange(size[1], device=windows.device) + 0.5) / size[1]
    in_x = (cx >= x0[:, None]) & (cx <= x1[:, None])
    in_y = (cy >= y0[:, None]) & (cy <= y1[:, None])
    return ~(in_y[:, :, None] & in_x[:, None, :])[:, None]
