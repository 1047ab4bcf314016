"""The Labels to instances panel in a real viewer."""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import os
import sys
import threading
import time

import dask.array as da
import numpy as np
import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt, QTimer
from skimage import io
from widgets.canvas import drag, press_key
from widgets.test_segment_widget import save_screenshot

from napari_samseg.adapters import layer_edit
from napari_samseg.adapters.prompt_layers import is_own_layer
from napari_samseg.adapters.write_layers import array_on_disk
from napari_samseg.core.instances import volume_job
from napari_samseg.core.instances.methods import find_instances
from napari_samseg.core.instances.seed_points import Seeds
from napari_samseg.core.settings import InstanceSettings
from napari_samseg.core.steps import run_steps as run_to_end
from napari_samseg.widgets import instance_job, instance_steps, sliced_steps
from napari_samseg.widgets.instance_steps import ClassInputs, run_steps
from napari_samseg.widgets.workers import RUNNING, Job

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
    def open_and_wait(method="components", **settings):
        _, widget = viewer.window.add_plugin_dock_widget(
            "napari-samseg", "Labels to instances"
        )
        change(widget, method=method, **settings)
        rest(qtbot, widget)
        return widget

    return open_and_wait


@pytest.fixture
def touching():
    """Two touching discs and a small one, as one mask with a scale."""
    y, x = np.mgrid[:60, :90]
    discs = [(30, 25, 15), (30, 50, 15), (10, 80, 4)]
    return np.any([(y - a) ** 2 + (x - b) ** 2 < r**2 for a, b, r in discs], axis=0)


@pytest.fixture
def axons(shared_data):
    path = shared_data / "axon_sem" / "classes" / "sub-rat8_sample-V915.png"
    if not path.exists():
        pytest.skip(f"no {path}")
    image = shared_data / "axon_sem" / "images" / path.name
    return io.imread(image)[:500, :700], io.imread(path)[:500, :700]


@pytest.fixture
def bodies(shared_data):
    path = shared_data / "em_fib25_neuroproof" / "gt_bodies.tif"
    if not path.exists():
        pytest.skip(f"no {path}")
    return io.imread(path)[:60]


def change(widget, **values):
    """Give settings as the form would."""
    form = widget._form
    settings = type(form.settings)(
        **{n: getattr(form.settings, n) for n in form.settings.__dataclass_fields__}
        | values
    )
    form.set_settings(settings)
    form.changed.emit(settings)


def rest(qtbot, widget):
    qtbot.waitUntil(lambda: not widget.is_busy, timeout=60_000)


def run(qtbot, widget):
    widget._start_button.click()
    rest(qtbot, widget)


def previews(viewer):
    return [layer for layer in viewer.layers if is_own_layer(layer)]


def test_preview_run_and_one_undo_step(viewer, touching, open_panel, qtbot):
    place = {"scale": (0.5, 0.5), "translate": (3, 4), "units": ("um", "um")}
    mask = viewer.add_labels(touching.astype(np.uint8), name="mask", **place)
    widget = open_panel()
    (preview,) = previews(viewer)
    assert preview.data.max() == 2
    np.testing.assert_allclose(preview.data_to_world((0, 0)), (3, 4))
    assert widget._counts.text() == "2 objects"
    assert viewer.layers.selection.active is mask

    change(widget, method="watershed", min_size=60)
    rest(qtbot, widget)
    (preview,) = previews(viewer)
    expected = find_instances(
        touching, InstanceSettings(method="watershed", min_size=60)
    )
    np.testing.assert_array_equal(preview.data, expected.labels)
    assert widget._counts.text() == (
        "2 objects, 1 too small removed, 45 pixels removed with them"
    )

    run(qtbot, widget)
    assert previews(viewer) == []
    made = viewer.layers["mask - instances"]
    np.testing.assert_array_equal(made.data, expected.labels)
    np.testing.assert_allclose(made.scale, (0.5, 0.5))
    np.testing.assert_allclose(made.translate, (3, 4))
    assert [str(unit) for unit in made.units] == ["micrometer", "micrometer"]
    assert made.features["pixels"].tolist()[1:] == [
        int((made.data == i).sum()) for i in (1, 2)
    ]

    # into a layer that is there: ids stay, and one Ctrl+Z takes all back
    before = np.zeros(touching.shape, np.uint16)
    before[30, 50] = 7
    target = viewer.add_labels(before.copy(), name="target", **place)
    widget._target_box.setCurrentText("target")
    widget._target_box.activated.emit(widget._target_box.currentIndex())
    run(qtbot, widget)
    assert "Written into 'target'" in widget._status.text()
    assert set(np.unique(target.data)) == {0, 7, 8}
    assert (target.data == 7).sum() == (expected.labels == 2).sum()
    assert target.data.dtype == np.uint16
    target.undo()
    np.testing.assert_array_equal(target.data, before)
    target.redo()
    assert set(np.unique(target.data)) == {0, 7, 8}


