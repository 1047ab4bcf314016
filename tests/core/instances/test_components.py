"""What touches belongs together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.measure import label as skimage_label

from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.instances.components import label_components, neighbourhood

SMALL = arrays(
    st.sampled_from([np.bool_, np.uint8, np.int32]),
    array_shapes(min_dims=2, max_dims=3, max_side=9),
    elements=st.integers(0, 1),
)


@given(classes=SMALL, data=st.data())
def test_components_are_those_of_scikit_image(classes, data):
    axes = data.draw(st.integers(1, classes.ndim))
    found = label_components(classes, axes)
    expected = skimage_label(classes.astype(int), connectivity=axes)
    pairs = set(zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    ids = list(dict.fromkeys(found[found > 0].tolist()))
    assert ids == list(range(1, len(ids) + 1))
    assert found.dtype == np.uint32
    again = label_components(classes, neighbourhood(classes.ndim, axes))
    np.testing.assert_array_equal(again, found)


def test_classes_are_taken_apart():
    classes = np.array([[1, 1, 2], [0, 2, 2], [1, 0, 1]], np.uint8)
    assert label_components(classes).tolist() == [[1, 1, 2], [0, 2, 2], [3, 0, 4]]


def test_ids_beyond_one_byte_and_many_components():
    board = (np.indices((200, 200)).sum(axis=0) % 2).astype(bool)
    labels = label_components(board, 4)
    assert labels.max() == board.sum()


def test_the_golden_axons(shared_data):
    from skimage.io import imread

    axons = imread(
        shared_data / "axon_sem/extras/sub-rat8_sample-V915_ads-pred-axon.png"
    )
    assert label_components(axons > 127).max() == 298


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (np.zeros((4, 4), np.float32), "real ones"),
        (np.array([[1, -3]]), "the lowest is -3"),
        (np.zeros((40, 40, 3), np.uint8), "RGB"),
        (np.zeros(5, np.uint8), "a plane"),
        (np.zeros((2, 3, 4, 5), np.uint8), "a plane"),
        (np.array([["a", "b"]]), "whole numbers"),
    ],
    ids=["float", "negative", "rgb", "line", "four axes", "text"],
)
def test_what_is_no_label_image_is_refused(classes, message):
    with pytest.raises(InvalidLabelsError, match=message):
        label_components(classes)


@pytest.mark.parametrize(("ndim", "connectivity"), [(2, 6), (3, 4), (2, 3), (3, 0)])
def test_wrong_neighbourhoods_are_refused(ndim, connectivity):
    with pytest.raises(SettingsError, match="is not one of"):
        neighbourhood(ndim, connectivity)


def test_nothing_has_no_components():
    assert label_components(np.zeros((0, 5), np.uint8)).shape == (0, 5)
    assert label_components(np.zeros((3, 5), np.uint8)).max() == 0


def test_read_only_labels_are_taken_and_left_alone():
    classes = np.array([[0, 1, 1], [2, 0, 1]], np.uint8)
    classes.setflags(write=False)
    np.testing.assert_array_equal(label_components(classes), [[0, 1, 1], [2, 0, 1]])
