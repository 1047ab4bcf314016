"""The Fine-tune panel in a real viewer, on nuclei."""

from __future__ import annotations

import dataclasses
import os
import sys

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication, QComboBox, QPushButton
from scipy.ndimage import distance_transform_edt
from skimage import io
from skimage.measure import label
from skimage.morphology import disk, erosion
from skimage.segmentation import expand_labels, watershed
from widgets import canvas
from widgets.test_segment_widget import save_screenshot

from napari_samseg.core.cache.memory import MemoryCache
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.predict import Predictor
from napari_samseg.core.settings import (
    AugmentSettings,
    LoopSettings,
    ModelSettings,
    TuneSettings,
)
from napari_samseg.core.training.presets import TuningPlan
from napari_samseg.widgets.loaded_models import LOADED
from napari_samseg.widgets.tune import STOPPED
from napari_samseg.widgets.workers import RUNNING

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not os.environ.get("DISPLAY"),
    reason="no display: run under Xvfb (xvfb-run pytest)",
)


# What is fast differs from machine to machine, and so would what is learned.
EXACT = ModelSettings(device="cpu", precision="exact")


@pytest.fixture
def viewer(make_napari_viewer, qtbot, model, monkeypatch, tmp_path):
    monkeypatch.setenv("SAMSEG_MODELS", str(tmp_path / "models"))
    loaded = Predictor(model, MemoryCache(2**28))
    monkeypatch.setenv("SAMSEG_DEVICE", EXACT.device)
    monkeypatch.setenv("SAMSEG_PRECISION", EXACT.precision)
    # planes are shared with the first model of the same encoder: it is to be this one
    for key in tuple(LOADED):
        monkeypatch.delitem(LOADED, key)
    monkeypatch.setitem(LOADED, (EXACT, 0), loaded)
    monkeypatch.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1300, 950)
    yield viewer
    qtbot.waitUntil(lambda: not RUNNING, timeout=60_000)


@pytest.fixture(scope="module")
def nuclei(shared_data):
    """Part of an image, (120, 120), and its nuclei with what is around them.

    Which the model does not know, so that there is something to learn.
    """
    folder = shared_data / "dsb2018"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    (path,) = (folder / "images").glob("06350c7c*.png")
    labels = io.imread(folder / "labels" / path.name).astype(np.uint16)
    return io.imread(path)[:120, :120], expand_labels(labels[:120, :120], 2)


@pytest.fixture
def layers(viewer, nuclei):
    pixels, labels = nuclei
    image = viewer.add_image(pixels, name="nuclei", scale=(2, 2))
    image.contrast_limits = (0, 40)
    return image, viewer.add_labels(labels.copy(), name="drawn", scale=(2, 2))


@pytest.fixture
def open_panel(viewer):
    def open_it():
        panel = viewer.window.add_plugin_dock_widget(
            "napari-samseg", "Fine-tune", tabify=True
        )[1]
        panel.show_settings(plan())
        return panel

    return open_it


def plan(**loop):
    values = {
        "steps": 8,
        "learning_rate": 5e-4,
        "warmup_steps": 1,
        "ema_decay": 0.3,
        "validate_every": 4,
        "checkpoint_every": 4,
    }
    return TuningPlan(
        tune=TuneSettings(objects=3, corrections=0, samples=16, validation=0.4),
        loop=LoopSettings(**{**values, **loop}),
        augment=AugmentSettings(variants=1),
    )


def rest(qtbot, widget):
    qtbot.waitUntil(lambda: not widget.tuner.is_running, timeout=120_000)
    QApplication.processEvents()


def wait_for_step(qtbot, widget, step):
    def has_come():
        if any(done >= step for done, _ in widget._plot.losses):
            return True
        assert widget.tuner.is_running, widget._status.text()
        return False

    qtbot.waitUntil(has_come, timeout=120_000)


