"""Sessions without a window: the same object that the panel shows."""

from __future__ import annotations

import gc
import json
import time
import weakref

import dask.array as da
import numpy as np
import pytest
import torch
from napari.components import ViewerModel
from napari.utils.colormaps import DirectLabelColormap

import napari_samseg as samseg
from napari_samseg.core.annotation_actions import ObjectClass
from napari_samseg.core.errors import (
    InvalidPromptError,
    LabelOverflowError,
    LayerError,
    UnknownNameError,
)
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.prompts.from_geometry import Gesture
from napari_samseg.core.settings import ModelSettings
from napari_samseg.widgets.sessions import session_of
from napari_samseg.widgets.workers import RUNNING

pytestmark = pytest.mark.usefixtures("qtbot")


@pytest.fixture
def viewer():
    return ViewerModel()


@pytest.fixture
def image(viewer, coins):
    return viewer.add_image(coins, name="coins", scale=(2, 3), rotate=20)


@pytest.fixture
def session(viewer, image, model):
    session = samseg.open_session(viewer, image, model=model)
    yield session
    session.close()
    deadline = time.monotonic() + 10
    while RUNNING and time.monotonic() < deadline:
        session.wait(0.1)
        from qtpy.QtCore import QCoreApplication

        QCoreApplication.processEvents()
    assert not RUNNING


@pytest.fixture
def add_labels(viewer, image):
    """Add labels that lie on the image."""
    return lambda data: viewer.add_labels(data, scale=image.scale, rotate=20)


def iou(mask, truth):
    return np.count_nonzero(mask & truth) / np.count_nonzero(mask | truth)


def click(y, x, positive=True):
    return Gesture("click", np.array([[y, x]], float), positive)


def reports(session):
    messages = []
    # psygnal keeps functions weakly only if they are methods
    session.reported.connect(lambda message, is_error: messages.append(message))
    return messages


def test_prompt_commit_undo_redo(session, coin_labels, coin_region):
    prediction = session.prompt(boxes=[coin_region.bbox])
    truth = coin_labels == coin_region.label
    assert iou(prediction.masks[0], truth) > 0.7
    assert session.commit() == (1,)
    np.testing.assert_array_equal(session.target.data == 1, prediction.masks[0])
    assert session.target.name == "coins - objects"
    np.testing.assert_allclose(session.target.scale, (2, 3))
    assert session.undo()
    assert not session.target.data.any()
    assert list(session.annotation.prompts(session.plane)) == [1]
    assert session.redo()
    np.testing.assert_array_equal(session.target.data == 1, prediction.masks[0])
    assert not session.redo()


def test_background_prediction_agrees_with_the_waiting_one(session, coin_region):
    y, x = coin_region.centroid
    expected = session.prompt(points=[[y, x]]).masks
    session.clear()
    session.wait()
    assert session.prediction is None
    session.add_gesture(click(y, x))
    session.wait()
    np.testing.assert_array_equal(session.prediction.masks, expected)


def test_refining_with_a_background_point(session, coin_region):
    y, x = coin_region.centroid
    session.prompt(points=[[y, x]])
    prediction = session.prompt(points=[[2, 2]], point_labels=[0], object_id=1)
    assert len(prediction) == 1
    gestures = session.annotation.prompts(session.plane)[1]
    assert [gesture.positive for gesture in gestures] == [True, False]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "empty"),
        ({"points": [[5, 500]]}, r"point 0 \(y=5, x=500\).*160 x 180"),
        ({"points": [[5, 5]], "point_labels": [0]}, "only background"),
        ({"boxes": [[300, 300, 310, 310]]}, "outside the plane"),
    ],
)
def test_bad_prompts_add_nothing(session, prompts, message):
    with pytest.raises(InvalidPromptError, match=message):
        session.prompt(**prompts)
    assert not session.annotation.can_undo
    with pytest.raises(InvalidPromptError, match="no prompt to commit"):
        session.commit()


