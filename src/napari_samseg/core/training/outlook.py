"""What a training would do, told without doing it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from napari_samseg.core.errors import MissingFileError, UnknownNameError
from napari_samseg.core.models.checkpoint import SUFFIXES
from napari_samseg.core.models.weights import ZOO, list_models, models_folder
from napari_samseg.core.training.config import TuneConfig
from napari_samseg.core.training.files import open_training_files
from napari_samseg.core.training.images import LabelledPlane, count_held_out, divide
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
    needs_download = _check_model(config.model.model)
    tune = config.plan.tune
    with open_training_files(config.files) as images:
        planes = yield from survey_steps(images, tune.min_area)
        n_images = len(images)
    training, validation, split = divide(planes, tune, config.plan.loop.seed)
    sides = _side(training), _side(validation)
    if split == "objects":
        total = sides[0].n_objects
        n_held_out = sum(count_held_out(p.n_objects, tune.validation) for p in planes)
        sides = (
            Side(sides[0].groups, len(planes), total - n_held_out),
            Side(sides[1].groups, len(planes), n_held_out),
        )
    n_variants = config.plan.augment.variants
    return TrainingOutlook(
        n_images, len(planes), *sides, split, n_variants, needs_download
    )


def _side(planes: list[LabelledPlane]) -> Side:
    groups = tuple(dict.fromkeys(plane.group for plane in planes))
    return Side(groups, len(planes), sum(plane.n_objects for plane in planes))


def _check_model(name: str) -> bool:
    """Return whether a model is to be downloaded; refuse one that is not there."""
    if name in ZOO:
        return not (models_folder() / ZOO[name].checkpoint.file_name).exists()
    if name in list_models():
        return False
    if not name.endswith(SUFFIXES):
        raise UnknownNameError(
            f"there is no model {name!r}: choose one of {', '.join(list_models())}, or "
            "give the path of a checkpoint"
        )
    if not Path(name).expanduser().is_file():
        raise MissingFileError(f"there is no checkpoint {name}")
    return False
