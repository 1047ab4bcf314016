"""The Prompts panel in a real viewer."""

from __future__ import annotations

import os
import sys
import time

import dask.array as da
import numpy as np
import pytest
from napari.layers import Points, Shapes
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QComboBox
from skimage import io
from widgets.test_segment_widget import save_screenshot

from napari_samseg.core.instances.components import label_components
from napari_samseg.core.io.prompt_planes import read_prompts
from napari_samseg.core.prompts.from_labels import sample_planes
from napari_samseg.core.settings import PromptSettings
from napari_samseg.widgets.workers import RUNNING

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not os.environ.get("DISPLAY"),
    reason="no display: run under Xvfb (xvfb-run pytest)",
)


@pytest.fixture
def viewer(make_napari_viewer, qtbot, monkeypatch):
    monkeypatch.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 860)
    yield viewer
    qtbot.waitUntil(lambda: not RUNNING, timeout=60_000)


@pytest.fixture
def open_panel(viewer, qtbot):
    def open_and_wait(**settings):
        _, widget = viewer.window.add_plugin_dock_widget("napari-samseg", "Prompts")
        change(widget, **settings)
        return widget

    return open_and_wait


@pytest.fixture
def axon_labels(shared_data):
    path = shared_data / "axon_sem" / "classes" / "sub-rat8_sample-V915.png"
    if not path.exists():
        pytest.skip(f"no {path}")
    image = io.imread(shared_data / "axon_sem" / "images" / path.name)
    labels = label_components(io.imread(path)[300:700, 400:900] == 2)
    return image[300:700, 400:900], labels


@pytest.fixture
def bodies(shared_data):
    path = shared_data / "em_fib25_neuroproof" / "gt_bodies.tif"
    if not path.exists():
        pytest.skip(f"no {path}")
    return io.imread(path)[:30]


def change(widget, **values):
    settings = PromptSettings(**values)
    widget._form.set_settings(settings)
    widget._form.changed.emit(settings)


def rest(qtbot, widget):
    qtbot.waitUntil(lambda: not widget.is_busy, timeout=60_000)


def press(qtbot, widget, button):
    button.click()
    rest(qtbot, widget)


def layer_of(viewer, kind):
    (layer,) = [layer for layer in viewer.layers if isinstance(layer, kind)]
    return layer


def same(given, found):
    assert list(given) == list(found)
    for plane, prompts in given.items():
        np.testing.assert_array_equal(prompts.object_ids, found[plane].object_ids)
        np.testing.assert_array_equal(prompts.boxes_yx, found[plane].boxes_yx)
        np.testing.assert_array_equal(prompts.points_yx, found[plane].points_yx)


def test_make_edit_export_import(viewer, axon_labels, open_panel, qtbot, tmp_path):
    """The picture of the documentation."""
    image, ids = axon_labels
    place = {"scale": (0.07, 0.07), "units": ("um", "um")}
    viewer.add_image(image, name="SEM", **place)
    viewer.add_labels(ids, name="axons", opacity=0.3, **place)
    widget = open_panel(point="interior", n_negatives=1, min_area=100)
    assert not widget._all_button.isVisible()
    assert not widget._export_button.isEnabled()
    press(qtbot, widget, widget._plane_button)
    boxes, points = layer_of(viewer, Shapes), layer_of(viewer, Points)
    n_all, n = ids.max(), len(boxes.data)
    assert f"{n} objects" in widget._status.text()
    assert widget._warning.text().startswith(f"{n_all - n} objects got no prompt: ")
    assert tuple(boxes.scale) == tuple(points.scale) == (0.07, 0.07)
    assert [str(unit) for unit in points.units] == ["micrometer", "micrometer"]
    asked = PromptSettings(point="interior", n_negatives=1, min_area=100)
    same(dict(sample_planes(ids, asked)), widget.read_prompts())
    save_screenshot(viewer, "prompts-widget.png")

    # a person moves a point, deletes the prompts of an object, and draws a box
    first, second = boxes.features["object"][:2]
    moved = points.data.copy()
    (at,) = np.flatnonzero(
        (points.features["object"] == first) & (points.features["label"] == 1)
    )
    moved[at] += (1, 2)
    points.data = moved
    points.selected_data = set(np.flatnonzero(points.features["object"] == second))
    points.remove_selected()
    boxes.selected_data = {1}
    boxes.remove_selected()
    boxes.add_rectangles(np.array([[9.5, 19.5], [29.5, 49.5]]))
    path = tmp_path / "prompts.csv"
    widget.export(path)
    rest(qtbot, widget)
    assert f"{second}" in widget._warning.text()
    (written,) = read_prompts(path).planes.values()
    assert second not in written.object_ids
    np.testing.assert_array_equal(
        written.points_yx[0][written.point_labels[0] == 1][0], moved[at]
    )
    assert [10, 20, 30, 50] in written.boxes_yx.tolist()

    before = widget.read_prompts()
    widget.load(path)
    rest(qtbot, widget)
    same(before, widget.read_prompts())
    assert len(viewer.layers) == 4