def test_a_point_outside_its_box_is_told_once(session, coin_region):
    messages = reports(session)
    y0, x0, y1, x1 = coin_region.bbox
    session.prompt(boxes=[coin_region.bbox])
    session.prompt(points=[[y0 + 2, x0 + 2]], object_id=1)
    assert messages == []
    session.prompt(points=[[y1 + 5, x1 + 5]], object_id=1)
    session.prompt(points=[[y0 + 3, x0 + 3]], object_id=1)
    (message,) = messages
    assert "object 1 has a point outside the box" in message


def test_a_gesture_outside_the_image_is_refused_at_once(session):
    with pytest.raises(InvalidPromptError, match="outside"):
        session.add_gesture(click(500, 5))
    assert not session.annotation.can_undo


def test_several_objects_commit_together_with_a_class(session, coin_labels):
    from skimage.measure import regionprops

    boxes = [region.bbox for region in regionprops(coin_labels)[:2]]
    session.set_classes([ObjectClass(1, "coin", "#e69f00")])
    session.class_id = 1
    session.prompt(boxes=boxes)
    assert session.commit() == (1, 2)
    assert session.annotation.object_classes == {1: 1, 2: 1}
    assert session.target.features["class"].tolist() == ["background", "coin", "coin"]


def test_padding_among_points_that_refine(session):
    session.prompt(points=[[40, 40]])
    prompted = session.prompt(
        points=[[42, 42], [50, 50]], point_labels=[0, -1], object_id=1
    )
    assert len(prompted) == 1
    gestures = session.annotation.prompts(session.plane)[1]
    assert [gesture.positive for gesture in gestures] == [True, False]


def test_a_released_session_shows_nothing(session, viewer, image):
    session.prompt(points=[[40, 40]])
    session.release(session)
    image.scale = (5, 5)
    session.undo()
    session.redo()
    session.wait()
    assert list(viewer.layers) == [image]
    session.hold(session)
    session.wait()
    names = {layer.name for layer in viewer.layers}
    assert names == {"coins", "coins - preview", "coins - prompts"}


def test_sessions_that_share_a_viewer_and_a_target(viewer, coins, model):
    def undo(owner):
        owner.keymap[next(key for key in owner.keymap if str(key) == "Ctrl+Z")](owner)

    images = [viewer.add_image(coins, name=name) for name in "ab"]
    target = viewer.add_labels(np.zeros(coins.shape, np.uint32))
    before = dict(viewer.keymap), dict(target.keymap)
    mouse = list(viewer.mouse_drag_callbacks)
    first, second = (samseg.open_session(viewer, i, model=model) for i in images)
    for session in (first, second):
        session.set_target(target)
        session.draw_on_canvas().choose("click")
        session.prompt(points=[[40, 40]])
    viewer.layers.selection.active = target
    undo(viewer)
    assert not second.annotation.can_undo
    undo(target)
    assert first.annotation.can_undo
    second.close()
    undo(target)
    assert not first.annotation.can_undo
    assert len(viewer.mouse_drag_callbacks) == len(mouse) + 1
    first.close()
    assert (viewer.keymap, target.keymap) == before
    assert viewer.mouse_drag_callbacks == mouse


class NoRoom(SamModel):
    """A real model that claims a GPU whose memory is full; its copy is on the CPU."""

    def __init__(self, sam):
        super().__init__(sam, name="tiny vit", family="sam")
        self.device = torch.device("cuda")

    def encode_batch_steps(self, planes):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_memory_that_ran_out_in_the_background_is_told(session, tiny_sam):
    told = []
    session.reported.connect(lambda *report: told.append(report))
    session.use_model(NoRoom(tiny_sam))
    session.wait()
    assert session.is_encoded
    assert told == [("cuda ran out of memory: encoding on the CPU instead", True)]


def used_session(coins, model):
    """Return weak references to a session, its image and viewer, all used."""
    viewer = ViewerModel()
    session = samseg.open_session(viewer, viewer.add_image(coins), model=model)
    session.prompt(points=[[40, 40]])
    session.draw_on_canvas().choose("click")
    session.wait()
    return [weakref.ref(thing) for thing in (session, session.image, viewer)]


def test_a_viewer_without_a_window_can_die(coins, model, qtbot):
    references = used_session(coins, model)

    def have_died():
        gc.collect()
        return all(reference() is None for reference in references)

    # jobs that end hold some of them until then
    qtbot.waitUntil(have_died, timeout=10_000)


