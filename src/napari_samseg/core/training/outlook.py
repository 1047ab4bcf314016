"""What a training would do, told without doing it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from napari_samseg.core.models.weights import check_model, is_missing
from napari_samseg.core.training.config import TuneConfig
from napari_samseg.core.training.files import open_training_files
from napari_samseg.core.training.images import LabelledPlane, count_sides, divide
from napari_samseg.core.training.logs import load_loggers
from napari_samseg.core.training.losses import read_loss
from napari_samseg.core.training.survey import survey_steps
from napari_samseg.core.types import Progress

__all__ = ["Side", "TrainingOutlook", "outlook_steps"]


@dataclass(frozen=True, slots=True)
class Side:
    """What is trained on, or validated on.

    Attributes
    ----------
    groups : tuple of str
    n_planes, n_objects : int
    """

    groups: tuple[str, ...]
    n_planes: int
    n_objects: int


@dataclass(frozen=True, slots=True)
class TrainingOutlook:
    """What a training would do.

    Attributes
    ----------
    n_images, n_planes : int
        Images, and planes with objects.
    training, validation : Side
    split : str
        See `napari_samseg.core.training.images.divide`.
    n_variants : int
        Encodings of each plane to train on.
    needs_download : bool
        The model is fetched first.
    """

    n_images: int
    n_planes: int
    training: Side
    validation: Side
    split: str
    n_variants: int
    needs_download: bool


def outlook_steps(config: TuneConfig) -> Generator[Progress, None, TrainingOutlook]:
    """Check files and settings, count objects, and divide them.

    Raises
    ------
    SamSegError
        As the training would, but for what only a loaded model can tell.
    """
    read_loss(config.plan.tune.loss)
    load_loggers(config.loggers)
    check_model(config.model.model)
    needs_download = is_missing(config.model.model)
    tune = config.plan.tune
    with open_training_files(config.files) as images:
        planes = yield from survey_steps(images, tune.min_area)
        n_images = len(images)
    training, validation, split = divide(planes, tune, config.plan.loop.seed)
    counts = count_sides(training, validation)
    sides = _side(training, counts[0]), _side(validation, counts[1])
    n_variants = config.plan.augment.variants
    return TrainingOutlook(
        n_images, len(planes), *sides, split, n_variants, needs_download
    )


def _side(planes: list[LabelledPlane], n_objects: int) -> Side:
    planes = planes if n_objects else []
    groups = tuple(dict.fromkeys(plane.group for plane in planes))
    return Side(groups, len(planes), n_objects)