@pytest.fixture
def large_edit(viewer, open_panel, monkeypatch):
    """A volume whose instances go into a layer, in 40 pieces or more."""
    monkeypatch.setattr(layer_edit, "PIECE_PIXELS", 1 << 12)
    # one piece at a time
    monkeypatch.setattr(sliced_steps, "SLICE_S", 0)
    mask = np.zeros((12, 128, 128), np.uint8)
    mask[:, 4:-4, 4:60] = mask[:, 4:-4, 68:-4] = 1
    target = viewer.add_labels(np.zeros(mask.shape, np.uint16), name="target")
    viewer.add_labels(mask, name="mask")
    widget = open_panel()
    widget._preview_check.setChecked(False)
    widget._target_box.setCurrentText("target")
    widget._target_box.activated.emit(widget._target_box.currentIndex())
    viewer.layers.selection.active = target
    viewer.dims.set_point(0, 11)
    # the person's own stroke, before all
    target.selected_label, target.brush_size = 9, 3
    target.mode = "paint"
    drag(viewer, target, [(11, 64, 20), (11, 64, 40)])
    assert (target.data == 9).any()
    return widget, target, mask


def wait_for_writing(qtbot, widget, target):
    widget._start_button.click()
    qtbot.waitUntil(lambda: target.data[1].any(), timeout=60_000)
    assert widget._job.is_running


