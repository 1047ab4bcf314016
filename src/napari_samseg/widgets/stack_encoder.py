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
from napari_samseg.widgets.loaded_models import predictor_steps
from napari_samseg.widgets.workers import Job, LatestJob

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


class StackEncoder:
    """Looks at one plan at a time, and encodes it.

    Signals come on the main thread: `surveyed` with a `Survey`, `progressed` with a
    `Progress`, `recorded` with the places of the planes in the store, `finished` with
    an `EmbedReport`, `failed` with an exception, and last `ended`, once what was
    finished is written, with whether the job was cancelled.
    """

    surveyed = Signal(object)
    progressed = Signal(object)
    recorded = Signal(object)
    finished = Signal(object)
    failed = Signal(object)
    ended = Signal(bool)
    warned = Signal(str)

    def __init__(self) -> None:
        self.survey: Survey | None = None
        # keeps the model loaded while other settings change
        self._last_survey: Survey | None = None
        self._job: Job | None = None
        self._stack_job: StackJob | None = None
        self._surveying = LatestJob(background=True)
        self._polling = LatestJob(background=True)
        self._is_closed = False
        self._timer = QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._poll)

    @property
    def is_surveying(self) -> bool:
        """Whether `surveyed` or `failed` will follow."""
        return self._surveying.will_answer

    @property
    def is_running(self) -> bool:
        """Whether planes are being encoded, or what is finished is being written."""
        return self._job is not None

    @property
    def is_paused(self) -> bool:
        """Whether the job waits for `resume`."""
        return self._job is not None and self._job.is_paused

    @property
    def is_stopping(self) -> bool:
        """Whether the job was cancelled and what is finished is being written."""
        return self._job is not None and self._job.is_cancelled

    @property
    def is_busy(self) -> bool:
        """Whether anything runs in the background."""
        return self.is_running or self._surveying.is_busy or self._polling.is_busy

    def look(self, plan: EmbedPlan) -> None:
        """Estimate what a plan will take; `surveyed` or `failed` follows."""
        self.survey, self._is_closed = None, False
        last = self._last_survey
        if last is not None and last.plan.model_settings != plan.model_settings:
            self._last_survey = None
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
        if self.survey is None or self._job is not None:
            return
        job = self.survey.plan.job(self.survey.predictor.model)
        job.order.move_focus(focus)
        self._stack_job = job
        self._job = Job(
            job.embed_steps(),
            on_return=self.finished.emit,
            on_error=self.failed.emit,
            on_progress=self.progressed.emit,
            on_warning=self.warned.emit,
            on_end=self._on_end,
            background=True,
        ).start()
        self._timer.start()

    def move_focus(self, focus: tuple[int, ...]) -> None:
        """Encode the planes around another one next."""
        if self._stack_job is not None:
            self._stack_job.order.move_focus(focus)

    def pause(self) -> None:
        """Wait before the next step until `resume`."""
        if self._job is not None:
            self._job.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._job is not None:
            self._job.resume()

    def cancel(self) -> None:
        """Stop encoding; what is finished is written first, then `ended` follows."""
        if self._job is not None:
            self._job.cancel()

    def close(self) -> None:
        """Stop everything and say nothing more, until something is asked again."""
        self._is_closed = True
        self.cancel()
        self.forget()
        self._last_survey = None
        self._polling.cancel()

    def _on_surveyed(self, survey: Survey) -> None:
        self.survey = self._last_survey = survey
        self.surveyed.emit(survey)

    def _on_end(self) -> None:
        job, self._job = self._job, None
        if not self._is_closed:
            self._poll()
            self.ended.emit(job is not None and job.is_cancelled)
        self._stack_job = None

    def _poll(self) -> None:
        if not self.is_running:
            self._timer.stop()
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
