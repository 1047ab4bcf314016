"""How the Embedding panel looks: its widgets and where they stand."""

from __future__ import annotations

from qtpy.QtWidgets import (
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QToolButton,
    QWidget,
)

from napari_samseg.core.settings import (
    EmbedSettings,
    ImageSettings,
    ModelSettings,
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
    make_status_label,
)
from napari_samseg.widgets.model_choice import add_model_rows, make_device_form
from napari_samseg.widgets.plane_strip import PlaneStrip
from napari_samseg.widgets.settings_form import SettingsForm, stack_forms
from napari_samseg.widgets.store_list import StoreList

__all__ = ["EmbeddingLayout"]


class EmbeddingLayout(DockPanel):
    """The widgets of the Embedding panel, connected to nothing.

    Parameters
    ----------
    model_settings : ModelSettings
        Device and precision to show at first.
    """

    def __init__(self, model_settings: ModelSettings) -> None:
        super().__init__()
        page, rows = make_page()
        self._choices, choices = make_choices()
        choices.addLayout(self._build_choices())
        add_section(choices, "Tiles and storage", self._build_storage())
        add_section(
            choices, "Contrast and device", self._build_settings(model_settings)
        )
        rows.addWidget(self._choices)
        rows.addWidget(self._build_estimate())
        rows.addLayout(self._build_actions())
        rows.addWidget(self._build_status())
        self._store_list = StoreList()
        self._list_title = QLabel("<b>In this store</b>")
        rows.addWidget(self._list_title)
        rows.addWidget(self._store_list)
        rows.addStretch(1)
        self.show_page(page)

    def _build_choices(self) -> QFormLayout:
        self._image_box = make_combo("The stack to encode; any kind of image layer.")
        self._planes = QWidget()
        planes = QHBoxLayout(self._planes)
        planes.setContentsMargins(0, 0, 0, 0)
        self._start_box, self._stop_box = QSpinBox(), QSpinBox()
        self._start_box.setToolTip("The first plane, counted from 0.")
        self._stop_box.setToolTip("The first plane that is left out again.")
        for box in (self._start_box, self._stop_box):
            box.setKeyboardTracking(False)
        planes.addWidget(self._start_box, 1)
        planes.addWidget(QLabel("to"))
        planes.addWidget(self._stop_box, 1)
        self._planes_label = QLabel("Planes")
        self._place_line = QLineEdit()
        self._place_line.setToolTip(
            "Folder or URL of the store; the cache folder's when empty. The Segment "
            "panel looks for this image's planes here."
        )
        self._browse_button = QToolButton()
        self._browse_button.setText("...")
        self._browse_button.setToolTip("Choose a folder")
        place = QHBoxLayout()
        place.addWidget(self._place_line, 1)
        place.addWidget(self._browse_button)
        form = make_form()
        form.addRow("Image", self._image_box)
        self._model_box = add_model_rows(form)
        form.addRow(self._planes_label, self._planes)
        form.addRow("Store", place)
        return form

    def _build_storage(self) -> QWidget:
        self._tile_form = SettingsForm(TileSettings())
        self._storage_form = SettingsForm(EmbedSettings())
        return stack_forms(self._tile_form, self._storage_form)

    def _build_settings(self, model_settings: ModelSettings) -> QWidget:
        self._image_form = SettingsForm(ImageSettings())
        self._device_form = make_device_form(model_settings)
        return stack_forms(self._image_form, self._device_form)

    def _build_estimate(self) -> QLabel:
        self._estimate = make_status_label()
        return self._estimate

    def _build_actions(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(4)
        self._start_button = QPushButton("Start")
        self._start_button.setToolTip("Encode the planes that are not in the store")
        self._pause_button = QPushButton("Pause")
        self._pause_button.setToolTip("Leave the processor to others for a while")
        self._cancel_button = QPushButton("Cancel")
        self._cancel_button.setToolTip("Stop; finished planes stay in the store")
        for button in (self._start_button, self._pause_button, self._cancel_button):
            row.addWidget(button)
        return row

    def _build_status(self) -> QWidget:
        self._bar = make_bar()
        self._strip = PlaneStrip()
        return make_column(self._bar, self._strip, self._status, spacing=3)
