"""The loss of prompted objects: a first prompt, then clicks on what was wrong.

As SAM was trained (Kirillov et al. 2023, appendix A): a box or a point, and then
points drawn from the error of the mask before, with or without that mask as a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from napari_samseg.core.models.frame import (
    boxes_to_frame,
    points_to_frame,
    resized_size,
)
from napari_samseg.core.training.cutting import TokenWindows
from napari_samseg.core.training.losses import MaskLoss
from napari_samseg.core.training.objective import (
    ObjectLoss,
    ObjectTargets,
    decode_objects,
    object_loss,
    window_grid,
)
from napari_samseg.core.types import BoolArray, IntArray, PlanePrompts

if TYPE_CHECKING:
    from napari_samseg.core.models.sam import SamModel

__all__ = ["FramePrompts", "PromptedLoss", "prompted_loss", "window_targets"]

# The window reaches beyond the object by this share of its longer side, plus pixels
# for objects of a few pixels.
WINDOW_MARGIN, WINDOW_MARGIN_PIXELS = 0.35, 2.0


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
    loss: MaskLoss,
    rng: np.random.Generator,
    *,
    windows: TokenWindows | None = None,
    iou_weight: float = 1.0,
    corrections: int = 0,
    previous: float = 0.5,
) -> PromptedLoss:
    """Decode objects of one view, correct them, and compare with their targets.

    Parameters
    ----------
    model : SamModel
        Whatever of its prompt encoder and mask decoder requires gradients learns.
    features : (1, C, h, w) float tensor
    prompts : FramePrompts
    targets : ObjectTargets
    loss : MaskLoss
    rng : numpy.random.Generator
        Of the clicks.
    windows : TokenWindows, optional
        Decode these parts of the features only.
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
        chosen = slice(1, None) if prompts.is_lone_point else slice(0, 1)
        logits, quality = logits[:, chosen], quality[:, chosen]
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


def _decode(
    model: SamModel,
    features: torch.Tensor,
    prompts: FramePrompts,
    windows: TokenWindows | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    points, labels, boxes = prompts.points_xy, prompts.labels, prompts.boxes_xyxy
    given = (points, labels) if points.shape[1] else None
    encoder = model.sam.prompt_encoder
    masks = prompts.masks
    if masks is None and model.prior is not None:
        at, of = given or (None, None)
        masks = model.prior(at, of, boxes, model.low_res_size, model.input_size)
        if windows is not None:
            masks = windows.cut(masks, model.low_res_size // windows.tokens)
    sparse, dense = encoder(points=given, boxes=boxes, masks=masks)
    positions = encoder.get_dense_pe()
    if windows is None:
        features = features.expand(len(sparse), -1, -1, -1)
    else:
        features, positions = windows.cut(features), windows.cut(positions)
        # without a mask, it is the same everywhere
        dense = dense[..., : windows.side, : windows.side]
    return decode_objects(model.sam.mask_decoder, features, positions, sparse, dense)


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
    grid = window_grid(targets.windows_xyxy, k)
    found = functional.grid_sample(
        logits, grid, mode="bilinear", padding_mode="border", align_corners=False
    )[:, 0]
    true = targets.masks > 0.5
    wrong = ((found > 0) != true).flatten(1)
    wrong = torch.where(wrong.any(1, keepdim=True), wrong, true.flatten(1))
    # an object may be so thin that no sample hits it
    wrong = wrong | ~wrong.any(1, keepdim=True)
    draws = torch.from_numpy(rng.random(len(wrong))).to(wrong.device)
    counts = wrong.cumsum(1)
    nth = (draws * counts[:, -1]).long() + 1
    at = (counts >= nth[:, None]).int().argmax(1)
    picked = torch.arange(len(at), device=at.device)
    points = (grid.flatten(1, 2)[picked, at] + 1) / 2
    return points, true.flatten(1)[picked, at].to(points.dtype)


def window_targets(
    crops: Sequence[BoolArray],
    boxes_yx: IntArray,
    size: tuple[int, int],
    side: int,
    *,
    samples: int = 48,
    whole: bool = False,
) -> ObjectTargets:
    """Sample masks in windows around their objects.

    Parameters
    ----------
    crops : sequence of N (y, x) bool
        The masks inside their boxes.
    boxes_yx : (N, 4) int64
        Half-open, in pixels of the view.
    size : (int, int)
        (Y, X) of the view, in pixels.
    side : int
        Side of the model's square, in pixels, which the logits cover.
    samples : int
        Points along each side of a window.
    whole : bool
        One window for all: the whole view.
    """
    windows = np.zeros((len(crops), 4), np.float32)
    masks = np.zeros((len(crops), samples, samples), np.float32)
    steps = (np.arange(samples) + 0.5) / samples
    for i, (crop, box) in enumerate(zip(crops, boxes_yx.tolist(), strict=True)):
        longest = max(crop.shape)
        margin = np.inf if whole else WINDOW_MARGIN * longest + WINDOW_MARGIN_PIXELS
        for axis, extent in enumerate(size):
            low = max(box[axis] - margin, 0.0)
            high = min(box[axis + 2] + margin, float(extent))
            windows[i, 1 - axis], windows[i, 3 - axis] = low, high
        x0, y0, x1, y1 = windows[i].tolist()
        rows = np.floor(y0 + steps * (y1 - y0)).astype(np.int64) - box[0]
        columns = np.floor(x0 + steps * (x1 - x0)).astype(np.int64) - box[1]
        in_y, in_x = _within(rows, crop.shape[0]), _within(columns, crop.shape[1])
        masks[i][np.ix_(in_y, in_x)] = crop[np.ix_(rows[in_y], columns[in_x])]
    height, width = resized_size(size, side)
    scale = np.array([width / size[1], height / size[0]], np.float32) / side
    return ObjectTargets(
        torch.from_numpy(windows * np.tile(scale, 2)), torch.from_numpy(masks)
    )


def _within(positions: IntArray, length: int) -> IntArray:
    return np.flatnonzero((positions >= 0) & (positions < length))
