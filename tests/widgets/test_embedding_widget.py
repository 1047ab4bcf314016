"""The Embedding panel in a real viewer, and the Segment panel on what it stored."""

from __future__ import annotations

import gc
import os
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QApplication, QMessageBox
from skimage import io
from widgets.test_segment_widget import save_screenshot

import napari_samseg as samseg
from napari_samseg.core.cache.memory import MemoryCache
from napari_samseg.core.cache.zarr_store import EmbeddingStore, StackEntry
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.predict import Predictor
from napari_samseg.core.settings import EmbedSettings, ModelSettings
from napari_samseg.widgets.embedding import STOPPED
from napari_samseg.widgets.loaded_models import LOADED
from napari_samseg.widgets.sessions import SESSIONS, open_session
from napari_samseg.widgets.stores import default_store
from napari_samseg.widgets.workers import RUNNING

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not os.environ.get("DISPLAY"),
    reason="no display: run under Xvfb (xvfb-run pytest)",
)


@pytest.fixture
def predictor(model, monkeypatch):
    """The embedded model, loaded already; its memory is empty."""
    loaded = Predictor(model, MemoryCache(2**28))
    monkeypatch.setitem(LOADED, (ModelSettings(), 0), loaded)
    return loaded


@pytest.fixture
def viewer(make_napari_viewer, qtbot, predictor, monkeypatch):
    monkeypatch.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1200, 860)
    yield viewer
    for session in list(SESSIONS.values()):
        session.close()
    qtbot.waitUntil(lambda: not RUNNING, timeout=30_000)


@pytest.fixture
def stack(coins):
    """Eight planes, all different."""
    return np.stack([np.roll(coins, 5 * i, axis=1) for i in range(8)])


@pytest.fixture
def open_panel(viewer, qtbot):
    def open_and_wait():
        _, widget = viewer.window.add_plugin_dock_widget("napari-samseg", "Embedding")
        rest(qtbot, widget)
        return widget

    return open_and_wait


def rest(qtbot, widget):
    """Wait until a panel has nothing left to do."""

    def is_idle():
        return not (
            widget.encoder.is_busy
            or widget._store_list.is_busy
            or widget._rest.isActive()
        )

    qtbot.waitUntil(is_idle, timeout=60_000)


def written_planes(monkeypatch):
    """Return a list to which each plane is added as it is written."""
    planes, put_tiles = [], StackEntry.put_tiles

    def put_and_note(entry, plane, *values):
        put_tiles(entry, plane, *values)
        planes.append(plane)

    monkeypatch.setattr(StackEntry, "put_tiles", put_and_note)
    return planes


def only_entry(location=None):
    store = EmbeddingStore(location or default_store(), write=False)
    (digest,) = store.digests()
    return store.open_entry(digest)


def forbid_encoding(monkeypatch):
    def refuse(*values, **names):
        raise AssertionError("the encoder was called")

    monkeypatch.setattr(SamModel, "encode_batch_steps", refuse)


def test_from_start_to_finish(viewer, stack, open_panel, qtbot, monkeypatch, tmp_path):
    image = viewer.add_image(stack, name="stack")
    widget = open_panel()
    assert widget._place_line.text() == default_store()
    widget._place_line.setText(str(tmp_path / "elsewhere"))
    widget._place_line.editingFinished.emit()
    rest(qtbot, widget)
    assert widget._estimate.text().startswith("8 of 8 planes to encode")
    assert "free" in widget._estimate.text()
    assert widget._strip.stored == frozenset()
    widget._stop_box.setValue(6)
    rest(qtbot, widget)
    assert widget._estimate.text().startswith("6 of 6 planes to encode")
    seen = []
    widget.encoder.progressed.connect(lambda step: seen.append(step.detail))
    widget._start_button.click()
    assert not widget._choices.isEnabled()
    rest(qtbot, widget)
    assert "6 planes encoded, 0 there before" in widget._status.text()
    assert any("planes/min" in detail and "left" in detail for detail in seen)
    assert widget._strip.stored == frozenset(range(6))
    assert widget._estimate.text() == "All 6 planes are in the store."
    assert widget._choices.isEnabled()
    item = widget._store_list._list.item(0)
    assert item.text().startswith("stack (this image)\ndefault, 6 of 8 planes, ")
    assert "1 stack" in widget._store_list._total.text()

    assert not Path(default_store()).exists()

    # the Segment panel takes the planes from there
    forbid_encoding(monkeypatch)
    session = open_session(viewer, image)
    viewer.dims.set_point(0, 3)
    session.wait()
    assert session.is_encoded
    prediction = session.prompt(points=[[60, 60]])
    assert prediction.masks.any()


