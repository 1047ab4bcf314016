"""Which model a panel runs, and where: a box of models and a form of devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from psygnal import Signal
from qtpy.QtCore import QModelIndex, QObject, QSize, Qt
from qtpy.QtCore import Signal as QtSignal
from qtpy.QtGui import QPainter, QPalette
from qtpy.QtWidgets import (
    QApplication,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QGraphicsOpacityEffect,
    QLabel,
    QSizePolicy,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from napari_samseg.adapters.plugin_settings import read_plugin_settings
from napari_samseg.core.models.speed import recall_speeds
from napari_samseg.core.models.summary import ModelSummary, summarise_models
from napari_samseg.core.settings import ModelSettings
from napari_samseg.widgets.dock_panel import compact_combo, select_item
from napari_samseg.widgets.settings_form import SettingsForm

__all__ = [
    "MODEL_LIST",
    "ModelChoice",
    "ModelCombo",
    "ModelLine",
    "add_model_rows",
    "ask_checkpoint",
    "make_device_form",
    "preferred_model",
]

DEVICES = ("auto", "cpu", "cuda", "mps")
# of what is said of models, beside their names
PALE = 0.65
# where an item of the box keeps the `ModelSummary` of its model
SUMMARY = Qt.ItemDataRole.UserRole + 1


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

    refreshed = QtSignal()

    def __init__(self) -> None:
        super().__init__()
        compact_combo(self, "default comes with the plugin; others download once.")
        # a name alone does not help to choose
        self.view().setItemDelegate(TwoLines(self))
        self.refresh()
        MODEL_LIST.changed.connect(self.refresh)

    def showPopup(self) -> None:
        """Open the list, as it is now, as wide as what it says."""
        self.refresh()
        self.view().setMinimumWidth(min(self.view().sizeHintForColumn(0) + 24, 680))
        super().showPopup()

    def refresh(self) -> None:
        """Offer the models there are now; what was chosen stays chosen."""
        models = summarise_models(read_plugin_settings().models_path)
        chosen = self.currentData()
        # checkpoint files, a model that a script has loaded, and the chosen one even
        # if its file has gone: nobody's choice changes unseen
        others = [
            (self.itemText(i), self.itemData(i))
            for i in range(self.count())
            if self.itemData(i) is not None
            and (self.itemData(i, SUMMARY) is None or i == self.currentIndex())
            and self.itemData(i) not in models
        ]
        blocked = self.blockSignals(True)
        self.clear()
        for text, name in others:
            self.addItem(text, name)
        for name, summary in models.items():
            self.addItem(name, name)
            self.setItemData(self.count() - 1, summary, SUMMARY)
        self.addItem("a checkpoint file ...", None)
        select_item(self, chosen or "default")
        self.blockSignals(blocked)
        self.refreshed.emit()

    @property
    def summary(self) -> ModelSummary | None:
        """What there is to say of the chosen model; None of a file."""
        found = self.currentData(SUMMARY)
        return found if isinstance(found, ModelSummary) else None

    def look_for_speed(self) -> None:
        """Show how fast the chosen model is, once that was measured."""
        if self.summary is None or self.summary.speed or self.view().isVisible():
            return
        seconds = recall_speeds().get(self.currentData())
        if seconds is None:
            return
        timed = replace(self.summary, seconds=seconds)
        self.setItemData(self.currentIndex(), timed, SUMMARY)
        self.refreshed.emit()


class TwoLines(QStyledItemDelegate):
    """Draws what there is to say of a model under its name."""

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex) -> QSize:
        """Make room for both lines."""
        size = super().sizeHint(option, index)
        summary = index.data(SUMMARY)
        if summary is None:
            return size
        width = option.fontMetrics.horizontalAdvance(_one_line(summary)) + 12
        height = 2 * option.fontMetrics.height() + 8
        return QSize(max(size.width(), width), height)

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex
    ) -> None:
        """Draw the name, and below it the rest, paler."""
        summary = index.data(SUMMARY)
        if summary is None:
            super().paint(painter, option, index)
            return
        shown = QStyleOptionViewItem(option)
        self.initStyleOption(shown, index)
        name, shown.text = shown.text, ""
        style = shown.widget.style() if shown.widget else QApplication.style()
        style.drawControl(
            QStyle.ControlElement.CE_ItemViewItem, shown, painter, shown.widget
        )
        room = shown.rect.adjusted(6, 3, -6, -3)
        painter.save()
        painter.setPen(shown.palette.color(QPalette.ColorRole.Text))
        painter.drawText(room, Qt.AlignmentFlag.AlignTop, name)
        painter.setOpacity(PALE)
        text = shown.fontMetrics.elidedText(
            _one_line(summary), Qt.TextElideMode.ElideRight, room.width()
        )
        painter.drawText(room, Qt.AlignmentFlag.AlignBottom, text)
        painter.restore()


class ModelLine(QLabel):
    """What there is to say of the model that is chosen in a box.

    Parameters
    ----------
    models : ModelCombo
    """

    def __init__(self, models: ModelCombo) -> None:
        super().__init__()
        self._models = models
        self.setWordWrap(True)
        # names of models may hold anything
        self.setTextFormat(Qt.TextFormat.PlainText)
        # a long word must not push the panel out of its dock
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.setStyleSheet("QLabel { padding: 0; }")
        paler = QGraphicsOpacityEffect(self)
        paler.setOpacity(PALE)
        self.setGraphicsEffect(paler)
        models.currentIndexChanged.connect(self.refresh)
        models.refreshed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Say it of the model that is chosen now."""
        summary = self._models.summary
        self.setText("" if summary is None else _one_line(summary))
        if self.parent() is not None:  # alone it would be a window
            self.setVisible(summary is not None)


def _one_line(summary: ModelSummary) -> str:
    return f"{summary.description}. {summary.facts[0].upper()}{summary.facts[1:]}"


def add_model_rows(form: QFormLayout) -> ModelCombo:
    """Add a box of models to a form, and under it what it says of the chosen one."""
    models = ModelCombo()
    form.addRow("Model", models)
    form.addRow(ModelLine(models))
    return models


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
    """Keeps what a `ModelCombo` and a form of `make_device_form` say.

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
