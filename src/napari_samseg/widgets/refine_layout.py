"""How the Refine labels panel looks: its widgets and where they stand."""

from __future__ import annotations

from qtpy.QtWidgets import (
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QWidget,
)

from napari_samseg.core.settings import (
    ImageSettings,
    ModelSettings,
    RefineSettings,
    TileSettings,
)
from napari_samseg.widgets.dock_panel import (
    DockPanel,
    add_section,
    make_bar,
    make_choices,
    make_column,
    make_combo,
    make_form,
    make_page,
)
from napari_samseg.widgets.model_choice import add_model_rows, make_device_form
from napari_samseg.widgets.review_panel import PROMPT_KINDS, ReviewPanel
from napari_samseg.widgets.settings_form import SettingsForm, stack_forms

__all__ = ["PLANE", "VOLUME", "RefineLayout"]

PLANE, VOLUME = "plane", "volume"


class RefineLayout(DockPanel):
    """The widgets of the Refine labels panel, connected to nothing.

    Parameters
    ----------
    model_settings : ModelSettings
        Device and precision to show at first.
    review : ReviewPanel
    """

    def __init__(self, model_settings: ModelSettings, review: ReviewPanel) -> None:
        super().__init__()
        page, rows = make_page()
        self._choices, choices = make_choices()
        choices.addLayout(self._build_choices())
        self._refine_form = SettingsForm(RefineSettings())
        add_section(choices, "Overlaps, margins, splitting", self._refine_form)
        add_section(
            choices, "Contrast, tiles, device", self._build_settings(model_settings)
        )
        rows.addWidget(self._choices)
        rows.addLayout(self._build_actions())
        rows.addWidget(self._build_status())
        rows.addWidget(review)
        rows.addStretch(1)
        self.show_page(page)

    def _build_choices(self) -> QFormLayout:
        self._image_box = make_combo("What the labels show the objects of.")
        self._labels_box = make_combo("Rough instance labels; they stay as they are.")
        self._prompt_box = make_combo("What each object becomes for the model.")
        self._prompt_box.addItems(list(PROMPT_KINDS))
        self._scope_box = make_combo("The plane on view, or all planes.")
        self._into_box = make_combo(
            "Where the result goes: a new layer, or one that was refined before."
        )
        form = make_form()
        form.addRow("Image", self._image_box)
        form.addRow("Labels", self._labels_box)
        self._model_box = add_model_rows(form)
        form.addRow("Prompts", self._prompt_box)
        self._scope_label = QLabel("Planes")
        form.addRow(self._scope_label, self._scope_box)
        form.addRow("Result", self._into_box)
        return form

    def _build_settings(self, model_settings: ModelSettings) -> QWidget:
        self._image_form = SettingsForm(
            ImageSettings(),
            names=("normalisation", "low", "high", "scope", "channels"),
        )
        self._tile_form = SettingsForm(TileSettings())
        self._device_form = make_device_form(model_settings)
        return stack_forms(self._image_form, self._tile_form, self._device_form)

    def _build_actions(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(4)
        self._start_button = QPushButton("Refine")
        self._start_button.setToolTip("Prompt the model with each object")
        self._cancel_button = QPushButton("Cancel")
        self._cancel_button.setToolTip("Stop; planes that are finished stay")
        row.addWidget(self._start_button, 2)
        row.addWidget(self._cancel_button, 1)
        return row

    def _build_status(self) -> QWidget:
        self._bar = make_bar()
        return make_column(self._bar, self._status, spacing=3)
