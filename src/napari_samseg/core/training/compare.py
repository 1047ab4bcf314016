"""Several models on one validation set: the same objects, and the very same prompts.

By the protocol of `napari_samseg.core.metrics.prompting`, with planes cut into tiles as
when a person prompts.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_samseg.core.chosen_model import model_steps
from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.metrics.prompting import prediction_iou
from napari_samseg.core.planes import measure_plane
from napari_samseg.core.predict import Predictor
from napari_samseg.core.prompts.from_labels import (
    sample_jittered_box,
    sample_random_point,
)
from napari_samseg.core.prompts.object_index import ObjectIndex, index_objects
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.tiled import TiledPlane, plan_tiles
from napari_samseg.core.training.images import (
    LabelledImage,
    LabelledPlane,
    count_held_out,
    divide,
)
from napari_samseg.core.training.prepare import one_side
from napari_samseg.core.training.presets import TuningPlan
from napari_samseg.core.training.survey import read_labels, survey_steps
from napari_samseg.core.training.validation import MAX_OBJECTS
from napari_samseg.core.types import BoolArray, Progress

__all__ = ["KINDS", "ComparedObject", "ModelComparison", "compare_steps"]

# Kinds of prompt, in the order of all tables.
KINDS = ("box", "point")


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
    _, validation, split = divide(planes, plan.tune, plan.loop.seed)
    # where a plan validates on nothing, all of it is unseen by it
    chosen = _choose(images, validation or planes, split, plan)
    scored: list[list[list[_Scored]]] = []
    for settings in models:
        model = yield from model_steps(settings)
        found = []
        for done, (at, objects) in enumerate(chosen):
            yield Progress("scoring", done, len(chosen), settings.model)
            image = images[at.image]
            plane = measure_plane(image.source, at.plane, image.settings)
            boxes = plan_tiles(plane.size, model.input_size, plan.tiles)
            tiled = TiledPlane(Predictor(model), plane, boxes)
            found.append((yield from _score(tiled, objects, (plan.loop.seed, done))))
        scored.append(found)
    compared = [
        ComparedObject(
            at.image,
            at.plane,
            int(objects.object_ids[row]),
            objects.boxes_yx[row],
            np.array([of_model[p][row].iou for of_model in scored]),
            tuple(of_model[p][row].mask for of_model in scored),
        )
        for p, (at, objects) in enumerate(chosen)
        for row in range(len(objects))
    ]
    return ModelComparison(tuple(names), tuple(compared), split)


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    iou: tuple[float, float]
    mask: tuple[BoolArray, tuple[int, int, int, int]]


def _score(
    tiled: TiledPlane, objects: ObjectIndex, seed: tuple[int, ...]
) -> Generator[Progress, None, list[_Scored]]:
    rng = np.random.default_rng(seed)
    ious = []
    for sampler in (sample_jittered_box, sample_random_point):
        found = yield from tiled.predict_steps(sampler(objects, rng))
        ious.append(prediction_iou(found, objects))
    boxes = found.boxes_yx.tolist()
    return [
        _Scored((float(ious[0][i]), float(ious[1][i])), (crop, tuple(boxes[i])))
        for i, crop in enumerate(found.crops)
    ]


def _choose(
    images: Sequence[LabelledImage],
    planes: Sequence[LabelledPlane],
    split: str,
    plan: TuningPlan,
) -> list[tuple[LabelledPlane, ObjectIndex]]:
    """Choose at most `MAX_OBJECTS` objects, from all planes alike."""
    share = plan.tune.validation if split == "objects" else 0.0
    sizes = [
        count_held_out(n, share) if share else n
        for n in (plane.n_objects for plane in planes)
    ]
    rng = np.random.default_rng((plan.loop.seed, 1))
    picked = np.zeros(sum(sizes), bool)
    picked[rng.permutation(len(picked))[:MAX_OBJECTS]] = True
    chosen = []
    for at, rows in zip(planes, np.split(picked, np.cumsum(sizes)[:-1]), strict=True):
        if not rows.any():
            continue
        labels = read_labels(images[at.image], at.plane)
        objects = index_objects(labels, min_area=plan.tune.min_area)
        if share:
            objects = one_side(objects, share, is_validation=True)
        chosen.append((at, objects.select(rows)))
    if not chosen:
        raise InvalidLabelsError(
            "there is one object in all: label another one to compare models on"
        )
    return chosen
