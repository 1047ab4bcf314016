"""Which files or folders to learn from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from psygnal import Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QToolButton,
    QWidget,
)

from napari_samseg.core.settings import ImageSettings
from napari_samseg.core.training.files import TrainingFiles
from napari_samseg.widgets.dock_panel import make_form

__all__ = ["FilePairs"]


class FilePairs(QWidget):
    """Lines for images, labels and groups; `changed` comes after each edit."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        form = make_form(self)
        self.images = self._add_place(form, "Images", "A file, or a folder of files.")
        self.labels = self._add_place(
            form,
            "Labels",
            "A file or a folder of files of the same names (_labels, _mask and the "
            "like may follow them), or a COCO file.",
        )
        self.groups = QLineEdit()
        self.groups.setPlaceholderText("each file by itself")
        self.groups.setToolTip(
            "Regular expression that finds the patient or animal in a path, such as "
            "sub-[a-z0-9]+: its images are not divided."
        )
        form.addRow("Groups", self.groups)
        for line in (self.images, self.labels, self.groups):
            line.editingFinished.connect(self.changed.emit)

    @property
    def name(self) -> str:
        """What a model that learns from them may be called; empty at first."""
        return Path(self.images.text().strip()).stem

    def take(
        self, settings: ImageSettings, classes: tuple[int, ...], *, semantic: bool
    ) -> TrainingFiles | None:
        """Return what to learn from; None while something is missing."""
        images, labels = self.images.text().strip(), self.labels.text().strip()
        if not images or not labels:
            return None
        return TrainingFiles(
            Path(images).expanduser(),
            Path(labels).expanduser(),
            semantic=semantic,
            classes=classes if semantic else (),
            group=self.groups.text().strip(),
            settings=settings,
        )

    def _add_place(self, form: QFormLayout, title: str, tip: str) -> QLineEdit:
        line, button = QLineEdit(), QToolButton()
        line.setToolTip(tip)
        button.setText("...")
        button.setToolTip("Choose a folder")
        button.clicked.connect(partial(self._browse, line))
        row = QHBoxLayout()
        row.addWidget(line, 1)
        row.addWidget(button)
        form.addRow(title, row)
        return line

    def _browse(self, line: QLineEdit, checked: bool = False) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Choose a folder", line.text())
        if folder:
            line.setText(folder)
            self.changed.emit()
