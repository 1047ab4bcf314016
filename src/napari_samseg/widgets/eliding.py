"""Boxes whose text is cut in its middle where it is too long for them.

Names of layers differ at their ends as often as at their starts. `text` and
`currentText` stay whole; a tooltip shows them.
"""

from __future__ import annotations

from qtpy.QtCore import QEvent, QRect, Qt
from qtpy.QtGui import QKeySequence, QPaintEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QSizePolicy,
    QStyle,
    QStyleOptionButton,
    QStyleOptionComboBox,
    QStylePainter,
    QToolTip,
    QWidget,
)

__all__ = ["ElidingCheckBox", "ElidingCombo"]


class ElidingCheckBox(QCheckBox):
    """A check box that may be narrower than its text.

    Parameters
    ----------
    text : str
    least : int
        Pixels that it has at least.
    """

    def __init__(self, text: str, least: int) -> None:
        super().__init__()
        self.setText(text)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(least)

    def setText(self, text: str) -> None:
        """Change the text; "&" is no shortcut in the name of a layer."""
        super().setText(text)
        self.setShortcut(QKeySequence())

    @property
    def shown_text(self) -> str:
        """What there is room for."""
        option = QStyleOptionButton()
        self.initStyleOption(option)
        part = QStyle.SubElement.SE_CheckBoxContents
        return _cut(self, self.text(), self.style().subElementRect(part, option, self))

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw what there is room for."""
        option = QStyleOptionButton()
        self.initStyleOption(option)
        option.text = self.shown_text.replace("&", "&&")
        QStylePainter(self).drawControl(QStyle.ControlElement.CE_CheckBox, option)


class ElidingCombo(QComboBox):
    """A combo box that may be narrower than its items."""

    def __init__(self) -> None:
        super().__init__()
        self.view().setTextElideMode(Qt.TextElideMode.ElideMiddle)

    @property
    def shown_text(self) -> str:
        """What there is room for."""
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        kind = QStyle.ComplexControl.CC_ComboBox
        part = QStyle.SubControl.SC_ComboBoxEditField
        room = self.style().subControlRect(kind, option, part, self)
        return _cut(self, self.currentText(), room)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw what there is room for."""
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        option.currentText = self.shown_text
        painter = QStylePainter(self)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def event(self, event: QEvent) -> bool:
        """Show the whole text as a tooltip where it is cut, before what it means."""
        is_cut = self.shown_text != self.currentText()
        if event.type() != QEvent.Type.ToolTip or not is_cut:
            return bool(super().event(event))
        tip = f"{self.currentText()}\n{self.toolTip()}".strip()
        QToolTip.showText(event.globalPos(), tip, self)
        return True


def _cut(widget: QWidget, text: str, room: QRect) -> str:
    # what is drawn is a pixel or two narrower than its part, by style
    width = max(0, room.width() - 2)
    middle = Qt.TextElideMode.ElideMiddle
    return str(widget.fontMetrics().elidedText(text, middle, width))