def test_annotate_train_and_segment(
    viewer, layers, nuclei, open_panel, qtbot, monkeypatch
):
    image, labels = layers
    segment = viewer.window.add_plugin_dock_widget("napari-samseg", "Segment")[1]
    qtbot.waitUntil(lambda: segment.session.is_encoded, timeout=60_000)
    widget = open_panel()
    (pair,) = widget.pairs.chosen
    assert (pair.labels, pair.image) == (labels, image)
    n = len(np.unique(nuclei[1])) - 1
    qtbot.waitUntil(lambda: "steps" in widget._outlook.estimate.text(), timeout=60_000)
    assert "on 1 plane" in widget._outlook.counts.text()
    assert int(widget._outlook.counts.text().split()[0]) <= n
    assert widget._name_line.text() == "drawn-tuned"

    y, x = (np.argwhere(nuclei[1] == nuclei[1].max()).mean(axis=0)).round()
    canvas.click(viewer, image, (y, x))
    segment.session.wait()
    before = segment.session.prediction.masks[0].copy()

    widget._train_button.click()
    wait_for_step(qtbot, widget, 1)
    assert not widget._choices.isEnabled()
    assert widget._name_line.text() == "drawn-tuned"
    # a person goes on painting, which the training does not see
    labels.data[:] = 0
    labels.refresh()
    rest(qtbot, widget)
    assert len(widget._plot.losses) == 8
    assert [step for step, _, _ in widget._plot.scores] == [0, 4, 8]
    assert "Done" in widget._status.text()
    assert "point IoU" in widget._tuned.label.text()
    assert "other objects of the same image" in widget._tuned.label.text()
    masks = widget._tuned.masks
    (shown,), (first,) = masks.layers("preview"), masks.layers("before")
    np.testing.assert_array_equal(shown.scale, labels.scale)
    ids = set(np.unique(shown.data)) - {0}
    assert ids
    assert ids <= set(np.unique(nuclei[1]))
    assert (shown.data != first.data).any()
    # what was outlined is wider than the nuclei that the model knows
    true = np.isin(erosion(nuclei[1], disk(2)), list(ids))
    assert ((first.data > 0) & true).sum() > 0.7 * true.sum(), "they lie elsewhere"

    # the new model is in all lists at once, and the plane is not encoded again
    assert segment._model_box.findData("drawn-tuned") >= 0
    assert widget._model_box.findData("drawn-tuned") >= 0
    encoded = []
    plain = SamModel.encode_batch_steps

    def count(self, planes):
        encoded.append(len(planes))
        return plain(self, planes)

    monkeypatch.setattr(SamModel, "encode_batch_steps", count)
    widget._tuned._use_button.click()
    assert segment._model_box.currentData() == "drawn-tuned"
    segment.session.wait()
    assert encoded == []
    assert segment.session.model == dataclasses.replace(EXACT, model="drawn-tuned")
    assert (segment.session.prediction.masks[0] != before).any()

    labels.data = nuclei[1].copy()
    widget._tuned._compare_button.click()
    qtbot.waitUntil(lambda: "On this plane" in widget._status.text(), timeout=60_000)
    assert set(np.unique(shown.data)) - {0} > ids
    save_screenshot(viewer, "tune-widget.png")

    # nothing lies on what is compared, and all of it goes back to its place
    box = widget._tuned._shown_box
    box.setCurrentIndex(box.findText("side by side"))
    box.activated.emit(box.currentIndex())
    widget._tuned._hide_box.setChecked(True)
    (twin,) = masks.twins
    assert twin.data is image.data
    width = 2 * nuclei[0].shape[1]
    for moved in (twin, shown):
        assert width < moved.translate[1] - image.translate[1] < 1.1 * width
    np.testing.assert_array_equal(first.translate, image.translate)
    assert not labels.visible
    save_screenshot(viewer, "tune-side-by-side.png")
    viewer.window.remove_dock_widget(widget)
    assert twin not in viewer.layers
    np.testing.assert_array_equal(shown.translate, image.translate)
    assert labels.visible


def buttons_on_show(widget):
    """The buttons that begin, hold or end a training."""
    names = {"Train", "Pause", "Continue", "Stop", "Resume"}
    buttons = widget.findChildren(QPushButton)
    return names & {b.text() for b in buttons if b.isVisibleTo(widget)}


