"""Batches of prompted objects, each a function of its number, and their loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_samseg.core.models.frame import resized_size
from napari_samseg.core.prompts.from_labels import sample_prompts
from napari_samseg.core.settings import PromptSettings, TuneSettings
from napari_samseg.core.training.cutting import surround
from napari_samseg.core.training.losses import MaskLoss
from napari_samseg.core.training.prompted import (
    FramePrompts,
    prompted_loss,
    window_targets,
)
from napari_samseg.core.types import BoolArray, IntArray, PlanePrompts

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_samseg.core.models.sam import SamModel
    from napari_samseg.core.training.views import View, ViewSet

__all__ = ["BatchSource", "ObjectBatch", "TuneLoss", "split_batch"]


@dataclass(frozen=True, slots=True, eq=False)
class ObjectBatch:
    """Some prompted objects of one view.

    Attributes
    ----------
    view : View
    features : (C, h, w) float array, or (side, side, 3) uint8
        The embedding, or the pixels where the encoder learns.
    prompts : PlanePrompts
        In pixels of the view, all of the same kinds.
    crops : tuple of (y, x) bool
        True masks inside their boxes.
    boxes_yx : (N, 4) int64
    seed : int
        Of the clicks.
    """

    view: View
    features: npt.NDArray[Any]
    prompts: PlanePrompts
    crops: tuple[BoolArray, ...]
    boxes_yx: IntArray
    seed: int

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def description(self) -> str:
        """What a message says of it."""
        return f"{len(self)} objects of {self.view}"

    def select(self, rows: IntArray) -> ObjectBatch:
        """Return a batch of some of the objects."""
        return dataclasses.replace(
            self,
            prompts=self.prompts.select(rows),
            crops=tuple(self.crops[i] for i in rows),
            boxes_yx=self.boxes_yx[rows],
        )


def split_batch(batch: ObjectBatch, n: int) -> Sequence[tuple[float, ObjectBatch]]:
    """Divide a batch into `n` parts or as many as it has objects, with their shares."""
    parts = np.array_split(np.arange(len(batch)), min(n, len(batch)))
    return [(len(rows) / len(batch), batch.select(rows)) for rows in parts]


class BatchSource:
    """Makes the batch of a number: epochs of all objects, shuffled by the seed.

    Where images or classes are balanced, objects are drawn instead, the rare ones more
    often, and an epoch is as long. Of the variants of a view, another one is drawn in
    each epoch.

    Parameters
    ----------
    views : ViewSet
    settings : TuneSettings
    seed : int
    """

    def __init__(self, views: ViewSet, settings: TuneSettings, seed: int) -> None:
        self._views, self._settings, self._seed = views, settings, seed
        self._places = views.training
        self._order = lru_cache(2)(self._shuffled)
        self._weights = weigh_objects(views, settings.balance)

    @property
    def per_epoch(self) -> int:
        """Batches in one pass over all objects."""
        size = self._settings.objects
        return sum(-(-len(variants[0]) // size) for variants in self._places)

    def __call__(self, number: int) -> ObjectBatch:
        """Return the batch of a number."""
        epoch, position = divmod(number, self.per_epoch)
        place, start = self._order(epoch)[position]
        variants = self._places[place]
        rng = np.random.default_rng((self._seed, epoch, place))
        view = variants[rng.integers(len(variants))]
        of_number = np.random.default_rng((self._seed, number))
        if self._weights is not None:
            rows = self._draw(view, of_number)
            return self._batch(view, np.sort(rows), of_number)
        shuffled = rng.permutation(np.arange(view.first, view.last))
        # a variant may have lost objects over the edge
        rows = shuffled[start : start + self._settings.objects]
        rows = rows if len(rows) else shuffled[: self._settings.objects]
        return self._batch(view, np.sort(rows), of_number)

    def _draw(self, view: View, rng: np.random.Generator) -> IntArray:
        """Draw objects of a view by their weights."""
        assert self._weights is not None
        weights = self._weights[view.first : view.last]
        size = min(self._settings.objects, len(view))
        drawn = rng.choice(len(view), size, replace=False, p=weights / weights.sum())
        return np.asarray(view.first + drawn)

    def _shuffled(self, epoch: int) -> list[tuple[int, int]]:
        size, rng = self._settings.objects, np.random.default_rng((self._seed, epoch))
        if self._weights is not None:
            totals = [self._weights[v[0].first : v[0].last].sum() for v in self._places]
            shares = np.array(totals) / sum(totals)
            drawn = rng.choice(len(self._places), self.per_epoch, p=shares)
            return [(int(place), 0) for place in drawn]
        every = [
            (place, start)
            for place, variants in enumerate(self._places)
            for start in range(0, len(variants[0]), size)
        ]
        return [every[i] for i in rng.permutation(len(every))]

    def _batch(
        self, view: View, rows: IntArray, rng: np.random.Generator
    ) -> ObjectBatch:
        views = self._views
        objects = views.objects.index(rows, view.size)
        prompts = sample_prompts(objects, self._draw_prompt(rng), rng)
        features: npt.NDArray[Any] = (
            views.frame(view)
            if view.frame >= 0
            else views.embedding(view).features["image_embed"]
        )
        return ObjectBatch(
            view,
            features,
            prompts,
            tuple(views.objects.crop(row) for row in rows),
            objects.boxes_yx,
            seed=int(rng.integers(2**32)),
        )

    def _draw_prompt(self, rng: np.random.Generator) -> PromptSettings:
        """Draw the first prompt of a batch: all its objects get the same kind."""
        settings = self._settings
        by_box = rng.random() * (settings.box + settings.point) < settings.box
        return PromptSettings(
            box=settings.box_kind if by_box else "none",
            point="none" if by_box else settings.point_kind,
            jitter=settings.jitter,
        )


def weigh_objects(views: ViewSet, balance: str) -> npt.NDArray[np.float64] | None:
    """Return how often each object is drawn; None where all are taken in turn.

    Images, or classes, have the same weight in total.

    Parameters
    ----------
    views : ViewSet
    balance : str
        See `napari_samseg.core.settings.TuneSettings`.
    """
    if balance == "objects":
        return None
    groups: npt.NDArray[Any] = views.objects.classes
    if balance == "images":
        groups = np.zeros(len(views.objects), np.int64)
        numbers: dict[str, int] = {}
        for view in views.views:
            number = numbers.setdefault(view.image, len(numbers))
            groups[view.first : view.last] = number
    weights = np.zeros(len(groups))
    # variants hold the same objects again; each is drawn from one variant at a time
    firsts = [v[0] for v in views.training]
    rows = np.concatenate([np.arange(v.first, v.last) for v in firsts])
    found, counts = np.unique(groups[rows], return_counts=True)
    known = np.isin(groups, found)
    weights[known] = 1 / counts[np.searchsorted(found, groups[known])]
    return weights


@dataclass(frozen=True, slots=True, eq=False)
class TuneLoss:
    """The loss of a batch, as `TrainingLoop` takes it.

    Attributes
    ----------
    model : SamModel
        Around the module that learns.
    settings : TuneSettings
    loss : MaskLoss
    """

    model: SamModel
    settings: TuneSettings
    loss: MaskLoss

    def __call__(
        self, module: torch.nn.Module, batch: ObjectBatch, number: int
    ) -> tuple[torch.Tensor, Mapping[str, float]]:
        """Return the loss, and the IoU by kind of first prompt and after clicks."""
        del module, number  # it is the model's, and the batch knows its seed
        model, settings, view = self.model, self.settings, batch.view
        targets = window_targets(
            batch.crops,
            batch.boxes_yx,
            view.size,
            model.input_size,
            samples=settings.samples,
            whole=settings.window == "plane",
        ).to(model.device)
        rng = np.random.default_rng(batch.seed)
        is_close = rng.random() < settings.surroundings
        found = prompted_loss(
            model,
            self._features(batch),
            FramePrompts.of(batch.prompts, view.size, model),
            targets,
            self.loss,
            rng,
            windows=surround(targets, model.embedding_shape[1]) if is_close else None,
            iou_weight=settings.iou_weight,
            corrections=settings.corrections,
            previous=settings.previous,
        )
        kind = "box" if batch.prompts.has_box.all() else "point"
        figures = {kind: float(found.first_iou.mean())}
        if settings.corrections:
            figures["corrected"] = float(found.last_iou.mean())
        return found.total, figures

    def _features(self, batch: ObjectBatch) -> torch.Tensor:
        model = self.model
        if batch.view.frame < 0:
            features = np.asarray(batch.features, np.float32)
            return torch.tensor(features, device=model.device)[None]
        height, width = resized_size(batch.view.size, model.input_size)
        pixels = torch.tensor(batch.features[:height, :width], device=model.device)
        square = model.sam.preprocess(pixels.permute(2, 0, 1)[None].float())
        encoded: torch.Tensor = model.sam.image_encoder(square)
        return encoded.float()
