"""What a step of the embedded model is trained for: dense targets, then prompts.

The encoder starts on dense targets (object, boundary, offset to the object's centre),
which teach it what an object is, through a head that is thrown away in the end.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from crops import CropBatch
from torch import nn
from torch.nn import functional

from napari_samseg.core.models.tiny import TinyConfig, build_tiny, prompt_prior
from napari_samseg.core.training.losses import dice_loss
from napari_samseg.core.training.objective import decode_objects, object_loss

DENSE_CHANNELS = 4  # object, boundary, offset y, offset x
WARMUP = 0.06  # share of the steps on dense targets alone
FREEZE_NORM = 0.75  # from this share on the running statistics stay
LATE = 0.6  # from this share on the dense targets matter less
MIXED_EVERY = 5  # every so many steps, prompts of several parts


class TrainedModel(nn.Module):
    """The model and the dense head that is thrown away in the end."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.sam = build_tiny(config)
        self.dense = nn.Conv2d(config.embed_dim, DENSE_CHANNELS * 16, 1)
        self.to(memory_format=torch.channels_last)


class Objective:
    """The loss of a step, as `TrainingLoop` takes it."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(
        self, module: nn.Module, batch: CropBatch, step: int
    ) -> tuple[torch.Tensor, Mapping[str, float]]:
        """Return the loss and the figures for the log."""
        if not isinstance(module, TrainedModel):
            raise TypeError(f"expected a TrainedModel, got {type(module).__name__}")
        sam, progress = module.sam, step / self.steps
        sam.image_encoder.train(progress < FREEZE_NORM)
        device = sam.pixel_mean.device
        pixels = (batch.pixels.to(device) - sam.pixel_mean) / sam.pixel_std
        pixels = pixels * batch.valid.to(device)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            features = sam.image_encoder(pixels)
        features = features.float()
        dense = dense_loss(module.dense(features), batch.labels.to(device))
        figures = {"dense": float(dense.detach())}
        if progress < WARMUP:
            return dense, figures
        loss, ious = prompted_loss(sam, features, batch, step)
        return loss + (0.1 if progress < LATE else 0.03) * dense, figures | ious


def dense_targets(labels: torch.Tensor) -> torch.Tensor:
    """Object, boundary and offset to the centre, (B, 4, Y, X), of labels (B, Y, X).

    Offsets are in units of the square root of the object's area.
    """
    b, h, w = labels.shape
    device = labels.device
    inside = labels > 0
    padded = functional.pad(labels.float()[:, None], (1, 1, 1, 1), mode="replicate")
    high = functional.max_pool2d(padded, 3, 1)[:, 0]
    low = -functional.max_pool2d(-padded, 3, 1)[:, 0]
    span = int(labels.max()) + 1
    key = (labels + span * torch.arange(b, device=device)[:, None, None]).flatten()
    yy, xx = torch.meshgrid(
        torch.arange(h, device=device).float(),
        torch.arange(w, device=device).float(),
        indexing="ij",
    )
    yy, xx = yy.expand(b, h, w).flatten(), xx.expand(b, h, w).flatten()
    count = torch.bincount(key, minlength=span * b).clamp(min=1).float()
    centre_y = (torch.bincount(key, yy, span * b) / count).float()
    centre_x = (torch.bincount(key, xx, span * b) / count).float()
    size = count.sqrt()[key]
    offsets = torch.stack([(centre_y[key] - yy) / size, (centre_x[key] - xx) / size])
    offsets = offsets.view(2, b, h, w).clamp(-2, 2) * inside
    return torch.stack([inside.float(), (high != low).float(), *offsets], dim=1)


def dense_loss(prediction: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Loss of the dense head's (B, 64, h, w) against labels (B, 4h, 4w)."""
    maps = functional.pixel_shuffle(prediction, 4)
    target = dense_targets(labels)
    inside, boundary = target[:, 0], target[:, 1]
    cost = functional.binary_cross_entropy_with_logits(maps[:, 0], inside)
    edge = functional.binary_cross_entropy_with_logits(
        maps[:, 1], boundary, 1 + 3 * boundary
    )
    offset = functional.smooth_l1_loss(maps[:, 2:], target[:, 2:], reduction="none")
    offset = (offset.sum(1) * inside).sum() / inside.sum().clamp(min=1)
    overlap = dice_loss(maps[:, 0], inside).mean()
    return cost + overlap + 0.7 * edge + offset


def prompted_loss(
    sam: nn.Module, features: torch.Tensor, batch: CropBatch, step: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of boxes and lone points, or every few steps of prompts of several parts.

    One half of the objects has a box, the other points; what is prompted alike has
    the same number of tokens as it has in the plugin.
    """
    device = features.device
    size, n = batch.pixels.shape[-1], len(batch.image_index)
    by_box = torch.arange(n) % 2 == step // MIXED_EVERY % 2
    mixed = step % MIXED_EVERY == 0
    sparse, prior = _encode_prompts(sam, batch, by_box, mixed=mixed)
    x, y = (v // 8 for v in batch.offset_xy)
    positions = sam.prompt_encoder.get_dense_pe()
    positions = positions[..., y : y + size // 8, x : x + size // 8]
    logits, quality = decode_objects(
        sam.mask_decoder,
        features[batch.image_index.to(device)],
        positions,
        sparse,
        sam.prompt_encoder.mask_downscaling(prior),
    )
    targets = batch.targets.to(device)
    clear = (by_box | mixed).to(device)
    one = object_loss(logits[:, :1], quality[:, :1], targets)
    # the single mask must be fair for a lone point too, if somebody asks for it
    weight = torch.where(clear, 1.0, 0.2)
    loss = ((one.mask + one.iou_error) * weight).sum() / n
    figures = {"mixed" if mixed else "box": one.iou[clear]}
    if not clear.all():
        three = object_loss(logits[~clear, 1:], quality[~clear, 1:], targets[~clear])
        loss = loss + (three.mask + three.iou_error).sum() / n
        figures["point"] = three.iou
    return loss, {k: float(v.mean()) for k, v in figures.items() if len(v)}


def _encode_prompts(
    sam: nn.Module, batch: CropBatch, by_box: torch.Tensor, *, mixed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse embeddings (N, T, C) and priors (N, 1, S/2, S/2) of a batch."""
    device = sam.pixel_mean.device
    size, n = batch.pixels.shape[-1], len(batch.image_index)
    shift = torch.tensor(batch.offset_xy, dtype=torch.float32)
    sparse = torch.empty(n, 3 if mixed else 2, sam.prompt_encoder.embed_dim)
    sparse = sparse.to(device)
    prior = torch.empty(n, 1, size // 2, size // 2, device=device)
    for rows, boxed in ((by_box, True), (~by_box, False)):
        # beside a box stands the second point, which may be a background one
        chosen = slice(1, 1 + mixed) if boxed else slice(0, 1 + mixed)
        points, labels = batch.points_xy[rows, chosen], batch.point_labels[rows, chosen]
        boxes = batch.boxes_xyxy[rows] if boxed else None
        given = (points, labels) if points.shape[1] else (None, None)
        prior[rows] = prompt_prior(*given, boxes, size // 2, size).to(device)
        on_canvas = ((points + shift).to(device), labels.to(device))
        sparse[rows], _ = sam.prompt_encoder(
            points=on_canvas if points.shape[1] else None,
            boxes=None if boxes is None else (boxes + shift.repeat(2)).to(device),
            masks=None,
        )
    return sparse, prior
