"""The Refine labels panel in a real viewer, on sections of real tissue."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication
from rough_labels import erode, mean_iou
from skimage import io
from widgets import canvas
from widgets.test_segment_widget import save_screenshot

from napari_samseg.adapters.refined_layer import (
    LEAST_SHOWN,
    SHOWN_SHARE,
    refinement_of,
    show_object,
)
from napari_samseg.core.cache.memory import MemoryCache
from napari_samseg.core.predict import Predictor
from napari_samseg.core.refine.review import ACCEPTED, DELETED, OPEN
from napari_samseg.core.settings import ModelSettings, RefineSettings
from napari_samseg.widgets.loaded_models import LOADED
from napari_samseg.widgets.refine import STOPPED
from napari_samseg.widgets.workers import RUNNING

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not os.environ.get("DISPLAY"),
    reason="no display: run under Xvfb (xvfb-run pytest)",
)

CONTROL = Qt.KeyboardModifier.ControlModifier


@pytest.fixture
def viewer(make_napari_viewer, qtbot, model, monkeypatch):
    loaded = Predictor(model, MemoryCache(2**28))
    monkeypatch.setitem(LOADED, (ModelSettings(), 0), loaded)
    monkeypatch.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1200, 900)
    yield viewer
    qtbot.waitUntil(lambda: not RUNNING, timeout=30_000)


@pytest.fixture(scope="module")
def bodies(shared_data):
    """Three sections that the model was not trained on, and their eroded bodies."""
    folder = shared_data / "em_fib25_neuroproof"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    raw, true = (
        tifffile.imread(folder / name, key=[220, 221, 222])[:, :120, :120]
        for name in ("raw.tif", "gt_bodies.tif")
    )
    ids, areas = np.unique(true[1], return_counts=True)
    true = np.where(np.isin(true, ids[areas > 200]), true, 0)
    return raw, np.stack([erode(plane, 2) for plane in true]), true


@pytest.fixture
def layers(viewer, bodies):
    raw, rough, _ = bodies
    place = {"scale": (10, 10, 10), "translate": (5, 100, -40)}
    image = viewer.add_image(raw, name="raw", **place)
    labels = viewer.add_labels(rough.copy(), name="bodies", **place)
    viewer.dims.set_point(0, 15)
    return image, labels


@pytest.fixture
def open_panel(viewer):
    def open_it():
        return viewer.window.add_plugin_dock_widget("napari-samseg", "Refine labels")[1]

    return open_it


def run(qtbot, widget):
    widget._start_button.click()
    rest(qtbot, widget)


def rest(qtbot, widget):
    qtbot.waitUntil(lambda: not widget.refiner.is_running, timeout=120_000)
    QApplication.processEvents()


def test_refine_a_plane_and_review_it(viewer, layers, bodies, open_panel, qtbot):
    image, labels = layers
    _, rough, true = bodies
    widget = open_panel()
    assert widget._image_box.currentData() is image
    assert widget._labels_box.currentData() is labels
    assert not widget.review._accept_button.isEnabled()
    widget._refine_form.set_settings(RefineSettings(margin=2))
    run(qtbot, widget)
    result = viewer.layers["bodies - refined"]
    np.testing.assert_array_equal(labels.data, rough, "the person's layer stays")
    np.testing.assert_array_equal(result.data[[0, 2]], rough[[0, 2]])
    np.testing.assert_array_equal(np.unique(result.data[1]), np.unique(rough[1]))
    np.testing.assert_allclose(result.translate, labels.translate)
    ids = np.unique(rough[1])[1:]
    assert mean_iou(result.data[1], true[1], ids) > mean_iou(rough[1], true[1], ids)
    assert "refined" in widget._status.text()

    review = widget.review.refinement.review
    n = len(review.items)
    assert n == len(ids)
    assert widget.review._counter.text() == f"<b>Review</b>: 1 of {n}, {n} to look at"
    doubts = [item.score.doubt for item in review.items]
    assert doubts == sorted(doubts, reverse=True)
    assert viewer.layers.selection.active is result
    # the first object is in the middle of the view
    y0, x0, y1, x1 = review.current.score.box_yx
    middle = result.data_to_world((1, (y0 + y1 - 1) / 2, (x0 + x1 - 1) / 2))
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], middle[-2:], atol=1e-3)
    assert result.selected_label == review.current.score.object_id
    save_screenshot(viewer, "refine-widget.png")

    # a speck is shown with as much around it as something larger
    plane = review.plane(review.current)
    sides = {}
    for side in (1, LEAST_SHOWN, 40):
        show_object(viewer, result, plane, (50, 60, 50 + side, 60 + side))
        shown = min(viewer.canvas.size) / viewer.scene.camera.zoom / result.scale[-1]
        sides[side] = round(shown)
    assert sides[1] == sides[LEAST_SHOWN] == round(LEAST_SHOWN / SHOWN_SHARE)
    assert sides[40] == round(40 / SHOWN_SHARE)
    widget.review.show_current()

    # accept and delete with keys on the canvas, and take both back
    first, second = review.items[0].score.object_id, review.items[1].score.object_id
    canvas.press_key(viewer, Qt.Key.Key_A)
    assert review.items[0].state == ACCEPTED
    assert (
        widget.review._counter.text() == f"<b>Review</b>: 2 of {n}, {n - 1} to look at"
    )
    refined = result.data.copy()
    canvas.press_key(viewer, Qt.Key.Key_D)
    assert review.items[1].state == DELETED
    assert second not in result.data[1]
    np.testing.assert_array_equal(result.data[[0, 2]], refined[[0, 2]])
    canvas.press_key(viewer, Qt.Key.Key_Z, CONTROL)
    np.testing.assert_array_equal(result.data, refined)
    assert review.items[1].state == OPEN
    assert review.place == 1
    canvas.press_key(viewer, Qt.Key.Key_Z, CONTROL)
    assert review.items[0].state == OPEN
    assert review.current.score.object_id == first

    # find the object again by a point, which is one step, too
    before = result.data.copy()
    widget.review._redo_box.setCurrentText("middle")
    canvas.press_key(viewer, Qt.Key.Key_R)
    rest(qtbot, widget)
    assert (result.data != before).any()
    assert set(np.unique(result.data[1])) == set(np.unique(before[1]))
    widget.review._undo_button.click()
    np.testing.assert_array_equal(result.data, before)
    widget.review._again_button.click()
    assert (result.data != before).any()

    # closing the panel loses nothing
    widget.review._accept_button.click()
    n_open, place = review.n_open, review.place
    viewer.window.remove_dock_widget(widget)
    again = open_panel()
    assert again.review.refinement.review is review
    assert (review.n_open, review.place) == (n_open, place)
    canvas.press_key(viewer, Qt.Key.Key_N)
    assert review.place == (place + 1) % n

    # the next plane goes into the same layer, where it can be undone
    viewer.dims.set_point(0, 25)
    assert again._into_box.currentData() is result
    run(qtbot, again)
    assert len([layer for layer in viewer.layers if "refined" in layer.name]) == 1
    assert {item.score.plane for item in review.items} == {(1,), (2,)}
    assert sum(item.state == ACCEPTED for item in review.items) == 1
    assert (result.data[2] != rough[2]).any()
    assert [la.name for la in viewer.layers].count("under review") == 1
    again.review.undo()
    np.testing.assert_array_equal(result.data[2], rough[2])


def test_nuclei_of_a_single_image(viewer, shared_data, open_panel, qtbot):
    """The picture of the documentation."""
    (path,) = (shared_data / "dsb2018" / "images").glob("06350c7c*.png")
    true = io.imread(shared_data / "dsb2018" / "labels" / path.name).astype(np.uint16)
    rough = erode(true, 2)
    image = viewer.add_image(io.imread(path), name="nuclei")
    image.contrast_limits = (0, 40)
    viewer.add_labels(rough.copy(), name="rough")
    widget = open_panel()
    assert not widget._scope_box.isVisible(), "there is one plane only"
    widget._refine_form.set_settings(RefineSettings(margin=2))
    run(qtbot, widget)
    result = viewer.layers["rough - refined"]
    ids = np.unique(rough)[1:]
    before, after = (mean_iou(a, true, ids) for a in (rough, result.data))
    assert after > before + 0.2
    widget.review.accept()
    widget.review.accept()
    save_screenshot(viewer, "refine-labels.png")


def test_painting_by_hand_is_a_step(viewer, layers, open_panel, qtbot):
    widget = open_panel()
    run(qtbot, widget)
    result = viewer.layers["bodies - refined"]
    before = result.data.copy()
    result.selected_label = 77
    result.paint((1, 60, 60), 77)
    assert (result.data == 77).any()
    canvas.press_key(viewer, Qt.Key.Key_Z, CONTROL)
    np.testing.assert_array_equal(result.data, before)


def test_a_volume_can_be_cancelled(viewer, layers, bodies, open_panel, qtbot):
    _, rough, _ = bodies
    widget = open_panel()
    widget._scope_box.setCurrentIndex(1)
    assert widget._scope_box.currentText() == "all 3"
    seen = []

    def stop(step):
        if getattr(step, "refined", None) is not None:
            seen.append(step.refined.plane)
            # a stroke would be lost to the plane that comes back
            assert not viewer.layers["bodies - refined"].editable
            widget._cancel_button.click()

    widget.refiner.progressed.connect(stop)
    run(qtbot, widget)
    assert seen == [(0,)]
    assert widget._status.text() == STOPPED
    result = viewer.layers["bodies - refined"]
    assert result.editable
    assert (result.data[0] != rough[0]).any()
    np.testing.assert_array_equal(result.data[1:], rough[1:])
    known = refinement_of(result)
    assert {item.score.plane for item in known.review.items} == {(0,)}
    assert widget._start_button.isEnabled()


def test_layers_that_do_not_fit(viewer, layers, open_panel, qtbot):
    _, labels = layers
    widget = open_panel()
    labels.translate = (5, 130, -40)
    run(qtbot, widget)
    assert "does not lie on" in widget._status.text()
    assert "give both the same scale and place" in widget._status.text()
    viewer.layers.remove(labels)
    assert not widget._start_button.isEnabled()
    viewer.add_labels(np.zeros((4, 4), int), name="small")
    run(qtbot, widget)
    assert "do not belong together" in widget._status.text()


def test_classes_are_told_from_objects(viewer, layers, open_panel, qtbot):
    _, labels = layers
    is_in = np.arange(120) % 12 < 6
    squares = np.logical_and.outer(is_in, is_in)
    labels.data = np.stack([squares] * 3).astype(np.uint8)
    widget = open_panel()
    told = []
    widget.refiner.warned.connect(told.append)
    run(qtbot, widget)
    (note,) = told
    assert note.startswith("layer 'bodies' looks like a mask: 1 in 100 pieces")


def test_masks_are_split_into_objects_to_review(viewer, layers, open_panel, qtbot):
    _, labels = layers
    labels.data = (labels.data > 0).astype(np.uint8)
    widget = open_panel()
    widget._refine_form.set_settings(RefineSettings(split=True))
    run(qtbot, widget)
    result = viewer.layers["bodies - refined"]
    assert result.data.dtype == np.uint32
    np.testing.assert_array_equal(result.data > 0, labels.data > 0)
    review = widget.review.refinement.review
    ids = set(np.unique(result.data[1])) - {0}
    assert {item.score.object_id for item in review.items} == ids
    assert len(ids) > 1
    # what has a new id is found again, too
    review.place = next(
        i for i, item in enumerate(review.items) if item.score.object_id != 1
    )
    widget.review._redo_box.setCurrentText("box")
    canvas.press_key(viewer, Qt.Key.Key_R)
    rest(qtbot, widget)
    assert "was found again" in widget._status.text()
    canvas.press_key(viewer, Qt.Key.Key_N)
    assert widget._status.text() == ""
