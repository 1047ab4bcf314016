"""Ids stay what they are unless somebody asks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from napari_samseg.core.errors import InvalidLabelsError, LabelOverflowError
from napari_samseg.core.instances.tidy import (
    count_pixels,
    drop_at_border,
    drop_by_size,
    fill_holes,
    keep_ids,
    narrow_labels,
    relabel,
    to_semantic,
)

LABELS = arrays(
    st.sampled_from([np.uint8, np.uint16, np.uint32, np.int64]),
    array_shapes(min_dims=2, max_dims=3, max_side=8),
    elements=st.integers(0, 6),
)


@given(labels=LABELS)
def test_relabelling_leaves_no_gaps_and_is_idempotent(labels):
    once = relabel(labels)
    assert once.dtype == labels.dtype
    ids, _ = count_pixels(once)
    assert ids.tolist() == list(range(1, len(ids) + 1))
    np.testing.assert_array_equal(relabel(once), once)
    # one to one
    pairs = set(zip(labels.ravel().tolist(), once.ravel().tolist(), strict=True))
    assert len(pairs) == len(set(labels.ravel().tolist()))


def test_relabelling_block_by_block_is_the_same(monkeypatch):
    labels = np.random.default_rng(0).integers(0, 9, (4, 5, 6)).astype(np.uint32) * 7
    whole = relabel(labels)
    monkeypatch.setattr("napari_samseg.core.instances.tidy.RUN_BLOCK", 7)
    np.testing.assert_array_equal(relabel(labels), whole)
    np.testing.assert_array_equal(relabel(labels[:, ::-1]), whole[:, ::-1])
    assert relabel(labels[:0]).shape == (0, 5, 6)


@given(labels=LABELS, least=st.integers(0, 9), most=st.none() | st.integers(0, 30))
def test_only_sizes_between_stay(labels, least, most):
    before = labels.copy()
    kept, n_dropped = drop_by_size(labels, least, most)
    np.testing.assert_array_equal(labels, before)
    ids, counts = count_pixels(labels)
    stays = (counts >= least) & (counts <= (most if most is not None else np.inf))
    assert count_pixels(kept)[0].tolist() == ids[stays].tolist()
    assert n_dropped == (~stays).sum()
    np.testing.assert_array_equal(kept[kept > 0], labels[kept > 0])


def test_what_touches_the_border_goes():
    labels = np.zeros((3, 6, 6), np.uint16)
    labels[1, 2, 2], labels[1, 5, 3], labels[0, 3, 3] = 7, 8, 9
    kept, n_dropped = drop_at_border(labels)
    assert (count_pixels(kept)[0].tolist(), n_dropped) == ([7], 2)
    # of a stack of few sections only the sides count
    kept, n_dropped = drop_at_border(labels, axes=(1, 2))
    assert (count_pixels(kept)[0].tolist(), n_dropped) == ([7, 9], 1)


def test_holes_are_filled_around_what_is_in_them():
    labels = np.zeros((9, 9), np.uint8)
    labels[1:8, 1:8] = 5
    labels[2:7, 2:7] = 0
    labels[4, 4] = 200
    filled = fill_holes(labels)
    assert (filled == 5).sum() == 48
    assert filled[4, 4] == 200
    assert (labels == 0).sum() == 81 - 24 - 1


@given(labels=LABELS)
def test_the_same_objects_keep_their_ids(labels):
    renamed = np.where(labels > 0, (labels.astype(np.int64) * 37) % 101 + 1000, 0)
    np.testing.assert_array_equal(keep_ids(renamed, labels), labels)


def test_new_objects_get_ids_above_the_old_ones():
    before = np.array([[3, 3, 3, 0, 9]], np.uint8)
    after = np.array([[1, 1, 2, 0, 4]], np.uint8)
    assert keep_ids(after, before).tolist() == [[3, 3, 10, 0, 9]]
    with pytest.raises(InvalidLabelsError, match="cannot keep ids"):
        keep_ids(after, before[:, :3])


def test_ids_must_fit():
    labels = np.array([[0, 70_000]], np.uint32)
    with pytest.raises(LabelOverflowError, match=r"70000 does not fit uint16.*relabel"):
        narrow_labels(labels, np.uint16)
    many = np.arange(300, dtype=np.uint16)[np.newaxis]
    with pytest.raises(LabelOverflowError, match="use uint16"):
        narrow_labels(many, np.uint8)
    assert narrow_labels(relabel(labels), np.uint8).dtype == np.uint8


def test_instances_become_classes():
    labels = np.array([[0, 1, 2, 70_000]], np.uint32)
    assert to_semantic(labels).tolist() == [[0, 1, 1, 1]]
    semantic = to_semantic(labels, {1: 300, 70_000: 2})
    assert semantic.tolist() == [[0, 300, 0, 2]]
    assert semantic.dtype == np.uint16
