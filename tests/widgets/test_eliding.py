"""Names that are too long for their box are cut in their middle."""

from __future__ import annotations

import os
import sys

import pytest
from qtpy.QtCore import QEvent, QPoint
from qtpy.QtGui import QHelpEvent
from qtpy.QtWidgets import QApplication, QToolTip

from napari_samseg.widgets.dock_panel import fill_combo, make_combo
from napari_samseg.widgets.eliding import ElidingCheckBox

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not os.environ.get("DISPLAY"),
    reason="no display: run under Xvfb (xvfb-run pytest)",
)

NAME = "mouse_07 spinal cord, section 12, round 3 (nuclei & axons)"


def pixels(widget) -> bytes:
    image = widget.grab().toImage()
    return bytes(image.constBits().asarray(image.sizeInBytes()))


def test_a_check_box_shows_both_ends_of_a_name(qtbot):
    box = ElidingCheckBox(NAME, 90)
    qtbot.addWidget(box)
    box.resize(200, box.sizeHint().height())
    assert box.text() == NAME
    assert box.shortcut().isEmpty()
    start, end = box.shown_text.split("\u2026")
    assert NAME.startswith(start)
    assert NAME.endswith(end)
    assert start
    assert end
    # it is what is drawn: another end looks different, another middle does not
    drawn = pixels(box)
    box.setText(NAME.replace("section 12", "section 99"))
    assert pixels(box) == drawn
    box.setText(NAME.replace("axons", "cells"))
    assert pixels(box) != drawn
    assert box.shortcut().isEmpty()
    box.resize(900, box.height())
    assert "\u2026" not in box.shown_text


def test_a_combo_box_shows_both_ends_of_a_name(qtbot):
    combo = make_combo("The image.")
    qtbot.addWidget(combo)
    fill_combo(combo, [(NAME, 1), (NAME.replace("axons", "cells"), 2)], None)
    combo.resize(200, combo.sizeHint().height())
    combo.show()
    assert combo.currentText() == NAME
    start, end = combo.shown_text.split("\u2026")
    assert NAME.startswith(start)
    assert NAME.endswith(end)
    assert end
    drawn = pixels(combo)
    combo.setCurrentIndex(1)
    assert pixels(combo) != drawn
    middle = combo.rect().center()
    at = QHelpEvent(QEvent.Type.ToolTip, middle, combo.mapToGlobal(middle))
    QApplication.sendEvent(combo, at)
    assert QToolTip.text() == f"{combo.itemText(1)}\nThe image."
    QToolTip.showText(QPoint(), "")
    combo.resize(900, combo.height())
    assert combo.shown_text == combo.currentText()