def test_classes_edited_while_a_mask_waits_for_its_commit(session):
    session.add_gesture(click(40, 40))
    session.wait()
    session.set_classes([ObjectClass(1, "coin", "#e69f00")])
    session.request_commit()
    session.wait()
    assert (session.target.data == 1).any()
    assert session.annotation.planes == ()


def test_a_commit_asked_for_starts_what_was_stopped(session):
    session.add_gesture(click(40, 40))
    session._masks.cancel()
    session.wait()
    assert session.prediction is None
    session.request_commit()
    session.wait()
    assert (session.target.data == 1).any()


def test_classes_as_colours_and_as_labels(session, viewer, image):
    with pytest.raises(LayerError, match="commit an object first"):
        session.semantic_labels()
    session.set_color_by_class(True)
    classes = [ObjectClass(1, "coin", "#e69f00"), ObjectClass(2, "dirt", "#0072b2")]
    session.set_classes(classes)
    for class_id, corner in ((2, 20), (None, 90)):
        session.class_id = class_id
        session.prompt(boxes=[[corner, corner, corner + 50, corner + 50]])
        session.commit()
        expected = (0, 0x72, 0xB2) if class_id else (0xB0,) * 3
        assert (session._colors([9]) == expected).all()
    target = session.target
    blue, grey = target.colormap.map(np.array([1, 2], np.uint32))
    np.testing.assert_allclose(blue, (0, 0x72 / 255, 0xB2 / 255, 1), atol=0.01)
    np.testing.assert_allclose(grey[:3], 0xB0 / 255, atol=0.01)
    session.assign_class(2, 1)
    orange = target.colormap.map(np.array([2], np.uint32))[0]
    np.testing.assert_allclose(orange, (0xE6 / 255, 0x9F / 255, 0, 1), atol=0.01)

    layer = session.add_semantic_layer()
    np.testing.assert_array_equal(layer.data == 2, target.data == 1)
    np.testing.assert_array_equal(layer.data == 1, target.data == 2)
    np.testing.assert_allclose(layer.data_to_world((5, 7)), image.data_to_world((5, 7)))
    assert layer.units == image.units
    viewer.layers.remove(layer)


def test_a_colormap_of_a_persons_own_comes_back(session, add_labels, coins):
    labels = add_labels(np.zeros(coins.shape, np.uint32))
    labels.colormap = own = DirectLabelColormap(color_dict={None: "red", 0: "white"})
    session.set_target(labels)
    session.set_color_by_class(True)
    assert labels.colormap is not own
    session.set_color_by_class(False)
    assert labels.colormap is own
    session.set_color_by_class(True)
    labels.colormap = other = DirectLabelColormap(color_dict={None: "blue"})
    session.set_classes([ObjectClass(1, "coin", "#e69f00")])
    assert labels.colormap is not other
    session.set_color_by_class(False)
    assert labels.colormap is other


def test_a_label_is_refined_in_its_place(session, add_labels, coin_labels):
    labels = add_labels(coin_labels.astype(np.uint32))
    session.set_target(labels)
    label = int(coin_labels[coin_labels > 0][0])
    y, x = np.argwhere(coin_labels == label)[40]
    assert session.pick_label(labels, (y, x)) == label
    session.wait()
    others = labels.data.copy()
    others[others == label] = 0
    assert session.commit("keep") == (label,)
    kept = labels.data.copy()
    kept[kept == label] = 0
    np.testing.assert_array_equal(kept, others)
    assert iou(labels.data == label, coin_labels == label) > 0.5
    assert session.annotation.next_id == coin_labels.max() + 1
    session.undo()
    np.testing.assert_array_equal(labels.data, coin_labels)


def test_a_label_is_picked_where_it_is_seen(session, image, viewer, coins, model):
    data = np.zeros((60, 60), np.uint32)
    data[10:30, 10:30] = 7
    labels = viewer.add_labels(
        data, scale=image.scale, rotate=20, translate=image.data_to_world((100, 110))
    )
    with pytest.raises(InvalidPromptError, match="no label"):
        session.pick_label(labels, (20, 20))
    picked = session.pick_label(labels, (120, 130))
    (gesture,) = session.annotation.prompts(session.plane)[picked]
    np.testing.assert_array_equal(gesture.vertices_yx, [[110, 120], [130, 140]])
    assert gesture.mask.all()


