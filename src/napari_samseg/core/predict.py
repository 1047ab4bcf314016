"""Encode planes once, decode prompts into masks at full resolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_samseg.core.cache.key import EmbeddingKey, digest_array
from napari_samseg.core.cache.memory import MemoryCache
from napari_samseg.core.errors import (
    InvalidPromptError,
    ModelMemoryError,
    SettingsError,
)
from napari_samseg.core.memory import is_memory_error, warn_fallback
from napari_samseg.core.models.protocol import precision_of
from napari_samseg.core.prompts.islands import drop_islands
from napari_samseg.core.steps import run_steps
from napari_samseg.core.types import MaskPrediction, PlanePrompts

if TYPE_CHECKING:
    from napari_samseg.core.cache.protocol import EmbeddingCache
    from napari_samseg.core.models.protocol import PromptableModel
    from napari_samseg.core.types import (
        BoolArray,
        FloatArray,
        IntArray,
        PlaneEmbedding,
        Progress,
    )

__all__ = ["Multimask", "Predictor", "check_inside", "predict_masks"]

Multimask = Literal["auto", True, False]
# Objects decoded at once. The decoder copies the embedding for every object: on a
# processor more than a few copies fall out of its caches and cost time.
CPU_BATCH = 4
GPU_BATCH = 32


class Predictor:
    """A model and a cache: each plane is encoded once.

    Parameters
    ----------
    model : PromptableModel
    cache : EmbeddingCache, optional
        A `MemoryCache` of its own if not given.
    """

    def __init__(
        self, model: PromptableModel, cache: EmbeddingCache | None = None
    ) -> None:
        self.model = model
        self.cache = MemoryCache() if cache is None else cache

    def key(self, plane: FloatArray) -> EmbeddingKey:
        """Return the key of a finished plane (Y, X, 3), from its content."""
        return EmbeddingKey(
            plane_digest=digest_array(plane),
            encoder_digest=self.model.encoder_digest,
            precision=precision_of(self.model),
        )

    def encode(
        self,
        plane: FloatArray,
        key: EmbeddingKey | None = None,
        *,
        original_size: tuple[int, int] | None = None,
    ) -> PlaneEmbedding:
        """Encode a plane (Y, X, 3) float32 in 0..255, or take it from the cache.

        Parameters
        ----------
        plane : (Y, X, 3) float32
        key : EmbeddingKey, optional
            Identity of the plane where the caller knows it better than by its
            content.
        original_size : (int, int), optional
            (Y, X) for prompts and masks, where `plane` is a large one averaged down.

        Raises
        ------
        InvalidImageError
            If the plane has another shape.
        SettingsError
            If `key` is of another encoder or precision.
        ModelMemoryError
            If memory runs out, on the CPU too.
        """
        return run_steps(self.encode_steps(plane, key, original_size=original_size))

    def encode_steps(
        self,
        plane: FloatArray,
        key: EmbeddingKey | None = None,
        *,
        original_size: tuple[int, int] | None = None,
    ) -> Generator[Progress, None, PlaneEmbedding]:
        """Encode as `encode` does, yielding `Progress` between parts of the work.

        Where the device runs out of memory, the CPU takes over, with a
        `MemoryFallbackWarning`; the cache keeps what it makes as float32.
        """
        from napari_samseg.core.models.batching import encode_planes_steps

        key = self.key(plane) if key is None else key
        self._check_key(key)
        precisions = [key.precision]
        if self.model.device.type != "cpu":
            # what the CPU made when memory ran out before
            precisions.append("float32")
        for precision in precisions:
            cached = self.cache.get(dataclasses.replace(key, precision=precision))
            if cached is not None:
                return _of_size(cached, original_size)
        (encoded,) = yield from encode_planes_steps(self.model, [plane])
        used_key = dataclasses.replace(key, precision=encoded.precision)
        embedding = _of_size(encoded.embedding, original_size)
        self.cache.put(used_key, embedding)
        return embedding

    def predict(
        self,
        plane: FloatArray,
        prompts: PlanePrompts,
        *,
        key: EmbeddingKey | None = None,
        multimask: Multimask = "auto",
        islands: bool = False,
    ) -> MaskPrediction:
        """Encode a plane unless it is cached, and decode prompts in it.

        See `encode` and `predict_masks` for the parameters and errors.
        """
        embedding = self.encode(plane, key)
        return predict_masks(
            self.model, embedding, prompts, multimask=multimask, islands=islands
        )

    def _check_key(self, key: EmbeddingKey) -> None:
        model = self.model
        if (key.encoder_digest, key.precision) != (
            model.encoder_digest,
            precision_of(model),
        ):
            raise SettingsError(
                f"the key is of another encoder or precision than model {model.name}"
            )


def predict_masks(
    model: PromptableModel,
    embedding: PlaneEmbedding,
    prompts: PlanePrompts,
    *,
    multimask: Multimask = "auto",
    islands: bool = False,
) -> MaskPrediction:
    """Decode the prompts of N objects into N masks at the resolution of the plane.

    Objects are decoded together only if they have the same kinds of prompt, in
    batches small enough for the device, so that a mask does not depend on what else
    is asked for. When memory runs out, smaller batches and then the CPU take over,
    with a `MemoryFallbackWarning`.

    Parameters
    ----------
    model : PromptableModel
    embedding : PlaneEmbedding
        Of the plane, made by this model's encoder.
    prompts : PlanePrompts
        In pixels of the plane. Boxes are cut at the plane's border.
    multimask : "auto", True or False
        Whether the decoder proposes three masks, of which the one with the highest
        predicted IoU is returned. ``"auto"`` does so for objects prompted by a
        single point, which may mean a part, an object or a group.
    islands : bool
        Keep the parts of a mask that lie apart from what was prompted, as the
        decoder gives them; see `core.prompts.islands.drop_islands`.

    Returns
    -------
    MaskPrediction
        In the order of `prompts`.

    Raises
    ------
    InvalidPromptError
        If there is no prompt, or one lies outside the plane.
    SettingsError
        If the embedding was made by another encoder.
    ModelMemoryError
        If memory runs out even for one object on the CPU.
    """
    if multimask not in ("auto", True, False):
        raise SettingsError(f"multimask is 'auto', True or False, not {multimask!r}")
    if embedding.encoder_digest != model.encoder_digest:
        raise SettingsError(
            "the embedding was made by another encoder: encode the plane with model "
            f"{model.name}"
        )
    prompts = check_inside(prompts, embedding.original_size)
    n, side = len(prompts), model.low_res_size
    logits = np.empty((n, side, side), np.float32)
    iou_predictions = np.empty(n, np.float32)
    batches = _Batches(model, embedding)
    for group in _groups(prompts):
        members = prompts.select(group)
        lone_point = _is_lone_point(members)
        several = lone_point if multimask == "auto" else bool(multimask)
        logits[group], iou_predictions[group] = batches.decode(members, several)
    prediction = _at_full_resolution(
        prompts.object_ids, logits, iou_predictions, embedding, model.input_size
    )
    return prediction if islands else drop_islands(prediction, prompts)


def _is_lone_point(members: PlanePrompts) -> bool:
    """Tell whether objects of one kind have a point and nothing else."""
    return bool(
        members.n_points[0] == 1 and not members.has_box[0] and not members.has_mask[0]
    )


def check_inside(prompts: PlanePrompts, plane_size: tuple[int, int]) -> PlanePrompts:
    """Refuse prompts outside the plane, and cut boxes at its border.

    Raises
    ------
    InvalidPromptError
        If there is no prompt, or one lies outside the plane.
    """
    if not len(prompts):
        raise InvalidPromptError("there is no prompt: add a point, a box or a mask")
    size = np.array(plane_size, np.float32)
    points = prompts.points_yx
    # A pixel reaches half a pixel beyond its centre, on which integers lie.
    out = ((points < -0.5) | (points > size - 0.5)).any(axis=2)
    out &= prompts.point_labels >= 0
    for i, j in np.argwhere(out)[:1]:
        y, x = points[i, j]
        raise InvalidPromptError(
            f"a point of object {prompts.object_ids[i]}, (y, x) = ({y:g}, {x:g}), is "
            f"outside the image of {plane_size[0]} x {plane_size[1]} pixels"
        )
    boxes = prompts.boxes_yx
    cut = np.clip(boxes, 0, np.concatenate([size, size]))
    for i in np.flatnonzero((cut[:, 2:] <= cut[:, :2]).any(axis=1))[:1]:
        y0, x0, y1, x1 = boxes[i]
        raise InvalidPromptError(
            f"the box of object {prompts.object_ids[i]}, (y0, x0, y1, x1) = "
            f"({y0:g}, {x0:g}, {y1:g}, {x1:g}), is outside the image of "
            f"{plane_size[0]} x {plane_size[1]} pixels"
        )
    return dataclasses.replace(prompts, boxes_yx=cut)


def _groups(prompts: PlanePrompts) -> Iterator[IntArray]:
    """Yield the positions of objects with the same kinds of prompt."""
    kinds = np.stack([prompts.n_points, prompts.has_box, prompts.has_mask], axis=1)
    for kind in np.unique(kinds, axis=0):
        yield np.flatnonzero((kinds == kind).all(axis=1))


class _Batches:
    """Decodes in batches that become smaller, or go to the CPU, as memory runs out."""

    def __init__(self, model: PromptableModel, embedding: PlaneEmbedding) -> None:
        self.model = model
        self.embedding = embedding
        self.size = _batch_size(model)

    def decode(
        self, prompts: PlanePrompts, multimask: bool
    ) -> tuple[FloatArray, FloatArray]:
        """Return logits (N, h, w) and predicted IoU (N,) of each object's best mask."""
        logits, iou_predictions = [], []
        start = 0
        while start < len(prompts):
            part = np.arange(start, min(start + self.size, len(prompts)))
            try:
                decoded = self.model.decode(
                    self.embedding, prompts.select(part), multimask=multimask
                )
            except (MemoryError, RuntimeError) as error:
                if not is_memory_error(error):
                    raise
                self._retreat(len(part), error)
                continue
            best = decoded.iou_predictions.argmax(axis=1)
            rows = np.arange(len(part))
            logits.append(decoded.logits[rows, best])
            iou_predictions.append(decoded.iou_predictions[rows, best])
            start += len(part)
        return np.concatenate(logits), np.concatenate(iou_predictions)

    def _retreat(self, tried: int, error: Exception) -> None:
        device = self.model.device
        if tried > 1:
            self.size = tried // 2
            warn_fallback(device, f"decoding {self.size} at a time")
        elif device.type != "cpu":
            self.model = self.model.on_cpu()
            self.size = _batch_size(self.model)
            warn_fallback(device, "decoding on the CPU")
        else:
            raise ModelMemoryError(
                f"there is not enough memory to decode one object with model "
                f"{self.model.name}: close other programs or choose a smaller model"
            ) from error


def _batch_size(model: PromptableModel) -> int:
    return CPU_BATCH if model.device.type == "cpu" else GPU_BATCH


def _at_full_resolution(
    object_ids: IntArray,
    logits: FloatArray,
    iou_predictions: FloatArray,
    embedding: PlaneEmbedding,
    input_size: int,
) -> MaskPrediction:
    from napari_samseg.core.models.frame import crop_mask

    crops: list[BoolArray] = []
    boxes = np.empty((len(logits), 4), np.int64)
    for i, low_res in enumerate(logits):
        crop, boxes[i] = crop_mask(low_res, embedding.original_size, input_size)
        crops.append(crop)
    return MaskPrediction(
        object_ids=object_ids,
        crops=tuple(crops),
        boxes_yx=boxes,
        plane_size=embedding.original_size,
        iou_predictions=iou_predictions,
        low_res_masks=logits,
    )


def _of_size(
    embedding: PlaneEmbedding, original_size: tuple[int, int] | None
) -> PlaneEmbedding:
    if original_size is None or original_size == embedding.original_size:
        return embedding
    return dataclasses.replace(embedding, original_size=original_size)
