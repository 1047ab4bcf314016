"""Estimates and encodes a stack in the background, for the Embedding panel.

No layer is touched here: what runs in a thread gets everything of a layer when the
job is made.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_samseg.adapters.plugin_settings import PluginSettings, read_plugin_settings
from napari_samseg.core.settings import (
    EmbedSettings,
    ImageSettings,
    ModelSettings,
    TileSettings,
)
from napari_samseg.core.types import Progress
from napari_samseg.widgets.job_runner import JobRunner
from napari_samseg.widgets.loaded_models import predictor_steps
from napari_samseg.widgets.workers import LatestJob

if TYPE_CHECKING:
    from napari_samseg.core.cache.entry import StackEntry
    from napari_samseg.core.embed.stack import EmbedEstimate
    from napari_samseg.core.embed.stack_job import StackJob
    from napari_samseg.core.images import PlaneSource
    from napari_samseg.core.models.protocol import PromptableModel
    from napari_samseg.core.predict import Predictor

__all__ = ["EmbedPlan", "StackEncoder", "Survey"]

# How often it is looked up which planes are finished.
POLL_MS = 2000


@dataclass(frozen=True, slots=True, eq=False)
class EmbedPlan:
    """What is to be encoded, how, and where to.

    Attributes
    ----------
    source : PlaneSource
    name : str
        Path or name of the image.
    location : str
        Folder or URL of the store.
    planes : (int, int)
        Start and stop.
    image_settings, model_settings, tile_settings, settings
        See `napari_samseg.core.settings`.
    """

    source: PlaneSource
    name: str
    location: str
    planes: tuple[int, int]
    image_settings: ImageSettings
    model_settings: ModelSettings
    tile_settings: TileSettings
    settings: EmbedSettings

    def job(self, model: PromptableModel) -> StackJob:
        """Return the job that does it."""
        from napari_samseg.core.embed.stack import Stack
        from napari_samseg.core.embed.stack_job import StackJob

        return StackJob(
            Stack(self.source, self.name, self.image_settings),
            model,
            location=self.location,
            planes=self.planes,
            tile_settings=self.tile_settings,
            settings=self.settings,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What a plan will take, and what of it is done.

    Attributes
    ----------
    plan : EmbedPlan
    predictor : Predictor
        The model.
    estimate : EmbedEstimate
    recorded : frozenset of int
        Places of all planes of the stack that are in the store.
    """

    plan: EmbedPlan
    predictor: Predictor
    estimate: EmbedEstimate
    recorded: frozenset[int]


class StackEncoder(JobRunner):
    """Looks at one plan at a time, and encodes it.

    See `JobRunner`; `finished` gets an `EmbedReport`, `surveyed` a `Survey`, and
    `recorded` the places of the planes in the store.
    """

    surveyed = Signal(object)
    recorded = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.survey: Survey | None = None
        # of the model that is kept loaded while other settings change
        self._model_settings: ModelSettings | None = None
        self._stack_job: StackJob | None = None
        self._surveying = LatestJob(background=True)
        self._polling = LatestJob(background=True)
        self._timer = QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._poll)

    @property
    def is_surveying(self) -> bool:
        """Whether `surveyed` or `failed` will follow."""
        return self._surveying.will_answer

    @property
    def is_busy(self) -> bool:
        """Whether anything runs in the background."""
        return self.is_running or self._surveying.is_busy or self._polling.is_busy

    def look(self, plan: EmbedPlan) -> None:
        """Estimate what a plan will take; `surveyed` or `failed` follows."""
        self.survey, self._is_closed = None, False
        if plan.model_settings != self._model_settings:
            self._predictor = None
        self._surveying.request(
            _survey_steps(plan, read_plugin_settings()),
            self._on_surveyed,
            self.failed.emit,
            self.progressed.emit,
            self.warned.emit,
        )

    def forget(self) -> None:
        """Drop the survey, and one that is on its way."""
        self.survey = None
        self._surveying.cancel()

    def start(self, focus: tuple[int, ...] | None) -> None:
        """Encode what was surveyed, the planes around a focus first."""
        if self.survey is None or self.is_running:
            return
        job = self.survey.plan.job(self.survey.predictor.model)
        job.order.move_focus(focus)
        self._stack_job = job
        self._start(job.embed_steps(), self.finished)
        self._timer.start()

    def move_focus(self, focus: tuple[int, ...]) -> None:
        """Encode the planes around another one next."""
        if self._stack_job is not None:
            self._stack_job.order.move_focus(focus)

    def close(self) -> None:
        """Stop, say nothing more until something is asked again, and let go."""
        super().close()
        self.forget()
        self._polling.cancel()

    def _on_surveyed(self, survey: Survey) -> None:
        self.survey = survey
        self._model_settings = survey.plan.model_settings
        self.keep(survey.predictor)
        self.surveyed.emit(survey)

    def _on_end(self) -> None:
        self._timer.stop()
        if not self._is_closed:
            self._poll()
        self._stack_job = None
        super()._on_end()

    def _poll(self) -> None:
        entry = None if self._stack_job is None else self._stack_job.entry
        if entry is not None:
            self._polling.request(
                _recorded_steps(entry),
                self.recorded.emit,
                # the job itself tells what is wrong with the store
                lambda error: None,
            )


def _survey_steps(
    plan: EmbedPlan, plugin: PluginSettings
) -> Generator[Progress, None, Survey]:
    predictor = yield from predictor_steps(plan.model_settings, plugin)
    job = plan.job(predictor.model)
    estimate = yield from job.estimate_steps()
    recorded = frozenset() if job.entry is None else frozenset(job.entry.recorded())
    return Survey(plan, predictor, estimate, recorded)


def _recorded_steps(entry: StackEntry) -> Generator[Progress, None, frozenset[int]]:
    yield Progress("looking at what is there")
    return frozenset(entry.recorded())
