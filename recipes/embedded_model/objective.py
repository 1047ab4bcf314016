"""What a step of the embedded model is trained for: dense targets, prompts, or both.

The encoder starts on dense targets (object, boundary, offset to the object's centre),
which teach it what an object is, through a head that is thrown away in the end. Most
of the early steps are on them alone. Prompts where nothing is teach how little such
masks are worth. The loss of prompted objects and their corrections is the package's
own, the one that it is tuned with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from crops import CropBatch
from first_prompts import NothingPrompts, PromptGroup
from segment_anything.modeling import Sam
from torch import nn
from torch.nn import functional

from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.models.tiny import prompt_prior
from napari_samseg.core.training.cutting import TokenWindows, surround
from napari_samseg.core.training.losses import dice_loss, weighted_sum
from napari_samseg.core.training.prompted import (
    PromptedLoss,
    nothing_loss,
    prompted_loss,
)

DENSE_CHANNELS = 4  # object, boundary, offset y, offset x
STRIDE = 8  # pixels of a token of the embedding
WARMUP = 0.06  # share of the steps on dense targets alone
FREEZE_NORM = 0.75  # from this share on the running statistics stay
LATE = 0.6  # from this share on the dense targets matter less
# of the steps before, those on dense targets alone, from random weights: prompts take
# three quarters of the time of a step, and what they need first are features that tell
# neighbours apart
DENSE_SHARE = 0.65
MOST_CLICKS = 2  # corrections, as often as one and none
LOSS = weighted_sum({"dice_bce": 1})
# squared errors of IoU are small beside the losses of masks, and the choice among three
# masks goes by them
IOU_WEIGHT = 3.0


def is_dense(step: int, steps: int, *, knows: bool = False) -> bool:
    """Tell whether a step trains on dense targets alone.

    A model that `knows` objects does so only while the new dense head learns.
    """
    if step < WARMUP * steps:
        return True
    if knows:
        return False
    drawn = np.random.default_rng((step, 11)).random()
    return bool(step < LATE * steps and drawn < DENSE_SHARE)


class TrainedModel(nn.Module):
    """The model and the dense head that is thrown away in the end."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam
        channels = sam.prompt_encoder.embed_dim
        self.dense = nn.Conv2d(channels, DENSE_CHANNELS * (STRIDE // 2) ** 2, 1)
        self.to(memory_format=torch.channels_last)


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """The loss of a step, as `TrainingLoop` takes it.

    Attributes
    ----------
    module : TrainedModel
        What learns; already on its device.
    steps : int
        Length of the training, that its parts are shares of.
    knows : bool
        Whether it starts from a trained model: the dense head then learns alone at
        first.
    model : SamModel
        The same weights, as the package's loss takes them.
    """

    module: TrainedModel
    steps: int
    knows: bool
    model: SamModel

    @classmethod
    def of(cls, module: TrainedModel, steps: int, *, knows: bool = False) -> Objective:
        """Make the objective of a module, whose parameters all learn."""
        device = next(module.parameters()).device
        model = SamModel(
            module.sam, name="trained", family="tiny", device=device, prior=prompt_prior
        )
        module.requires_grad_(True)
        return cls(module, steps, knows, model)

    def __call__(
        self, module: nn.Module, batch: CropBatch, step: int
    ) -> tuple[torch.Tensor, Mapping[str, float]]:
        """Return the loss and the figures for the log."""
        del module  # it is its own
        progress = step / self.steps
        self.module.sam.image_encoder.train(progress < FREEZE_NORM)
        features = self._encode(batch)
        with torch.autocast(features.device.type, enabled=False):
            is_new = self.knows and progress < WARMUP
            dense = self.module.dense(features.detach() if is_new else features)
            cost = dense_loss(dense, batch.labels.to(features.device))
            figures = {"dense": float(cost.detach())}
            if is_dense(step, self.steps, knows=self.knows):
                return cost, figures
            loss, ious = self._prompted(features, batch)
        weight = 0.03 if progress > LATE else 0.2
        return loss + weight * cost, figures | ious

    def _encode(self, batch: CropBatch) -> torch.Tensor:
        sam, device = self.module.sam, self.model.device
        pixels = (batch.pixels.to(device) - sam.pixel_mean) / sam.pixel_std
        pixels = pixels * batch.valid.to(device)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        features: torch.Tensor = sam.image_encoder(pixels)
        return features.float()

    def _prompted(
        self, features: torch.Tensor, batch: CropBatch
    ) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng(batch.seed)
        count = sum(len(group.crops) for group in batch.groups)
        total = features.new_zeros(())
        ious: dict[str, list[torch.Tensor]] = {}
        for group in batch.groups:
            clicks = int(rng.integers(MOST_CLICKS + 1))
            found = self._decode(features, group, batch.offset_yx, rng, clicks)
            total = total + found.total * (len(group.crops) / count)
            ious.setdefault(group.kind, []).append(found.first_iou)
            if clicks:
                ious.setdefault("corrected", []).append(found.last_iou)
        figures = {k: float(torch.cat(v).mean()) for k, v in ious.items()}
        if batch.nothing:
            offset = batch.offset_yx
            costs = [self._decode_nothing(features, n, offset) for n in batch.nothing]
            cost = torch.cat(costs)
            total = total + IOU_WEIGHT * cost.sum() / count
            figures["nothing"] = float(cost.detach().mean().sqrt())
        return total, figures

    def _decode_nothing(
        self,
        features: torch.Tensor,
        nothing: NothingPrompts,
        offset_yx: tuple[int, int],
    ) -> torch.Tensor:
        device = features.device
        rows = features[nothing.crops.to(device)]
        tokens, side = self.model.embedding_shape[1], features.shape[-1]
        origin = torch.tensor(offset_yx, device=device) // STRIDE
        windows = TokenWindows(origin.expand(len(rows), 2), side, tokens)
        prompts = nothing.prompts.to(device)
        return nothing_loss(self.model, rows, prompts, windows=windows)

    def _decode(
        self,
        features: torch.Tensor,
        group: PromptGroup,
        offset_yx: tuple[int, int],
        rng: np.random.Generator,
        clicks: int,
    ) -> PromptedLoss:
        device = features.device
        targets = group.targets.to(device)
        tokens, side = self.model.embedding_shape[1], features.shape[-1]
        windows: TokenWindows | None
        if side == tokens:
            # a whole canvas of one image: closely around the objects
            rows = features[group.crops[:1].to(device)]
            windows = surround(targets, tokens)
        else:
            rows = features[group.crops.to(device)]
            origin = torch.tensor(offset_yx, device=device) // STRIDE
            windows = TokenWindows(origin.expand(len(rows), 2), side, tokens)
        return prompted_loss(
            self.model,
            rows,
            group.prompts.to(device),
            targets,
            LOSS,
            rng,
            windows=windows,
            iou_weight=IOU_WEIGHT,
            corrections=clicks,
        )


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