def test_strokes_of_a_person_join_the_history(session, add_labels, coins):
    labels = add_labels(np.zeros(coins.shape, np.uint32))
    session.set_target(labels)
    session.prompt(boxes=[[20, 20, 60, 60]])
    session.commit()
    labels.selected_label = 9
    labels.paint((100, 100), 9)
    painted = labels.data.copy()
    assert session.annotation.next_id == 10
    session.prompt(boxes=[[20, 20, 60, 60]])
    session.clear()
    session.undo()  # the clearing
    session.undo()  # the box
    session.undo()  # the stroke
    assert not (labels.data == 9).any()
    assert (labels.data == 1).any()
    session.redo()
    np.testing.assert_array_equal(labels.data, painted)


def test_any_plane_of_a_volume(viewer, coins, model):
    volume = np.stack([np.zeros_like(coins), coins, coins[::-1]])
    image = viewer.add_image(volume, scale=(5, 1, 1))
    session = samseg.open_session(viewer, image, model=model)
    viewer.dims.set_current_step(0, 1)
    box = [[20, 20, 70, 70]]
    expected = samseg.segment(coins, boxes=box, model=model).masks[0]
    np.testing.assert_array_equal(session.prompt(boxes=box).masks[0], expected)
    session.commit()
    np.testing.assert_array_equal(session.target.data[1] == 1, expected)
    assert not session.target.data[[0, 2]].any()
    viewer.dims.set_current_step(0, 2)
    session.wait()
    assert session.plane.index == (2,)
    assert session.is_encoded
    session.undo()
    assert viewer.dims.current_step[0] == 1
    assert not session.target.data.any()
    session.close()


def test_images_in_nm_and_in_um_stay_aligned(viewer, coins, model):
    stack = np.stack([coins] * 6)
    scale = np.array((50, 10, 10))
    viewer.add_image(stack, scale=scale, units=("nm",) * 3, name="nm")
    image = viewer.add_image(stack, scale=scale / 1000, units=("um",) * 3, name="um")
    units, steps = viewer.dims.units, viewer.dims.range
    session = samseg.open_session(viewer, image, model=model)
    viewer.dims.set_current_step(0, 4)
    session.wait()
    assert session.plane.index == (4,)
    session.prompt(boxes=[[20, 20, 70, 70]])
    session.commit()
    assert viewer.dims.units == units
    np.testing.assert_allclose(viewer.dims.range, steps)
    # the canvas counts in nm
    np.testing.assert_allclose(session.point_on_plane((200, 300, 400)), (30, 40))
    viewer.dims.set_current_step(0, 1)
    session.wait()
    assert session.plane.index == (1,)
    session.undo()
    session.wait()
    assert session.plane.index == (4,)
    assert viewer.dims.current_step[0] == 4
    image.units = ("mm",) * 3
    assert {layer.units for layer in session.layers.layers} == {image.units}
    session.close()


def test_multiscale_dask_images(viewer, coins, model):
    big = da.from_array(np.kron(coins, np.ones((2, 2), np.uint8)), chunks=64)
    image = viewer.add_image([big, big[::2, ::2]], multiscale=True, scale=(3, 3))
    settings = samseg.ImageSettings(level=1)
    session = samseg.open_session(viewer, image, model=model, settings=settings)
    session.prompt(boxes=[[20, 20, 70, 70]])
    session.commit()
    assert session.target.data.shape == coins.shape
    np.testing.assert_allclose(session.target.scale, (6, 6))
    with pytest.raises(LayerError, match="before the first prompt"):
        session.set_image_settings(samseg.ImageSettings(level=0))
    session.close()