def test_the_strip_shows_a_real_stack(
    viewer, shared_data, open_panel, qtbot, coins, model
):
    """The picture of the documentation."""
    path = shared_data / "em_fib25_neuroproof" / "raw.tif"
    if not path.exists():
        pytest.skip(f"no {path}")
    samseg.embed(coins[None], model=model, name="coins")
    viewer.window.resize(1200, 760)
    viewer.add_image(io.imread(path)[:24], name="raw")
    viewer.dims.set_point(0, 12)
    widget = open_panel()
    widget._start_button.click()
    qtbot.waitUntil(lambda: len(widget._strip.stored) >= 3, timeout=120_000)
    qtbot.waitUntil(lambda: widget._store_list._list.count() == 2)
    widget._store_list.refresh()
    qtbot.waitUntil(lambda: not widget._store_list.is_busy)
    save_screenshot(viewer, "embedding-widget.png")
    stored = widget._strip.stored
    assert max(abs(place - 12) for place in stored) <= len(stored), "nearest first"
    widget._cancel_button.click()
    rest(qtbot, widget)
    assert widget._strip.stored >= stored
    widget._store_list._verify_button.click()
    rest(qtbot, widget)
    assert "planes sound" in widget._status.text()


def test_pause_continue_cancel_and_go_on(viewer, stack, open_panel, qtbot, monkeypatch):
    viewer.add_image(stack)
    widget = open_panel()
    written = written_planes(monkeypatch)
    widget._start_button.click()
    qtbot.waitUntil(lambda: len(written) >= 1, timeout=60_000)
    widget._pause_button.click()
    assert widget._pause_button.text() == "Continue"
    # the step that runs is finished, and what waits is written
    qtbot.wait(800)
    held = len(written)
    qtbot.wait(800)
    assert len(written) == held < len(stack) - 2
    assert widget._status.text().startswith("Paused")

    widget._pause_button.click()
    assert widget._pause_button.text() == "Pause"
    qtbot.waitUntil(lambda: len(written) > held, timeout=60_000)
    widget._cancel_button.click()
    rest(qtbot, widget)
    kept = len(written)
    assert kept < len(stack)
    assert widget._status.text() == STOPPED
    assert not only_entry().claimed()
    assert f"{len(stack) - kept} of 8 planes to encode" in widget._estimate.text()
    assert not widget._pause_button.isEnabled()

    widget._start_button.click()
    rest(qtbot, widget)
    missing = "1 plane" if len(stack) - kept == 1 else f"{len(stack) - kept} planes"
    assert f"{missing} encoded, {kept} there" in widget._status.text()
    assert len(written) == len(set(written)) == len(stack)


def test_the_plane_on_view_goes_first(viewer, coins, open_panel, qtbot, monkeypatch):
    viewer.add_image(np.stack([np.roll(coins, i, axis=0) for i in range(30)]))
    viewer.dims.set_point(0, 20)
    widget = open_panel()
    written = written_planes(monkeypatch)
    widget._start_button.click()
    qtbot.waitUntil(lambda: len(written) >= 2, timeout=60_000)
    viewer.dims.set_point(0, 3)
    qtbot.waitUntil(lambda: (3,) in written, timeout=60_000)
    widget._cancel_button.click()
    rest(qtbot, widget)
    assert written[0] == (20,)
    at = written.index((3,))
    assert at < 12, "not after all planes between"
    assert all(abs(plane - 20) <= at for (plane,) in written[:at])
    assert widget._strip._on_view == 3


def test_the_panel_closed_in_the_middle(viewer, stack, open_panel, qtbot, monkeypatch):
    viewer.add_image(stack)
    widget = open_panel()
    written = written_planes(monkeypatch)
    widget._start_button.click()
    qtbot.waitUntil(lambda: len(written) >= 1, timeout=60_000)
    notes = len(notification_manager.records)
    viewer.window.remove_dock_widget(widget)
    qtbot.waitUntil(lambda: not RUNNING, timeout=30_000)
    assert any(STOPPED in n.message for n in notification_manager.records[notes:])
    entry = only_entry()
    assert entry.recorded() == {place for (place,) in written}
    assert not entry.claimed()
    assert len(written) < len(stack)


def test_the_layer_deleted_in_the_middle(
    viewer, stack, coins, open_panel, qtbot, monkeypatch
):
    other = viewer.add_image(coins, name="other")
    image = viewer.add_image(stack, name="stack")
    widget = open_panel()
    written = written_planes(monkeypatch)
    widget._start_button.click()
    qtbot.waitUntil(lambda: len(written) >= 1, timeout=60_000)
    notes = len(notification_manager.records)
    viewer.layers.remove(image)
    rest(qtbot, widget)
    messages = [note.message for note in notification_manager.records[notes:]]
    assert any("'stack' was removed" in message for message in messages)
    assert len(written) < len(stack)
    assert widget._image is other
    # a single plane has no range to choose
    assert not widget._planes.isVisible()
    assert widget._estimate.text().startswith("1 of 1 plane to encode")
    viewer.layers.remove(other)
    QApplication.processEvents()
    assert not widget._start_button.isEnabled()


