"""How the Segment panel looks: its widgets and where they stand."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_samseg.core.settings import ImageSettings, ModelSettings, TileSettings
from napari_samseg.widgets.canvas_tools import HISTORY_KEYS, SHORTCUTS, TOOLS
from napari_samseg.widgets.class_table import ClassTable
from napari_samseg.widgets.dock_panel import (
    DockPanel,
    add_section,
    make_column,
    make_combo,
    make_form,
    make_page,
)
from napari_samseg.widgets.model_choice import add_model_rows, make_device_form
from napari_samseg.widgets.settings_form import SettingsForm, stack_forms

__all__ = ["OVERLAP_TITLES", "SegmentLayout"]

OVERLAP_TITLES = {
    "keep": "keep other labels",
    "replace": "replace other labels",
    "ask": "ask each time",
}
# napari's own style draws no frame around tool buttons and does not mark checked ones
TOOL_STYLE = """
QToolButton { border: 1px solid palette(mid); border-radius: 3px; }
QToolButton:hover { border-color: #3fa96b; }
QToolButton:checked { background-color: #2e7d4f; border-color: #2e7d4f; color: white; }
"""


class SegmentLayout(DockPanel):
    """The widgets of the Segment panel, connected to nothing.

    Parameters
    ----------
    model_settings : ModelSettings
        Device and precision to show at first.
    """

    def __init__(self, model_settings: ModelSettings) -> None:
        super().__init__()
        page, rows = make_page()
        rows.addLayout(self._build_choices())
        rows.addWidget(self._build_tools())
        rows.addLayout(self._build_switches())
        rows.addLayout(self._build_actions())
        rows.addWidget(self._build_status())
        rows.addSpacing(4)
        for title, content in (
            ("Classes", self._build_classes()),
            ("Image and device", self._build_settings(model_settings)),
            ("Saved prompts", self._build_files()),
            ("Shortcuts", self._build_shortcuts()),
        ):
            add_section(rows, title, content)
        rows.addStretch(1)
        self.show_page(page)

    def _build_choices(self) -> QFormLayout:
        self._image_box = make_combo("The image to segment; any kind and transform.")
        self._target_box = make_combo("Where committed objects are painted.")
        form = make_form()
        form.addRow("Image", self._image_box)
        self._model_box = add_model_rows(form)
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
        return panel

    def _build_switches(self) -> QFormLayout:
        self._several_box = QCheckBox("several objects at once")
        self._several_box.setToolTip(
            "Each click or box starts an object of its own; negative clicks belong "
            "to the object under them. Otherwise all prompts refine one object."
        )
        self._hover_box = QCheckBox("preview under the pointer")
        self._hover_box.setChecked(True)
        self._overlap_box = make_combo("What a commit does to labels already there.")
        for rule, title in OVERLAP_TITLES.items():
            self._overlap_box.addItem(title, rule)
        form = make_form()
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
        self._cancel_button = QToolButton()
        self._cancel_button.setText("Cancel")
        self._cancel_button.setToolTip("Stop; a click or choosing the model goes on")
        self._cancel_button.setStyleSheet(TOOL_STYLE)
        progress = QHBoxLayout()
        progress.setContentsMargins(0, 0, 0, 0)
        for widget in (self._bar, self._cancel_button):
            # what comes and goes must not move what lies below
            policy = widget.sizePolicy()
            policy.setRetainSizeWhenHidden(True)
            widget.setSizePolicy(policy)
            widget.setVisible(False)
            progress.addWidget(widget)
        rows.addLayout(progress)
        rows.addWidget(self._status)
        return panel

    def _build_classes(self) -> QWidget:
        self._class_table = ClassTable()
        self._class_colors_box = QCheckBox("colour objects by class")
        self._class_colors_box.setToolTip("Objects without a class are grey.")
        self._semantic_button = QPushButton("Make semantic labels")
        self._semantic_button.setToolTip(
            "Add a Labels layer with the class of each object in place of its id"
        )
        return make_column(
            self._class_table, self._class_colors_box, self._semantic_button
        )

    def _build_settings(self, model_settings: ModelSettings) -> QWidget:
        self._device_form = make_device_form(model_settings)
        self._tile_form = SettingsForm(TileSettings(), names=("tiling",))
        self._image_form = SettingsForm(ImageSettings())
        return stack_forms(self._device_form, self._tile_form, self._image_form)

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
        self._file_buttons: dict[str, QPushButton] = {}
        buttons = QHBoxLayout()
        for name, title, tip in (
            ("save", "Save as ...", "Write prompts, commits and classes as JSON"),
            ("replay", "Replay ...", "Do a saved annotation again"),
        ):
            button = QPushButton(title)
            button.setToolTip(tip)
            self._file_buttons[name] = button
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
