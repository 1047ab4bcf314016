"""Which model a panel runs, and where: a box of models and a form of devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from psygnal import Signal
from qtpy.QtCore import QObject, Qt
from qtpy.QtCore import Signal as QtSignal
from qtpy.QtWidgets import QComboBox, QFileDialog, QWidget

from napari_samseg.adapters.plugin_settings import read_plugin_settings
from napari_samseg.core.models.weights import list_models
from napari_samseg.core.settings import ModelSettings
from napari_samseg.widgets.dock_panel import compact_combo, select_item
from napari_samseg.widgets.settings_form import SettingsForm

__all__ = [
    "MODEL_LIST",
    "ModelChoice",
    "ModelCombo",
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


class ModelList(QObject):
    """Tells all boxes of models that there are others now."""

    changed = QtSignal()


MODEL_LIST = ModelList()


class ModelCombo(QComboBox):
    """A box of all models there are, and None for a file.

    It follows `MODEL_LIST`, and looks again whenever it is opened: a model may have
    been tuned in another window.
    """

    def __init__(self) -> None:
        super().__init__()
        compact_combo(self, "default comes with the plugin; others download once.")
        self.refresh()
        MODEL_LIST.changed.connect(self.refresh)

    def showPopup(self) -> None:
        """Open the list, as it is now."""
        self.refresh()
        super().showPopup()

    def refresh(self) -> None:
        """Offer the models there are now; what was chosen stays chosen."""
        models = list_models(read_plugin_settings().models_path)
        chosen = self.currentData()
        # checkpoint files, and a model that a script has loaded
        others = [
            (self.itemText(i), self.itemData(i))
            for i in range(self.count())
            if self.itemData(i) is not None
            and self.itemData(i, Qt.ItemDataRole.ToolTipRole) is None
            and self.itemData(i) not in models
        ]
        blocked = self.blockSignals(True)
        self.clear()
        for text, name in others:
            self.addItem(text, name)
        for name, description in models.items():
            self.addItem(name, name)
            tip = self.count() - 1, description, Qt.ItemDataRole.ToolTipRole
            self.setItemData(*tip)
        self.addItem("a checkpoint file ...", None)
        select_item(self, chosen or "default")
        self.blockSignals(blocked)


def make_model_combo() -> ModelCombo:
    """Return a box of all models there are, and None for a file."""
    return ModelCombo()


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