def test_large_edits_leave_time_to_paint(viewer, large_edit, qtbot):
    widget, target, mask = large_edit
    first = target.data.copy()
    wait_for_writing(qtbot, widget, target)
    assert not (target.data[10] > 0).any()
    target.selected_label = 7
    drag(viewer, target, [(11, 30, 90), (11, 30, 110)])
    stroke = target.data == 7
    assert stroke.any()
    rest(qtbot, widget)
    told = widget._status.text()
    assert "Ctrl+Z there, 2 times, takes it back" in told
    n_kept = np.count_nonzero(stroke & (mask > 0))
    assert f"{n_kept} pixels that you painted there meanwhile stayed" in told
    expected = find_instances(mask, InstanceSettings(), before=first).labels
    np.testing.assert_array_equal(target.data, np.where(stroke, 7, expected))
    press_key(viewer, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    press_key(viewer, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    np.testing.assert_array_equal(target.data, first)
    target.undo()
    assert not target.data.any()


def test_a_large_edit_that_is_cancelled_is_taken_back(viewer, large_edit, qtbot):
    widget, target, _ = large_edit
    first = target.data.copy()
    wait_for_writing(qtbot, widget, target)
    widget._cancel_button.click()
    assert widget._status.text() == "Cancelled. Nothing was changed."
    assert not widget.is_busy
    np.testing.assert_array_equal(target.data, first)
    # what was painted meanwhile is not taken back unasked
    wait_for_writing(qtbot, widget, target)
    drag(viewer, target, [(11, 30, 90), (11, 30, 110)])
    stroke = (target.data == 9) & (first != 9)
    widget._cancel_button.click()
    assert stroke.any()
    assert (target.data[stroke] == 9).all()
    assert "where you painted meanwhile; Ctrl+Z there" in widget._status.text()


def test_axons_and_their_myelin_in_two_layers(viewer, axons, open_panel, qtbot):
    """The picture of the documentation."""
    image, classes = axons
    viewer.add_image(image, name="SEM")
    # pictures of masks with smooth edges, as from other programs
    viewer.add_image((classes == 1) * np.uint8(255), name="myelin", visible=False)
    viewer.add_image((classes == 2) * np.uint8(255), name="axon", visible=False)
    widget = open_panel("axon-myelin", min_size=100)
    assert widget._layers.source is None
    assert "Add a Labels layer" in widget._status.text()
    for box, name in ((widget._myelin_box, "myelin"), (widget._input_box, "axon")):
        box.setCurrentText(name)
        box.activated.emit(box.currentIndex())
    rest(qtbot, widget)
    assert widget._input_label.text() == "Axons"
    assert not widget._form._rows["seed_class"][1].isVisible()
    expected = find_instances(
        classes, InstanceSettings(method="axon-myelin", min_size=100)
    )
    (preview,) = previews(viewer)
    np.testing.assert_array_equal(preview.data, expected.labels)
    assert widget._counts.text() == str(expected)
    assert "belong to none" in widget._counts.text()
    assert widget._plot.counts.sum() == expected.n_objects
    save_screenshot(viewer, "instances-widget.png")
    run(qtbot, widget)
    np.testing.assert_array_equal(
        viewer.layers["axon - instances"].data, expected.labels
    )


def test_a_volume_with_preview_progress_and_a_live_window(
    viewer, bodies, open_panel, qtbot
):
    lazy = da.from_array(bodies, chunks=(20, 250, 250))
    viewer.add_labels(lazy, name="bodies", scale=(2, 1, 1))
    viewer.dims.set_point(0, 60)
    widget = open_panel(min_size=500)
    (preview,) = previews(viewer)
    assert preview.data.shape == (1, 250, 250)
    np.testing.assert_allclose(preview.data_to_world((0, 0, 0)), (60, 0, 0))
    assert "This plane by itself" in widget._counts_title.text()

    viewer.dims.set_point(0, 80)
    rest(qtbot, widget)
    np.testing.assert_allclose(previews(viewer)[0].data_to_world((0, 0, 0))[0], 80)

    stages = []
    widget._job.progressed.connect(lambda step: stages.append(step.stage))
    run(qtbot, widget)
    assert "reading" in stages
    made = viewer.layers["bodies - instances"]
    expected = find_instances(bodies, InstanceSettings(min_size=500))
    np.testing.assert_array_equal(made.data, expected.labels)
    assert widget._counts.text() == str(expected)
    # the result is not covered by a preview until something is changed
    viewer.dims.set_point(0, 20)
    rest(qtbot, widget)
    assert previews(viewer) == []
    save_screenshot(viewer, "instances-volume.png")
    change(widget, min_size=400)
    rest(qtbot, widget)
    assert len(previews(viewer)) == 1


@pytest.mark.parametrize("method", ["components", "watershed"])
def test_a_large_volume_goes_to_disk(
    viewer, bodies, open_panel, qtbot, monkeypatch, method
):
    mask = (bodies[:12, :60, :60] > 0).astype(np.uint8)
    mask[:, 30] = 0
    monkeypatch.setitem(
        volume_job.volume_instances_steps.__kwdefaults__, "memory_values", 1000
    )
    viewer.add_labels(da.from_array(mask, chunks=12), name="mask")
    widget = open_panel(method, min_size=50, min_distance=4.0)
    run(qtbot, widget)
    made = viewer.layers["mask - instances"]
    assert hasattr(made.data, "store"), widget._status.text()
    labels = np.asarray(made.data)
    settings = InstanceSettings(method=method, min_size=50, min_distance=4.0)
    expected = find_instances(mask, settings)
    assert len(np.unique(labels)) - 1 == expected.n_objects
    assert np.count_nonzero(labels) == np.count_nonzero(expected.labels)
    assert widget._counts.text() == str(expected)
    change(widget, fill_holes=True)
    run(qtbot, widget)
    assert widget._status.text().startswith("Fill holes: not where 43200 pixels")


def test_what_ends_early_leaves_nothing_on_disk(tmp_path, monkeypatch):
    limits = volume_job.volume_instances_steps.__kwdefaults__
    monkeypatch.setitem(limits, "memory_values", 10)
    mask = (np.random.default_rng(0).random((4, 64, 64)) > 0.3).astype(np.uint8)
    inputs = ClassInputs(mask, "mask", is_colour=False, is_image=False)
    made = []

    def make_out(shape):
        made.append(array_on_disk(shape, tmp_path, "mask"))
        return made[-1]

    arguments = (inputs, None, InstanceSettings(), None, make_out, lambda: tmp_path)
    steps = run_steps(*arguments)
    while next(steps).stage != "joining blocks":
        pass
    assert made[0].nbytes_stored() > 1000
    steps.close()
    assert list(tmp_path.iterdir()) == []
    answer = run_to_end(run_steps(*arguments))
    found = answer.result.found
    assert found.labels[...].max() == found.n_objects > 0
    # nobody takes the first
    other = run_to_end(run_steps(*arguments))
    other.keep()
    assert len(list(tmp_path.iterdir())) == 2
    del answer, other
    (kept,) = tmp_path.iterdir()
    assert kept == made[-1].store.root


def test_an_answer_that_comes_after_the_panel_has_closed_is_removed(
    viewer, bodies, open_panel, qtbot, monkeypatch, tmp_path
):
    """The thread has done its last step, and the window does not know yet."""
    monkeypatch.setitem(
        volume_job.volume_instances_steps.__kwdefaults__, "memory_values", 1000
    )
    made = []

    def make_array(shape, folder, name):
        made.append(array_on_disk(shape, tmp_path, name))
        return made[-1]

    monkeypatch.setattr(instance_job, "array_on_disk", make_array)
    mask = (bodies[:4, :60, :60] > 0).astype(np.uint8)
    viewer.add_labels(da.from_array(mask, chunks=12), name="mask")
    widget = open_panel()
    returned = Job._returned

    def close_first(job, answer):
        if isinstance(answer, instance_steps.Answer):
            viewer.window.remove_dock_widget(widget.parent())
        returned(job, answer)

    monkeypatch.setattr(Job, "_returned", close_first)
    widget._start_button.click()
    rest(qtbot, widget)
    assert widget.is_shut
    assert len(viewer.layers) == 1
    assert made
    qtbot.waitUntil(lambda: gc.collect() >= 0 and not any(tmp_path.iterdir()))


def test_cancel_removal_and_closing_end_the_job(viewer, bodies, open_panel, qtbot):
    def slow(block):
        time.sleep(0.03)
        return block

    lazy = da.from_array(bodies[:20], chunks=(1, 250, 250)).map_blocks(slow)
    layer = viewer.add_labels(lazy, name="bodies")
    widget = open_panel()
    widget._start_button.click()
    qtbot.waitUntil(lambda: "reading" in widget._status.text(), timeout=30_000)
    widget._cancel_button.click()
    assert widget._status.text() == "Cancelled. Nothing was changed."
    rest(qtbot, widget)
    assert "bodies - instances" not in viewer.layers

    widget._start_button.click()
    qtbot.waitUntil(lambda: "reading" in widget._status.text(), timeout=30_000)
    viewer.layers.remove(layer)
    assert not widget._job.is_running
    assert any("was removed" in n.message for n in notification_manager.records)
    assert widget._status.text().startswith("Add a Labels layer")
    rest(qtbot, widget)

    viewer.layers.append(layer)
    rest(qtbot, widget)
    widget._start_button.click()
    qtbot.waitUntil(lambda: "reading" in widget._status.text(), timeout=30_000)
    viewer.window.remove_dock_widget(widget.parent())
    assert widget.is_shut
    rest(qtbot, widget)
    assert previews(viewer) == []
    assert "bodies - instances" not in viewer.layers


def bad_layers():
    noise = np.random.default_rng(0).integers(0, 200, (40, 50))
    colours = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    return {
        "real": (np.full((40, 50), 0.5), {}, "apply a threshold first"),
        "photograph": (noise.astype(np.uint8), {}, "looks like a photograph"),
        "colours": (colours, {"rgb": True}, "is a coloured picture"),
        "empty": (np.zeros((40, 50), np.uint8), {}, "is empty: all its pixels are 0"),
        "negative": (np.full((40, 50), -1), {}, "holds negative labels"),
        "time": (np.ones((2, 3, 40, 50), np.uint8), {}, "take out one time point"),
    }


@pytest.mark.parametrize("kind", list(bad_layers()))
def test_bad_input_says_what_to_do(viewer, open_panel, qtbot, kind):
    data, arguments, message = bad_layers()[kind]
    viewer.add_image(data, name=kind, **arguments)
    widget = open_panel()
    widget._input_box.setCurrentText(kind)
    widget._input_box.activated.emit(widget._input_box.currentIndex())
    rest(qtbot, widget)
    assert message in widget._status.text().replace("\u200b", "")
    assert kind in widget._status.text()
    run(qtbot, widget)
    assert message in widget._status.text().replace("\u200b", "")
    assert len(viewer.layers) == 1


def test_two_masks_of_different_size(viewer, touching, open_panel, qtbot):
    viewer.add_labels(touching[:50].astype(np.uint8), name="myelin")
    viewer.add_labels(touching.astype(np.uint8), name="axon")
    widget = open_panel("axon-myelin")
    widget._myelin_box.setCurrentText("myelin")
    widget._myelin_box.activated.emit(widget._myelin_box.currentIndex())
    rest(qtbot, widget)
    assert "are not masks of one image" in widget._status.text()


def test_ids_that_do_not_fit_the_target(viewer, open_panel, qtbot):
    spots = np.zeros((60, 60), np.uint8)
    spots[::3, ::3] = 1
    viewer.add_labels(np.zeros((60, 60), np.uint8), name="narrow")
    viewer.add_labels(spots, name="spots")
    widget = open_panel()
    widget._target_box.setCurrentText("narrow")
    widget._target_box.activated.emit(widget._target_box.currentIndex())
    run(qtbot, widget)
    assert "does not fit uint8" in widget._status.text()
    assert not viewer.layers["narrow"].data.any()


def test_stale_previews_are_dropped(viewer, touching, open_panel, qtbot):
    viewer.add_labels(touching.astype(np.uint8), name="mask")
    widget = open_panel()
    shown = []
    show = widget._on_previewed
    widget._on_previewed = lambda preview: (shown.append(preview), show(preview))
    for size in range(10, 60, 10):
        change(widget, min_size=size)
    rest(qtbot, widget)
    assert len(shown) == 1
    assert widget._counts.text().startswith("1 object, 1 too small removed")


def test_the_window_stays_alive(viewer, bodies, open_panel, qtbot, monkeypatch):
    """Turns of the event loop while a volume is worked on."""
    has_begun, may_go_on = threading.Event(), threading.Event()
    plain = instance_steps.volume_instances_steps

    def held_up(*args, **options):
        has_begun.set()
        may_go_on.wait(60)
        return (yield from plain(*args, **options))

    monkeypatch.setattr(instance_steps, "volume_instances_steps", held_up)
    viewer.add_labels((bodies[:20, :80, :80] > 0).astype(np.uint8), name="mask")
    widget = open_panel("watershed", min_distance=5.0)
    turns, layers, reading = [], [], []
    timer = QTimer()
    timer.timeout.connect(lambda: turns.append(1))
    for event in (viewer.layers.events.removed, viewer.layers.events.inserted):
        event.connect(lambda event: layers.append((event.value.name, len(turns))))
    settings = instance_job.read_plugin_settings

    def read_settings():
        reading.append(threading.current_thread() is threading.main_thread())
        return settings()

    monkeypatch.setattr(instance_job, "read_plugin_settings", read_settings)
    widget._start_button.click()
    qtbot.waitUntil(has_begun.is_set, timeout=60_000)
    timer.start(5)
    qtbot.waitUntil(lambda: len(turns) > 5, timeout=10_000)
    assert widget._job.is_running
    timer.setInterval(0)
    may_go_on.set()
    qtbot.waitUntil(lambda: not widget._job.is_running, timeout=60_000)
    assert viewer.layers["mask - instances"].data.any()
    # what takes long the first time, and what napari takes long for
    assert reading == [False]
    assert [name for name, _ in layers] == ["mask - preview", "mask - instances"]
    assert layers[0][1] < layers[1][1]


def test_objects_grow_from_points(viewer, touching, open_panel, qtbot):
    place = {"scale": (0.5, 0.5), "translate": (3, 4)}
    viewer.add_labels(touching.astype(np.uint8), name="mask", **place)
    widget = open_panel("points")
    assert "or a Points layer" in widget._status.text()
    inside = np.argwhere(touching)
    first, last = inside[0], inside[-1]
    points = viewer.add_points(
        np.array([first, last]) * 0.5 + (3, 4), name="seeds", size=1
    )
    rest(qtbot, widget)
    assert widget._layers.seeds is points
    assert widget._seeds_box.isVisible()
    expected = find_instances(
        touching,
        InstanceSettings("points"),
        seeds=Seeds(np.array([first, last], float), np.array([1, 2])),
    )
    np.testing.assert_array_equal(previews(viewer)[0].data, expected.labels)
    assert widget._counts.text() == str(expected)
    points.add((np.median(inside, axis=0)) * 0.5 + (3, 4))
    rest(qtbot, widget)
    assert previews(viewer)[0].data.max() == 3
    run(qtbot, widget)
    assert viewer.layers["mask - instances"].data.max() == 3


def test_boundaries_of_objects(viewer, bodies, open_panel, qtbot):
    viewer.add_labels(bodies[:3, :60, :60], name="bodies")
    widget = open_panel("boundaries", inward=2)
    assert not widget._form._rows["min_size"][1].isVisible()
    run(qtbot, widget)
    expected = find_instances(
        bodies[:3, :60, :60], InstanceSettings("boundaries", inward=2)
    )
    made = viewer.layers["bodies - boundaries"]
    np.testing.assert_array_equal(made.data, expected.labels)
    assert "pixels of" in widget._counts.text()


def test_seeds_that_move_or_change_are_looked_at_again_until_the_panel_leaves(
    viewer, open_panel, qtbot, touching, monkeypatch
):
    viewer.add_labels(touching.astype(int), name="mask")
    points = viewer.add_points([[30, 25], [30, 50]], features={"object": [1, 2]})
    widget = open_panel("points")
    assert widget._counts.text().startswith("2 objects")
    points.features = {"object": [1, 1]}
    rest(qtbot, widget)
    assert widget._counts.text().startswith("1 object")
    points.translate = (-20, 30)
    rest(qtbot, widget)
    assert "2 of 2 points on background" not in widget._status.text()
    assert "1 of 2 points on background" in widget._status.text()

    def fail(*_):
        raise ValueError("no such thing")

    monkeypatch.setattr("napari_samseg.widgets.class_layers.seeds_of", fail)
    widget._look()
    assert widget._status.text() == "ValueError: no such thing"
    widget._start()
    assert widget._status.text() == "ValueError: no such thing"
    notification_manager.records.clear()
    widget.leave()
    assert not widget._rest.isActive()


class _Loads(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands for pandas, and remembers which thread loads it."""

    def __init__(self):
        self.threads = []

    def find_spec(self, name, path=None, target=None):
        if name != "pandas":
            return None
        self.threads.append(threading.current_thread())
        return importlib.machinery.ModuleSpec(name, self)

    def exec_module(self, module):
        pass


def test_what_layers_need_is_loaded_in_the_thread(qtbot, monkeypatch):
    finder, found = _Loads(), []
    # the real one comes back in the end
    pytest.importorskip("pandas")
    monkeypatch.delitem(sys.modules, "pandas")
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    inputs = ClassInputs(np.eye(9, dtype=np.uint8), "mask", False, False)
    Job(inputs.open_steps(), on_return=found.append, on_error=found.append).start()
    qtbot.waitUntil(lambda: bool(found), timeout=5000)
    assert found[0].shape == (9, 9)
    assert len(finder.threads) == 1
    assert finder.threads[0] is not threading.main_thread()