def test_doubts_before_training(viewer, layers, nuclei, open_panel, qtbot):
    """What cannot be validated, and a mask in place of objects, with the way out."""
    _, labels = layers
    widget = open_panel()
    doubts = widget._outlook.doubts
    qtbot.waitUntil(lambda: "Label a second image" in doubts.text(), timeout=30_000)
    labels.data = (nuclei[1] == nuclei[1].max()).astype(int)
    qtbot.waitUntil(lambda: "Only one object" in doubts.text(), timeout=30_000)
    labels.data = (nuclei[1] > 0).astype(int)
    qtbot.waitUntil(lambda: "look like a mask" in doubts.text(), timeout=30_000)
    assert doubts.isVisible()
    assert widget._train_button.isEnabled(), "it is a doubt, no error"
    assert "tick 'labels are classes'" in doubts.text()
    save_screenshot(viewer, "tune-doubts.png")
    widget._semantic_box.setChecked(True)
    qtbot.waitUntil(
        lambda: doubts.text() != "" and "like a mask" not in doubts.text(),
        timeout=30_000,
    )


def test_train_stays_in_sight(viewer, layers, open_panel, qtbot):
    """Whatever is unfolded, in a window of 900 px and a smaller one."""
    widget = open_panel()
    for height in (900, 700):
        viewer.window.resize(1300, height)
        for section in widget._sections.values():
            section.expand(animate=False)
        qtbot.wait(50)
        button = widget._train_button
        corner = button.mapTo(widget, button.rect().bottomLeft())
        assert button.isVisible()
        assert widget.rect().contains(corner)
        assert not button.visibleRegion().isEmpty()
    for hidden in (widget._tuned, widget._plot):
        hidden.setVisible(True)
    widget.scroll_to(widget._tuned)
    qtbot.wait(50)
    area = widget._area
    assert area.widget().width() <= area.viewport().width(), "it is cut off"
    assert area.horizontalScrollBar().value() == 0
    for combo in widget._forms["tune"].findChildren(QComboBox):
        widest = max(
            combo.fontMetrics().horizontalAdvance(combo.itemText(i))
            for i in range(combo.count())
        )
        assert combo.width() >= widest + 24, f"{combo.currentText()} is cut off"
    save_screenshot(viewer, "tune-unfolded.png")
    tune = widget._forms["tune"]
    assert not tune._rows["jitter"][1].isVisible(), "boxes are off by a share"
    settings = dataclasses.replace(tune.settings, box_kind="jittered-box")
    widget.show_settings(dataclasses.replace(widget.settings, tune=settings))
    assert tune._rows["jitter"][1].isVisible()


def test_stop_and_resume(viewer, layers, open_panel, qtbot, tmp_path):
    widget = open_panel()
    assert not widget._unfinished.isVisible()
    widget.show_settings(plan(steps=200, validate_every=2, checkpoint_every=2))
    assert buttons_on_show(widget) == {"Train"}
    widget._train_button.click()
    wait_for_step(qtbot, widget, 1)
    assert buttons_on_show(widget) == {"Pause", "Stop"}
    assert not widget._outlook.estimate.isVisible(), "of a training to come"
    assert not widget._unfinished.isVisible(), "nothing has stopped"
    widget._pause_button.click()
    assert buttons_on_show(widget) == {"Continue", "Stop"}
    qtbot.wait(300)
    n = len(widget._plot.losses)
    qtbot.wait(500)
    assert len(widget._plot.losses) <= n + 1
    widget._pause_button.click()
    wait_for_step(qtbot, widget, 3)
    widget._stop_button.click()
    rest(qtbot, widget)
    assert widget._status.text() == STOPPED
    assert buttons_on_show(widget) == {"Train", "Resume"}
    assert "IoU" in widget._tuned.label.text(), "it says what it got"
    folder = tmp_path / "models" / "tuned" / "drawn-tuned"
    assert (folder / "best.safetensors").is_file()
    assert widget._unfinished.isVisible()
    assert widget._unfinished.box.currentText() == "drawn-tuned"
    assert widget._name_line.text() == "drawn-tuned-2"

    # the curve goes on where it was, in the layers that nobody has made their own
    (before,), (kept,) = (widget._tuned.masks.layers(k) for k in ("before", "preview"))
    kept.name = "what I want to keep"
    kept_data = np.array(kept.data)
    losses, scores = dict(widget._plot.losses), widget._plot.scores
    done = max(losses)
    n_layers = len(viewer.layers)
    widget._unfinished.button.click()
    assert not widget._choices.isVisible(), "it has choices of its own"
    assert widget._name_line.text() == "drawn-tuned"
    wait_for_step(qtbot, widget, done + 1)
    assert "Training 'drawn-tuned': step" in widget._status.text()
    masks = widget._tuned.masks
    qtbot.waitUntil(lambda: masks.layers("preview") != [], timeout=60_000)
    again = dict(widget._plot.losses)
    assert [again[step] for step in range(1, done + 1)] == pytest.approx(
        [losses[step] for step in range(1, done + 1)], rel=1e-4
    )
    steps = [step for step, _, _ in widget._plot.scores]
    assert steps[: len(scores)] == [step for step, _, _ in scores]
    np.testing.assert_allclose(widget._plot.scores[: len(scores)], scores, rtol=1e-4)
    assert masks.layers("before") == [before]
    (new,) = masks.layers("preview")
    assert new is not kept
    np.testing.assert_array_equal(kept.data, kept_data)
    assert len(viewer.layers) == n_layers + 1
    widget._stop_button.click()
    rest(qtbot, widget)

    # another viewer may resume it, whatever its layers are
    viewer.layers.clear()
    done = widget._plot.losses[-1][0]
    widget._unfinished.button.click()
    wait_for_step(qtbot, widget, done + 1)
    widget._stop_button.click()
    rest(qtbot, widget)


