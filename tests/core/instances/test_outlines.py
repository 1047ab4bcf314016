"""Polygons along the edges of pixels give back exactly these pixels."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.io import imread

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.instances.outlines import (
    Outline,
    fill_outlines,
    join_rings,
    outlines_of,
    ring_area,
)


def fill_back(found, shape, dtype):
    labels = np.zeros(shape, dtype)
    for object_id, outlines in found.items():
        (y0, x0, y1, x1), mask = fill_outlines(outlines, shape)
        assert not labels[y0:y1, x0:x1][mask].any(), "objects overlap"
        labels[y0:y1, x0:x1][mask] = object_id
    return labels


CHECKERS = np.indices((5, 6)).sum(axis=0) % 2
# a hole that touches the outside in a corner, and one in two parts that touch
PINCHED = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [1, 0, 1, 1, 1, 1],
        [1, 1, 0, 1, 2, 1],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0, 1],
    ]
)


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int32, np.uint32]),
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
        elements=st.integers(0, 3),
    )
)
@example(CHECKERS)
@example(PINCHED)
@example(np.ones((1, 1), np.uint8))
@example(np.zeros((3, 2), np.uint8))
def test_labels_to_polygons_and_back(labels):
    found = outlines_of(labels)
    assert list(found) == np.unique(labels[labels != 0]).tolist()
    back = fill_back(found, labels.shape, labels.dtype)
    np.testing.assert_array_equal(back, labels)
    for object_id, outlines in found.items():
        rings = [ring for outline in outlines for ring in outline.rings]
        assert sum(map(ring_area, rings)) == (labels == object_id).sum()
        for outline in outlines:
            assert ring_area(outline.exterior) > 0
            assert all(ring_area(hole) < 0 for hole in outline.holes)
        for ring in rings:
            assert len(np.unique(ring, axis=0)) == len(ring), "touches itself"
            turns = np.diff(np.vstack([ring, ring[:1]]), axis=0)
            assert ((turns != 0).sum(axis=1) == 1).all(), "along the edges"
            assert (
                np.abs(turns).argmax(axis=1) != np.abs(np.roll(turns, 1, 0)).argmax(1)
            ).all()


@given(hnp.arrays(np.uint8, (8, 9), elements=st.integers(0, 1)))
@example(PINCHED == 1)
def test_holes_joined_to_one_ring_stay_holes(labels):
    labels = labels.astype(np.uint8)
    for object_id, outlines in outlines_of(labels).items():
        joined = [Outline(join_rings(outline)) for outline in outlines]
        back = fill_back({object_id: joined}, labels.shape, labels.dtype)
        np.testing.assert_array_equal(back, labels)


def test_real_nuclei_and_neurons(shared_data):
    nuclei = sorted((shared_data / "dsb2018/labels").iterdir())[:3]
    planes = [imread(path) for path in nuclei]
    planes.append(tifffile.imread(shared_data / "em_fib25_neuroproof/gt_bodies.tif")[0])
    for labels in planes:
        found = outlines_of(labels)
        assert len(found) == len(np.unique(labels[labels != 0])) > 1
        np.testing.assert_array_equal(
            fill_back(found, labels.shape, labels.dtype), labels
        )


def test_what_lies_outside_the_plane_is_cut():
    square = Outline(np.array([[-2, -2], [-2, 3], [3, 3], [3, -2]]))
    box, mask = fill_outlines([square], (9, 2))
    assert box == (0, 0, 3, 2)
    assert mask.all()
    box, mask = fill_outlines([Outline(square.exterior + 50)], (9, 2))
    assert mask.size == 0
    assert fill_outlines([], (9, 2))[1].size == 0


def test_a_pixel_counts_whose_centre_is_inside():
    thin = Outline(np.array([[1.0, 0.0], [1.0, 9.0], [1.4, 9.0], [1.4, 0.0]]))
    assert not fill_outlines([thin], (9, 9))[1].any()
    thick = Outline(thin.exterior * [1.2, 1])
    box, mask = fill_outlines([thick], (9, 9))
    assert (mask.sum(), box) == (9, (1, 0, 2, 9))


@pytest.mark.parametrize("wrong", [np.zeros((2, 3, 4), int), np.zeros((3, 4))])
def test_only_planes_of_integers_have_outlines(wrong):
    with pytest.raises(InvalidLabelsError, match="outlines are those of a plane"):
        outlines_of(wrong)
