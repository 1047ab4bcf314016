"""Counts, estimates and trains in the background, for the Fine-tune panel.

No layer is touched here: what runs in a thread gets everything of a layer when the job
is made, and copies the labels before anything else.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_samseg.adapters.plugin_settings import PluginSettings, read_plugin_settings
from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.models.weights import tuned_folder
from napari_samseg.core.optional import is_installed
from napari_samseg.core.settings import ImageSettings, ModelSettings
from napari_samseg.core.training.doubts import training_doubts
from napari_samseg.core.training.files import (
    ClassPlanes,
    TrainingFiles,
    open_training_files,
)
from napari_samseg.core.training.images import LabelledImage
from napari_samseg.core.training.logs import LogRow, read_log, used_loggers
from napari_samseg.core.training.presets import TuningPlan
from napari_samseg.core.training.survey import snapshot_steps, survey_steps
from napari_samseg.core.training.unfinished import TuningRecipe, write_recipe
from napari_samseg.core.types import Progress, TrainingProgress
from napari_samseg.widgets.job_runner import JobRunner
from napari_samseg.widgets.loaded_models import predictor_steps
from napari_samseg.widgets.workers import LatestJob

if TYPE_CHECKING:
    from napari_samseg.core.images import PlaneSource
    from napari_samseg.core.training.estimate import TuneEstimate
    from napari_samseg.core.training.images import LabelledPlane
    from napari_samseg.core.training.preview import PreviewPlane
    from napari_samseg.core.training.result import TuneResult
    from napari_samseg.core.training.tuning import TuningJob
    from napari_samseg.core.training.validation import ValidationScores

__all__ = [
    "Counted",
    "LearningPair",
    "ModelTuner",
    "Previewed",
    "Recalled",
    "TunePlan",
]

# What of the figures of a validation is drawn.
IOUS, DICES = ("val_box", "val_point"), ("val_box_dice", "val_point_dice")


@dataclass(frozen=True, slots=True, eq=False)
class LearningPair:
    """An image and its labels.

    Attributes
    ----------
    name : str
        No other pair has it.
    group : str
        Pairs of one group are not divided: they show the same image.
    source : PlaneSource
    labels : array-like
    settings : ImageSettings
    """

    name: str
    group: str
    source: PlaneSource
    labels: Any
    settings: ImageSettings


@dataclass(frozen=True, slots=True, eq=False)
class TunePlan:
    """What is to be learned from what, and how.

    Attributes
    ----------
    name : str
        Of the new model.
    pairs : tuple of LearningPair
    files : TrainingFiles or None
        In place of pairs.
    semantic : bool
        The labels of pairs are classes.
    only : tuple of int
        The labels of pairs to learn from; all of them if empty.
    model : ModelSettings
    settings : TuningPlan
    stores : tuple of str
        Where embeddings of the images may lie.
    loggers : tuple of str
        Services that get the figures too; see `napari_samseg.core.training.logs`. One
        that is resumed goes on with those that it had.
    resume : bool
        Go on with the training of that name.
    """

    name: str
    pairs: tuple[LearningPair, ...] = ()
    files: TrainingFiles | None = None
    semantic: bool = False
    only: tuple[int, ...] = ()
    model: ModelSettings = field(default_factory=ModelSettings)
    settings: TuningPlan = field(default_factory=TuningPlan)
    stores: tuple[str, ...] = ()
    loggers: tuple[str, ...] = ()
    resume: bool = False

    def folder(self, plugin: PluginSettings) -> Path:
        """Return where the new model lies."""
        return tuned_folder(plugin.models_path) / self.name


@dataclass(frozen=True, slots=True)
class Counted(Progress):
    """What there is to learn from.

    Attributes
    ----------
    n_objects, n_planes, n_images : int
    doubts : sequence of str
        Why that may not be worth the time.
    """

    n_objects: int = 0
    n_planes: int = 0
    n_images: int = 0
    doubts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Previewed(Progress):
    """Masks of the validation objects, and their scores.

    Attributes
    ----------
    planes : sequence of PreviewPlane
    scores : ValidationScores or None
    is_before : bool
        They are of the model before it learned.
    """

    planes: Sequence[PreviewPlane] = ()
    scores: ValidationScores | None = None
    is_before: bool = False


@dataclass(frozen=True, slots=True)
class Recalled(Progress):
    """What a training that is resumed had done before it was stopped.

    Attributes
    ----------
    losses : mapping of step to loss
    scores : mapping of step to IoU and Dice
    """

    losses: Mapping[int, float] = field(default_factory=dict)
    scores: Mapping[int, tuple[float, float]] = field(default_factory=dict)


class ModelTuner(JobRunner):
    """Looks at one plan at a time, and trains.

    See `JobRunner`; among what `progressed` gets are `Counted`, `Recalled` and
    `Previewed`, and `finished` gets a `TuneResult`. Of a look at a plan, `surveyed`
    gets a `TuneEstimate`, `refused` what is wrong with it, and `doubted` a text.
    """

    surveyed = Signal(object)
    doubted = Signal(str)
    refused = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._surveying = LatestJob(background=True)
        self._tuning: TuningJob | None = None

    @property
    def is_busy(self) -> bool:
        """Whether anything runs in the background."""
        return self.is_running or self._surveying.is_busy

    @property
    def result(self) -> TuneResult | None:
        """What the last training has brought so far; None before the first step."""
        tuning = self._tuning
        if tuning is None or tuning.validation is None:
            return None
        return tuning.result(tuning.validation.split)

    def look(self, plan: TunePlan) -> None:
        """Count what there is, and estimate; `surveyed` or `refused` follows."""
        self._is_closed = False
        self._surveying.request(
            _look_steps(plan, read_plugin_settings(), self),
            self.surveyed.emit,
            self.refused.emit,
            self.progressed.emit,
            self.doubted.emit,
        )

    def forget(self) -> None:
        """Stop looking."""
        self._surveying.cancel()

    def start(self, plan: TunePlan) -> None:
        """Train; `finished` or `failed` follows."""
        if self.is_running:
            return
        self.forget()
        self._tuning = None
        self._start(_tune_steps(plan, read_plugin_settings(), self), self.finished)

    def close(self) -> None:
        """Stop, say nothing more until something is asked again, and let go."""
        super().close()
        self.forget()

    def follow(self, tuning: TuningJob) -> None:
        """Take `result` from a training."""
        self._tuning = tuning


def _look_steps(
    plan: TunePlan, plugin: PluginSettings, holder: ModelTuner
) -> Generator[Progress, None, TuneEstimate]:
    min_area = plan.settings.tune.min_area
    with ExitStack() as stack:
        images = yield from _image_steps(plan, stack)
        planes = yield from survey_steps(images, min_area)
        tune, seed = plan.settings.tune, plan.settings.loop.seed
        yield _count(planes, training_doubts(images, planes, tune, seed))
        predictor = yield from predictor_steps(plan.model, plugin)
        holder.keep(predictor)
        from napari_samseg.core.training.estimate import estimate_steps
        from napari_samseg.core.training.losses import read_loss

        read_loss(plan.settings.tune.loss)
        model: Any = predictor.model
        folder = plan.folder(plugin)
        return (yield from estimate_steps(images, planes, model, plan.settings, folder))


def _count(planes: Sequence[LabelledPlane], doubts: Sequence[str]) -> Counted:
    n_objects = sum(plane.n_objects for plane in planes)
    n_images = len({plane.group for plane in planes})
    return Counted(
        "counting",
        n_objects=n_objects,
        n_planes=len(planes),
        n_images=n_images,
        doubts=doubts,
    )


def _image_steps(
    plan: TunePlan, stack: ExitStack
) -> Generator[Progress, None, list[LabelledImage]]:
    if plan.files is not None:
        yield Progress("opening files")
        return stack.enter_context(open_training_files(plan.files))
    images = []
    for pair in plan.pairs:
        # somebody goes on painting while the model learns
        labels: Any = yield from snapshot_steps(pair.labels, plan.only)
        if not labels.planes:
            which = f" {', '.join(map(str, plan.only))}" if plan.only else ""
            raise InvalidLabelsError(
                f"there is no label{which} on {pair.name}: paint some objects first, "
                "or leave these labels out"
            )
        if plan.semantic:
            labels = ClassPlanes(labels)
        images.append(
            LabelledImage(pair.name, pair.source, labels, pair.group, pair.settings)
        )
    return images


def _tune_steps(
    plan: TunePlan, plugin: PluginSettings, holder: ModelTuner
) -> Generator[Progress, None, TuneResult]:
    with ExitStack() as stack:
        images = [] if plan.resume else (yield from _image_steps(plan, stack))
        earlier = read_log(plan.folder(plugin)) if plan.resume else []
        yield _recall(earlier)
        predictor = yield from predictor_steps(plan.model, plugin)
        holder.keep(predictor)
        from napari_samseg.core.training.tuning import TuningJob

        model: Any = predictor.model
        folder = plan.folder(plugin)
        write_recipe(folder, TuningRecipe(plan.model, plan.settings))
        tuning = TuningJob(
            images,
            model,
            folder,
            plan.settings,
            stores=plan.stores,
            loggers=_used_loggers(folder) if plan.resume else plan.loggers,
        )
        holder.follow(tuning)
        return (yield from _follow(tuning, earlier, resume=plan.resume))


def _used_loggers(folder: Path) -> tuple[str, ...]:
    """Return the services that a training goes on with, of those it began with."""
    used = used_loggers(folder)
    there = tuple(name for name in used if is_installed(name))
    if there != used:
        gone = " and ".join(name for name in used if name not in there)
        warnings.warn(
            f"{gone} will get no more figures: it is not installed any more",
            stacklevel=2,
        )
    return there


def _recall(rows: Sequence[LogRow]) -> Recalled:
    losses, scores = {}, {}
    for row in rows:
        figures = row.figures
        if "loss" in figures:
            losses[row.step] = figures["loss"]
        ious = [figures[name] for name in IOUS if name in figures]
        dices = [figures[name] for name in DICES if name in figures]
        if ious and dices:
            scores[row.step] = statistics.fmean(ious), statistics.fmean(dices)
    return Recalled("reading the log", losses=losses, scores=scores)


def _follow(
    tuning: TuningJob, earlier: Sequence[LogRow], *, resume: bool
) -> Generator[Progress, None, TuneResult]:
    """Train, with previews in between."""
    steps = tuning.run_steps(resume=resume)
    has_begun = False
    try:
        while True:
            try:
                progress = next(steps)
            except StopIteration as stop:
                return stop.value
            if not isinstance(progress, TrainingProgress):
                yield progress
                continue
            validation = tuning.validation
            assert validation is not None  # there are steps
            if not has_begun:
                has_begun = True
                # the log may have gone further than the state that it goes on from
                yield _recall([row for row in earlier if row.step < progress.done])
                yield Previewed(
                    "training",
                    0,
                    progress.total,
                    planes=validation.previews(first=True),
                    scores=tuning.before,
                    is_before=True,
                )
            yield progress
            if progress.val_iou is not None:
                yield Previewed(
                    "training",
                    progress.done,
                    progress.total,
                    planes=validation.previews(),
                    scores=tuning.now,
                )
    finally:
        steps.close()
