"""The Segment panel: prompts on the canvas become masks in a Labels layer.

The panel holds no state of its own: it shows a `Session` and calls its methods.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import (
    QApplication,
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_samseg.adapters.plugin_settings import read_plugin_settings
from napari_samseg.adapters.write_layers import is_own_layer
from napari_samseg.core.errors import SamSegError
from napari_samseg.core.models.weights import list_models
from napari_samseg.core.settings import ImageSettings, ModelSettings
from napari_samseg.widgets.canvas_tools import HISTORY_KEYS, SHORTCUTS, TOOLS
from napari_samseg.widgets.class_table import ClassTable
from napari_samseg.widgets.session import Session
from napari_samseg.widgets.settings_form import SettingsForm

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image, Labels

    from napari_samseg.core.types import Progress

__all__ = ["SegmentWidget"]

DEVICES = ("auto", "cpu", "cuda", "mps")
OVERLAP_TITLES = {
    "keep": "keep other labels",
    "replace": "replace other labels",
    "ask": "ask each time",
}
NEW_TARGET = "a new Labels layer"
# napari's own style draws no frame around tool buttons and does not mark checked ones
TOOL_STYLE = """
QToolButton { border: 1px solid palette(mid); border-radius: 3px; }
QToolButton:hover { border-color: #3fa96b; }
QToolButton:checked { background-color: #2e7d4f; border-color: #2e7d4f; color: white; }
"""


class SegmentWidget(QWidget):
    """Segment objects of an image from clicks, boxes, scribbles, lassos and labels.

    Parameters
    ----------
    napari_viewer : Viewer
        Injected by napari.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        # napari may hand out a proxy, whose identity is not the viewer's
        self._viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self._session: Session | None = None
        self._was_docked = self._is_shut = False
        # the layers of a session go while it is left: napari calls reset_choices
        self._is_leaving = False
        self._started = 0.0
        self._stage = ""
        plugin = read_plugin_settings()
        self._model_settings = ModelSettings(
            device=plugin.device, precision=plugin.precision
        )
        self._build()
        self.reset_choices()
        QApplication.instance().aboutToQuit.connect(self._shut)

    # -- layout --------------------------------------------------------------------

    def _build(self) -> None:
        page = QWidget()
        rows = QVBoxLayout(page)
        rows.setContentsMargins(8, 8, 8, 8)
        rows.setSpacing(6)
        rows.addLayout(self._build_choices())
        rows.addWidget(self._build_tools())
        rows.addLayout(self._build_switches())
        rows.addLayout(self._build_actions())
        rows.addWidget(self._build_status())
        rows.addSpacing(4)
        for title, content in (
            ("Classes", self._build_classes()),
            ("Image and device", self._build_settings()),
            ("Saved prompts", self._build_files()),
            ("Shortcuts", self._build_shortcuts()),
        ):
            section = QCollapsible(title)
            section.setDuration(0)
            section.layout().setContentsMargins(0, 0, 0, 0)
            section.content().layout().setContentsMargins(4, 4, 4, 4)
            section.addWidget(content)
            rows.addWidget(section)
        rows.addStretch(1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFrameShape(QScrollArea.Shape.NoFrame)
        area.setWidget(page)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area)
        self.setMinimumWidth(300)

    def _build_choices(self) -> QFormLayout:
        self._image_box = _combo("The image to segment; any kind and transform.")
        self._image_box.activated.connect(self._on_image_chosen)
        self._model_box = _combo("default comes with the plugin; others download once.")
        for name, description in list_models().items():
            self._model_box.addItem(name, name)
            self._model_box.setItemData(
                self._model_box.count() - 1, description, Qt.ItemDataRole.ToolTipRole
            )
        self._model_box.addItem("a checkpoint file ...", None)
        self._model_box.activated.connect(self._on_model_chosen)
        self._target_box = _combo("Where committed objects are painted.")
        self._target_box.activated.connect(self._on_target_chosen)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Image", self._image_box)
        form.addRow("Model", self._model_box)
        form.addRow("Objects go to", self._target_box)
        return form

    def _build_tools(self) -> QWidget:
        panel = QWidget()
        grid = QGridLayout(panel)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        self._tool_buttons = QButtonGroup(self)
        for i, (name, tool) in enumerate(TOOLS.items()):
            button = QToolButton()
            button.setText(tool.title)
            button.setToolTip(tool.help)
            button.setCheckable(True)
            button.setProperty("tool", name)
            button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            button.setMinimumHeight(28)
            button.setStyleSheet(TOOL_STYLE)
            self._tool_buttons.addButton(button)
            grid.addWidget(button, i // 3, i % 3)
        self._tool_buttons.buttons()[0].setChecked(True)
        self._tool_buttons.buttonClicked.connect(self._on_tool_chosen)
        return panel

    def _build_switches(self) -> QFormLayout:
        self._several_box = QCheckBox("several objects at once")
        self._several_box.setToolTip(
            "Each click or box starts an object of its own; negative clicks belong "
            "to the object under them. Otherwise all prompts refine one object."
        )
        self._several_box.toggled.connect(self._on_switch)
        self._hover_box = QCheckBox("preview under the pointer")
        self._hover_box.setChecked(True)
        self._hover_box.toggled.connect(self._on_switch)
        self._overlap_box = _combo("What a commit does to labels already there.")
        for rule, title in OVERLAP_TITLES.items():
            self._overlap_box.addItem(title, rule)
        self._overlap_box.activated.connect(self._on_switch)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.setVerticalSpacing(4)
        form.addRow(self._several_box)
        form.addRow(self._hover_box)
        form.addRow("Where labels meet", self._overlap_box)
        return form

    def _build_actions(self) -> QGridLayout:
        grid = QGridLayout()
        grid.setSpacing(4)
        self._buttons: dict[str, QPushButton] = {}
        for i, (name, title, tip) in enumerate(
            (
                ("commit", "Commit", "Paint the preview into the labels (C)"),
                ("clear", "Clear", "Throw the prompts away (Esc)"),
                ("undo", "Undo", "Undo the last step (Ctrl+Z)"),
                ("redo", "Redo", "Redo the step last undone (Ctrl+Shift+Z)"),
            )
        ):
            button = QPushButton(title)
            button.setToolTip(tip)
            button.clicked.connect(getattr(self, f"_{name}"))
            self._buttons[name] = button
            grid.addWidget(button, i // 2, i % 2)
        return grid

    def _build_status(self) -> QWidget:
        panel = QWidget()
        rows = QVBoxLayout(panel)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(3)
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setFixedHeight(6)
        policy = self._bar.sizePolicy()
        policy.setRetainSizeWhenHidden(True)
        self._bar.setSizePolicy(policy)
        self._status = QLabel()
        self._status.setWordWrap(True)
        self._status.setMinimumHeight(34)
        self._status.setAlignment(Qt.AlignmentFlag.AlignTop)
        rows.addWidget(self._bar)
        rows.addWidget(self._status)
        return panel

    def _build_classes(self) -> QWidget:
        self._class_table = ClassTable()
        self._class_table.edited.connect(self._on_classes_edited)
        self._class_table.chosen.connect(self._on_class_chosen)
        return self._class_table

    def _build_settings(self) -> QWidget:
        panel = QWidget()
        rows = QVBoxLayout(panel)
        rows.setContentsMargins(0, 0, 0, 0)
        self._device_form = SettingsForm(
            self._model_settings,
            names=("device", "precision"),
            suggestions={"device": DEVICES},
        )
        self._device_form.changed.connect(self._on_device_changed)
        self._image_form = SettingsForm(ImageSettings())
        self._image_form.changed.connect(self._on_image_settings)
        self._image_form.refused.connect(self._show_error)
        rows.addWidget(self._device_form)
        rows.addWidget(self._image_form)
        return panel

    def _build_files(self) -> QWidget:
        panel = QWidget()
        rows = QVBoxLayout(panel)
        rows.setContentsMargins(0, 0, 0, 0)
        self._file_label = QLabel("Each prompt is saved at once, in a file of its own.")
        self._file_label.setWordWrap(True)
        self._file_label.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse
        )
        rows.addWidget(self._file_label)
        buttons = QHBoxLayout()
        for title, tip, slot in (
            ("Save as ...", "Write prompts, commits and classes as JSON", self._save),
            ("Replay ...", "Do a saved annotation again", self._replay),
        ):
            button = QPushButton(title)
            button.setToolTip(tip)
            button.clicked.connect(slot)
            buttons.addWidget(button)
        rows.addLayout(buttons)
        return panel

    def _build_shortcuts(self) -> QWidget:
        lines = [(key, what) for key, what, _ in SHORTCUTS]
        lines += [(key.replace("Control", "Ctrl"), what) for key, what in HISTORY_KEYS]
        lines += [
            ("click", "this is the object"),
            ("right or Shift+click", "this is not"),
            ("drag", "box, or what the tool draws"),
            ("Ctrl+drag", "left to napari"),
        ]
        text = "".join(
            f"<tr><td><b>{key.replace('-', '+')}</b>&nbsp;</td><td>{what}</td></tr>"
            for key, what in lines
        )
        label = QLabel(
            f"<table>{text}</table>The letters work while the prompt layer is selected."
        )
        label.setWordWrap(True)
        return label

    # -- choices -------------------------------------------------------------------

    def reset_choices(self, event: object = None) -> None:
        """Offer the layers there are now; napari calls this when they change."""
        from napari.layers import Image, Labels

        layers = [layer for layer in self._viewer.layers if not is_own_layer(layer)]
        images = [layer for layer in layers if isinstance(layer, Image)]
        chosen = self._session.image if self._session is not None else None
        _fill(self._image_box, [(image.name, image) for image in images], chosen)
        labels = [layer for layer in layers if isinstance(layer, Labels)]
        target = self._session.target if self._session is not None else None
        _fill(
            self._target_box,
            [(NEW_TARGET, None), *((layer.name, layer) for layer in labels)],
            target,
        )
        if chosen not in images and not self._is_leaving and not self._is_shut:
            self._open(images[-1] if images else None)

    @property
    def session(self) -> Session | None:
        """The session on show; None without an image."""
        return self._session

    def _open(self, image: Image | None) -> None:
        """Show the session of an image layer."""
        self._leave()
        if image is None:
            self._show("Add an image to begin.")
            self._refresh()
            return
        try:
            session = Session.of(self._viewer, image)
        except SamSegError as error:
            self._show_error(str(error))
            return
        self._session = session
        session.questions = self
        session.changed.connect(self._refresh)
        session.progressed.connect(self._on_progress)
        session.reported.connect(self._on_report)
        session.closed.connect(self._on_session_closed)
        self._show("")
        if session.model is None:
            session.set_model(self._model_settings)
        elif isinstance(session.model, ModelSettings):
            self._model_settings = session.model
        self._image_form.set_settings(session.image_settings)
        session.hold(self)
        tools = session.draw_on_canvas()
        tools.choose(tools.tool)
        _select(self._image_box, image)
        self._refresh()

    def _leave(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        session.changed.disconnect(self._refresh, missing_ok=True)
        session.progressed.disconnect(self._on_progress, missing_ok=True)
        session.reported.disconnect(self._on_report, missing_ok=True)
        session.closed.disconnect(self._on_session_closed, missing_ok=True)
        if session.questions is self:
            session.questions = None
        self._is_leaving = True
        session.release(self)
        self._is_leaving = False
        self._bar.setVisible(False)

    def _on_session_closed(self) -> None:
        self._leave()
        self.reset_choices()

    def _on_image_chosen(self) -> None:
        image = self._image_box.currentData()
        if self._session is None or image is not self._session.image:
            self._open(image)

    def _on_model_chosen(self) -> None:
        name = self._model_box.currentData()
        if name is None:
            name, _ = QFileDialog.getOpenFileName(
                self,
                "Choose a checkpoint",
                "",
                "Checkpoints (*.pth *.pt *.safetensors)",
            )
            if not name:
                _select(self._model_box, self._model_settings.model)
                return
            self._model_box.insertItem(0, name.rsplit("/", 1)[-1], name)
            self._model_box.setCurrentIndex(0)
        self._set_model(model=name)

    def _on_device_changed(self, settings: ModelSettings) -> None:
        self._set_model(device=settings.device, precision=settings.precision)

    def _set_model(self, **changes: str) -> None:
        from dataclasses import replace

        self._model_settings = replace(self._model_settings, **changes)
        if self._session is not None:
            self._session.set_model(self._model_settings)

    def _on_image_settings(self, settings: ImageSettings) -> None:
        if self._session is not None:
            self._attempt(self._session.set_image_settings, settings)
            self._image_form.set_settings(self._session.image_settings)

    def _on_target_chosen(self) -> None:
        if self._session is not None:
            self._attempt(self._session.set_target, self._target_box.currentData())
            _select(self._target_box, self._session.target)

    def _on_tool_chosen(self, button: QToolButton) -> None:
        if self._session is not None:
            self._session.draw_on_canvas().choose(button.property("tool"))
            self._refresh()

    def _on_switch(self) -> None:
        if self._session is not None:
            tools = self._session.draw_on_canvas()
            tools.several = self._several_box.isChecked()
            tools.hover_enabled = self._hover_box.isChecked()
            self._session.overlap = self._overlap_box.currentData()

    def _on_classes_edited(self, classes: Any) -> None:
        if self._session is not None:
            self._attempt(self._session.set_classes, classes)
            self._refresh()

    def _on_class_chosen(self, class_id: int | None) -> None:
        if self._session is not None:
            self._session.class_id = class_id

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
            self._attempt(self._session.replay, path)

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
            self._bar.setVisible(False)
            return
        history = session.annotation
        has_prompts = session.plane in history.planes
        self._buttons["commit"].setEnabled(has_prompts)
        self._buttons["clear"].setEnabled(has_prompts)
        self._buttons["undo"].setEnabled(history.can_undo)
        self._buttons["redo"].setEnabled(history.can_redo)
        _select(self._target_box, session.target)
        _select(self._model_box, self._model_settings.model)
        self._class_table.show_classes(history.classes, session.class_id)
        tools = session.draw_on_canvas() if session.tools else None
        if tools is not None:
            for button in self._tool_buttons.buttons():
                button.setChecked(button.property("tool") == tools.tool)
        if session.autosave_file is not None:
            self._file_label.setText(f"Saved in {session.autosave_file}")
        if not self._stage:
            self._show(self._describe(session))

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
            self._bar.setVisible(False)
            self._refresh()
            return
        if progress.stage != self._stage:
            self._stage, self._started = progress.stage, time.monotonic()
        self._bar.setVisible(True)
        self._bar.setRange(0, progress.total)
        self._bar.setValue(progress.done)
        self._show(f"{progress.stage} {progress.detail} {self._left(progress)}".strip())

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
        self._status.setStyleSheet("")
        self._status.setText(message)

    def _show_error(self, message: str) -> None:
        from napari.utils.notifications import show_warning

        self._status.setStyleSheet("color: #ff7a70;")
        self._status.setText(message)
        show_warning(message)

    # -- life ----------------------------------------------------------------------

    def event(self, event: QEvent) -> bool:
        """Notice being docked and being closed, of which napari says nothing else."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is None and self._was_docked:
                self._shut()
            elif self.parent() is not None:
                self._was_docked = True
                if self._is_shut:
                    self._is_shut = False
                    self.reset_choices()
        return bool(super().event(event))

    def _shut(self) -> None:
        """Give everything back; the session's prompts and labels stay."""
        self._is_shut = True
        self._leave()


def _combo(tip: str) -> QComboBox:
    combo = QComboBox()
    combo.setToolTip(tip)
    combo.setMinimumContentsLength(8)
    combo.setSizeAdjustPolicy(
        QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
    )
    return combo


def _fill(combo: QComboBox, items: list[tuple[str, Any]], chosen: Any) -> None:
    blocked = combo.blockSignals(True)
    combo.clear()
    for name, value in items:
        combo.addItem(name, value)
    combo.blockSignals(blocked)
    _select(combo, chosen)


def _select(combo: QComboBox, value: Labels | Image | str | None) -> None:
    """Select the item with a value; by identity, as layers compare by content."""
    for i in range(combo.count()):
        data = combo.itemData(i)
        if data is value or (isinstance(value, str) and data == value):
            combo.setCurrentIndex(i)
            return
