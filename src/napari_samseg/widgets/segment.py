"""The Segment panel: prompts on the canvas become masks in a Labels layer.

The panel holds no state of its own: it shows a `Session` and calls its methods.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFileDialog, QMessageBox, QToolButton

from napari_samseg.adapters.plugin_settings import read_plugin_settings
from napari_samseg.adapters.prompt_layers import is_own_layer
from napari_samseg.adapters.read_layers import unwrap
from napari_samseg.core.errors import SamSegError
from napari_samseg.core.settings import ImageSettings, ModelSettings, TileSettings
from napari_samseg.widgets.dock_panel import (
    fill_combo,
    select_item,
    show_text,
)
from napari_samseg.widgets.model_choice import ask_checkpoint, preferred_model
from napari_samseg.widgets.segment_layout import SegmentLayout
from napari_samseg.widgets.session import Session
from napari_samseg.widgets.sessions import session_of
from napari_samseg.widgets.settings_form import SettingsForm

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image

    from napari_samseg.core.types import Progress

__all__ = ["SegmentWidget"]

NEW_TARGET = "a new Labels layer"
LOADED = "a loaded model"


class SegmentWidget(SegmentLayout):
    """Segment objects of an image from clicks, boxes, scribbles, lassos and labels.

    Parameters
    ----------
    napari_viewer : Viewer
        Injected by napari.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        self._model_settings = preferred_model()
        super().__init__(self._model_settings)
        self._viewer = unwrap(napari_viewer)
        self._session: Session | None = None
        # the layers of a session go while it is left: napari calls reset_choices
        self._is_leaving = False
        self._started = 0.0
        self._stage = ""
        self._connect()
        self.reset_choices()

    def _connect(self) -> None:
        self._image_box.activated.connect(self._on_image_chosen)
        self._model_box.activated.connect(self._on_model_chosen)
        self._target_box.activated.connect(self._on_target_chosen)
        self._tool_buttons.buttonClicked.connect(self._on_tool_chosen)
        self._several_box.toggled.connect(self._on_switch)
        self._hover_box.toggled.connect(self._on_switch)
        self._overlap_box.activated.connect(self._on_switch)
        for name, button in (self._buttons | self._file_buttons).items():
            button.clicked.connect(getattr(self, f"_{name}"))
        self._class_table.edited.connect(self._on_classes_edited)
        self._class_table.chosen.connect(self._on_class_chosen)
        self._class_table.refused.connect(self._show_error)
        self._class_colors_box.toggled.connect(self._on_class_colors)
        self._semantic_button.clicked.connect(self._make_semantic_labels)
        self._cancel_button.clicked.connect(self._cancel)
        self._device_form.changed.connect(self._on_device_changed)
        self._image_form.changed.connect(self._on_image_settings)
        self._image_form.refused.connect(self._show_error)
        self._tile_form.changed.connect(self._on_tile_settings)

    # -- choices -------------------------------------------------------------------

    def reset_choices(self, event: object = None) -> None:
        """Offer the layers there are now; napari calls this when they change."""
        from napari.layers import Image, Labels

        if self.is_shut:
            return
        layers = [layer for layer in self._viewer.layers if not is_own_layer(layer)]
        images = [layer for layer in layers if isinstance(layer, Image)]
        chosen = self._session.image if self._session is not None else None
        fill_combo(self._image_box, [(image.name, image) for image in images], chosen)
        labels = [layer for layer in layers if isinstance(layer, Labels)]
        target = self._session.target if self._session is not None else None
        fill_combo(
            self._target_box,
            [(NEW_TARGET, None), *((layer.name, layer) for layer in labels)],
            target,
        )
        if chosen not in images and not self._is_leaving:
            self._open(images[-1] if images else None)

    @property
    def session(self) -> Session | None:
        """The session on show; None without an image."""
        return self._session

    def _open(self, image: Image | None) -> None:
        """Show the session of an image layer."""
        self.leave()
        if image is None:
            self._show("Add an image to begin.")
            self._refresh()
            return
        try:
            session = session_of(self._viewer, image)
        except SamSegError as error:
            self._show_error(str(error))
            return
        self._session = session
        session.changed.connect(self._refresh)
        session.progressed.connect(self._on_progress)
        session.reported.connect(self._on_report)
        session.closed.connect(self._on_session_closed)
        self._show("")
        if session.model is None:
            session.set_model(self._model_settings)
        session.attach(self)
        select_item(self._image_box, image)
        self._refresh()

    def leave(self) -> None:
        """Give the session back; its prompts and labels stay."""
        session, self._session = self._session, None
        if session is None:
            return
        session.changed.disconnect(self._refresh, missing_ok=True)
        session.progressed.disconnect(self._on_progress, missing_ok=True)
        session.reported.disconnect(self._on_report, missing_ok=True)
        session.closed.disconnect(self._on_session_closed, missing_ok=True)
        self._is_leaving = True
        session.detach(self)
        self._is_leaving = False
        self._show_bar(False)

    def _on_session_closed(self) -> None:
        self.leave()
        self.reset_choices()

    def _on_image_chosen(self) -> None:
        image = self._image_box.currentData()
        if self._session is None or image is not self._session.image:
            self._open(image)

    def _on_model_chosen(self) -> None:
        name = self._model_box.currentData()
        if name is None:
            name = ask_checkpoint(self)
            if not name:
                self._refresh()
                return
        elif name == LOADED:
            return
        self.use_model(replace(self._model_settings, model=name))

    def use_model(self, settings: ModelSettings, *, anew: bool = False) -> None:
        """Choose the model; see `Session.set_model`."""
        self._model_settings = settings
        if self._session is not None:
            self._session.set_model(settings, anew=anew)

    def _on_device_changed(self, settings: ModelSettings) -> None:
        self._model_settings = settings
        if self._session is None:
            return
        if isinstance(self._session.model, ModelSettings):
            self._session.set_model(settings)
        else:
            self._show("A loaded model stays where it is; the next one goes there.")

    def _show_model(self, session: Session) -> None:
        """Show what the session runs, whoever chose it."""
        shown = LOADED
        if isinstance(session.model, ModelSettings):
            self._model_settings = session.model
            _show_settings(self._device_form, session.model)
            shown = session.model.model
        if self._model_box.findData(shown) < 0:
            name = shown if shown == LOADED else Path(shown).name
            self._model_box.insertItem(0, name, shown)
        select_item(self._model_box, shown)
        self._model_box.look_for_speed()

    def _on_image_settings(self, settings: ImageSettings) -> None:
        if self._session is not None:
            self._attempt(self._session.set_image_settings, settings)
            self._image_form.set_settings(self._session.image_settings)

    def _on_tile_settings(self, settings: TileSettings) -> None:
        if self._session is not None:
            self._attempt(self._session.set_tile_settings, settings)
            self._tile_form.set_settings(self._session.tile_settings)

    def _on_target_chosen(self) -> None:
        if self._session is not None:
            self._attempt(self._session.set_target, self._target_box.currentData())
            select_item(self._target_box, self._session.target)

    def _on_tool_chosen(self, button: QToolButton) -> None:
        if self._session is not None:
            self._session.draw_on_canvas().choose(button.property("tool"))
            self._refresh()

    def _on_switch(self) -> None:
        if self._session is not None:
            self._session.several = self._several_box.isChecked()
            self._session.hover_enabled = self._hover_box.isChecked()
            self._session.overlap = self._overlap_box.currentData()

    def _on_classes_edited(self, classes: Any) -> None:
        if self._session is not None:
            self._attempt(self._session.set_classes, classes)
            self._refresh()

    def _on_class_chosen(self, class_id: int | None) -> None:
        if self._session is not None:
            self._session.class_id = class_id

    def _on_class_colors(self, is_on: bool) -> None:
        if self._session is not None:
            self._session.set_color_by_class(is_on)

    def _make_semantic_labels(self) -> None:
        if self._session is not None:
            self._attempt(self._session.add_semantic_layer)

    # -- buttons -------------------------------------------------------------------

    def _commit(self) -> None:
        if self._session is not None:
            self._session.request_commit()

    def _clear(self) -> None:
        if self._session is not None:
            self._session.clear()

    def _undo(self) -> None:
        if self._session is not None:
            self._session.undo()

    def _redo(self) -> None:
        if self._session is not None:
            self._session.redo()

    def _cancel(self) -> None:
        if self._session is not None:
            self._session.cancel()

    def _save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the annotation", "annotation.json", "Annotations (*.json)"
        )
        if path and self._session is not None:
            self._attempt(self._session.save, path)

    def _replay(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self,
            "Replay an annotation",
            str(read_plugin_settings().cache_path / "annotations"),
            "Annotations (*.json)",
        )
        if path and self._session is not None:
            self._session.request_replay(path)

    def _attempt(self, act: Any, *values: Any) -> None:
        try:
            act(*values)
        except (SamSegError, OSError) as error:
            self._show_error(str(error))

    def ask_overlap(self, touched: tuple[int, ...]) -> str | None:
        """Ask what to do with labels that a commit would touch."""
        box = QMessageBox(self)
        box.setWindowTitle("Labels meet")
        shown = ", ".join(str(i) for i in touched[:5]) + (" ..." if touched[5:] else "")
        box.setText(f"The new objects touch labels {shown}.")
        keep = box.addButton("Keep them", QMessageBox.ButtonRole.AcceptRole)
        over = box.addButton("Replace them", QMessageBox.ButtonRole.DestructiveRole)
        box.addButton(QMessageBox.StandardButton.Cancel)
        box.exec()
        answers = {keep: "keep", over: "replace"}
        return answers.get(box.clickedButton())

    def ask_widen(self, message: str) -> bool:
        """Ask whether to convert the labels to uint32."""
        answer = QMessageBox.question(
            self, "The id does not fit", f"{message}.\n\nConvert the labels to uint32?"
        )
        return answer == QMessageBox.StandardButton.Yes

    # -- what is shown -------------------------------------------------------------

    def _refresh(self) -> None:
        session = self._session
        for button in self._buttons.values():
            button.setEnabled(session is not None)
        if session is None:
            self._show_bar(False)
            return
        history = session.annotation
        has_prompts = session.plane in history.planes
        self._semantic_button.setEnabled(session.target is not None)
        self._buttons["commit"].setEnabled(has_prompts)
        self._buttons["clear"].setEnabled(has_prompts)
        self._buttons["undo"].setEnabled(history.can_undo)
        self._buttons["redo"].setEnabled(history.can_redo)
        select_item(self._target_box, session.target)
        self._show_model(session)
        self._show_switches(session)
        _show_settings(self._image_form, session.image_settings)
        _show_settings(self._tile_form, session.tile_settings)
        source = session.view.source
        self._image_form.show_row("channels", source.n_channels > 1)
        self._image_form.show_row("level", len(source.levels) > 1)
        self._class_table.show_classes(
            history.classes, session.class_id, history.next_class_id
        )
        if session.tools is not None:
            for button in self._tool_buttons.buttons():
                button.setChecked(button.property("tool") == session.tools.tool)
        if session.autosave_file is not None:
            self._file_label.setText(f"Saved in {session.autosave_file}")
        if not self._stage:
            self._show(self._describe(session))

    def _show_switches(self, session: Session) -> None:
        for box, is_on in (
            (self._several_box, session.several),
            (self._hover_box, session.hover_enabled),
            (self._class_colors_box, session.color_by_class),
        ):
            blocked = box.blockSignals(True)
            box.setChecked(is_on)
            box.blockSignals(blocked)
        select_item(self._overlap_box, session.overlap)

    def _show_bar(self, is_shown: bool) -> None:
        self._bar.setVisible(is_shown)
        can_cancel = self._session is not None and self._session.can_cancel
        self._cancel_button.setVisible(is_shown and can_cancel)

    def _describe(self, session: Session) -> str:
        if session.plane is None:
            return self._status.text()
        prompts = session.annotation.prompts(session.plane)
        prediction = session.prediction
        if prompts and prediction is not None:
            scores = ", ".join(f"{v:.2f}" for v in prediction.iou_predictions[:4])
            n = len(prediction)
            what = "object" if n == 1 else "objects"
            return f"{n} {what}, predicted IoU {scores}. C commits, Esc clears."
        if session.is_encoded:
            return "Ready: click an object, or drag a box around it."
        return ""

    def _on_progress(self, progress: Progress | None) -> None:
        if progress is None:
            self._stage = ""
            self._show_bar(False)
            self._refresh()
            return
        if progress.stage != self._stage:
            self._stage, self._started = progress.stage, time.monotonic()
        self._show_bar(True)
        self._bar.setRange(0, progress.total)
        self._bar.setValue(progress.done)
        text = f"{progress.stage} {progress.detail} {self._left(progress)}".strip()
        waiting = self._session.n_waiting if self._session is not None else 0
        if waiting:
            what = "the commit waits" if waiting == 1 else f"{waiting} steps wait"
            text = f"{text}\n{what} for the masks; Ctrl+Z takes one back"
        self._show(text)

    def _left(self, progress: Progress) -> str:
        spent = time.monotonic() - self._started
        if not 0 < progress.done < progress.total or spent < 0.5:
            return "..."
        left = spent / progress.done * (progress.total - progress.done)
        return f"- {left:.0f} s left" if left < 90 else f"- {left / 60:.0f} min left"

    def _on_report(self, message: str, is_error: bool) -> None:
        if is_error:
            self._show_error(message)
        else:
            self._show(message)

    def _show(self, message: str) -> None:
        show_text(self._status, message)


def _show_settings(form: SettingsForm, settings: Any) -> None:
    # written only when they differ: somebody may be typing into the form
    if form.settings != settings:
        form.set_settings(settings)
