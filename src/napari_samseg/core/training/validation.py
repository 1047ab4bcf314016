"""Scores of a model on objects that it was not trained on.

By the protocol of `napari_samseg.core.metrics.prompting`: a box whose sides are off
by up to a tenth, and one random pixel; masks at the resolution of the view. The
prompts are the same each time, so that scores differ by the model alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_samseg.core.metrics.prompting import prediction_iou
from napari_samseg.core.models.frame import resized_size
from napari_samseg.core.predict import predict_masks
from napari_samseg.core.prompts.from_labels import (
    sample_jittered_box,
    sample_random_point,
)
from napari_samseg.core.settings import TuneSettings
from napari_samseg.core.training.preview import PreviewPlane, paint_previews

if TYPE_CHECKING:
    from napari_samseg.core.models.sam import SamModel
    from napari_samseg.core.training.views import View, ViewSet
    from napari_samseg.core.types import IntArray, MaskPrediction, PlaneEmbedding

__all__ = ["MAX_OBJECTS", "Validation", "ValidationScores"]

# More objects make a validation slow, and no surer: the standard error of a mean IoU
# is then below 0.03.
MAX_OBJECTS = 96


@dataclass(frozen=True, slots=True)
class ValidationScores:
    """Mean scores over the validated objects; NaN where a kind was not asked for.

    Attributes
    ----------
    box, point : float
        Mean IoU by a box, and by a point.
    box_dice, point_dice : float
        Mean Dice.
    error : float
        Standard error of `score`, of the choice of objects.
    n_objects : int
    """

    box: float
    point: float
    box_dice: float
    point_dice: float
    error: float
    n_objects: int

    @property
    def score(self) -> float:
        """Mean IoU over the kinds of prompt that are trained."""
        return float(np.nanmean([self.box, self.point]))

    @property
    def dice(self) -> float:
        """Mean Dice over the kinds of prompt that are trained."""
        return float(np.nanmean([self.box_dice, self.point_dice]))

    def as_dict(self) -> Mapping[str, float]:
        """Return what was asked for, by name."""
        values = {
            "box": self.box,
            "point": self.point,
            "box_dice": self.box_dice,
            "point_dice": self.point_dice,
        }
        return {name: value for name, value in values.items() if np.isfinite(value)}


class Validation:
    """Scores a model on the validation views of a training.

    Parameters
    ----------
    views : ViewSet
    settings : TuneSettings
    seed : int
        Of prompts and of the choice of objects.

    Attributes
    ----------
    shown : dict of View to MaskPrediction
        The masks of the last validation, by a point if those are trained.
    first : dict of View to MaskPrediction
        Those of the first one, of the model before it learns.
    """

    def __init__(self, views: ViewSet, settings: TuneSettings, seed: int) -> None:
        self._views, self._settings, self._seed = views, settings, seed
        self._chosen = _choose(views, seed)
        self.shown: dict[View, MaskPrediction] = {}
        self.first: dict[View, MaskPrediction] = {}

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self._chosen)

    @property
    def split(self) -> str:
        """How the views were divided."""
        return self._views.split

    @property
    def n_learning(self) -> int:
        """Objects that are trained on."""
        return sum(len(variants[0]) for variants in self._views.training)

    def __call__(self, model: SamModel) -> ValidationScores:
        """Score a model."""
        ious: dict[str, list[npt.NDArray[np.float64]]] = {"box": [], "point": []}
        for k, (view, rows) in enumerate(self._chosen):
            objects = self._views.objects.index(rows, view.size)
            embedding = self._embedding(model, view)
            for kind, sampler, share in (
                ("box", sample_jittered_box, self._settings.box),
                ("point", sample_random_point, self._settings.point),
            ):
                if not share:
                    continue
                rng = np.random.default_rng((self._seed, k))
                found = predict_masks(model, embedding, sampler(objects, rng))
                ious[kind].append(prediction_iou(found, objects))
                self.shown[view] = found
        self.first = self.first or dict(self.shown)
        means = {}
        for kind, parts in ious.items():
            iou = np.concatenate(parts) if parts else np.array([np.nan])
            means[kind] = float(iou.mean())
            means[f"{kind}_dice"] = float((2 * iou / (1 + iou)).mean())
        asked = [np.concatenate(parts) for parts in ious.values() if parts]
        each = np.mean(asked, axis=0)
        error = float(each.std(ddof=1) / len(each) ** 0.5) if len(each) > 1 else 1.0
        return ValidationScores(**means, error=error, n_objects=len(self))

    def previews(self, *, first: bool = False) -> list[PreviewPlane]:
        """Return masks where they lie: of the last validation, or of the first."""
        masks, ids = self.first if first else self.shown, self._views.objects.object_ids
        return paint_previews(
            (view, masks[view], ids[rows].tolist())
            for view, rows in self._chosen
            if view in masks
        )

    def _embedding(self, model: SamModel, view: View) -> PlaneEmbedding:
        if view.frame < 0:
            return self._views.embedding(view)
        height, width = resized_size(view.size, model.input_size)
        pixels = self._views.frame(view)[:height, :width].astype(np.float32)
        return dataclasses.replace(model.encode(pixels), original_size=view.size)


def _choose(views: ViewSet, seed: int) -> list[tuple[View, IntArray]]:
    """Choose at most `MAX_OBJECTS` objects, from all views alike."""
    every = views.validation
    total = sum(len(view) for view in every)
    rng = np.random.default_rng((seed, 1))
    picked = rng.permutation(total)[:MAX_OBJECTS]
    chosen, before = [], 0
    for view in every:
        here = np.sort(picked[(picked >= before) & (picked < before + len(view))])
        if len(here):
            chosen.append((view, here - before + view.first))
        before += len(view)
    return chosen
