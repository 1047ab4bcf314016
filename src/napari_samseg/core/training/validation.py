"""Scores of a model on objects that it was not trained on.

By the protocol of `napari_samseg.core.metrics.prompting`: a box whose sides are off
by up to a tenth, and one random pixel; masks at the resolution of the view. The
prompts are the same each time, so that scores differ by the model alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import xxhash

from napari_samseg.core.amounts import count_things
from napari_samseg.core.metrics.prompting import prediction_iou
from napari_samseg.core.models.frame import resized_size
from napari_samseg.core.predict import predict_masks
from napari_samseg.core.prompts.from_labels import (
    PromptSampler,
    sample_jittered_box,
    sample_random_point,
)
from napari_samseg.core.settings import TuneSettings
from napari_samseg.core.training.preview import PreviewPlane, paint_previews
from napari_samseg.core.types import MaskPrediction, PlanePrompts, Progress

if TYPE_CHECKING:
    from napari_samseg.core.models.sam import SamModel
    from napari_samseg.core.prompts.object_index import ObjectIndex
    from napari_samseg.core.training.views import View, ViewSet
    from napari_samseg.core.types import IntArray, PlaneEmbedding

__all__ = ["MAX_OBJECTS", "SAMPLERS", "SCORING", "Validation", "ValidationScores"]

# More objects make a validation slow, and no surer: the standard error of a mean IoU
# is then below 0.03.
MAX_OBJECTS = 96
# Masks decoded between two yields: a second or two of vit_b on an old processor.
AT_ONCE = 8
SCORING = "scoring the model"
# By kind of prompt, in the order of all tables.
SAMPLERS: Mapping[str, PromptSampler] = {
    "box": sample_jittered_box,
    "point": sample_random_point,
}


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
    each : mapping of kind to tuple of float
        IoU of each object; empty where it is not known any more.
    """

    box: float
    point: float
    box_dice: float
    point_dice: float
    error: float
    n_objects: int
    each: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def errors(self, before: ValidationScores | None = None) -> dict[str, float]:
        """Return the standard error of each score by name, of the choice of objects.

        Parameters
        ----------
        before : ValidationScores, optional
            Of the same objects: the errors of the differences to these, which are
            smaller, as objects that are hard are so before and after.
        """
        found = {}
        for kind, values in self.each.items():
            iou = np.array(values)
            old = np.zeros(len(iou)) if before is None else np.array(before.each[kind])
            found[kind] = _error(iou - old)
            found[f"{kind}_dice"] = _error(_dice(iou) - _dice(old))
        return {name: error for name, error in found.items() if np.isfinite(error)}

    def __str__(self) -> str:
        kinds = ((k, getattr(self, k)) for k in ("box", "point"))
        parts = ", ".join(f"by a {k} {v:.3f}" for k, v in kinds if np.isfinite(v))
        error = f" \u00b1 {self.error:.3f}" if self.n_objects > 1 else ""
        objects = count_things(self.n_objects, "object")
        return f"mean IoU {self.score:.3f}{error} on {objects} ({parts})"

    @property
    def score(self) -> float:
        """Mean IoU over the kinds of prompt that are trained."""
        return float(np.nanmean([self.box, self.point]))

    @property
    def per_object(self) -> tuple[float, ...]:
        """Mean IoU of each object over the kinds of prompt; empty if not known."""
        kinds = list(self.each.values())
        return tuple(np.mean(kinds, axis=0).tolist()) if kinds else ()

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
        self._views, self._settings = views, settings
        self._keys = _keys(views, seed)
        self._chosen = _choose(views, self._keys)
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

    def score_steps(
        self, model: SamModel
    ) -> Generator[Progress, None, ValidationScores]:
        """Score a model, yielding `Progress` after a few masks each."""
        # where memory runs out, masks are to be those of the weights of now
        model.drop_copies()
        found: dict[str, list[npt.NDArray[np.float64]]] = {}
        kinds = {kind: SAMPLERS[kind] for kind in self._settings.scored_kinds}
        done, shown = 0, {}
        for view, rows in self._chosen:
            objects = self._views.objects.index(rows, view.size)
            keys = [self._keys[row] for row in rows.tolist()]
            embedding = yield from self._embedding_steps(model, view)
            for kind, sampler in kinds.items():
                prompts = _draw_prompts(objects, keys, sampler)
                parts = []
                for start in range(0, len(rows), AT_ONCE):
                    some = np.arange(start, min(start + AT_ONCE, len(rows)))
                    masks = predict_masks(model, embedding, prompts.select(some))
                    parts.append(masks)
                    done += len(some)
                    yield Progress(SCORING, done, len(self) * len(kinds))
                shown[view] = _join(parts)
                found.setdefault(kind, []).append(prediction_iou(shown[view], objects))
        self.shown = shown
        self.first = self.first or dict(shown)
        return _summarise(
            {kind: np.concatenate(parts) for kind, parts in found.items()}
        )

    @property
    def objects(self) -> list[tuple[View, int, int]]:
        """View, row in it, and id of each object, in the order of the scores."""
        ids = self._views.objects.object_ids
        return [
            (view, i, int(ids[row]))
            for view, rows in self._chosen
            for i, row in enumerate(rows.tolist())
        ]

    def previews(self, *, first: bool = False) -> list[PreviewPlane]:
        """Return masks where they lie: of the last validation, or of the first."""
        masks, ids = self.first if first else self.shown, self._views.objects.object_ids
        return paint_previews(
            (view, masks[view], ids[rows].tolist())
            for view, rows in self._chosen
            if view in masks
        )

    def _embedding_steps(
        self, model: SamModel, view: View
    ) -> Generator[Progress, None, PlaneEmbedding]:
        if view.frame < 0:
            return self._views.embedding(view)
        height, width = resized_size(view.size, model.input_size)
        pixels = self._views.frame(view)[:height, :width].astype(np.float32)
        encoded = yield from model.encode_steps(pixels)
        return dataclasses.replace(encoded, original_size=view.size)