def test_classes_are_told_from_objects(viewer, axon_labels, open_panel, qtbot):
    viewer.add_labels((axon_labels[1] > 0).astype(np.uint8), name="axons")
    widget = open_panel()
    press(qtbot, widget, widget._plane_button)
    assert "layer 'axons' looks like a mask" in widget._warning.text()
    assert widget._warning.text().endswith(".")
    assert "1 object" in widget._status.text()


def test_masks_are_exported_beside_what_was_edited(
    viewer, axon_labels, open_panel, qtbot, tmp_path
):
    viewer.add_labels(axon_labels[1][:150, :150], name="axons")
    widget = open_panel(mask=True, mask_size=64)
    press(qtbot, widget, widget._plane_button)
    path = tmp_path / "prompts.npz"
    boxes = layer_of(viewer, Shapes)
    gone = boxes.features["object"][0]
    boxes.selected_data = {0}
    boxes.remove_selected()
    widget.export(path)
    rest(qtbot, widget)
    (written,) = read_prompts(path).planes.values()
    assert written.has_mask.all()
    assert gone not in written.object_ids
    expected = dict(
        sample_planes(
            axon_labels[1][:150, :150], PromptSettings(mask=True, mask_size=64)
        )
    )[()]
    np.testing.assert_array_equal(written.low_res_masks, expected.low_res_masks[1:])
    widget.export(tmp_path / "prompts.csv")
    rest(qtbot, widget)
    assert "write an .npz" in widget._status.text()
    assert not (tmp_path / "prompts.csv").exists()


def test_a_volume_page_by_page(viewer, bodies, open_panel, qtbot, tmp_path):
    viewer.add_labels(da.from_array(bodies, chunks=(10, 250, 250)), scale=(2, 1, 1))
    viewer.dims.set_point(0, 8)
    widget = open_panel(point="interior")
    press(qtbot, widget, widget._plane_button)
    assert set(layer_of(viewer, Shapes).data[0][:, 0]) == {4}

    press(qtbot, widget, widget._all_button)
    expected = dict(sample_planes(bodies, PromptSettings(point="interior")))
    assert "show the plane on view" in widget._status.text()
    boxes = layer_of(viewer, Shapes)
    assert len(boxes.data) == len(expected[(4,)])
    # edited here, turned over, and back: nothing is lost
    boxes.selected_data = {0}
    boxes.remove_selected()
    viewer.dims.set_point(0, 20)
    rest(qtbot, widget)
    boxes = layer_of(viewer, Shapes)
    assert len(boxes.data) == len(expected[(10,)])
    found = widget.read_prompts()
    assert set(found) == set(expected)
    assert np.isnan(found[(4,)].boxes_yx).all(axis=1).sum() == 1
    del found[(4,)], expected[(4,)]
    same(expected, found)
    viewer.dims.set_point(0, 8)
    rest(qtbot, widget)
    assert len(layer_of(viewer, Shapes).data) == len(layer_of(viewer, Points).data) - 1
    save_screenshot(viewer, "prompts-volume.png")
    # what a script adds on a plane that is not on view comes to what is there
    layer_of(viewer, Points).add((9, 5, 5))
    found = widget.read_prompts()
    whole = next(sample_planes(bodies[9:10], PromptSettings(point="interior")))[1]
    assert len(found[(9,)]) == len(whole) + 1
    assert found[(9,)].points_yx[-1, 0].tolist() == [5, 5]


