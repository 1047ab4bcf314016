"""The class table: names and colours, and the class that new objects get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QColorDialog,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_samseg.core.annotation_actions import ObjectClass
from napari_samseg.core.errors import SettingsError

__all__ = ["ClassTable"]

# Okabe and Ito's palette, told apart with any colour vision.
PALETTE = (
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#f0e442",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
)


class ClassTable(QWidget):
    """A list of classes; the selected one is given to objects as they are committed.

    Double click a row to rename it, or its colour to change it.
    """

    edited = Signal(object)
    chosen = Signal(object)
    refused = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._classes: tuple[ObjectClass, ...] = ()
        self._next_id = 1
        self._list = QListWidget()
        self._list.setFixedHeight(84)
        self._list.setToolTip(
            "The selected class is given to objects as they are committed. Double "
            "click to rename."
        )
        self._list.itemChanged.connect(self._rename)
        self._list.currentRowChanged.connect(self._choose)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._list)
        buttons = QHBoxLayout()
        for title, slot in (
            ("Add", self.add),
            ("Colour", self._recolor),
            ("No class", self._unselect),
            ("Remove", self.remove),
        ):
            button = QPushButton(title)
            button.clicked.connect(slot)
            buttons.addWidget(button)
        layout.addLayout(buttons)

    def show_classes(
        self, classes: Sequence[ObjectClass], selected: int | None, next_id: int
    ) -> None:
        """Show a class table and which class is selected, without a signal.

        `next_id` is given to the next class that is added.
        """
        self._classes = tuple(classes)
        self._next_id = next_id
        blocked = self._list.blockSignals(True)
        self._list.clear()
        for row in self._classes:
            item = QListWidgetItem(_swatch(row.color), row.name)
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsEditable)
            self._list.addItem(item)
        ids = [row.class_id for row in self._classes]
        self._list.setCurrentRow(ids.index(selected) if selected in ids else -1)
        self._list.blockSignals(blocked)

    def add(self) -> None:
        """Add a class with a new id, name and colour."""
        class_id = self._next_id
        color = PALETTE[(class_id - 1) % len(PALETTE)]
        new = ObjectClass(class_id, f"class {class_id}", color)
        self.edited.emit((*self._classes, new))
        self.chosen.emit(class_id)

    def remove(self) -> None:
        """Remove the selected class."""
        row = self._list.currentRow()
        if row >= 0:
            self.edited.emit((*self._classes[:row], *self._classes[row + 1 :]))

    def _unselect(self) -> None:
        self._list.setCurrentRow(-1)

    def _choose(self, row: int) -> None:
        self.chosen.emit(self._classes[row].class_id if row >= 0 else None)

    def _rename(self, item: QListWidgetItem) -> None:
        row = self._list.row(item)
        self._replace(row, name=item.text())

    def _recolor(self) -> None:
        row = self._list.currentRow()
        if row >= 0:
            color = QColorDialog.getColor(QColor(self._classes[row].color), self)
            if color.isValid():
                self._replace(row, color=color.name())

    def _replace(self, row: int, **changes: str) -> None:
        try:
            new = replace(self._classes[row], **changes)
        except SettingsError as error:
            # Qt ends the process where a slot raises
            self._show_again()
            self.refused.emit(str(error))
            return
        self.edited.emit((*self._classes[:row], new, *self._classes[row + 1 :]))

    def _show_again(self) -> None:
        row = self._list.currentRow()
        chosen = self._classes[row].class_id if row >= 0 else None
        self.show_classes(self._classes, chosen, self._next_id)


def _swatch(color: str) -> QIcon:
    pixmap = QPixmap(14, 14)
    pixmap.fill(QColor(color))
    return QIcon(pixmap)
