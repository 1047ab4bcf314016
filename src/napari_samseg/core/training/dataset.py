"""Samples for tuning a model on cached embeddings.

The encoder, which costs nearly all the time, ran once; a sample is its embedding with
prompts and the masks they mean. Prompts are drawn anew for each epoch, so the same
objects are asked for differently every time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.models.frame import boxes_to_frame, points_to_frame
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.prompts.from_labels import PromptSampler
from napari_samseg.core.prompts.object_index import ObjectIndex
from napari_samseg.core.training.losses import MaskLoss, dice_bce_loss
from napari_samseg.core.training.objective import (
    ObjectLoss,
    ObjectTargets,
    decode_objects,
    object_loss,
)
from napari_samseg.core.types import BoolArray, PlaneEmbedding, PlanePrompts

__all__ = ["TrainingSample", "draw_sample", "sample_loss", "window_targets"]

WINDOW_SAMPLES = 48
# The window reaches beyond the object by this share of its longer side, plus pixels
# for objects of a few pixels.
WINDOW_MARGIN, WINDOW_MARGIN_PIXELS = 0.35, 2.0


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSample:
    """Prompted objects of one encoded plane.

    Attributes
    ----------
    embedding : PlaneEmbedding
    prompts : PlanePrompts
        Of N objects, all with the same kinds of prompt.
    target_masks : (N, Y, X) bool
        The true masks at the resolution of the plane.

    Raises
    ------
    InvalidLabelsError
        If the masks do not fit the prompts and the plane, or one is empty.
    """

    embedding: PlaneEmbedding
    prompts: PlanePrompts
    target_masks: BoolArray

    def __post_init__(self) -> None:
        expected = (len(self.prompts), *self.embedding.original_size)
        if self.target_masks.shape != expected:
            raise InvalidLabelsError(
                f"target masks of {self.target_masks.shape} do not fit the prompts "
                f"and the plane: {expected} is needed"
            )
        empty = ~self.target_masks.any(axis=(1, 2))
        if empty.any():
            object_id = self.prompts.object_ids[int(empty.argmax())]
            raise InvalidLabelsError(f"the target mask of object {object_id} is empty")


def draw_sample(
    embedding: PlaneEmbedding,
    objects: ObjectIndex,
    sampler: PromptSampler,
    rng: np.random.Generator,
    *,
    max_objects: int = 16,
) -> TrainingSample:
    """Prompt a random choice of a plane's objects.

    Raises
    ------
    InvalidLabelsError
        If there is no object, or the labels are not of the embedded plane.
    """
    if not len(objects):
        raise InvalidLabelsError("there is no object to train on in these labels")
    chosen = rng.permutation(len(objects))[:max_objects]
    objects = objects.select(np.sort(chosen))
    masks = objects.labels[None] == objects.object_ids[:, None, None]
    return TrainingSample(embedding, sampler(objects, rng), masks)


def window_targets(
    masks: BoolArray, input_size: tuple[int, int], side: int
) -> ObjectTargets:
    """Sample masks in windows around their objects.

    Parameters
    ----------
    masks : (N, Y, X) bool
    input_size : (int, int)
        (Y, X) of the plane after resizing, in model pixels.
    side : int
        Side of the model's square, in pixels, which the logits cover.
    """
    n, height, width = masks.shape
    windows = np.zeros((n, 4), np.float32)
    targets = np.zeros((n, WINDOW_SAMPLES, WINDOW_SAMPLES), np.float32)
    steps = (np.arange(WINDOW_SAMPLES) + 0.5) / WINDOW_SAMPLES
    for i, mask in enumerate(masks):
        spans = []
        rows, columns = (np.flatnonzero(mask.any(axis=a)) for a in (1, 0))
        longest = max(np.ptp(rows), np.ptp(columns)) + 1
        margin = WINDOW_MARGIN * longest + WINDOW_MARGIN_PIXELS
        for found, extent in ((rows, height), (columns, width)):
            low = max(float(found[0]) - margin, 0.0)
            high = min(float(found[-1]) + 1 + margin, float(extent))
            spans.append((low, high))
        at = [np.floor(low + steps * (high - low)).astype(int) for low, high in spans]
        targets[i] = mask[np.ix_(*at)]
        (y0, y1), (x0, x1) = spans
        windows[i] = x0, y0, x1, y1
    scale = np.array([input_size[1] / width, input_size[0] / height], np.float32) / side
    return ObjectTargets(
        torch.from_numpy(windows * np.tile(scale, 2)), torch.from_numpy(targets)
    )


def sample_loss(
    model: SamModel,
    sample: TrainingSample,
    *,
    multimask: bool,
    loss: MaskLoss = dice_bce_loss,
) -> ObjectLoss:
    """Decode a sample and compare it with its targets, with gradients.

    Parameters
    ----------
    model : SamModel
        Whatever of its prompt encoder and mask decoder requires gradients learns.
    sample : TrainingSample
    multimask : bool
        Train the three masks for ambiguous prompts instead of the single one.
    loss : MaskLoss
        One of `napari_samseg.core.training.losses.LOSSES`.
    """
    embedding, prompts = sample.embedding, sample.prompts
    points, labels, boxes = _frame_prompts(prompts, embedding, model)
    masks = None
    if prompts.low_res_masks is not None:
        masks = _tensor(prompts.low_res_masks, model)[:, None]
    elif model.prior is not None:
        masks = model.prior(points, labels, boxes, model.low_res_size, model.input_size)
    encoder = model.sam.prompt_encoder
    sparse, dense = encoder(
        points=None if points is None else (points, labels), boxes=boxes, masks=masks
    )
    features = _tensor(embedding.features["image_embed"], model)
    logits, quality = decode_objects(
        model.sam.mask_decoder,
        features.expand(len(prompts), -1, -1, -1),
        encoder.get_dense_pe(),
        sparse,
        dense,
    )
    chosen = slice(1, None) if multimask else slice(0, 1)
    targets = window_targets(
        sample.target_masks, embedding.input_size, model.input_size
    ).to(model.device)
    return object_loss(logits[:, chosen], quality[:, chosen], targets, loss=loss)


def _frame_prompts(
    prompts: PlanePrompts, embedding: PlaneEmbedding, model: SamModel
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Points, labels and boxes in the model frame; None where there are none."""
    size, side = embedding.original_size, model.input_size
    points = labels = boxes = None
    if prompts.points_yx.shape[1]:
        points = _tensor(points_to_frame(prompts.points_yx, size, side), model)
        labels = _tensor(prompts.point_labels.astype(np.float32), model)
    if prompts.has_box.all():
        boxes = _tensor(boxes_to_frame(prompts.boxes_yx, size, side), model)
    return points, labels, boxes


def _tensor(array: npt.NDArray[np.generic], model: SamModel) -> torch.Tensor:
    # a copy: torch warns about arrays that cannot be written, as frozen values are
    return torch.from_numpy(np.array(array, np.float32)).to(model.device)