SERVICE = """
from pathlib import Path

SAID = Path(__file__).with_suffix(".said")


class Run:
    id = "run-1"

    def log(self, figures, step):
        say("log", step)

    def finish(self):
        say("finish")


def say(*words):
    with SAID.open("a") as file:
        print(*words, file=file)


def init(*, id, name, **options):
    say("init", name, id)
    return Run()
"""


def test_services_that_are_installed_get_the_figures(
    viewer, layers, open_panel, qtbot, monkeypatch, tmp_path
):
    """And a training that is resumed goes on in its run, without being told."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    (folder / "wandb.py").write_text(SERVICE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    widget = open_panel()
    boxes = widget._loggers.boxes
    assert not boxes["mlflow"].isEnabled()
    assert "pip install mlflow" in boxes["mlflow"].toolTip()
    assert boxes["wandb"].isEnabled()
    assert not boxes["wandb"].isChecked()
    boxes["wandb"].setChecked(True)
    widget.show_settings(plan(steps=200, validate_every=2, checkpoint_every=2))
    widget._train_button.click()
    wait_for_step(qtbot, widget, 3)
    widget._stop_button.click()
    rest(qtbot, widget)
    said = (folder / "wandb.said").read_text().splitlines()
    assert said[:2] == ["init drawn-tuned None", "log 1"]
    assert said[-1] == "finish"
    boxes["wandb"].setChecked(False)
    n_steps = widget._plot.losses[-1][0]
    widget._unfinished.button.click()
    wait_for_step(qtbot, widget, n_steps + 1)
    widget._stop_button.click()
    rest(qtbot, widget)
    again = (folder / "wandb.said").read_text().splitlines()[len(said) :]
    assert again[0] == "init drawn-tuned run-1"
    assert again[1].startswith("log ")
    # it goes on without a service that is gone, and says so
    monkeypatch.setitem(sys.modules, "wandb", None)
    n_steps = widget._plot.losses[-1][0]
    widget._unfinished.button.click()
    wait_for_step(qtbot, widget, n_steps + 1)
    assert "wandb will get no more figures" in widget._status.text()
    widget._stop_button.click()
    rest(qtbot, widget)


def test_closed_while_training(viewer, layers, open_panel, qtbot, tmp_path):
    widget = open_panel()
    widget._train_button.click()
    wait_for_step(qtbot, widget, 1)
    viewer.window.remove_dock_widget(widget)
    qtbot.waitUntil(lambda: not RUNNING, timeout=60_000)
    folder = tmp_path / "models" / "tuned" / "drawn-tuned"
    assert (folder / "last.safetensors").is_file()
    again = open_panel()
    assert again._unfinished.box.currentText() == "drawn-tuned"


def test_layers_deleted_while_training(viewer, layers, open_panel, qtbot):
    widget = open_panel()
    widget.show_settings(plan(steps=6, validate_every=6))
    widget._train_button.click()
    wait_for_step(qtbot, widget, 1)
    viewer.layers.clear()
    widget.tuner.warned.emit("memory ran out: batches in 2 parts instead")
    wait_for_step(qtbot, widget, 3)
    assert "in 2 parts" in widget._status.text(), "it stays on show"
    rest(qtbot, widget)
    assert "Done" in widget._status.text()
    assert not [layer for layer in viewer.layers if "preview" in layer.name]
    assert not widget._train_button.isEnabled()


def test_what_is_wrong_is_said(viewer, layers, open_panel, qtbot):
    _, labels = layers
    widget = open_panel()
    labels.data[:] = 0
    labels.refresh()
    qtbot.waitUntil(
        lambda: "there is no label on nuclei" in widget._outlook.estimate.text(),
        timeout=30_000,
    )
    widget._train_button.click()
    rest(qtbot, widget)
    assert "paint some objects first" in widget._status.text()
    widget._name_line.setText("a/b")
    widget._train_button.click()
    assert "is no name for a folder" in widget._status.text()
    labels.translate = (500, 0)
    widget.reset_choices()
    assert not widget.pairs.every
    assert "does not lie on image layer 'nuclei'" in widget.pairs._hint.text()
    viewer.layers.remove(labels)
    viewer.add_labels(np.ones((4, 4), int), name="small")
    assert "do not belong together" in widget.pairs._hint.text()
    assert not widget._train_button.isEnabled()


def test_what_a_training_cannot_have_is_said(
    viewer, layers, open_panel, qtbot, monkeypatch, tmp_path
):
    """Before Train and after it: a loss, a library, a checkpoint."""
    widget = open_panel()

    def refused(words):
        estimate = widget._outlook.estimate
        qtbot.waitUntil(lambda: words in estimate.text(), timeout=30_000)
        widget._train_button.click()
        rest(qtbot, widget)
        assert words in widget._status.text()
        assert buttons_on_show(widget) == {"Train"}

    def show_loss(text):
        tune = dataclasses.replace(plan().tune, loss=text)
        widget.show_settings(dataclasses.replace(plan(), tune=tune))

    show_loss("dice + focul")
    refused("no loss 'focul'")
    monkeypatch.setitem(sys.modules, "gudhi.cubical_complex", None)
    show_loss("dice + 0.1*topology")
    refused("napari-samseg[train]")
    widget.show_settings(plan())
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    widget._model_box.insertItem(0, broken.name, str(broken))
    widget._model_box.setCurrentIndex(0)
    widget._model_box.activated.emit(0)
    refused("broken.safetensors")


def test_labels_find_their_images(viewer, nuclei, open_panel):
    """Of images of the same size, by their names, or else the one below."""
    pixels, labels = nuclei
    images = [viewer.add_image(pixels, name=name) for name in ("a1", "b2", "c3")]
    for name in ("b2 - objects", "c3_labels", "a1 mask"):
        viewer.add_labels(labels, name=name)
    other = viewer.add_labels(labels, name="other")
    widget = open_panel()
    found = {pair.labels.name: pair.image for pair in widget.pairs.chosen}
    assert found == {
        "b2 - objects": images[1],
        "c3_labels": images[2],
        "a1 mask": images[0],
    } or found == {"other": images[2], "b2 - objects": images[1], "a1 mask": images[0]}
    widget.pairs.choose(other, True)
    plan_now = widget._make_plan()
    names = [pair.name for pair in plan_now.pairs]
    assert len(set(names)) == len(names)


def test_files_are_counted(viewer, nuclei, open_panel, qtbot, tmp_path):
    pixels, labels = nuclei
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for i in range(2):
        io.imsave(tmp_path / "images" / f"{i}.png", pixels, check_contrast=False)
        path = tmp_path / "masks" / f"{i}_mask.png"
        io.imsave(path, labels, check_contrast=False)
    widget = open_panel()
    assert widget._files.isHidden()
    widget._source_box.setCurrentIndex(1)
    widget._source_box.activated.emit(1)
    assert not widget._files.isHidden()
    widget._files.images.setText(str(tmp_path / "images"))
    widget._files.labels.setText(str(tmp_path / "none"))
    widget._files.labels.editingFinished.emit()
    qtbot.waitUntil(
        lambda: "no file" in widget._outlook.estimate.text(), timeout=30_000
    )
    widget._files.labels.setText(str(tmp_path / "masks"))
    widget._files.labels.editingFinished.emit()
    qtbot.waitUntil(lambda: "2 images" in widget._outlook.counts.text(), timeout=30_000)
    assert widget._name_line.text() == "images-tuned"


@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    "SAMSEG_SCREENSHOTS" not in os.environ,
    reason="makes the picture of the documentation, which takes minutes",
)
def test_sheaths_in_place_of_axons(viewer, shared_data, open_panel, qtbot):
    """A point means the axon to the model, until it has learned what is wanted."""
    folder, name = shared_data / "axon_sem", "sub-rat8_sample-V915.png"
    raw, classes = (io.imread(folder / part / name) for part in ("images", "classes"))
    # an axon and the myelin around it are one object
    axons = label(classes == 2, connectivity=2)
    fibres = watershed(-distance_transform_edt(axons > 0), axons, mask=classes > 0)
    parts = {
        "spinal cord": np.s_[560:960, 300:700],
        "unseen part": np.s_[150:470, 560:880],
    }
    for title, part in parts.items():
        viewer.add_image(raw[part], name=title)
        viewer.add_labels(fibres[part], name=f"fibres of {title}")
    viewer.window.resize(1400, 900)
    widget = open_panel()
    few = plan(
        steps=300,
        learning_rate=5e-4,
        warmup_steps=10,
        ema_decay=0.98,
        validate_every=50,
    )
    tune = TuneSettings(
        held_out="unseen part", min_area=1000, surroundings=1.0, box=0.3, corrections=0
    )
    augment = AugmentSettings(variants=12, contrast=0.2, gamma=0.4)
    widget.show_settings(dataclasses.replace(few, tune=tune, augment=augment))
    widget._name_line.setText("fibres-tuned")
    widget._name_is_chosen = True
    for layer in viewer.layers:
        layer.visible = layer.name == "unseen part"
    qtbot.waitUntil(lambda: "steps" in widget._outlook.estimate.text(), timeout=60_000)
    widget._train_button.click()
    qtbot.waitUntil(lambda: not widget.tuner.is_running, timeout=2_000_000)
    box = widget._tuned._shown_box
    box.setCurrentIndex(box.findText("side by side"))
    box.activated.emit(box.currentIndex())
    qtbot.waitUntil(lambda: "steps" in widget._outlook.estimate.text(), timeout=60_000)
    for shown in QApplication.allWidgets():
        if type(shown).__name__ == "NapariQtNotification":
            shown.close()
    qtbot.wait(300)
    save_screenshot(viewer, "fine-tune.png")
    scores = [iou for _, iou, _ in widget._plot.scores]
    assert max(scores) > scores[0] + 0.05


def test_no_number_and_a_full_disk(
    viewer, layers, open_panel, qtbot, monkeypatch, tmp_path
):
    from napari_samseg.core.training import batches

    widget = open_panel()
    plain, calls = batches.prompted_loss, []

    def spoil(*args, **options):
        found = plain(*args, **options)
        calls.append(1)
        if len(calls) > 5:
            return dataclasses.replace(found, total=found.total * float("nan"))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(batches, "prompted_loss", spoil)
        widget._train_button.click()
        rest(qtbot, widget)
    assert "is nan: " in widget._status.text()
    assert "objects of nuclei" in widget._status.text()
    weights = tmp_path / "models" / "tuned" / "drawn-tuned" / "best.safetensors"
    before = weights.read_bytes()
    assert widget._unfinished.box.currentText() == "drawn-tuned"

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("safetensors.torch.save_file", full)
        widget._unfinished.button.click()
        rest(qtbot, widget)
    assert "make room" in widget._status.text()
    assert weights.read_bytes() == before
    # once there is room, it goes on
    widget._unfinished.button.click()
    rest(qtbot, widget)
    assert "Done" in widget._status.text()
    assert widget._plot.losses[-1][0] == 8
