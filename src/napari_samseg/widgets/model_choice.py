"""Which model a panel runs, and where: a box of models and a form of devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QFileDialog, QWidget

from napari_samseg.adapters.plugin_settings import read_plugin_settings
from napari_samseg.core.models.weights import list_models
from napari_samseg.core.settings import ModelSettings
from napari_samseg.widgets.dock_panel import make_combo, select_item
from napari_samseg.widgets.settings_form import SettingsForm

__all__ = [
    "ModelChoice",
    "ask_checkpoint",
    "make_device_form",
    "make_model_combo",
    "preferred_model",
]

DEVICES = ("auto", "cpu", "cuda", "mps")


def preferred_model() -> ModelSettings:
    """Return the model to begin with, on the device of napari's preferences."""
    plugin = read_plugin_settings()
    return ModelSettings(device=plugin.device, precision=plugin.precision)


def make_model_combo() -> QComboBox:
    """Return a combo box of all models in the zoo, and None for a file."""
    combo = make_combo("default comes with the plugin; others download once.")
    for i, (name, description) in enumerate(list_models().items()):
        combo.addItem(name, name)
        combo.setItemData(i, description, Qt.ItemDataRole.ToolTipRole)
    combo.addItem("a checkpoint file ...", None)
    return combo


def make_device_form(settings: ModelSettings) -> SettingsForm:
    """Return a form of device and precision."""
    return SettingsForm(
        settings, names=("device", "precision"), suggestions={"device": DEVICES}
    )


def ask_checkpoint(parent: QWidget) -> str:
    """Let a person choose a checkpoint file; empty if nothing was chosen."""
    name, _ = QFileDialog.getOpenFileName(
        parent, "Choose a checkpoint", "", "Checkpoints (*.pth *.pt *.safetensors)"
    )
    return str(name)


class ModelChoice:
    """Keeps what a box of `make_model_combo` and a form of `make_device_form` say.

    Attributes
    ----------
    settings : ModelSettings
    """

    changed = Signal()

    def __init__(
        self, settings: ModelSettings, models: QComboBox, devices: SettingsForm
    ) -> None:
        self.settings = settings
        self._models = models
        models.activated.connect(self._on_model)
        devices.changed.connect(self._on_device)

    def _on_model(self) -> None:
        name = self._models.currentData()
        if name is None:
            name = ask_checkpoint(self._models)
            if name and self._models.findData(name) < 0:
                self._models.insertItem(0, Path(name).name, name)
        if name:
            self.settings = replace(self.settings, model=name)
        select_item(self._models, self.settings.model)
        self.changed.emit()

    def _on_device(self, settings: ModelSettings) -> None:
        self.settings = replace(settings, model=self.settings.model)
        self.changed.emit()
