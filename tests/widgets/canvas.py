"""Drives a real napari canvas with Qt's own mouse events."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget

LEFT, RIGHT = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton
SHIFT = Qt.KeyboardModifier.ShiftModifier
PLAIN = Qt.KeyboardModifier.NoModifier


def canvas_widget(viewer) -> QWidget:
    """Find the widget that vispy draws into."""
    found = [
        widget
        for window in QApplication.topLevelWidgets()
        for widget in window.findChildren(QWidget)
        if type(widget).__name__ == "CanvasBackendDesktop" and widget.isVisible()
    ]
    sizes = [(widget.height(), widget.width()) for widget in found]
    return found[sizes.index(tuple(viewer.canvas.size))]


def on_screen(viewer, layer, point) -> QPoint:
    """Pixel of the canvas that shows a point of a layer's data (all axes)."""
    world = np.array(layer.data_to_world(point))[list(viewer.dims.displayed)]
    camera = viewer.scene.camera
    size = np.array(viewer.canvas.size)
    y, x = (world - np.array(camera.center)[-2:]) * camera.zoom + size / 2
    return QPoint(round(x), round(y))


def click(viewer, layer, point, button=LEFT, modifier=PLAIN) -> None:
    """Press and release a mouse button on a point of a layer's data."""
    canvas, at = canvas_widget(viewer), on_screen(viewer, layer, point)
    QTest.mousePress(canvas, button, modifier, at)
    QTest.mouseRelease(canvas, button, modifier, at)
    QApplication.processEvents()


def drag(viewer, layer, points, button=LEFT, modifier=PLAIN) -> None:
    """Press at the first point, move through all, release at the last."""
    canvas = canvas_widget(viewer)
    places = [on_screen(viewer, layer, point) for point in points]
    QTest.mousePress(canvas, button, modifier, places[0])
    for at in places[1:]:
        _move(canvas, at, button, modifier)
    QTest.mouseRelease(canvas, button, modifier, places[-1])
    QApplication.processEvents()


def hover(viewer, layer, point) -> None:
    """Move the mouse without a button."""
    canvas, at = canvas_widget(viewer), on_screen(viewer, layer, point)
    _move(canvas, at, Qt.MouseButton.NoButton, PLAIN)


def press_key(viewer, key, modifier=PLAIN) -> None:
    """Press a key while the canvas has the focus."""
    QTest.keyClick(canvas_widget(viewer), key, modifier)
    QApplication.processEvents()


def _move(canvas, at, button, modifier) -> None:
    # QTest.mouseMove leaves the pressed button out of the event
    place = QPointF(at)
    event = QMouseEvent(
        QMouseEvent.Type.MouseMove,
        place,
        QPointF(canvas.mapToGlobal(at)),
        Qt.MouseButton.NoButton,
        button,
        modifier,
    )
    QApplication.sendEvent(canvas, event)
    # napari throttles moves to one in 5 ms
    QTest.qWait(8)
