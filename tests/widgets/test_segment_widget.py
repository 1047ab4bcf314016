"""The panel in a real viewer, driven by Qt's own mouse and key events."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication
from skimage import measure
from widgets import canvas

from napari_samseg.core.demo import DEMO_IMAGES
from napari_samseg.widgets.segment import SegmentWidget
from napari_samseg.widgets.segment_layout import OVERLAP_TITLES
from napari_samseg.widgets.session import _SESSIONS, Session
from napari_samseg.widgets.workers import RUNNING

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not os.environ.get("DISPLAY"),
    reason="no display: run under Xvfb (xvfb-run pytest)",
)


@pytest.fixture
def viewer(make_napari_viewer, qtbot, model, monkeypatch):
    """A shown viewer; sessions use the embedded model loaded already."""
    monkeypatch.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")
    monkeypatch.setattr(Session, "set_model", lambda self, _: self.use_model(model))
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1200, 800)
    yield viewer
    for session in list(_SESSIONS.get(viewer, {}).values()):
        session.close()
    qtbot.waitUntil(lambda: not RUNNING, timeout=30_000)


@pytest.fixture
def image(viewer, coins):
    return viewer.add_image(coins, name="coins", scale=(2, 2), translate=(10, 20))


@pytest.fixture
def widget(viewer, image):
    _, widget = viewer.window.add_plugin_dock_widget("napari-samseg", "Segment")
    QApplication.processEvents()
    widget.session.wait()
    return widget


def iou(mask, truth):
    return np.count_nonzero(mask & truth) / np.count_nonzero(mask | truth)


def prompts(widget):
    return widget.session.annotation.prompts(widget.session.plane)


def save_screenshot(viewer, name):
    folder = os.environ.get("SAMSEG_SCREENSHOTS")
    if folder:
        QApplication.processEvents()
        Path(folder).mkdir(parents=True, exist_ok=True)
        viewer.window.screenshot(Path(folder) / name, flash=False)


def test_click_commit_undo_redo(viewer, image, widget, coin_labels, coin_region):
    y, x = coin_region.centroid
    canvas.click(viewer, image, (y, x))
    widget.session.wait()
    (gesture,) = prompts(widget)[1]
    assert gesture.kind == "click"
    # one screen pixel is about a third of an image pixel here
    np.testing.assert_allclose(gesture.vertices_yx, [[y, x]], atol=0.5)
    previewed = widget.session.prediction.masks[0]
    assert iou(previewed, coin_labels == coin_region.label) > 0.5

    canvas.press_key(viewer, Qt.Key.Key_C)
    widget.session.wait()
    labels = widget.session.target
    np.testing.assert_array_equal(labels.data == 1, previewed)
    np.testing.assert_allclose(labels.translate, image.translate)
    assert prompts(widget) == {}

    control, shift = Qt.KeyboardModifier.ControlModifier, canvas.SHIFT
    for layer in (labels, image, widget.session.layers.points):
        viewer.layers.selection.active = layer
        canvas.press_key(viewer, Qt.Key.Key_Z, control)
        assert not labels.data.any()
        canvas.press_key(viewer, Qt.Key.Key_Z, control | shift)
        np.testing.assert_array_equal(labels.data == 1, previewed)


def test_a_click_beside_objects_committed_before(viewer):
    """The picture of the documentation."""
    coins = DEMO_IMAGES["coins"]
    picture = coins.read()
    labels = coins.find_objects(picture)
    viewer.window.resize(1280, 800)
    image = viewer.add_image(picture, name="coins")
    _, widget = viewer.window.add_plugin_dock_widget("napari-samseg", "Segment")
    QApplication.processEvents()
    widget.session.wait()
    regions = measure.regionprops(labels)
    widget.session.prompt(boxes=[region.bbox for region in regions[1:7]])
    widget.session.commit()
    clicked = regions[len(regions) // 2]
    canvas.click(viewer, image, clicked.centroid)
    widget.session.wait()
    save_screenshot(viewer, "segment-widget.png")
    assert iou(widget.session.prediction.masks[0], labels == clicked.label) > 0.7
    committed = widget.session.target.data
    for number, region in enumerate(regions[1:7], start=1):
        assert iou(committed == number, labels == region.label) > 0.7


def test_box_and_negative_clicks(viewer, image, widget, coin_labels, coin_region):
    y0, x0, y1, x1 = coin_region.bbox
    canvas.drag(viewer, image, [(y0, x0), (y0 + 5, x0 + 5), (y1, x1)])
    widget.session.wait()
    (box,) = prompts(widget)[1]
    assert box.kind == "box"
    mask = widget.session.prediction.masks[0]
    assert iou(mask, coin_labels == coin_region.label) > 0.7
    canvas.click(viewer, image, (5, 5), button=canvas.RIGHT)
    canvas.click(viewer, image, (150, 5), modifier=canvas.SHIFT)
    assert [gesture.positive for gesture in prompts(widget)[1]] == [True, False, False]
    canvas.press_key(viewer, Qt.Key.Key_Escape)
    assert prompts(widget) == {}
    assert viewer.layers.selection.active.mouse_pan


def test_scribble_lasso_and_label_tools(
    viewer, image, widget, coin_labels, coin_region
):
    buttons = {b.property("tool"): b for b in widget._tool_buttons.buttons()}
    y, x = coin_region.centroid
    buttons["scribble"].click()
    canvas.drag(viewer, image, [(y - 8, x - 8), (y, x), (y + 8, x + 8)])
    assert [g.kind for g in prompts(widget)[1]] == ["scribble"]
    canvas.press_key(viewer, Qt.Key.Key_Escape)
    buttons["lasso"].click()
    around = [(y - 20, x), (y, x + 20), (y + 20, x), (y, x - 20)]
    canvas.drag(viewer, image, around)
    assert [g.kind for g in prompts(widget)[1]] == ["lasso"]
    widget.session.wait()
    canvas.press_key(viewer, Qt.Key.Key_Enter)
    widget.session.wait()
    assert (widget.session.target.data == 1).any()
    buttons["label"].click()
    inside = np.argwhere(widget.session.target.data == 1).mean(axis=0)
    canvas.click(viewer, image, tuple(inside))
    assert [g.kind for g in prompts(widget)[1]] == ["label"]
    buttons["pan"].click()
    canvas.click(viewer, image, (5, 5))
    assert len(prompts(widget)[1]) == 1


def test_several_objects_at_once(viewer, image, widget, coin_labels):
    widget._several_box.click()
    first, second = measure.regionprops(coin_labels)[:2]
    canvas.click(viewer, image, first.centroid)
    canvas.click(viewer, image, second.centroid)
    widget.session.wait()
    assert list(prompts(widget)) == [1, 2]
    widget._buttons["commit"].click()
    widget.session.wait()
    assert {1, 2} <= set(np.unique(widget.session.target.data))


def test_hover_previews_only_once_encoded(viewer, image, widget, qtbot):
    canvas.hover(viewer, image, (60, 60))
    qtbot.waitUntil(
        lambda: any(
            layer.name.endswith("preview") and layer.visible for layer in viewer.layers
        ),
        timeout=20_000,
    )
    assert not widget.session.annotation.can_undo


def test_what_a_commit_meets_can_be_asked(viewer, image, widget, monkeypatch):
    box = [[20, 20, 70, 70]]
    widget.session.prompt(boxes=box)
    widget.session.commit()
    asked = []

    def answer(self, touched):
        asked.append(touched)
        return "replace"

    monkeypatch.setattr(SegmentWidget, "ask_overlap", answer)
    ask = list(OVERLAP_TITLES).index("ask")
    widget._overlap_box.setCurrentIndex(ask)
    widget._overlap_box.activated.emit(ask)
    widget.session.prompt(boxes=box)
    widget._buttons["commit"].click()
    widget.session.wait()
    assert asked == [(1,)]
    assert set(np.unique(widget.session.target.data)) == {0, 2}


def test_twice_in_one_viewer(viewer, image, widget, model):
    """The menu hands out a viewer and a name of its own beside the proxy's."""
    second = SegmentWidget(viewer)
    viewer.window.add_dock_widget(second, name="Segment (SAM Segmentation)")
    assert second.session is widget.session
    canvas.click(viewer, image, (60, 60))
    assert [len(g) for g in prompts(widget).values()] == [1]
    viewer.window.remove_dock_widget(second)
    assert second.session is None
    canvas.click(viewer, image, (62, 62))
    assert [len(g) for g in prompts(widget).values()] == [2]


