"""The panel in a real viewer, driven by Qt's own mouse and key events."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import napari
import numpy as np
import pytest
from magicgui import magicgui
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QComboBox
from skimage import measure
from widgets import canvas

from napari_samseg.core.cache.memory import MemoryCache
from napari_samseg.core.demo import DEMO_IMAGES
from napari_samseg.core.predict import Predictor
from napari_samseg.core.settings import ImageSettings, ModelSettings, TileSettings
from napari_samseg.widgets.loaded_models import LOADED
from napari_samseg.widgets.model_choice import ModelLine
from napari_samseg.widgets.segment import SegmentWidget
from napari_samseg.widgets.segment_layout import OVERLAP_TITLES
from napari_samseg.widgets.sessions import SESSIONS, open_session, session_of
from napari_samseg.widgets.workers import RUNNING

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not os.environ.get("DISPLAY"),
    reason="no display: run under Xvfb (xvfb-run pytest)",
)


@pytest.fixture
def viewer(make_napari_viewer, qtbot, model, monkeypatch):
    """A shown viewer; the embedded model is loaded already."""
    monkeypatch.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")
    loaded = Predictor(model, MemoryCache(2**28))
    monkeypatch.setitem(LOADED, (ModelSettings(), 0), loaded)
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1200, 800)
    yield viewer
    for session in list(SESSIONS.values()):
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
    assert "s a plane here" in widget.findChild(ModelLine).text()
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


def test_who_does_not_wait_for_the_model_loses_nothing(
    viewer, image, widget, coin_labels
):
    first, second = measure.regionprops(coin_labels)[:2]
    image.data = image.data.copy()  # encoded anew
    assert not widget.session.is_encoded
    for region in (first, second):
        canvas.click(viewer, image, region.centroid)
        canvas.press_key(viewer, Qt.Key.Key_C)
    widget.session.wait()
    committed = widget.session.target.data
    assert set(np.unique(committed)) == {0, 1, 2}
    for number, region in ((1, first), (2, second)):
        assert iou(committed == number, coin_labels == region.label) > 0.5
    assert widget.session.n_waiting == 0


def test_keys_work_after_a_click_with_the_image_active(viewer, image, widget):
    viewer.layers.selection.active = image
    canvas.click(viewer, image, (60, 60))
    canvas.press_key(viewer, Qt.Key.Key_C)
    widget.session.wait()
    assert widget.session.target.data.any()


def test_only_what_can_be_chosen_is_shown(viewer, image, widget):
    channels, level = (widget._image_form._rows[n][1] for n in ("channels", "level"))
    assert channels.isHidden()
    assert level.isHidden()
    picture = np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8)
    viewer.layers.remove(image)
    viewer.add_image([picture, picture[::2, ::2]], rgb=True)
    widget.session.wait()
    assert not channels.isHidden()
    assert not level.isHidden()


def test_a_long_word_leaves_the_panel_its_width(widget):
    before = widget._status.minimumSizeHint().width(), widget.minimumSizeHint().width()
    widget.session.report("https://example.org/" + "x" * 500, is_error=True)
    assert widget.minimumSizeHint().width() == before[1]
    assert widget._status.parentWidget().minimumSizeHint().width() < 300
    assert widget._status.toolTip().endswith("x" * 500)


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


def test_the_proxy_that_napari_hands_to_plugins(viewer, image, widget):
    @magicgui
    def hand_out(viewer: napari.Viewer) -> None:
        handed.append(viewer)

    handed = []
    viewer.window.add_dock_widget(hand_out, name="hand out")
    hand_out()
    (proxy,) = handed
    assert proxy is not viewer
    assert session_of(proxy, proxy.layers["coins"]) is widget.session


def test_two_panels_and_a_script_on_one_session(viewer, widget, model, tiny_checkpoint):
    session = widget.session
    second = SegmentWidget(viewer)
    viewer.window.add_dock_widget(second, name="Segment (SAM Segmentation)")
    session.set_model(ModelSettings(model=str(tiny_checkpoint)))
    for panel in (widget, second):
        assert panel._model_box.currentText() == tiny_checkpoint.name
    device = widget._device_form.settings.device
    widget._device_form.changed.emit(ModelSettings(str(tiny_checkpoint), "cpu"))
    assert device != "cpu"
    assert session.model == ModelSettings(str(tiny_checkpoint), "cpu")
    assert second._device_form.settings.device == "cpu"
    session.use_model(model)
    assert widget._model_box.currentText() == "a loaded model"
    widget._device_form.changed.emit(ModelSettings(device="auto"))
    assert session.model is model
    assert session.questions is second
    viewer.window.remove_dock_widget(second)
    assert session.questions is widget
    session.set_image_settings(ImageSettings(normalisation="minmax"))
    assert widget._image_form.settings.normalisation == "minmax"


def test_two_panels_on_two_images(viewer, image, widget, coins):
    """One click is one prompt, and one Ctrl+Z one step, of the image meant."""
    other = viewer.add_image(coins, name="other", scale=(2, 2), translate=(10, 20))
    second = SegmentWidget(viewer)
    viewer.window.add_dock_widget(second, name="Segment (SAM Segmentation)")
    assert second.session.image is other
    first, control = widget.session, Qt.KeyboardModifier.ControlModifier
    viewer.layers.selection.active = None
    canvas.click(viewer, image, (60, 60))
    assert prompts(widget) == {}
    assert len(prompts(second)) == 1
    viewer.layers.selection.active = image
    canvas.click(viewer, image, (60, 60))
    assert len(prompts(widget)) == len(prompts(second)) == 1
    viewer.layers.selection.active = first.layers.points
    canvas.press_key(viewer, Qt.Key.Key_Z, control)
    assert prompts(widget) == {}
    viewer.window.remove_dock_widget(second)
    viewer.layers.selection.active = None
    canvas.press_key(viewer, Qt.Key.Key_Z, control | canvas.SHIFT)
    assert len(prompts(widget)) == 1


def test_switches_show_what_the_session_does(viewer, image, widget, coins):
    widget._several_box.click()
    widget._hover_box.click()
    replace = list(OVERLAP_TITLES).index("replace")
    widget._overlap_box.setCurrentIndex(replace)
    widget._overlap_box.activated.emit(replace)

    def shown():
        switches = widget._several_box, widget._hover_box
        return (*(s.isChecked() for s in switches), widget._overlap_box.currentData())

    def done():
        session = widget.session
        return session.several, session.hover_enabled, session.overlap

    assert shown() == done() == (True, False, "replace")
    viewer.add_image(coins, name="other")
    for name, expected in (
        ("other", (False, True, "keep")),
        ("coins", (True, False, "replace")),
    ):
        position = widget._image_box.findText(name)
        widget._image_box.setCurrentIndex(position)
        widget._image_box.activated.emit(position)
        assert shown() == done() == expected
    viewer.layers.remove("other")
    viewer.window.remove_dock_widget(widget)
    viewer.window.add_dock_widget(widget, name="Segment")
    assert shown() == done() == (True, False, "replace")


def test_a_deleted_prompt_layer_comes_back_with_its_keys(viewer, image, widget):
    viewer.layers.remove(widget.session.layers.points)
    viewer.layers.selection.active = image
    canvas.click(viewer, image, (60, 60))
    canvas.press_key(viewer, Qt.Key.Key_Escape)
    assert prompts(widget) == {}
    assert widget.session.annotation.can_undo


def test_the_panel_closed_where_a_script_goes_on(viewer, image, widget):
    session = open_session(viewer, image)
    assert session is widget.session
    viewer.window.remove_dock_widget(widget)
    assert viewer.mouse_move_callbacks == []
    assert viewer.keymap == {}
    canvas.click(viewer, image, (60, 60))
    assert not session.annotation.can_undo
    assert session.prompt(points=[[60, 60]]) is not None
    session.close()


def test_encoding_is_cancelled_and_started_again(viewer, image, widget, qtbot, coins):
    image.data = np.tile(coins, (2, 2))
    assert widget.session.is_busy
    widget._cancel_button.click()
    widget.session.wait()
    assert not widget.session.is_encoded
    assert not widget._cancel_button.isVisible()
    assert "to go on" in widget._status.text()
    canvas.click(viewer, image, (60, 60))
    widget.session.wait()
    assert widget.session.prediction is not None
    image.data = coins[::-1].copy()
    widget._cancel_button.click()
    widget._model_box.activated.emit(widget._model_box.currentIndex())
    widget.session.wait()
    assert widget.session.is_encoded


def test_a_class_name_that_cannot_be(widget):
    table = widget._class_table
    table.add()
    table._list.item(0).setText("  ")
    assert "needs a name" in widget._status.text()
    assert table._list.item(0).text() == "class 1"


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


def test_tiles_are_chosen_in_the_panel_or_in_a_script(viewer, image, widget):
    tiles = widget._tile_form.findChild(QComboBox)
    assert tiles.currentText() == "auto"
    tiles.setCurrentText("whole")
    tiles.textActivated.emit("whole")
    assert widget.session.tile_settings == TileSettings("whole")
    widget.session.wait()
    assert widget.session.is_encoded
    open_session(viewer, image, tiles=TileSettings("auto", overlap=10))
    assert tiles.currentText() == "auto"


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


def test_the_main_window_closed_by_its_button():
    """The prompts are saved and jobs end, though nobody closes the viewer."""
    code = """
