"""Several models on one validation set: the same objects, and the very same prompts.

They are scored as a training scores its model before and after, by
`napari_samseg.core.training.validation`, so that the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_samseg.core.chosen_model import model_steps
from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.prompts.object_index import index_objects
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.training.images import LabelledImage, distinct
from napari_samseg.core.training.prepare import prepare_steps
from napari_samseg.core.training.presets import TuningPlan
from napari_samseg.core.training.preview import place_crop
from napari_samseg.core.training.survey import read_labels, survey_steps
from napari_samseg.core.training.validation import SAMPLERS, Validation
from napari_samseg.core.types import BoolArray, Progress

if TYPE_CHECKING:
    from napari_samseg.core.models.sam import SamModel
    from napari_samseg.core.training.views import ViewSet

__all__ = ["KINDS", "ComparedObject", "ModelComparison", "compare_steps"]

# Kinds of prompt, in the order of all tables.
KINDS = tuple(SAMPLERS)


@dataclass(frozen=True, slots=True, eq=False)
class ComparedObject:
    """An object and what each model made of it.

    Attributes
    ----------
    image : int
        Position in the list of images.
    plane : tuple of int
    object_id : int
    box_yx : (4,) int64
        Half-open.
    iou : (models, 2) float64
        By a box, and by a point.
    masks : tuple of (crop, box)
        Of each model, by a point: (y, x) bool, and where it lies.
    """

    image: int
    plane: tuple[int, ...]
    object_id: int
    box_yx: npt.NDArray[np.int64]
    iou: npt.NDArray[np.float64]
    masks: tuple[tuple[BoolArray, tuple[int, int, int, int]], ...]


@dataclass(frozen=True, slots=True, eq=False)
class ModelComparison:
    """Scores of models on the same objects.

    Attributes
    ----------
    models : tuple of str
    objects : tuple of ComparedObject
    split : str
        See `napari_samseg.core.training.images.divide`.
    """

    models: tuple[str, ...]
    objects: tuple[ComparedObject, ...]
    split: str

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """(objects, models, 2) float64, by a box and by a point."""
        return np.stack([item.iou for item in self.objects])

    def summary(self) -> list[dict[str, float | str]]:
        """Return a row for each model and kind of prompt.

        Mean IoU and Dice, the standard error of the mean IoU, and that of the mean
        difference to the first model, which is what tells whether one is better.
        """
        rows: list[dict[str, float | str]] = []
        iou, n = self.iou, len(self.objects)
        for m, name in enumerate(self.models):
            for k, kind in enumerate(KINDS):
                values, gain = iou[:, m, k], iou[:, m, k] - iou[:, 0, k]
                rows.append(
                    {
                        "model": name,
                        "prompt": kind,
                        "iou": float(values.mean()),
                        "iou_error": _error(values),
                        "dice": float((2 * values / (1 + values)).mean()),
                        "gain": float(gain.mean()),
                        "gain_error": _error(gain),
                        "objects": float(n),
                    }
                )
        return rows


def _error(values: npt.NDArray[np.float64]) -> float:
    if len(values) < 2:
        return float("nan")
    return float(values.std(ddof=1) / len(values) ** 0.5)


def compare_steps(
    models: Sequence[ModelSettings],
    images: Sequence[LabelledImage],
    plan: TuningPlan,
) -> Generator[Progress, None, ModelComparison]:
    """Score models on what a training by a plan would validate on.

    Parameters
    ----------
    models : sequence of ModelSettings
        Loaded one after the other.
    images : sequence of LabelledImage
    plan : TuningPlan
        Its division, tiles, smallest object and seed count.

    Raises
    ------
    SettingsError
        If there is no model, or one is there twice.
    SamSegError
        If something is wrong with images, labels or a model.
    """
    names = [settings.model for settings in models]
    if not names or len(set(names)) < len(names):
        raise SettingsError("name one model or more, each once")
    planes = yield from survey_steps(images, plan.tune.min_area)
    images = distinct(images)
    scored: list[dict[_Key, _Scored]] = []
    with TemporaryDirectory(prefix="samseg_compare_") as folder:
        for number, settings in enumerate(models):
            model = yield from model_steps(settings)
            views = yield from prepare_steps(
                images,
                planes,
                model,
                Path(folder) / str(number),
                plan.tune,
                augmenting=plan.augment,
                tiles=plan.tiles,
                seed=plan.loop.seed,
                trains=False,
            )
            if not views.validation:
                raise InvalidLabelsError(
                    "there is one object in all: label another one to compare models on"
                )
            yield Progress("scoring", number, len(models), settings.model)
            scored.append((yield from _score_steps(model, views, plan)))
    by_name = {image.name: i for i, image in enumerate(images)}
    compared = []
    # an object that is too thin for the coarse tile of one model is left out
    keys = sorted(set.intersection(*(set(of_model) for of_model in scored)))
    for (name, plane), members in groupby(keys, lambda key: key[:2]):
        objects = index_objects(read_labels(images[by_name[name]], plane))
        boxes = dict(zip(objects.object_ids.tolist(), objects.boxes_yx, strict=True))
        for key in members:
            of_models = [of_model[key] for of_model in scored]
            compared.append(
                ComparedObject(
                    by_name[name],
                    plane,
                    key[2],
                    boxes[key[2]],
                    np.array([one.iou for one in of_models]),
                    tuple(one.mask for one in of_models),
                )
            )
    return ModelComparison(tuple(names), tuple(compared), views.split)


# Name of the image, plane, and id.
_Key = tuple[str, tuple[int, ...], int]


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    iou: tuple[float, float]
    mask: tuple[BoolArray, tuple[int, int, int, int]]


def _score_steps(
    model: SamModel, views: ViewSet, plan: TuningPlan
) -> Generator[Progress, None, dict[_Key, _Scored]]:
    """Score a model as a training does, by boxes and by points."""
    both = replace(plan.tune, box=1.0, point=1.0)
    validation = Validation(views, both, plan.loop.seed)
    each = (yield from validation.score_steps(model)).each
    found = {}
    for i, (view, row, object_id) in enumerate(validation.objects):
        masks = validation.shown[view]
        mask = place_crop(masks.crops[row], masks.boxes_yx[row].tolist(), view)
        iou = each["box"][i], each["point"][i]
        found[view.image, view.plane, object_id] = _Scored(iou, mask)
    return found