def test_cancel_removal_and_closing_end_the_job(viewer, bodies, open_panel, qtbot):
    def slow(block):
        time.sleep(0.03)
        return block

    lazy = da.from_array(bodies, chunks=(1, 250, 250)).map_blocks(slow)
    layer = viewer.add_labels(lazy, name="bodies")
    widget = open_panel()

    def start():
        widget._all_button.click()
        qtbot.waitUntil(lambda: "sampling" in widget._status.text(), timeout=30_000)

    start()
    widget._cancel_button.click()
    assert widget._status.text() == "Cancelled. What was there before stays."
    assert widget._all_button.isEnabled()
    rest(qtbot, widget)

    start()
    viewer.layers.remove(layer)
    rest(qtbot, widget)
    assert any("was removed" in n.message for n in notification_manager.records)
    assert len(viewer.layers) == 0

    viewer.layers.append(layer)
    start()
    viewer.window.remove_dock_widget(widget.parent())
    assert widget.is_shut
    rest(qtbot, widget)
    assert list(viewer.layers) == [layer]


def test_bad_input_says_what_to_do(viewer, open_panel, qtbot, tmp_path):
    widget = open_panel()
    assert widget._status.text().startswith("Add a Labels layer of objects")
    widget._make_of_all()
    assert "Labels to instances makes one" in widget._status.text()

    viewer.add_labels(np.zeros((20, 30), np.uint8), name="nothing")
    press(qtbot, widget, widget._plane_button)
    assert "there is no object in this plane" in widget._status.text()
    widget._plane_button.click()
    rest(qtbot, widget)

    viewer.add_labels(np.full((20, 30), -2), name="negative")
    widget._labels_box.setCurrentText("negative")
    widget._labels_box.activated.emit(widget._labels_box.currentIndex())
    press(qtbot, widget, widget._plane_button)
    assert "must not be negative" in widget._status.text()
    viewer.dims.ndisplay = 3
    press(qtbot, widget, widget._plane_button)
    assert "switch the viewer from 3D to 2D" in widget._status.text()
    viewer.dims.ndisplay = 2

    table = tmp_path / "prompts.csv"
    widget.load(table)
    rest(qtbot, widget)
    assert "there is no file" in widget._status.text()
    table.write_text("object,plane_0,x0,y0\n1,3,5,5\n")
    widget.load(table)
    rest(qtbot, widget)
    assert "has prompts of plane 3, which is none of layer" in widget._status.text()
    table.write_text(
        "object,bbox_min_x,bbox_min_y,bbox_max_x,bbox_max_y\n1,1,1,5,5\n2,1,1,99,5\n"
    )
    widget.load(table)
    rest(qtbot, widget)
    assert widget._warning.text() == "1 object outside the labels."

    # what was drawn is no prompt
    layer_of(viewer, Shapes).add_lines(np.array([[1, 1], [5, 5]]))
    widget.export(tmp_path / "out.csv")
    assert "draw a rectangle" in widget._status.text()
    widget._form.findChildren(QComboBox)[0].setCurrentText("none")
    widget._form.findChildren(QComboBox)[0].textActivated.emit("none")
    assert "choose boxes, points or masks" in widget._status.text()


def squares(n_planes, side=40, step=20):
    labels = np.zeros((n_planes, side, side), np.uint16)
    corners = [(y, x) for y in range(0, side, step) for x in range(0, side, step)]
    for object_id, (y, x) in enumerate(corners, 1):
        labels[:, y : y + 4, x : x + 4] = object_id
    return labels


