"""Fine-tuning from start to end: what a button, a command or a script runs."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_samseg.core.chosen_model import model_steps
from napari_samseg.core.errors import OutputError
from napari_samseg.core.models.checkpoint import digest_tensors
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training.batches import BatchSource, TuneLoss, split_batch
from napari_samseg.core.training.distributed import ALONE, join_ranks
from napari_samseg.core.training.estimate import estimate_steps, time_training
from napari_samseg.core.training.images import count_sides, describe_sides, divide
from napari_samseg.core.training.kept import KeptWeights
from napari_samseg.core.training.learning import choose_learning, copy_model
from napari_samseg.core.training.logs import (
    LogRow,
    LogStart,
    TrainingLog,
    load_loggers,
)
from napari_samseg.core.training.loop import TrainingLoop
from napari_samseg.core.training.lora import drop_out
from napari_samseg.core.training.losses import read_loss
from napari_samseg.core.training.prepare import prepare_steps
from napari_samseg.core.training.presets import TuningPlan
from napari_samseg.core.training.result import TuneResult
from napari_samseg.core.training.schedule import Score
from napari_samseg.core.training.survey import survey_steps
from napari_samseg.core.training.unfinished import (
    STATE,
    WORK,
    TuningRecipe,
    check_base,
    check_resumed,
    check_training_folder,
    drop_state,
    is_unfinished,
    write_base,
    write_recipe,
)
from napari_samseg.core.training.validation import SCORING, Validation, ValidationScores
from napari_samseg.core.training.views import ViewSet, drop_views, has_views
from napari_samseg.core.types import Progress, Remark, TrainingProgress

if TYPE_CHECKING:
    from napari_samseg.core.training.batches import ObjectBatch
    from napari_samseg.core.training.images import LabelledImage, LabelledPlane

__all__ = ["TuningJob"]


class TuningJob:
    """Tunes a model on labelled images, in a folder.

    Parameters
    ----------
    images : sequence of LabelledImage
        May be empty where a training is resumed.
    model : ModelSettings or SamModel
        Which model to load, or one that is loaded; it stays as it is.
    folder : Path
        Gets ``best.safetensors`` and ``last.safetensors`` with their cards,
        ``log.csv``, ``events`` for TensorBoard, and, until the training is over, a
        folder ``work``.
    plan : TuningPlan, optional
    stores : sequence of str
        Where embeddings of the images may lie.
    models_folder : Path, optional
        Where downloaded models lie.
    loggers : sequence of str
        Services that get the figures too; see `napari_samseg.core.training.logs`.
    estimates : bool
        Say what it will take before anything is encoded.

    Attributes
    ----------
    history : list of dict
        A row for each validation so far.
    validation : Validation or None
        Once the views are there.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        model: ModelSettings | SamModel,
        folder: Path,
        plan: TuningPlan | None = None,
        *,
        stores: Sequence[str] = (),
        models_folder: Path | None = None,
        loggers: Sequence[str] = (),
        estimates: bool = False,
    ) -> None:
        self.images = tuple(images)
        self.folder = folder
        self.plan = TuningPlan() if plan is None else plan
        self.history: list[Mapping[str, float]] = []
        self.validation: Validation | None = None
        self._model = model
        self._stores = stores
        self._models_folder = models_folder
        self._loggers = tuple(loggers)
        self._estimates = estimates
        self._loaded: SamModel | None = None
        self._kept = KeptWeights(folder, self.images, self.plan)
        self._started = 0.0
        self._ranks = ALONE

    @property
    def before(self) -> ValidationScores | None:
        """Scores of the model that it starts from."""
        return self._kept.before

    @property
    def now(self) -> ValidationScores | None:
        """Scores of the last validation."""
        return self._kept.now

    @property
    def can_resume(self) -> bool:
        """Whether a training lies in the folder that is not over."""
        return is_unfinished(self.folder)

    def run_steps(
        self, *, resume: bool = False, overwrite: bool = False
    ) -> Generator[Progress, None, TuneResult]:
        """Train; yields `TrainingProgress` at each step, once it has begun.

        Before that, a `Remark` says what is trained on, and another one how good the
        model is that it starts from.

        Closing the generator keeps the best weights, writes the last, and leaves what
        is needed to resume. Of several processes that torchrun has started, the first
        one yields that; closing it ends them all.

        Parameters
        ----------
        resume : bool
            Go on with the training in the folder. One that was stopped before its
            first step begins anew, with what was encoded.
        overwrite : bool
            Replace a model in the folder, and a training that is not over.

        Raises
        ------
        SamSegError
            If something is wrong with images, labels, settings or the model.
        TrainingError
            If a loss is no number, or another process of the training has ended; the
            weights before are kept.
        OutputError
            If a model is in the folder that is not to be replaced, or a training that
            is not to be resumed.
        MissingFileError
            If there is nothing to resume.
        SettingsError
            If what is resumed was started with other settings that must not change,
            or from other weights.
        CheckpointError
            If the model cannot be read, or what is resumed is damaged.
        """
        with join_ranks() as self._ranks:
            self._check_settings()
            if self._ranks.is_first:
                steps = self._lead_steps(resume=resume, overwrite=overwrite)
                return (yield from steps)
            return self._help(resume=resume)

    def _lead_steps(
        self, *, resume: bool, overwrite: bool
    ) -> Generator[Progress, None, TuneResult]:
        """Train; and do what is done once, however many processes train."""
        work = self.folder / WORK
        self._check_folder(resume=resume, overwrite=overwrite)
        is_prepared = resume and has_views(work)
        planes = [] if is_prepared else (yield from self._survey_steps())
        model = yield from self._model_steps()
        if is_prepared:
            check_base(self.folder, self._kept.base)
        else:
            write_base(self.folder, self._kept.base)
        choose_learning(model.sam, self.plan)
        if self._recipe is not None:
            write_recipe(self.folder, self._recipe)
        if is_prepared:
            views = ViewSet.load(work)
        else:
            views = yield from self._prepare_steps(model, planes)
        self._ranks.meet("prepared")
        loop = self._make_loop(model, views)
        yield Progress(SCORING)
        yield from self._score_before_steps(model)
        if is_prepared and is_unfinished(self.folder):
            loop.resume(work / STATE)
            self._kept.take_up()
        elif self.before is not None:
            loop.begin_at(self.before.score)
            self._kept.keep_start(model)
        drop_out(model.sam, on=True)
        if self.before is not None:
            yield Remark(SCORING, detail=f"before: {self.before}")
        try:
            self._ranks.check_alike((self._kept.base, self.plan, loop.step))
            yield from self._follow(loop)
        except OutputError:
            raise  # there is no room for the last weights either
        except BaseException:
            # also when it is stopped: nothing that was learned is lost
            self._keep_last(loop, model)
            raise
        self._keep_last(loop, model)
        result = self._ranks.from_first(self.result(views.split))
        shutil.rmtree(work, ignore_errors=True)
        return result

    def _help(self, *, resume: bool) -> TuneResult:
        """Learn along with the first process."""
        work = self.folder / WORK
        self._ranks.meet("waiting until it is prepared")
        model = run_steps(self._model_steps())
        choose_learning(model.sam, self.plan)
        views = ViewSet.load(work)
        loop = self._make_loop(model, views)
        drop_out(model.sam, on=True)
        if resume and is_unfinished(self.folder):
            loop.resume(work / STATE)
        self._ranks.check_alike((self._kept.base, self.plan, loop.step))
        for _ in loop.run():
            pass  # the first process tells
        return self._ranks.from_first(self.result(views.split))

    def result(self, split: str) -> TuneResult:
        """Return what there is so far."""
        return self._kept.result(self.history, split)

    def _check_settings(self) -> None:
        """Tell what is wrong with settings before anything is encoded."""
        read_loss(self.plan.tune.loss)
        load_loggers(self._loggers)
        self._ranks.check(self.plan.loop)

    def _check_folder(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse the folder; let go of a training in it that is not resumed."""
        work = self.folder / WORK
        check_training_folder(self.folder, resume=resume, overwrite=overwrite)
        if not resume:
            drop_state(self.folder)
            drop_views(work)
        elif self._recipe is not None and has_views(work):
            check_resumed(self.folder, self._recipe)

    @property
    def _recipe(self) -> TuningRecipe | None:
        """What it is started with; None of a model that was loaded before."""
        if isinstance(self._model, ModelSettings):
            return TuningRecipe(self._model, self.plan)
        return None

    def _survey_steps(self) -> Generator[Progress, None, list[LabelledPlane]]:
        """Find the planes that have objects, and say how they are divided."""
        tune = self.plan.tune
        planes = yield from survey_steps(self.images, tune.min_area)
        training, validation, split = divide(planes, tune, self.plan.loop.seed)
        counts = count_sides(training, validation)
        yield Remark("looking for objects", detail=describe_sides(*counts, split))
        return planes

    def _prepare_steps(
        self, model: SamModel, planes: Sequence[LabelledPlane]
    ) -> Generator[Progress, None, ViewSet]:
        """Encode what the planes show."""
        plan = self.plan
        if self._estimates and self._loaded is not None:
            estimate = yield from estimate_steps(
                self.images, planes, self._loaded, plan, self.folder
            )
            yield Remark("estimating", detail=str(estimate))
        return (
            yield from prepare_steps(
                self.images,
                planes,
                model,
                self.folder / WORK,
                plan.tune,
                augmenting=plan.augment,
                tiles=plan.tiles,
                seed=plan.loop.seed,
                stores=self._stores,
            )
        )

    def _model_steps(self) -> Generator[Progress, None, SamModel]:
        loaded: Any = self._model
        if isinstance(loaded, ModelSettings):
            loaded = yield from model_steps(
                self._ranks.place(loaded), self._models_folder
            )
        yield Progress("looking at the model")
        self._loaded = loaded
        digest = digest_tensors(loaded.sam.state_dict())
        self._kept.base = {"name": loaded.name, "weights": digest}
        return copy_model(loaded, self.plan.tune)

    def _make_loop(self, model: SamModel, views: ViewSet) -> TrainingLoop[ObjectBatch]:
        plan = self.plan
        source = BatchSource(views, plan.tune, plan.loop.seed)
        n_steps = plan.count_steps(source.per_epoch)
        loop = dataclasses.replace(plan.loop, steps=n_steps)
        is_first = self._ranks.is_first
        self.validation = Validation(views, plan.tune, loop.seed)
        self._kept.n_training = self.validation.n_learning
        self._kept.n_validation = len(self.validation)
        self._epochs = loop.accumulate / source.per_epoch
        self._objects_per_step = source.mean_size * loop.accumulate
        made = TrainingLoop(
            model.sam,
            source,
            TuneLoss(model, plan.tune, read_loss(plan.tune.loss), plan.augment),
            loop,
            validate=(lambda _: self._validate_steps(model))
            if is_first and len(self.validation)
            else None,
            on_best=lambda _, score: self._kept.keep_best(model, made.step),
            split=split_batch,
            weigh=source.weigh,
            checkpoint=views.folder / STATE if is_first else None,
            ranks=self._ranks,
        )
        return made

    def _score_before_steps(self, model: SamModel) -> Generator[Progress]:
        assert self.validation is not None
        self._started = time.monotonic()
        if len(self.validation):
            self._kept.before = yield from self.validation.score_steps(model)

    def _validate_steps(self, model: SamModel) -> Generator[Progress, None, Score]:
        assert self.validation is not None
        drop_out(model.sam, on=False)
        try:
            now = yield from self.validation.score_steps(model)
        finally:
            drop_out(model.sam, on=True)
        self._kept.now = now
        return Score(now.score, now.per_object)

    def _keep_last(self, loop: TrainingLoop[ObjectBatch], model: SamModel) -> None:
        with loop.averaged.in_module():
            self._kept.keep_last(model, loop.step)

    def _follow(
        self, loop: TrainingLoop[ObjectBatch]
    ) -> Generator[Progress, None, None]:
        start = LogStart(self.folder, self.plan.as_dict(), loop.step)
        with TrainingLog(start, self._loggers) as log, closing(loop.run()) as steps:
            self.history = [row.as_dict() for row in log.earlier]
            assert self._loaded is not None  # it has been copied
            timed = time_training(
                steps, self._loaded, self.plan.tune, self._objects_per_step
            )
            self._started -= log.seconds
            for progress in timed:
                if not isinstance(progress, TrainingProgress):
                    yield progress
                    continue
                epoch = loop.step * self._epochs
                figures = {"loss": progress.train_loss, "rate": loop.rate}
                figures |= loop.figures
                if progress.val_iou is not None and self.now is not None:
                    figures |= {f"val_{k}": v for k, v in self.now.as_dict().items()}
                    progress = dataclasses.replace(progress, val_dice=self.now.dice)
                seconds = time.monotonic() - self._started
                row = LogRow(loop.step, epoch, seconds, figures)
                log.note(row)
                if row.is_validation:
                    self.history.append(row.as_dict())
                yield dataclasses.replace(progress, epoch=int(epoch))