def test_labels_that_cannot_be_a_target(session, viewer, coins):
    shape = coins.shape
    with pytest.raises(LayerError, match="dask"):
        session.set_target(viewer.add_labels(da.zeros(shape, dtype=np.uint32)))
    pyramid = [np.zeros(shape, np.uint32), np.zeros((80, 90), np.uint32)]
    with pytest.raises(LayerError, match="multiscale"):
        session.set_target(viewer.add_labels(pyramid, multiscale=True))
    with pytest.raises(LayerError, match="has shape"):
        session.set_target(viewer.add_labels(np.zeros((9, 9), np.uint32)))
    assert session.target is None


def test_an_id_that_does_not_fit_loses_nothing(session, add_labels, coins):
    data = np.zeros(coins.shape, np.uint8)
    data[-1, -1] = 255
    labels = add_labels(data)
    session.set_target(labels)
    session.prompt(boxes=[[20, 20, 70, 70]])
    with pytest.raises(LabelOverflowError, match="uint32"):
        session.commit()
    assert list(session.annotation.prompts(session.plane)) == [256]
    session.widen_target()
    assert session.commit() == (256,)
    assert labels.data[-1, -1] == 255


def test_the_target_changes_only_between_objects(session, viewer, coins):
    labels = viewer.add_labels(np.zeros(coins.shape, np.uint32))
    session.prompt(boxes=[[20, 20, 70, 70]])
    with pytest.raises(LayerError, match="commit or clear"):
        session.set_target(labels)


def test_an_object_brought_back_by_undo_gets_a_free_id_in_another_target(
    session, add_labels, coins
):
    session.prompt(boxes=[[20, 20, 70, 70]])
    session.commit()
    data = np.zeros(coins.shape, np.uint32)
    data[100:120, 100:120], data[130:140, 130:140] = 1, 2
    labels = add_labels(data)
    session.set_target(labels)
    session.undo()
    assert session.commit() == (3,)
    assert (labels.data == 1).sum() == 400
    assert (labels.data == 2).sum() == 100
    session.undo()
    assert list(session.annotation.prompts(session.plane)) == [1]
    session.redo()
    assert (labels.data == 3).any()
    session.undo()
    session.clear()
    session.prompt(points=[[40, 40]])
    assert session.commit() == (3,)


def test_strokes_on_an_earlier_target_are_undone_first(session, add_labels, coins):
    session.prompt(boxes=[[20, 20, 70, 70]])
    session.commit()
    earlier = session.target
    session.set_target(add_labels(np.zeros(coins.shape, np.uint32)))
    earlier.paint((120, 120), 9)
    session.undo()
    assert not (earlier.data == 9).any()
    assert (earlier.data == 1).any()
    session.redo()
    session.undo()
    session.undo()
    assert not earlier.data.any()


def test_an_earlier_target_that_is_removed_takes_its_commits_along(session, viewer):
    session.prompt(boxes=[[20, 20, 70, 70]])
    session.commit()
    session.wait()
    saved, earlier = session.autosave_file, session.target
    session.set_target(None)
    session.prompt(boxes=[[90, 90, 120, 120]])
    session.commit()
    viewer.layers.remove(earlier)
    assert session.undo()
    assert session.undo()
    assert not session.undo()
    assert not session.target.data.any()
    assert "commit" in [a["do"] for a in json.loads(saved.read_text())["actions"]]


def test_labels_that_lie_elsewhere_are_refused(session, viewer, image, coins):
    labels = viewer.add_labels(np.zeros(coins.shape, np.uint32), name="astray")
    with pytest.raises(LayerError, match=r"'astray' does not lie on the image.*or let"):
        session.set_target(labels)
    labels.scale, labels.rotate = image.scale, image.rotate
    session.set_target(labels)
    messages = reports(session)
    image.translate = (50, 0)
    assert "'astray' did not" in messages[-1]


def test_labels_in_other_units_lie_on_the_image(viewer, coins, model):
    image = viewer.add_image(coins, scale=(100, 200), units=("nm", "nm"))
    labels = viewer.add_labels(
        np.zeros(coins.shape, int), scale=(0.1, 0.2), units=("um", "um")
    )
    session = samseg.open_session(viewer, image, model=model)
    session.set_target(labels)
    assert session.target is labels
    session.close()