def choose(widget, name):
    widget._labels_box.setCurrentText(name)
    widget._labels_box.activated.emit(widget._labels_box.currentIndex())


def move_last_box(viewer, name):
    boxes = viewer.layers[f"{name} - boxes"]
    data = [corners.copy() for corners in boxes.data]
    data[-1][:, 1:] += 3
    boxes.data = data


def test_one_plane_made_anew_leaves_the_edits_of_others(viewer, open_panel, qtbot):
    viewer.add_labels(squares(3), name="cells")
    widget = open_panel()
    press(qtbot, widget, widget._all_button)
    move_last_box(viewer, "cells")
    edited = widget.read_prompts()
    assert edited[(2,)].boxes_yx[-1].tolist() == [23, 23, 27, 27]
    viewer.dims.set_point(0, 0)
    change(widget, point="centroid")
    press(qtbot, widget, widget._plane_button)
    found = widget.read_prompts()
    assert [found[(z,)].n_points.sum() for z in range(3)] == [4, 0, 0]
    same({(z,): edited[(z,)] for z in (1, 2)}, {(z,): found[(z,)] for z in (1, 2)})

    # all anew takes the edits away, and gives them back
    press(qtbot, widget, widget._all_button)
    assert widget.read_prompts()[(2,)].boxes_yx[-1].tolist() == [20, 20, 24, 24]
    widget._restore_button.click()
    same(found, widget.read_prompts())
    widget._restore_button.click()
    assert widget.read_prompts()[(2,)].boxes_yx[-1].tolist() == [20, 20, 24, 24]


def test_a_table_in_place_of_edits_can_be_taken_back(
    viewer, open_panel, qtbot, tmp_path
):
    viewer.add_labels(squares(1)[0], name="cells")
    widget = open_panel()
    press(qtbot, widget, widget._plane_button)
    path = tmp_path / "prompts.csv"
    widget.export(path)
    rest(qtbot, widget)
    assert not widget._restore_button.isEnabled()
    viewer.layers["cells - boxes"].add_rectangles([[9.5, 9.5], [12.5, 14.5]])
    edited = widget.read_prompts()
    widget.load(path)
    rest(qtbot, widget)
    assert len(widget.read_prompts()[()]) == 4
    widget._restore_button.click()
    same(edited, widget.read_prompts())
    # what is no prompt cannot be kept, and is not thrown away
    viewer.layers["cells - boxes"].add_lines([[0, 0], [5, 5]])
    widget.load(path)
    rest(qtbot, widget)
    assert "Nothing was changed" in widget._status.text()
    assert len(viewer.layers["cells - boxes"].data) == 6


def test_prompts_stay_with_their_labels(viewer, open_panel, qtbot):
    viewer.add_labels(squares(3, 160, 8), name="many")
    viewer.add_labels(squares(3), name="few")
    widget = open_panel()
    choose(widget, "many")
    press(qtbot, widget, widget._all_button)
    assert "show the plane on view" in widget._status.text()
    move_last_box(viewer, "many")
    edited = widget.read_prompts()
    choose(widget, "few")
    assert not widget._export_button.isEnabled()
    viewer.dims.set_point(0, 2)
    choose(widget, "many")
    same(edited, widget.read_prompts())
    assert set(viewer.layers["many - boxes"].data[0][:, 0]) == {2}

    viewer.window.remove_dock_widget(widget.parent())
    viewer.dims.set_point(0, 0)
    widget = open_panel()
    choose(widget, "many")
    same(edited, widget.read_prompts())
    assert widget._export_button.isEnabled()
    # a copy of the layer has prompts of its own
    data, meta, _ = viewer.layers["many"].as_layer_data_tuple()
    viewer.add_labels(data, **{**meta, "name": "copy"})
    choose(widget, "copy")
    assert not widget._export_button.isEnabled()