def _join(parts: Sequence[MaskPrediction]) -> MaskPrediction:
    """Return the masks of objects of a plane that were decoded a few at a time."""
    return MaskPrediction(
        np.concatenate([part.object_ids for part in parts]),
        tuple(crop for part in parts for crop in part.crops),
        np.concatenate([part.boxes_yx for part in parts]),
        parts[0].plane_size,
        np.concatenate([part.iou_predictions for part in parts]),
        np.concatenate([part.low_res_masks for part in parts]),
    )


def _keys(views: ViewSet, seed: int) -> dict[int, int]:
    """Return a random number for each object to validate on, by its row.

    It follows from the image, the plane and the id: another model, which sees planes in
    other tiles, is asked for the same objects by the same prompts.
    """
    ids = views.objects.object_ids
    return {
        row: xxhash.xxh3_64_intdigest(
            f"{seed} {view.image} {view.plane} {ids[row]}".encode()
        )
        for view in views.validation
        for row in range(view.first, view.last)
    }


def _choose(views: ViewSet, keys: Mapping[int, int]) -> list[tuple[View, IntArray]]:
    """Choose at most `MAX_OBJECTS` objects, from all views alike."""
    picked = set(sorted(keys, key=lambda row: keys[row])[:MAX_OBJECTS])
    chosen = [
        (view, np.array([r for r in range(view.first, view.last) if r in picked], int))
        for view in views.validation
    ]
    return [(view, rows) for view, rows in chosen if len(rows)]


def _draw_prompts(
    objects: ObjectIndex, keys: Sequence[int], sampler: PromptSampler
) -> PlanePrompts:
    """Draw the prompt of each object by a seed of its own."""
    drawn = [
        sampler(objects.select(np.array([i])), np.random.default_rng(key))
        for i, key in enumerate(keys)
    ]
    names = ("object_ids", "points_yx", "point_labels", "boxes_yx")
    return PlanePrompts(
        *(np.concatenate([getattr(one, name) for one in drawn]) for name in names)
    )


def _summarise(ious: Mapping[str, npt.NDArray[np.float64]]) -> ValidationScores:
    means = {}
    for kind in SAMPLERS:
        iou = ious.get(kind, np.array([np.nan]))
        means[kind] = float(iou.mean())
        means[f"{kind}_dice"] = float(_dice(iou).mean())
    each = np.mean(list(ious.values()), axis=0)
    return ValidationScores(
        **means,
        error=_error(each) if len(each) > 1 else 1.0,
        n_objects=len(each),
        each={kind: tuple(iou.tolist()) for kind, iou in ious.items()},
    )


def _dice(iou: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 2 * iou / (1 + iou)


def _error(values: npt.NDArray[np.float64]) -> float:
    """Return the standard error of a mean, NaN of one value."""
    if len(values) < 2:
        return float("nan")
    return float(values.std(ddof=1) / len(values) ** 0.5)