def test_labels_made_for_an_image_move_with_it(session, image):
    session.prompt(boxes=[[20, 20, 70, 70]])
    session.commit()
    image.translate = (50, 7)
    image.scale = (4, 5)
    image.affine = [[0.9, 0.1, 4], [-0.2, 1.1, 5], [0, 0, 1]]
    for point in ((0, 0), (20, 31)):
        np.testing.assert_allclose(
            session.target.data_to_world(point), image.data_to_world(point)
        )


def test_a_commit_of_a_script_takes_the_place_of_one_that_waits(session):
    session.add_gesture(click(40, 40))
    session.request_commit()
    assert session.commit() == (1,)
    session.wait()
    kinds = [type(action).__name__ for action in session.annotation.actions]
    assert kinds == ["AddGesture", "Commit"]


@pytest.mark.parametrize("size", [0, 1 << 22])
def test_labels_that_cannot_be_read_are_let_go(
    session, add_labels, coins, monkeypatch, tmp_path, size
):
    import zarr

    from napari_samseg.widgets import commit_target

    monkeypatch.setattr(commit_target, "SCAN_AT_ONCE", size)
    data = zarr.create_array(
        store=tmp_path / "damaged.zarr",
        shape=coins.shape,
        dtype="uint32",
        chunks=(8, 8),
    )
    data[:] = 3
    labels = add_labels(data)
    for chunk in (tmp_path / "damaged.zarr" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"no zstd frame")
    messages = reports(session)
    if size:
        with pytest.raises(LayerError, match="cannot be read"):
            session.set_target(labels)
    else:
        session.set_target(labels)
        session.wait()
        assert "cannot be read" in messages[-1]
    assert session.target is None
    session.add_gesture(click(40, 40))


def test_replaced_labels_are_read_again_in_the_background(
    session, add_labels, coins, monkeypatch
):
    from napari_samseg.widgets import commit_target

    monkeypatch.setattr(commit_target, "SCAN_AT_ONCE", 10)
    labels = add_labels(np.zeros(coins.shape, np.uint32))
    session.set_target(labels)
    session.wait()
    labels.data = np.full(coins.shape, 7, np.uint32)
    with pytest.raises(LayerError, match="still being read"):
        session.add_gesture(click(40, 40))
    session.wait()
    assert session.add_gesture(click(40, 40)) == 8
    labels.data = np.zeros((9, 9), np.uint32)
    assert session.target is None


def test_a_removed_target_gives_way_to_a_new_one(session, viewer):
    messages = reports(session)
    session.prompt(boxes=[[20, 20, 70, 70]])
    session.commit()
    viewer.layers.remove(session.target)
    assert "was removed" in messages[-1]
    assert not session.undo()
    session.prompt(boxes=[[20, 20, 70, 70]])
    assert session.commit() == (2,)


def test_autosave_survives_and_replays(session, viewer, coins, model, own_cache):
    session.set_classes([ObjectClass(1, "coin", "#e69f00")])
    session.prompt(boxes=[[20, 20, 70, 70]])
    session.commit()
    committed = session.target.data.copy()
    session.prompt(points=[[100, 100]])
    session.wait()
    path = session.autosave_file
    assert path.parent == own_cache / "annotations"
    assert len(json.loads(path.read_text())["actions"]) == 4
    session.close()

    again = samseg.open_session(viewer, viewer.add_image(coins), model=model)
    again.replay(path)
    np.testing.assert_array_equal(again.target.data, committed)
    assert list(again.annotation.prompts(again.plane)) == [2]
    assert again.annotation.classes[0].name == "coin"
    again.close()
    other = samseg.open_session(viewer, viewer.add_image(np.zeros((9, 9))), model=model)
    with pytest.raises(LayerError, match="made on an image of shape"):
        other.replay(path)
    other.close()


def test_a_stroke_is_saved_and_replayed(session, viewer, coins, model):
    session.prompt(boxes=[[20, 20, 70, 70]])
    session.commit()
    session.target.paint((120, 120), 9)
    session.target.paint((45, 45), 0)
    session.wait()
    drawn, path = session.target.data.copy(), session.autosave_file
    session.close()
    again = samseg.open_session(viewer, viewer.add_image(coins), model=model)
    again.request_replay(path)
    with pytest.raises(LayerError, match="being replayed"):
        again.add_gesture(click(40, 40))
    again.wait()
    np.testing.assert_array_equal(again.target.data, drawn)
    again.close()


