"""The Fine-tune panel: a model learns from labels while a person goes on annotating."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer

from napari_samseg.adapters.plugin_settings import read_plugin_settings
from napari_samseg.adapters.read_layers import unwrap
from napari_samseg.core.errors import SamSegError
from napari_samseg.core.models.weights import list_models
from napari_samseg.core.training.presets import PRESETS, TuningPlan
from napari_samseg.core.training.unfinished import read_recipe, unfinished_trainings
from napari_samseg.core.types import TrainingProgress
from napari_samseg.widgets.dock_panel import show_progress, show_text
from napari_samseg.widgets.label_pairs import LabelPairs
from napari_samseg.widgets.model_choice import MODEL_LIST, ModelChoice, preferred_model
from napari_samseg.widgets.model_tuner import (
    Counted,
    ModelTuner,
    Previewed,
    Recalled,
    TunePlan,
)
from napari_samseg.widgets.remaining_time import RemainingTime
from napari_samseg.widgets.stores import default_store, store_of
from napari_samseg.widgets.tune_layout import FILES, TuneLayout
from napari_samseg.widgets.tune_words import (
    check_name,
    describe_result,
    describe_step,
    free_name,
    read_ids,
)
from napari_samseg.widgets.tuned_panel import TunedPanel

if TYPE_CHECKING:
    import napari.viewer

    from napari_samseg.core.training.estimate import TuneEstimate
    from napari_samseg.core.training.result import TuneResult
    from napari_samseg.core.types import Progress

__all__ = ["TuneWidget"]

# Settings are often changed several at a time: look at what they take after the last.
CHANGE_REST_MS = 400
STOPPED = "Stopped. What was learned is kept, and Resume goes on from there."


class TuneWidget(TuneLayout):
    """Tune a model on layers or files.

    Parameters
    ----------
    napari_viewer : Viewer
        Injected by napari.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        self._viewer = unwrap(napari_viewer)
        model_settings = preferred_model()
        self._pairs = LabelPairs(self._viewer)
        self._tuned = TunedPanel(self._viewer, self._pairs)
        super().__init__(model_settings, self._pairs, self._tuned)
        self._model = ModelChoice(model_settings, self._model_box, self._device_form)
        self._tuner = ModelTuner()
        self._time = RemainingTime()
        # of the training that runs or ran last
        self._plan: TunePlan | None = None
        # a warning that is to stay on show while the training goes on
        self._note = ""
        self._name_is_chosen = False
        # what a training has brought was not seen beside the next look at the labels
        self._is_result_new = False
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(CHANGE_REST_MS)
        self._rest.timeout.connect(self._look)
        self._connect()
        # a window that is deleted at once tells nobody else
        self.destroyed.connect(self._tuner.close)
        self._on_preset()
        self._on_source()
        self.reset_choices()

    def _connect(self) -> None:
        self._source_box.activated.connect(self._on_source)
        self._pairs.changed.connect(self._on_change)
        self._files.changed.connect(self._on_change)
        self._only_line.editingFinished.connect(self._on_change)
        self._semantic_box.toggled.connect(self._on_change)
        self._model.changed.connect(self._on_change)
        self._preset_box.activated.connect(self._on_preset)
        self._name_line.textEdited.connect(self._on_name)
        for form in (*self._forms.values(), self._image_form):
            form.changed.connect(self._on_change)
            form.refused.connect(self._show_error)
        self._train_button.clicked.connect(self._train)
        self._pause_button.clicked.connect(self._pause)
        self._stop_button.clicked.connect(self._stop)
        self._unfinished.resumed.connect(self._resume)
        self._tuned.reported.connect(self._on_report)
        self._tuned.failed.connect(self._show_failure)
        tuner = self._tuner
        tuner.progressed.connect(self._on_progress)
        tuner.surveyed.connect(self._on_surveyed)
        tuner.refused.connect(self._outlook.refuse)
        tuner.doubted.connect(self._outlook.add_doubt)
        tuner.finished.connect(self._on_finished)
        tuner.failed.connect(self._on_failed)
        tuner.warned.connect(self._on_warned)
        tuner.ended.connect(self._on_ended)

    @property
    def tuner(self) -> ModelTuner:
        """What runs in the background."""
        return self._tuner

    @property
    def pairs(self) -> LabelPairs:
        """Which layers to learn from."""
        return self._pairs

    # -- choices -------------------------------------------------------------------

    def reset_choices(self, event: object = None) -> None:
        """Offer the layers there are now; napari calls this when they change."""
        if not self.is_shut:
            self._pairs.reset_choices()
            self._unfinished.refresh(self._tuned_name)
            self._refresh()

    @property
    def settings(self) -> TuningPlan:
        """The settings of a training, as the forms have them."""
        return TuningPlan(**{part: f.settings for part, f in self._forms.items()})

    def show_settings(self, plan: TuningPlan) -> None:
        """Show other settings in the forms."""
        for part, form in self._forms.items():
            form.set_settings(getattr(plan, part))
        self._on_change()

    def _on_preset(self) -> None:
        preset = PRESETS[self._preset_box.currentData()]
        show_text(self._preset_note, preset.title.partition(":")[2].strip())
        self.show_settings(preset)

    def _on_source(self) -> None:
        is_files = self._source_box.currentData() == FILES
        self._files.setVisible(is_files)
        self._pairs.setVisible(not is_files)
        self._on_change()

    def _on_name(self) -> None:
        self._name_is_chosen = bool(self._name_line.text())

    def _suggest_name(self) -> None:
        if self._name_is_chosen or self._tuner.is_running:
            return
        chosen = self._pairs.chosen
        what = self._model.settings.model
        if self._source_box.currentData() == FILES:
            what = self._files.name or what
        elif chosen:
            what = chosen[0].labels.name
        self._name_line.setText(free_name(what, self._taken_names()))

    @staticmethod
    def _taken_names() -> set[str]:
        folder = read_plugin_settings().models_path
        return {*list_models(folder), *unfinished_trainings(folder)}

    def _on_change(self) -> None:
        """Look, once the choices rest, at what there is and what it takes."""
        if self.is_shut:
            return
        is_files = self._source_box.currentData() == FILES
        takes_only = not is_files or self._semantic_box.isChecked()
        for widget in (self._only_label, self._only_line):
            widget.setVisible(takes_only)
        tune = self._forms["tune"].settings
        self._sections["lora"].setVisible(tune.train.startswith("lora"))
        # in pixels; other kinds are off by a share of the box
        self._forms["tune"].show_row("jitter", tune.box_kind == "jittered-box")
        self._suggest_name()
        self._refresh()
        if not self._tuner.is_running:
            self._rest.start()

    # -- what there is, and what it will take --------------------------------------

    def _look(self) -> None:
        self._rest.stop()
        self._tuner.forget()
        self._outlook.clear()
        try:
            plan = self._make_plan()
        except SamSegError as error:
            self._outlook.refuse_choices(str(error))
            return
        if plan is not None and not self._tuner.is_running:
            self._outlook.start_counting()
            self._tuner.look(plan)

    def _make_plan(self) -> TunePlan | None:
        """Return what the choices say; None where nothing is chosen yet.

        Raises
        ------
        SamSegError
            If they are wrong.
        """
        settings = self._image_form.settings
        only = read_ids(self._only_line.text())
        semantic = self._semantic_box.isChecked()
        pairs, files = (), None
        if self._source_box.currentData() == FILES:
            files = self._files.take(settings, only, semantic=semantic)
        else:
            pairs = self._pairs.take(self._pairs.chosen, settings)
        if not pairs and files is None:
            return None
        stores = {default_store(), *(store_of(p.image) for p in self._pairs.chosen)}
        return TunePlan(
            name=self._name_line.text().strip(),
            pairs=pairs,
            files=files,
            semantic=semantic,
            only=only,
            model=self._model.settings,
            settings=self.settings,
            stores=tuple(sorted(stores)),
            loggers=self._loggers.chosen,
        )

    def _on_surveyed(self, estimate: TuneEstimate) -> None:
        self._outlook.show_estimate(estimate)
        if self._is_result_new:
            # what was said of the labels meanwhile has pushed it down
            self._is_result_new = False
            self.scroll_to(self._tuned)

    # -- the job -------------------------------------------------------------------

    def _train(self) -> None:
        wrong = check_name(self._name_line.text().strip(), self._taken_names())
        try:
            plan = self._make_plan()
        except SamSegError as error:
            self._show_error(str(error))
            return
        if plan is None or wrong:
            self._show_error(wrong or "Choose labels and their image first.")
            return
        self._start(plan)

    def _resume(self, folder: Path) -> None:
        try:
            recipe = read_recipe(folder)
        except SamSegError as error:
            self._show_error(str(error))
            return
        plan = TunePlan(
            folder.name,
            semantic=self._semantic_box.isChecked(),
            model=recipe.model,
            settings=recipe.plan,
            resume=True,
        )
        self._start(plan)

    def _start(self, plan: TunePlan) -> None:
        self._rest.stop()
        self._plan, self._note, self._is_result_new = plan, "", False
        # one that is resumed has a name of its own
        self._name_line.setText(plan.name)
        self._time.start()
        self._plot.start(plan.settings.loop.steps)
        self._say("Starting ...")
        self._tuned.begin(plan, self._image_form.settings)
        self._tuner.start(plan)
        self._outlook.begin()
        self.fold_sections()
        self._refresh()
        self.scroll_to(self._plot)

    def _pause(self) -> None:
        self._time.start()
        if self._tuner.is_paused:
            self._tuner.resume()
            self._say("Going on ...")
        else:
            self._tuner.pause()
            self._say("Paused. What was learned so far stays in memory.")
        self._refresh()

    def _stop(self) -> None:
        self._tuner.cancel()
        self._say("Writing what was learned ...")
        self._refresh()

    def _on_progress(self, progress: Progress) -> None:
        if isinstance(progress, Counted):
            self._outlook.show_counts(progress)
            return
        if not self._tuner.is_running:
            return
        if isinstance(progress, Recalled):
            self._plot.recall(progress.losses, progress.scores)
            return
        if isinstance(progress, Previewed):
            self._show_preview(progress)
        elif isinstance(progress, TrainingProgress):
            self._plot.add_loss(progress.done, progress.train_loss, progress.total)
            left = self._time.left(progress.done, progress.total)
            if not self._tuner.is_paused:
                text = describe_step(self._tuned_name, progress, left)
                self._say(f"{text}\n{self._note}".strip())
        elif progress.stage != "training":  # what the last step said stays on show
            of = f" {progress.done} of {progress.total}" if progress.total else ""
            self._say(f"{progress.stage}{of}".capitalize())
        show_progress(self._bar, progress)

    def _on_warned(self, message: str) -> None:
        self._note = message
        self._show_error(message)

    def _show_preview(self, preview: Previewed) -> None:
        if preview.scores is not None:
            scores = preview.scores.score, preview.scores.dice
            self._plot.add_scores(preview.done, *scores)
        self._tuned.show_preview(preview)

    def _on_finished(self, result: TuneResult) -> None:
        self._model_box.look_for_speed()
        self._say(f"Done: the model {self._tuned_name!r} is in the lists of models.")
        self._tell_result(result)

    def _on_failed(self, error: Exception) -> None:
        self._show_failure(error)
        self._tell_kept()

    def _on_ended(self, was_stopped: bool) -> None:
        if was_stopped:
            self._say(STOPPED if self._tuner.result else "Stopped before it had begun.")
            self._tell_kept()
        self._name_is_chosen = False
        MODEL_LIST.changed.emit()
        self._unfinished.refresh(self._tuned_name)
        self._on_change()

    def _tell_kept(self) -> None:
        result = self._tuner.result
        if result is not None and result.after is not None:
            self._tell_result(result)

    def _tell_result(self, result: TuneResult) -> None:
        from napari.utils.notifications import show_info

        text = describe_result(result)
        self._tuned.show_result(f"{self._tuned_name}: {text}")
        self._is_result_new = True
        self.scroll_to(self._tuned)
        show_info(f"{self._tuned_name}: {text}")

    @property
    def _tuned_name(self) -> str:
        return "" if self._plan is None else self._plan.name

    # -- what is shown -------------------------------------------------------------

    def _on_report(self, message: str, is_error: bool) -> None:
        if is_error:
            self._show_error(message)
        else:
            self._say(message)

    def _refresh(self) -> None:
        runs, stops = self._tuner.is_running, self._tuner.is_stopping
        is_files = self._source_box.currentData() == FILES
        has_data = is_files or bool(self._pairs.chosen)
        resumes = runs and self._plan is not None and self._plan.resume
        self._choices.setEnabled(not runs)
        # it goes on with choices of its own
        self._choices.setVisible(not resumes)
        self._plot.setVisible(self._plan is not None)
        self._train_button.setVisible(not runs)
        self._train_button.setEnabled(has_data)
        for button in (self._pause_button, self._stop_button):
            button.setVisible(runs)
            button.setEnabled(not stops)
        self._pause_button.setText("Continue" if self._tuner.is_paused else "Pause")
        self._unfinished.setVisible(not runs and self._unfinished.has_any)
        if not runs:
            show_progress(self._bar, None)

    def leave(self) -> None:
        """Stop the training; what was learned is written, and can be resumed."""
        from napari.utils.notifications import show_info

        if self._tuner.is_running and not self._tuner.is_stopping:
            show_info(f"The Fine-tune panel was closed. {STOPPED}")
        self._rest.stop()
        self._tuner.close()
        self._tuned.leave()
        self._pairs.leave()