def test_closed_and_opened_again(viewer, image, widget):
    assert len(viewer.mouse_move_callbacks) == 1
    canvas.click(viewer, image, (60, 60))
    before = prompts(widget)
    viewer.window.remove_dock_widget(widget)
    assert widget.session is None
    assert viewer.mouse_move_callbacks == []
    assert list(viewer.layers) == [image]
    canvas.click(viewer, image, (60, 60))
    _, again = viewer.window.add_plugin_dock_widget("napari-samseg", "Segment")
    again.session.wait()
    assert prompts(again) == before
    assert again.session.prediction is not None
    assert len(again.session.layers.points.data) == 1


def test_layers_come_and_go(viewer, image, widget, coins):
    canvas.click(viewer, image, (60, 60))
    viewer.layers.remove(image)
    assert widget.session is None
    assert "Add an image" in widget._status.text()
    other = viewer.add_image(coins, name="others")
    assert widget.session.image is other
    labels = viewer.add_labels(np.zeros(coins.shape, np.uint32), name="mine")
    position = widget._target_box.findText("mine")
    widget._target_box.setCurrentIndex(position)
    widget._target_box.activated.emit(position)
    assert widget.session.target is labels
    assert widget._image_box.count() == 1


def test_errors_are_told_in_words(viewer, image, widget):
    canvas.click(viewer, image, (-5, -5))
    assert "outside the plane" in widget._status.text()
    assert not widget.session.annotation.can_undo
    viewer.dims.ndisplay = 3
    widget.session.wait()
    assert "switch the viewer from 3D to 2D" in widget._status.text()


def test_the_viewer_closed_in_the_middle_of_a_job(viewer, image, widget, qtbot, coins):
    canvas.click(viewer, image, (60, 60))
    image.data = coins[::-1].copy()
    viewer.close()
    qtbot.waitUntil(lambda: not RUNNING, timeout=30_000)
    assert widget.session is None


def test_the_panel_needs_no_torch_before_a_model():
    code = """
import sys
import napari
from napari.components import ViewerModel
from qtpy.QtWidgets import QApplication
app = QApplication([])
from napari_samseg.widgets.segment import SegmentWidget
widget = SegmentWidget(ViewerModel())
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
