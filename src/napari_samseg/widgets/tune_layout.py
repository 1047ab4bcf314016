"""How the Fine-tune panel looks: its widgets and where they stand."""

from __future__ import annotations

from qtpy.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QWidget,
)

from napari_samseg.core.settings import ImageSettings, ModelSettings
from napari_samseg.core.training.presets import PRESETS
from napari_samseg.widgets.dock_panel import (
    DockPanel,
    add_section,
    make_bar,
    make_choices,
    make_column,
    make_combo,
    make_form,
    make_page,
    make_status_label,
)
from napari_samseg.widgets.file_pairs import FilePairs
from napari_samseg.widgets.label_pairs import LabelPairs
from napari_samseg.widgets.logger_choice import LoggerChoice
from napari_samseg.widgets.model_choice import add_model_rows, make_device_form
from napari_samseg.widgets.settings_form import SettingsForm, stack_forms
from napari_samseg.widgets.training_plot import TrainingPlot
from napari_samseg.widgets.tune_outlook import TuneOutlook
from napari_samseg.widgets.tuned_panel import TunedPanel
from napari_samseg.widgets.unfinished_list import UnfinishedList

__all__ = ["FILES", "FORMS", "LAYERS", "TuneLayout"]

LAYERS, FILES = "layers", "files"
# Parts of a plan, and what their sections are called.
FORMS = {
    "tune": "Advanced: what is trained",
    "loop": "Advanced: how long, how fast",
    "augment": "Advanced: variants of images",
    "lora": "Advanced: LoRA",
}


class TuneLayout(DockPanel):
    """The widgets of the Fine-tune panel, connected to nothing.

    Parameters
    ----------
    model_settings : ModelSettings
        Device and precision to show at first.
    pairs : LabelPairs
    tuned : TunedPanel
    """

    def __init__(
        self, model_settings: ModelSettings, pairs: LabelPairs, tuned: TunedPanel
    ) -> None:
        super().__init__()
        page, rows = make_page()
        self._choices, choices = make_choices()
        choices.addLayout(self._build_source())
        choices.addWidget(pairs)
        self._files = FilePairs()
        choices.addWidget(self._files)
        choices.addLayout(self._build_labels())
        self._outlook = TuneOutlook()
        choices.addWidget(self._outlook.counts)
        choices.addWidget(self._outlook.doubts)
        choices.addLayout(self._build_model())
        self._loggers = LoggerChoice()
        self._forms: dict[str, SettingsForm] = {}
        self._sections = {}
        for part, title in FORMS.items():
            self._forms[part] = SettingsForm(getattr(PRESETS["quick"], part))
            content: QWidget = self._forms[part]
            if part == "loop":
                content = make_column(content, self._loggers)
            self._sections[part] = add_section(choices, title, content)
        settings = self._build_settings(model_settings)
        title = "Contrast, tiles, device"
        self._sections["image"] = add_section(choices, title, settings)
        rows.addWidget(self._choices)
        self._plot = TrainingPlot()
        self._plot.hide()
        rows.addWidget(self._plot)
        rows.addWidget(tuned)
        rows.addStretch(1)
        self.show_page(page, self._build_footer())

    def fold_sections(self) -> None:
        """Make room for what a training shows."""
        for section in self._sections.values():
            section.collapse(animate=False)

    def _build_source(self) -> QFormLayout:
        self._source_box = make_combo("Where images and labels are.")
        self._source_box.addItem("layers of this viewer", LAYERS)
        self._source_box.addItem("files or folders", FILES)
        form = make_form()
        form.addRow("Learn from", self._source_box)
        return form

    def _build_labels(self) -> QFormLayout:
        self._semantic_box = QCheckBox("labels are classes")
        self._semantic_box.setToolTip("Each connected part of a class is an object.")
        self._only_line = QLineEdit()
        self._only_line.setPlaceholderText("all; or numbers such as 1, 3")
        self._only_line.setToolTip("The labels (or classes) that are objects.")
        form = make_form()
        self._only_label = QLabel("Objects")
        form.addRow(self._only_label, self._only_line)
        form.addRow("", self._semantic_box)
        return form

    def _build_model(self) -> QFormLayout:
        self._preset_box = make_combo("Settings that go together.")
        for name, plan in PRESETS.items():
            self._preset_box.addItem(plan.title.partition(":")[0], name)
        self._preset_note = make_status_label()
        self._preset_note.setMinimumHeight(18)
        self._name_line = QLineEdit()
        self._name_line.setToolTip(
            "What the new model is called in the lists of models."
        )
        form = make_form()
        self._model_box = add_model_rows(form)
        form.addRow("Preset", self._preset_box)
        form.addRow("", self._preset_note)
        form.addRow("New model", self._name_line)
        return form

    def _build_settings(self, model_settings: ModelSettings) -> QWidget:
        self._image_form = SettingsForm(
            ImageSettings(), names=("normalisation", "low", "high", "scope", "channels")
        )
        self._forms["tiles"] = SettingsForm(PRESETS["quick"].tiles)
        self._device_form = make_device_form(model_settings)
        return stack_forms(self._image_form, self._forms["tiles"], self._device_form)

    def _build_actions(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(4)
        self._train_button = QPushButton("Train")
        self._train_button.setToolTip("Start; you can go on annotating meanwhile")
        self._pause_button = QPushButton("Pause")
        self._pause_button.setToolTip("Leave the processor to others for a while")
        self._stop_button = QPushButton("Stop")
        self._stop_button.setToolTip("Keep the best so far; it can be resumed")
        row.addWidget(self._train_button, 2)
        row.addWidget(self._pause_button, 1)
        row.addWidget(self._stop_button, 1)
        return row

    def _build_footer(self) -> QWidget:
        """Return what stays in sight, however long the page is."""
        self._unfinished = UnfinishedList()
        self._bar = make_bar()
        footer = make_column(self._outlook.estimate, spacing=4)
        rows = footer.layout()
        rows.setContentsMargins(8, 4, 8, 8)
        rows.addLayout(self._build_actions())
        for widget in (self._unfinished, self._bar, self._status):
            rows.addWidget(widget)
        # the page gets what room there is
        policy = QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum
        footer.setSizePolicy(*policy)
        return footer
