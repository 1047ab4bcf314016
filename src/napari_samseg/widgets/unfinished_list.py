"""A list of trainings that were stopped, and a button to go on with one."""

from __future__ import annotations

from psygnal import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QWidget

from napari_samseg.adapters.plugin_settings import read_plugin_settings
from napari_samseg.core.training.unfinished import unfinished_trainings
from napari_samseg.widgets.dock_panel import fill_combo, make_combo

__all__ = ["UnfinishedList"]


class UnfinishedList(QWidget):
    """`resumed` comes with the folder of a training."""

    resumed = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        self.box = make_combo("Trainings that were stopped.")
        self.button = QPushButton("Resume")
        self.button.setToolTip(
            "Go on where it was stopped, with the labels and settings it had"
        )
        row.addWidget(QLabel("Stopped"))
        row.addWidget(self.box, 2)
        row.addWidget(self.button, 1)
        self.button.clicked.connect(self._on_click)

    def refresh(self, latest: str = "") -> None:
        """Look for trainings, and choose the latest if it is one of them."""
        found = unfinished_trainings(read_plugin_settings().models_path)
        chosen = latest if latest in found else self.box.currentText()
        fill_combo(self.box, list(found.items()), None)
        self.box.setCurrentIndex(max(0, self.box.findText(chosen)))

    @property
    def has_any(self) -> bool:
        """Whether there is something to go on with."""
        return self.box.count() > 0

    def _on_click(self) -> None:
        self.resumed.emit(self.box.currentData())