import json

import napari
from qtpy.QtCore import QEventLoop, QTimer
from qtpy.QtWidgets import QApplication
from skimage.data import coins

from napari_samseg.widgets.segment import SegmentWidget
from napari_samseg.widgets.sessions import SESSIONS
from napari_samseg.widgets.workers import RUNNING


def run(milliseconds):
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


viewer = napari.Viewer(show=False)
QApplication.instance().setQuitOnLastWindowClosed(False)
image = viewer.add_image(coins())
viewer.window.add_dock_widget(SegmentWidget(viewer), name="Segment")
(session,) = SESSIONS.values()
run(50)
session.prompt(points=[[60, 60]])
path = session.autosave_file
image.data = coins()[::-1].copy()
(window,) = (w for w in QApplication.topLevelWidgets() if w.inherits("QMainWindow"))
window.close()
run(200)
assert len(json.loads(path.read_text())["actions"]) == 1
assert not session._holders
assert list(viewer.layers) == [image]
while RUNNING:
    run(50)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_no_panel_needs_torch_before_a_model():
    code = """
import sys
import napari
from napari.components import ViewerModel
from qtpy.QtWidgets import QApplication
app = QApplication([])
from napari_samseg.widgets.embedding import EmbeddingWidget
from napari_samseg.widgets.segment import SegmentWidget
from napari_samseg.widgets.tune import TuneWidget
viewer = ViewerModel()
widgets = SegmentWidget(viewer), EmbeddingWidget(viewer), TuneWidget(viewer)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
