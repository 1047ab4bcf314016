"""Touching objects are taken apart, and no foreground is lost in silence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.io import imread

from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.instances.components import label_components
from napari_samseg.core.instances.seeds import distant_peaks, find_peaks
from napari_samseg.core.instances.watershed import (
    distance_inside,
    grow_seeds,
    interior_points,
    split_touching,
    watershed_from_points,
)

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=3, max_side=12))


def balls(spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    """Two balls of radius 9, whose centres are 14 apart along the last axis."""
    extent = (30, 30, 44)
    shape = [int(e / s) for e, s in zip(extent, spacing, strict=True)]
    at = [(np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)]
    z, y, x = np.meshgrid(*at, indexing="ij")
    near = [(z - 15) ** 2 + (y - 15) ** 2 + (x - c) ** 2 < 81 for c in (15, 29)]
    return near[0] | near[1]


def test_the_golden_instance_map_comes_out_exactly(shared_data):
    folder = shared_data / "axon_sem/extras"
    golden, axons, myelin = (
        imread(folder / f"sub-rat8_sample-V915_ads-{name}.png")
        for name in ("instance-map", "pred-axon", "pred-myelin")
    )
    labels, n_unassigned = grow_seeds(axons > 127, myelin > 127)
    np.testing.assert_array_equal(labels, golden)
    assert labels.max() == 298
    assert n_unassigned == 537


def test_a_crescent_is_seeded_inside_itself():
    yx = np.indices((60, 60))
    ring = np.hypot(*(yx - 30)) < 20
    crescent = ring & ~(np.hypot(yx[0] - 30, yx[1] - 38) < 18)
    centre = np.round(np.argwhere(crescent).mean(axis=0)).astype(int)
    core = np.zeros_like(crescent)
    core[28:33, 40:45] = True
    labels, n_unassigned = grow_seeds(crescent | core, ring)
    assert labels.max() == 2
    assert n_unassigned == 0
    assert len(set(labels[crescent])) == 1 or not crescent[tuple(centre)]
    assert (labels[core] == labels[30, 42]).all()


@settings(max_examples=60)
@given(mask=MASKS)
def test_interior_points_lie_inside(mask):
    labels = label_components(mask)
    points = interior_points(labels, distance_inside(labels))
    found = labels[tuple(points.T)]
    assert found.tolist() == list(range(1, int(labels.max()) + 1))


@pytest.mark.parametrize(("away", "spacing"), [(4.0, None), (7.0, (3.0, 1.0, 1.0))])
def test_peaks_are_the_highest_within_a_ball(away, spacing):
    """As a filter over the whole ball finds them, in each part by itself."""
    rng = np.random.default_rng(5)
    height = ndimage.gaussian_filter(rng.random((20, 40, 41)), 1.5).astype(np.float32)
    parts = np.zeros(height.shape, np.uint32)
    parts[:, :20], parts[:, 20:, :30], parts[2:5, 30:33, 36:39] = 1, 2, 3
    steps = np.array(spacing or (1, 1, 1))
    reach = np.floor(away / steps).astype(int)
    grid = (np.indices(2 * reach + 1).T - reach) * steps
    ball = (np.square(grid).sum(axis=-1) <= away**2).T
    expected = np.zeros(parts.shape, bool)
    for part in (1, 2, 3):
        alone = np.where(parts == part, height, 0)
        highest = ndimage.maximum_filter(alone, footprint=ball, mode="nearest")
        expected |= (parts == part) & (alone == highest)
    found = distant_peaks(height, parts, away, spacing)
    # the lower of two close peaks of touching parts goes
    assert set(map(tuple, found.tolist())) <= set(
        map(tuple, np.argwhere(expected).tolist())
    )
    assert len(found) > 40
    lost = [p for p in np.argwhere(expected) if not (found == p).all(axis=1).any()]
    for place in lost:
        near = np.linalg.norm((found - place) * steps, axis=1) <= away
        assert (height[tuple(found[near].T)] >= height[tuple(place)]).any()


@pytest.mark.parametrize(
    ("shape", "away", "spacing"),
    [
        ((30, 51), 13.0, None),
        ((4, 20, 21), 9.5, (2.5, 0.7, 1.3)),
        # farther than the volume goes
        ((4, 19, 22), 50.0, None),
    ],
)
def test_every_peak_of_a_large_ball_is_found(shape, away, spacing):
    rng = np.random.default_rng(8)
    height = ndimage.gaussian_filter(rng.random(shape), 1.5)
    # several are as high as each other
    height = np.round(height * 60).astype(np.float32)
    parts = np.ones(shape, np.uint32)
    parts[..., 15:] = 2
    peaks, extents = find_peaks(height, parts, away, spacing)
    steps = np.array(spacing or [1] * len(shape))
    places, flat = np.argwhere(parts), height.ravel()
    squares = cdist(places * steps, places * steps, "sqeuclidean")
    is_near = (squares <= away**2) & np.equal.outer(parts.ravel(), parts.ravel())
    is_peak = flat == np.where(is_near, flat, -1).max(axis=1)
    expected = places[is_peak].tolist()
    assert {tuple(p) for p in peaks.places.tolist()} == set(map(tuple, expected))
    assert len(expected) > 1
    assert extents[1, 1] == height[..., :15].max()


def test_what_is_as_high_everywhere_is_one():
    assert split_touching(np.ones((9, 60, 60), bool)).max() == 1


@pytest.mark.parametrize(
    "options", [{}, {"min_distance": 6}, {"h": 1.0}, {"smoothing": 0, "h": 1.0}]
)
def test_two_balls_that_touch_are_two(options):
    mask = balls()
    labels = split_touching(mask, **options)
    assert labels.max() == 2
    np.testing.assert_array_equal(labels > 0, mask)
    assert labels[15, 15, 10] != labels[15, 15, 34]
    counts = np.bincount(labels.ravel())[1:]
    assert counts.min() / counts.max() > 0.9


def test_thick_sections_are_taken_for_what_they_are():
    mask = balls((3.0, 1.0, 1.0))
    labels = split_touching(mask, spacing=(3, 1, 1), min_distance=6)
    assert labels.max() == 2
    distance = distance_inside(mask, (3, 1, 1))
    expected = ndimage.distance_transform_edt(mask, (3, 1, 1))
    np.testing.assert_allclose(distance, expected, rtol=1e-5)


@settings(max_examples=60)
@given(mask=MASKS, h=st.booleans())
def test_no_foreground_is_lost_and_no_component_joined(mask, h):
    labels = split_touching(mask, **({"h": 0.5} if h else {"min_distance": 3}))
    np.testing.assert_array_equal(labels > 0, mask)
    parts = label_components(mask)
    for i in range(1, int(labels.max()) + 1):
        assert len(set(parts[labels == i])) == 1


def test_each_point_has_an_object():
    mask = balls()[15]
    labels, n_unassigned = watershed_from_points(mask, [(15, 12), (15, 31)])
    assert (labels.max(), n_unassigned) == (2, 0)
    assert labels[15, 10] == 1
    # on background: nothing grows; two at one place: the first
    labels, _ = watershed_from_points(mask, [(0, 0), (15, 31), (15, 31)])
    assert set(labels.ravel().tolist()) == {0, 2}
    labels, n_unassigned = watershed_from_points(mask, [(0, 0)])
    assert not labels.any()
    assert n_unassigned == mask.sum()


def test_components_without_a_point_are_counted():
    mask = np.zeros((20, 20), bool)
    mask[2:6, 2:6] = mask[12:15, 12:15] = True
    labels, n_unassigned = watershed_from_points(mask, [(3, 3)])
    assert n_unassigned == 9
    assert labels[13, 13] == 0


def test_a_mask_without_border_is_one_object():
    labels = split_touching(np.ones((12, 12), bool))
    assert (labels == 1).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m: grow_seeds(m, m[:5]),
            InvalidLabelsError,
            "do not fit",
        ),
        (
            lambda m: watershed_from_points(m, [(1, 2, 3)]),
            InvalidLabelsError,
            "do not lie in",
        ),
        (
            lambda m: watershed_from_points(m & False, [(1, 2)]),
            InvalidLabelsError,
            "no foreground",
        ),
        (
            lambda m: split_touching(m, spacing=(1, 0)),
            SettingsError,
            "2 positive numbers",
        ),
        (lambda m: split_touching(m, h=1, min_distance=1), SettingsError, "either"),
        (lambda m: split_touching(m, h=-1), SettingsError, "above 0"),
    ],
    ids=["shapes", "axes", "empty", "spacing", "both", "h"],
)
def test_wrong_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones((9, 9), bool))