def test_a_replay_goes_beside_what_the_labels_hold(
    session, add_labels, viewer, coins, model
):
    session.prompt(boxes=[[20, 20, 70, 70]])
    session.commit()
    session.wait()
    mask, path = session.target.data == 1, session.autosave_file
    data = np.zeros(coins.shape, np.uint32)
    data[100:120, 100:120] = 4
    labels = add_labels(data)
    session.set_target(labels)
    session.replay(path)
    np.testing.assert_array_equal(labels.data == 5, mask)
    assert (labels.data == 4).sum() == 400


@pytest.mark.parametrize("gone", ["target", "session"])
def test_a_replay_that_is_cut_off_leaves_nothing(
    session, viewer, coins, model, gone, monkeypatch
):
    from qtpy.QtCore import QCoreApplication

    from napari_samseg.widgets import sliced_steps

    for box in ([20, 20, 70, 70], [90, 90, 120, 120]):
        session.prompt(boxes=[box])
        session.commit()
    session.wait()
    monkeypatch.setattr(sliced_steps, "SLICE_S", 0)
    again = samseg.open_session(viewer, viewer.add_image(coins), model=model)
    again.request_replay(session.autosave_file)
    end = time.monotonic() + 10
    while len(again.annotation.actions) < 2 and time.monotonic() < end:
        QCoreApplication.processEvents()
    labels = again.target
    assert (labels.data == 1).any()
    if gone == "target":
        viewer.layers.remove(labels)
    else:
        again.close()
    assert labels not in viewer.layers
    assert not labels.data.any()
    assert not again.annotation.can_undo
    again.close()


def test_a_replay_that_fails_leaves_nothing(session, viewer, coins, model):
    session.prompt(boxes=[[20, 20, 70, 70]])
    session.commit()
    session.wait()
    content = json.loads(session.autosave_file.read_text())
    session.close()
    # another object just there has no place left
    second = json.loads(json.dumps(content["actions"]))
    second[0]["object"] = second[1]["objects"][0]["prompted"] = 2
    content["actions"] += second
    broken = session.autosave_file.with_name("broken.json")
    broken.write_text(json.dumps(content))
    again = samseg.open_session(viewer, viewer.add_image(coins), model=model)
    before, messages = list(viewer.layers), reports(again)
    with pytest.raises(InvalidPromptError, match="wholly on labels"):
        again.replay(broken)
    again.request_replay(broken)
    again.wait()
    assert any("nothing was replayed" in message for message in messages)
    assert again.target is None
    assert not again.annotation.can_undo
    assert [layer for layer in viewer.layers if "objects" in layer.name] == [
        layer for layer in before if "objects" in layer.name
    ]
    again.close()


def test_the_image_removed_while_it_is_encoded(viewer, image, model):
    session = samseg.open_session(viewer, image, model=model)
    session.add_gesture(click(40, 40))
    path = None
    viewer.layers.remove(image)
    path = session.autosave_file
    assert path is not None
    assert path.exists()
    assert not session.is_encoded
    with pytest.raises(LayerError, match="closed"):
        session.add_gesture(click(40, 40))
    assert not [layer for layer in viewer.layers if "prompts" in layer.name]


def test_the_image_replaced_while_it_is_encoded(session, image, coins, model):
    session.add_gesture(click(40, 40))
    image.data = coins[::-1].copy()
    session.wait()
    expected = samseg.segment(coins[::-1], points=[[40, 40]], model=model)
    np.testing.assert_array_equal(session.prediction.masks, expected.masks)
    messages = reports(session)
    image.data = coins[:50, :60].copy()
    session.wait()
    assert "another shape" in messages[-1]
    assert session.annotation.prompts(session.plane) == {}
    assert not session.undo()


