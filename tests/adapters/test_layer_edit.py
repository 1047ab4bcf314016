"""Large edits of Labels layers: piece by piece, undone at once, and nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from napari.layers import Labels

from napari_samseg.adapters import layer_edit
from napari_samseg.adapters.layer_edit import LayerEdit
from napari_samseg.core.errors import LayerError
from napari_samseg.core.steps import run_steps

SHAPE = (4, 30, 300)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(layer_edit, "PIECE_PIXELS", 1000)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    before = rng.integers(0, 5, SHAPE, np.uint16)
    labels = np.where(rng.random(SHAPE) < 0.5, before, 300).astype(np.uint16)
    return before, labels


def edit_of(layer, before, labels):
    return LayerEdit(layer, before, labels, int((before != labels).sum()))


@pytest.mark.parametrize("shape", [SHAPE, (30, 300), (1500,), (1, 1, 2, 5000)])
def test_pieces_cover_each_pixel_once(shape):
    seen = np.zeros(shape, int)
    for where in layer_edit._pieces(shape):
        seen[where] += 1
        assert seen[where].size <= max(1000, shape[-1])
    assert (seen == 1).all()


@pytest.mark.parametrize(
    "make", [np.array, lambda a: zarr.array(a, chunks=(1, 16, 64))]
)
def test_one_step_whatever_holds_the_labels(arrays, make):
    before, labels = arrays
    layer = Labels(make(before))
    edit = edit_of(layer, before, labels)
    run_steps(edit.steps())
    np.testing.assert_array_equal(layer.data[...], labels)
    assert (edit.n_steps, edit.n_kept) == (1, 0)
    assert edit.n_written == (before != labels).sum()
    layer.undo()
    np.testing.assert_array_equal(layer.data[...], before)
    layer.redo()
    np.testing.assert_array_equal(layer.data[...], labels)


def test_strokes_meanwhile_stay(arrays):
    before, labels = arrays
    layer = Labels(before.copy())
    layer.data_setitem((np.array([0]), np.array([0]), np.array([0])), 77)
    changed = before != labels
    edit = edit_of(layer, before, labels)
    steps = edit.steps()
    # a stroke that began before ends meanwhile, and then one is whole
    with layer.block_history():
        next(steps)
        next(steps)
    for _ in range(3):
        next(steps)
    painted = np.zeros(SHAPE, bool)
    painted[[0, 3], 5] = True
    with layer.block_history():
        layer.data_setitem(np.nonzero(painted), 88)
    run_steps(steps)
    painted[0, 0, 0] = True
    # the stroke on the first plane went over pixels that were written already
    kept = changed & painted
    kept[0, 5] = False
    assert edit.n_kept == kept.sum() > 10
    expected = np.where(painted, 88, labels)
    expected[0, 0, 0] = 77
    np.testing.assert_array_equal(layer.data, expected)
    assert edit.n_steps == 3
    for _ in range(edit.n_steps):
        layer.undo()
    expected = before.copy()
    expected[0, 0, 0] = 77
    np.testing.assert_array_equal(layer.data, expected)
    layer.undo()
    np.testing.assert_array_equal(layer.data, before)


def test_what_is_closed_early_is_taken_back(arrays):
    before, labels = arrays
    layer = Labels(before.copy())
    layer.data_setitem((np.array([3]), np.array([2]), np.array([1])), 9)
    as_painted = layer.data.copy()
    edit = edit_of(layer, before, labels)
    steps = edit.steps()
    for _ in range(7):
        next(steps)
    steps.close()
    assert (layer.data != as_painted).sum() == edit.n_written > 0
    assert edit.take_back()
    np.testing.assert_array_equal(layer.data, as_painted)
    layer.undo()
    np.testing.assert_array_equal(layer.data, before)
    # nothing was written, and an earlier stroke is not touched
    layer.redo()
    edit = edit_of(layer, before, labels)
    steps = edit.steps()
    next(steps)
    steps.close()
    assert edit.take_back()
    np.testing.assert_array_equal(layer.data, as_painted)


def test_what_memory_cannot_take_back_is_refused(arrays, monkeypatch):
    before, labels = arrays
    monkeypatch.setattr(layer_edit, "free_memory", lambda: 100_000)
    with pytest.raises(LayerError, match=r"needs \d+ kB of memory.*50 kB.*new layer"):
        edit_of(Labels(before), before, labels)


def test_other_data_meanwhile(arrays):
    before, labels = arrays
    layer = Labels(before.copy(), name="cells")
    steps = edit_of(layer, before, labels).steps()
    next(steps)
    next(steps)
    layer.data = np.zeros(SHAPE, np.uint16)
    with pytest.raises(LayerError, match="'cells' was given other data"):
        next(steps)
    assert not layer.data.any()