def test_the_viewer_closed_in_the_middle(viewer, stack, open_panel, qtbot):
    viewer.add_image(stack)
    widget = open_panel()
    widget._start_button.click()
    qtbot.waitUntil(lambda: Path(default_store()).exists(), timeout=60_000)
    viewer.close()
    qtbot.waitUntil(lambda: not RUNNING, timeout=30_000)
    assert not widget.encoder.is_running
    assert not only_entry().claimed()


def test_an_entry_is_verified_repaired_and_deleted(
    viewer, stack, open_panel, qtbot, monkeypatch
):
    viewer.add_image(stack[:3])
    widget = open_panel()
    widget._start_button.click()
    rest(qtbot, widget)
    yes, no = QMessageBox.StandardButton.Yes, QMessageBox.StandardButton.No
    asked, answers = [], [yes, no, yes]

    def answer(parent, title, question):
        asked.append(question)
        return answers.pop(0)

    monkeypatch.setattr(QMessageBox, "question", answer)
    listed = widget._store_list
    listed._verify_button.click()
    rest(qtbot, widget)
    assert widget._status.text() == "3 planes sound."

    (digest,) = EmbeddingStore(default_store()).digests()
    chunk = Path(default_store(), digest, "features/c/1/0/0/0/0")
    content = bytearray(chunk.read_bytes())
    content[200:250] = bytes(50)
    chunk.write_bytes(content)
    listed._verify_button.click()
    rest(qtbot, widget)
    assert "2 planes sound, 1 damaged." in asked[0]
    assert "1 damaged plane put into quarantine" in widget._status.text()
    assert widget._estimate.text().startswith("1 of 3 planes to encode")

    listed._delete_button.click()
    rest(qtbot, widget)
    assert EmbeddingStore(default_store()).digests() == [digest]
    listed._delete_button.click()
    rest(qtbot, widget)
    assert EmbeddingStore(default_store()).digests() == []
    assert "2 of 3 planes" in asked[2]
    assert "were freed" in widget._status.text()
    assert widget._strip.stored == frozenset()
    assert widget._estimate.text().startswith("3 of 3 planes to encode")


def test_places_that_will_not_do_are_refused_in_words(
    viewer, stack, open_panel, qtbot, tmp_path, monkeypatch
):
    viewer.add_image(stack)
    widget = open_panel()
    full = tmp_path / "photographs"
    full.mkdir()
    (full / "cat.png").write_bytes(b"cat")
    widget._place_line.setText(str(full))
    widget._place_line.editingFinished.emit()
    rest(qtbot, widget)
    assert "other files: choose a store, or a new" in widget._status.text()
    assert "other files" in widget._store_list._total.text()
    assert "#ff7a70" in widget._status.styleSheet()
    widget._start_button.click()
    rest(qtbot, widget)
    assert not widget.encoder.is_running
    assert [path.name for path in full.iterdir()] == ["cat.png"]

    widget._place_line.setText(str(tmp_path / "packed.zip"))
    widget._place_line.editingFinished.emit()
    rest(qtbot, widget)
    widget._start_button.click()
    rest(qtbot, widget)
    assert "zip file, which can only be read" in widget._status.text()

    # root may write anywhere: the store says so itself
    EmbeddingStore(tmp_path / "locked")
    monkeypatch.setattr(EmbeddingStore, "read_only", True)
    widget._place_line.setText(str(tmp_path / "locked"))
    widget._place_line.editingFinished.emit()
    widget._start_button.click()
    rest(qtbot, widget)
    assert "can only be read: choose another place" in widget._status.text()


def test_unreadable_planes_are_skipped_and_listed(viewer, open_panel, qtbot, stack):
    import dask.array as da

    def read(block_id):
        if block_id[0] == 3:
            raise OSError("bad sector")
        return stack[block_id[0]][None]

    data = da.map_blocks(
        read,
        chunks=((1,) * 4, stack.shape[1:2], stack.shape[2:]),
        dtype=stack.dtype,
        meta=stack[:0],
    )
    viewer.add_image(data, contrast_limits=(0, 255), name="broken")
    widget = open_panel()
    widget._start_button.click()
    rest(qtbot, widget)
    assert "plane 3 cannot be read: bad sector" in widget._status.text()
    widget._storage_form.set_settings(EmbedSettings(unreadable="skip"))
    widget._on_change()
    widget._start_button.click()
    rest(qtbot, widget)
    assert "skipped, as they cannot be read:\n3: bad sector" in widget._status.text()
    assert only_entry().recorded() == {0, 1, 2}


def test_the_model_stays_loaded_while_settings_change(
    viewer, stack, open_panel, qtbot, model
):
    viewer.add_image(stack)
    widget = open_panel()
    kept = Predictor(model)
    LOADED[ModelSettings(), 0] = kept
    only_the_panel = weakref.ref(kept)
    widget._stop_box.setValue(5)
    rest(qtbot, widget)
    del kept
    for stop in (3, 4):
        widget._stop_box.setValue(stop)
        rest(qtbot, widget)
        # nobody else holds it now
        gc.collect()
        assert widget.encoder.survey.predictor is only_the_panel()