@pytest.mark.parametrize("n_planes", [2, None])
def test_nothing_is_undone_on_planes_that_are_no_more(viewer, coins, model, n_planes):
    image = viewer.add_image(np.stack([coins] * 6))
    session = samseg.open_session(viewer, image, model=model)
    session.set_classes([ObjectClass(1, "coin", "#e69f00")])
    viewer.dims.set_current_step(0, 5)
    session.prompt(points=[[40, 40]])
    session.commit()
    session.prompt(points=[[90, 90]])
    session.wait()
    saved = session.autosave_file
    image.data = coins if n_planes is None else np.stack([coins] * n_planes)
    session.wait()
    assert [row.name for row in session.annotation.classes] == ["coin"]
    while session.undo():
        assert not session.annotation.planes
    viewer.dims.set_current_step(0, 0)
    session.prompt(points=[[40, 40]])
    assert session.commit() == (1,)
    assert session.target.data.shape == image.data.shape
    assert len(json.loads(saved.read_text())["actions"]) == 4
    session.close()


def test_an_unknown_model_is_reported_and_another_can_be_chosen(viewer, image, model):
    session = samseg.open_session(viewer, image, model="no_such_model")
    messages = reports(session)
    session.wait()
    assert any("no_such_model" in message for message in messages)
    with pytest.raises(UnknownNameError):
        session.prompt(points=[[40, 40]])
    session.use_model(model)
    assert len(session.prompt(points=[[40, 40]])) == 1
    session.close()


def test_an_unknown_device_is_reported(viewer, image):
    session = samseg.open_session(viewer, image, device="cuda:7")
    messages = reports(session)
    session.wait()
    assert any("cuda:7" in message for message in messages)
    session.close()


def test_one_session_per_viewer_and_layer(viewer, image, session, model, coins):
    assert samseg.open_session(viewer, image, model=model) is session
    other_viewer = ViewerModel()
    other = samseg.open_session(
        other_viewer, other_viewer.add_image(coins), model=model
    )
    assert other is not session
    other.prompt(boxes=[[20, 20, 70, 70]])
    assert not session.annotation.can_undo
    other.close()
    session.set_model(ModelSettings())
    assert session_of(viewer, image) is session


def test_something_else_than_an_image_layer(viewer, coins):
    labels = viewer.add_labels(np.zeros(coins.shape, int))
    with pytest.raises(LayerError, match="not an image layer"):
        samseg.open_session(viewer, labels)


def test_closing_takes_every_callback_back(viewer, image, model):
    emitters = [
        viewer.dims.events.point,
        viewer.dims.events.order,
        viewer.layers.events.removed,
        image.events.data,
        image.events.scale,
    ]
    before = [len(emitter.callbacks) for emitter in emitters]
    keys = dict(viewer.keymap)
    mouse = list(viewer.mouse_drag_callbacks), list(viewer.mouse_move_callbacks)
    session = samseg.open_session(viewer, image, model=model)
    session.draw_on_canvas().choose("click")
    assert viewer.keymap != keys
    session.close()
    assert [len(emitter.callbacks) for emitter in emitters] == before
    assert viewer.keymap == keys
    assert (viewer.mouse_drag_callbacks, viewer.mouse_move_callbacks) == mouse
    assert list(viewer.layers) == [image]


def test_a_commit_that_fails_keeps_what_came_after_it_apart(viewer, image):
    session = samseg.open_session(viewer, image, model="no_such_model")
    tools = session.draw_on_canvas()
    tools.add(click(40, 40))
    session.request_commit()
    tools.add(click(90, 90))
    assert session.n_waiting == 2
    session.request_commit()
    assert session.undo()
    assert session.n_waiting == 2
    session.wait()
    assert session.n_waiting == 0
    assert session.target is None
    prompts = session.annotation.prompts(session.plane)
    assert [len(gestures) for gestures in prompts.values()] == [1, 1]
    session.close()


def test_clearing_forgets_what_waits(viewer, image, model):
    session = samseg.open_session(viewer, image, model=model)
    tools = session.draw_on_canvas()
    tools.add(click(40, 40))
    session.request_commit()
    tools.add(click(90, 90))
    session.clear()
    session.wait()
    assert session.n_waiting == 0
    assert session.annotation.prompts(session.plane) == {}
    assert session.target is None
    session.close()
