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
from napari_samseg.core.settings import AugmentSettings, PromptSettings, TuneSettings
from napari_samseg.core.training.cutting import surround
from napari_samseg.core.training.losses import LossSum
from napari_samseg.core.training.perturb import perturb
from napari_samseg.core.training.prompted import FramePrompts, prompted_loss
from napari_samseg.core.training.targets import window_targets
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

    Where images or classes are balanced, objects are drawn instead, with replacement,
    the rare ones more often, and an epoch is as long. Of the variants of a view,
    another one is drawn in each epoch.

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

    @property
    def mean_size(self) -> float:
        """Objects in a batch, on average."""
        if self._weights is not None:
            return float(self._settings.objects)
        return sum(len(variants[0]) for variants in self._places) / self.per_epoch

    def weigh(self, batch: ObjectBatch) -> float:
        """Return the weight of a batch, 1 on average: so each object has the same.

        The last batch of a view may be of one object.
        """
        return len(batch) / self.mean_size

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
            return self._batch(view, rows, of_number)
        shuffled = rng.permutation(np.arange(view.first, view.last))
        # a variant may have lost objects over the edge
        rows = shuffled[start : start + self._settings.objects]
        rows = rows if len(rows) else shuffled[: self._settings.objects]
        return self._batch(view, np.sort(rows), of_number)

    def _draw(self, view: View, rng: np.random.Generator) -> IntArray:
        """Draw objects of a view by their weights, rare ones more than once."""
        assert self._weights is not None
        weights = self._weights[view.first : view.last]
        drawn = rng.choice(len(view), self._settings.objects, p=weights / weights.sum())
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
        wanted = self._draw_prompt(rng)
        rows, turns = _deal(rows)
        # an object that was drawn again is another example: it gets another prompt
        prompts = _join(
            [
                sample_prompts(views.objects.index(turn, view.size), wanted, rng)
                for turn in turns
            ]
        )
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
            views.objects.boxes_yx[rows],
            seed=int(rng.integers(2**32)),
        )

    def _draw_prompt(self, rng: np.random.Generator) -> PromptSettings:
        """Draw the first prompt of a batch: all its objects get the same kind."""
        settings = self._settings
        shares = np.array([settings.box, settings.point, settings.box_and_point])
        kind = rng.choice(3, p=shares / shares.sum())
        return PromptSettings(
            box="none" if kind == 1 else settings.box_kind,
            point="none" if kind == 0 else settings.point_kind,
            jitter=settings.jitter,
        )


def _deal(rows: IntArray) -> tuple[IntArray, list[IntArray]]:
    """Divide objects that may repeat into turns in which none does.

    Returns
    -------
    rows : (N,) int64
        All of them, turn by turn.
    turns : list of (n,) int64
    """
    found, counts = np.unique(rows, return_counts=True)
    turns = [found[counts > turn] for turn in range(counts.max())]
    return np.concatenate(turns), turns


def _join(parts: Sequence[PlanePrompts]) -> PlanePrompts:
    """Put prompts of one kind together, with ids of their own."""
    names = ("points_yx", "point_labels", "boxes_yx")
    ids = np.arange(1, 1 + sum(len(part.object_ids) for part in parts))
    values = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
    return PlanePrompts(ids, *values)


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
    loss : LossSum
    augmenting : AugmentSettings
        Of embeddings; see `napari_samseg.core.training.perturb`.
    """

    model: SamModel
    settings: TuneSettings
    loss: LossSum
    augmenting: AugmentSettings

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
            plane=settings.window == "plane",
            clicks=settings.corrections > 0,
            logits_side=model.low_res_size if self.loss.needs_whole else None,
        ).to(model.device)
        rng = np.random.default_rng(batch.seed)
        is_close = rng.random() < settings.surroundings and not self.loss.needs_whole
        found = prompted_loss(
            model,
            perturb(self._features(batch), self.augmenting, rng),
            FramePrompts.of(batch.prompts, view.size, model),
            targets,
            self.loss,
            rng,
            windows=surround(targets, model.embedding_shape[1]) if is_close else None,
            iou_weight=settings.iou_weight,
            corrections=settings.corrections,
            previous=settings.previous,
        )
        figures = {_kind_of(batch.prompts): float(found.first_iou.mean())}
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


def _kind_of(prompts: PlanePrompts) -> str:
    """Name the first prompts of a batch, as figures are named in logs."""
    if not prompts.has_box.all():
        return "point"
    return "box and point" if prompts.points_yx.shape[1] else "box"
