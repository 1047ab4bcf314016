"""Lines between objects, and the objects between lines."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.instances.membranes import (
    boundaries_of,
    cells_from_membranes,
    contours_of,
    instances_from_contours,
    membranes_of,
)


def honeycomb(gap: bool = False) -> np.ndarray:
    """Membranes around four square cells; one with a gap of 2 pixels."""
    membranes = np.zeros((41, 41), np.uint8)
    membranes[::20] = membranes[:, ::20] = 1
    if gap:
        membranes[9:11, 20] = 0
    return membranes


@pytest.mark.parametrize("gap", [False, True])
def test_cells_between_membranes(gap):
    membranes = honeycomb(gap)
    cells = cells_from_membranes(membranes, min_distance=6)
    assert cells.max() == 4
    np.testing.assert_array_equal(cells > 0, membranes == 0)
    grown = cells_from_membranes(membranes, min_distance=6, into_membranes=True)
    assert (grown > 0).all()
    np.testing.assert_array_equal(grown[membranes == 0], cells[membranes == 0])


def test_cells_of_a_real_membrane_map(shared_data):
    folder = shared_data / "em_isbi2012"
    cell = tifffile.imread(folder / "cells_white_membrane_black.tif")[0] > 0
    labels = cells_from_membranes(~cell, h=2.0)
    assert 60 < labels.max() < 600
    np.testing.assert_array_equal(labels > 0, cell)


def test_closed_outlines_become_objects_and_open_ones_are_counted():
    contours = np.zeros((40, 60), bool)
    contours[5:15, 5:25] = True
    contours[6:14, 6:24] = False
    contours[20:35, 5:30] = True
    contours[22:33, 7:28] = False  # two pixels thick
    contours[5:15, 40] = True  # open
    labels, n_unassigned = instances_from_contours(contours)
    assert labels.max() == 2
    assert n_unassigned == 10
    assert (labels[5:15, 5:25] == 1).all()
    assert (labels[20:35, 5:30] == 2).all()


def test_outlines_of_a_volume_are_refused():
    with pytest.raises(InvalidLabelsError, match="plane by plane"):
        instances_from_contours(np.zeros((3, 4, 5), bool))


def test_membranes_lie_at_borders():
    labels = np.zeros((30, 40), np.uint16)
    labels[5:25, 5:20], labels[5:25, 20:35] = 1, 2
    band = membranes_of(labels, inward=2, outward=3)
    assert band[10, 18:22].all()
    assert not band[10, 15]
    assert band[10, 2:5].all()
    assert not band[10, 1]
    inner = membranes_of(labels, inward=1, outward=0)
    np.testing.assert_array_equal(inner, boundaries_of(labels, "inner"))
    volume = np.stack([labels, np.zeros_like(labels)])
    np.testing.assert_array_equal(membranes_of(volume, inward=2, outward=3)[0], band)
    assert not membranes_of(volume)[1].any()


@settings(max_examples=25)
@given(seed=st.integers(0, 1000))
def test_outlines_give_their_objects_back(seed):
    rng = np.random.default_rng(seed)
    labels = np.zeros((24, 30), np.uint32)
    for object_id in (7, 90_000):
        y, x = rng.integers(0, 18), rng.integers(0, 24)
        labels[y : y + rng.integers(2, 6), x : x + rng.integers(2, 6)] = object_id
    for object_id, lines in contours_of(labels).items():
        mask = np.zeros(labels.shape, bool)
        for line in lines:
            # an outline within another one is that of a hole
            mask ^= polygon2mask(labels.shape, line)
        np.testing.assert_array_equal(mask, labels == object_id)
