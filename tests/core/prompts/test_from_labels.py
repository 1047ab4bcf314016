"""Prompts made from labels say what the labels say."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.io import imread

from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.prompts.from_labels import (
    BOX_SAMPLERS,
    NEGATIVE_SAMPLERS,
    POINT_SAMPLERS,
    sample_interior_point,
    sample_jittered_box,
    sample_planes,
    sample_prompts,
    sample_random_point,
)
from napari_samseg.core.prompts.inside_points import random_pixels
from napari_samseg.core.prompts.mask_logits import mask_to_logits
from napari_samseg.core.prompts.object_index import index_objects
from napari_samseg.core.settings import PromptSettings, describe
from napari_samseg.core.types import BACKGROUND, FOREGROUND

LABELS = hnp.arrays(
    np.uint16,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([0, 0, 0, 1, 2, 7, 65535]),
)


@st.composite
def curved_labels(draw) -> np.ndarray:
    """Rings, crescents and discs that lie over each other."""
    side = draw(st.integers(1, 40))
    labels = np.zeros((side, draw(st.integers(1, 40))), np.int64)
    yy, xx = np.indices(labels.shape)
    for object_id in draw(st.lists(st.integers(1, 9), max_size=5)):
        y, x = draw(st.integers(0, 40)), draw(st.integers(0, 40))
        radius = draw(st.floats(0.5, 20))
        inner = draw(st.floats(0, 20))
        shift = draw(st.sampled_from([0, 3, 8]))
        shape = np.hypot(yy - y, xx - x) <= radius
        labels[shape & (np.hypot(yy - y, xx - x - shift) >= inner)] = object_id
    return labels


def sampled(labels, seed=0, **changes):
    chosen = PromptSettings(**({"box": "none"} | changes))
    return sample_prompts(index_objects(labels), chosen, np.random.default_rng(seed))


def check_points(labels, prompts, n_points=0, n_negatives=0):
    flat = labels.ravel()
    for i, object_id in enumerate(prompts.object_ids):
        signs = prompts.point_labels[i]
        points = prompts.points_yx[i].astype(int)
        inside = [tuple(p) for p in points[signs == FOREGROUND]]
        outside = [tuple(p) for p in points[signs == BACKGROUND]]
        assert len(set(inside)) == len(inside)
        assert len(set(outside)) == len(outside) <= n_negatives
        assert all(labels[p] == object_id for p in inside)
        assert all(labels[p] != object_id for p in outside)
        assert len(inside) <= min(n_points, (flat == object_id).sum())
        assert (np.diff((signs == -1).astype(int)) >= 0).all(), "padding is last"


@given(
    st.one_of(LABELS, curved_labels()),
    st.sampled_from(sorted(POINT_SAMPLERS)),
    st.sampled_from(sorted(NEGATIVE_SAMPLERS)),
    st.integers(1, 6),
    st.integers(0, 4),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=300)
def test_points_lie_in_their_objects_and_negative_ones_beside(
    labels, point, negative, n_points, n_negatives, seed
):
    asked = {
        "point": point,
        "n_points": n_points,
        "negative": negative,
        "n_negatives": n_negatives,
        "grid": 5,
        "ring": 3,
    }
    prompts = sampled(labels, seed, **asked)
    assert prompts.object_ids.tolist() == sorted(set(labels[labels > 0].tolist()))
    check_points(labels, prompts, n_points, n_negatives)
    again = sampled(labels, seed, **asked)
    np.testing.assert_array_equal(prompts.points_yx, again.points_yx)
    if point not in ("skeleton", "grid"):
        areas = [(labels == i).sum() for i in prompts.object_ids]
        counts = (prompts.point_labels == FOREGROUND).sum(axis=1)
        np.testing.assert_array_equal(counts, np.minimum(areas, n_points))


@given(
    st.one_of(LABELS, curved_labels()),
    st.sampled_from(sorted(BOX_SAMPLERS)),
    st.integers(0, 30),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=150)
def test_boxes_hold_the_middle_of_their_objects(labels, box, jitter, seed):
    objects = index_objects(labels)
    prompts = sampled(labels, seed, box=box, jitter=jitter)
    assert prompts.has_box.all()
    middles = (objects.boxes_yx[:, :2] + objects.boxes_yx[:, 2:]) / 2
    assert (prompts.boxes_yx[:, :2] <= middles - 0.4).all()
    assert (prompts.boxes_yx[:, 2:] >= middles + 0.4).all()
    np.testing.assert_array_equal(prompts.boxes_yx % 1, 0)
    if box == "box":
        np.testing.assert_array_equal(prompts.boxes_yx, objects.boxes_yx)
    if box == "jittered-box":
        assert (np.abs(prompts.boxes_yx - objects.boxes_yx) <= jitter).all()
    if box in ("jittered-box", "gaussian-box"):
        assert (prompts.boxes_yx >= 0).all()
        assert (prompts.boxes_yx <= np.tile(labels.shape, 2)).all()


def test_every_choice_of_the_settings_is_sampled():
    choices = {info.name: set(info.choices) for info in describe(PromptSettings)}
    assert choices["box"] - {"none"} == set(BOX_SAMPLERS)
    assert choices["point"] - {"none"} == set(POINT_SAMPLERS)
    assert choices["negative"] == set(NEGATIVE_SAMPLERS)
    with pytest.raises(SettingsError, match="choose boxes, points or masks"):
        PromptSettings(box="none")


@given(LABELS)
@settings(max_examples=50)
def test_index_lists_each_object_once(labels):
    objects = index_objects(labels)
    assert objects.areas.sum() == len(objects.pixels) == np.count_nonzero(labels)
    listed = labels.ravel()[objects.pixels]
    np.testing.assert_array_equal(
        listed, np.repeat(objects.object_ids, objects.areas).astype(labels.dtype)
    )


def test_small_objects_are_left_out_and_rows_can_be_chosen():
    labels = np.zeros((8, 8), np.int32)
    labels[:3, :3], labels[5, 5], labels[6:, :4] = 4, 9, 2
    objects = index_objects(labels, min_area=2)
    assert objects.object_ids.tolist() == [2, 4]
    assert objects.areas.tolist() == [8, 9]
    second = objects.select(np.array([1]))
    assert second.boxes_yx.tolist() == [[0, 0, 3, 3]]
    assert (labels.ravel()[second.pixels] == 4).all()
    assert objects.at_border.tolist() == [True, True]


def test_random_pixels_cover_the_object_evenly():
    labels = np.zeros((4, 5), np.uint8)
    labels[1:3, 1:4] = 3
    objects = index_objects(labels)
    rng = np.random.default_rng(0)
    drawn = np.concatenate([random_pixels(objects, rng, 2) for _ in range(3000)])
    assert (drawn[:, 0] != drawn[:, 1]).all()
    _, counts = np.unique(drawn, return_counts=True)
    assert len(counts) == 6
    # five standard deviations of a count of 6000 draws at one sixth
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(6000 * (1 / 6) * (5 / 6))
    _, pairs = np.unique(np.sort(drawn, axis=1), axis=0, return_counts=True)
    assert len(pairs) == 15
    assert np.abs(pairs - 200).max() < 5 * np.sqrt(200)


def crescent() -> np.ndarray:
    yy, xx = np.mgrid[:40, :40]
    shape = (np.hypot(yy - 20, xx - 20) < 18) & (np.hypot(yy - 20, xx - 26) > 16)
    return shape.astype(int)


@pytest.mark.parametrize("point", ["interior", "centroid"])
def test_the_middle_of_a_crescent_is_inside(point):
    labels = crescent()
    y, x = sampled(labels, point=point).points_yx[0, 0].astype(int)
    assert labels[y, x]
    rows, columns = np.nonzero(labels)
    assert not labels[round(rows.mean()), round(columns.mean())]
    off = np.hypot(rows - rows.mean(), columns - columns.mean())
    if point == "centroid":
        assert np.hypot(y - rows.mean(), x - columns.mean()) == off.min()


def test_the_most_interior_pixel_is_farthest_from_the_outline():
    labels = np.zeros((30, 40), int)
    labels[2:13, 2:30], labels[5:10, 30:40], labels[20:, :] = 1, 2, 3
    prompts = sample_interior_point(index_objects(labels), np.random.default_rng(0))
    # of equally deep ones the most central; the plane ends beyond object 3
    assert prompts.points_yx[:, 0].tolist() == [[7, 15], [7, 34], [24, 19]]


def test_farthest_points_spread_to_the_ends():
    labels = np.zeros((5, 60), int)
    labels[1:4, 3:57] = 1
    points = sampled(labels, point="farthest", n_points=3).points_yx[0]
    assert sorted(points[:, 1]) == [3, 29, 56]


def test_skeleton_points_lie_in_the_middle_of_a_bar():
    labels = np.zeros((11, 80), int)
    labels[3:8, 5:75] = 4
    points = sampled(labels, point="skeleton", n_points=20).points_yx[0]
    assert len(points) == 20
    # at its ends the skeleton bends to the corners
    assert set(points[(points[:, 1] > 9) & (points[:, 1] < 71), 0]) == {5.0}
    assert np.ptp(points[:, 1]) > 20


def test_grid_points_are_those_of_automatic_segmentation():
    labels = np.zeros((64, 128), int)
    labels[10:40, 20:90], labels[60, 1] = 1, 2
    prompts = sampled(labels, point="grid", grid=8)
    # cells of 8 x 16: the pixels in which (i + 1/2) / 8 of the sides lie
    assert prompts.points_yx[0, 0].tolist() == [28, 56]
    assert prompts.points_yx[1, 0].tolist() == [60, 1], "no point of the grid inside"
    more = sampled(labels, point="grid", grid=8, n_points=3).points_yx[0]
    assert {tuple(p) for p in more.tolist()} == {(28, 56), (20, 56), (36, 56)}


def test_a_ring_is_no_wider_than_asked():
    labels = np.zeros((60, 60), int)
    labels[20:30, 20:30], labels[30:34, 20:30] = 1, 2
    prompts = sampled(
        labels, box="box", n_negatives=40, ring=4, negative="ring"
    ).select(np.array([0]))
    points = prompts.points_yx[0]
    assert len(points) == 40
    gaps = np.maximum(np.maximum(20 - points, points - 29), 0)
    distance = np.hypot(*gaps.T)
    assert distance.min() >= 1
    assert distance.max() <= 4
    assert (labels[tuple(points.astype(int).T)] == 2).any()


def test_what_little_is_left_around_an_object_is_found():
    labels = np.ones((30, 30), int)
    labels[14, 14], labels[0, 29] = 0, 2
    points = sampled(labels, box="box", n_negatives=5).points_yx[0]
    signs = sampled(labels, box="box", n_negatives=5).point_labels[0]
    assert {tuple(p) for p in points[signs == 0].tolist()} == {(14, 14), (0, 29)}
    whole = sampled(np.ones((9, 9), int), box="box", n_negatives=5)
    assert whole.points_yx.shape == (1, 0, 2)


def test_neighbours_are_the_nearest_objects():
    labels = np.zeros((9, 90), int)
    for object_id, x in enumerate((2, 10, 30, 80), start=1):
        labels[3:6, x : x + 3] = object_id
    prompts = sampled(labels, box="box", negative="neighbours", n_negatives=2)
    hit = labels[tuple(prompts.points_yx.astype(int).T)].T
    assert hit.tolist() == [[2, 3], [1, 3], [2, 1], [3, 2]]


def test_mask_prompts_are_those_of_the_model():
    labels = np.zeros((48, 80), int)
    labels[5:20, 11:40], labels[30:31, 79] = 3, 9
    prompts = sampled(labels, mask=True, mask_size=32)
    for mask, object_id in zip(prompts.low_res_masks, (3, 9), strict=True):
        np.testing.assert_allclose(
            mask, mask_to_logits(labels == object_id, 32), atol=1e-4
        )
    many = np.arange(1, 40001).reshape(200, 200)
    with pytest.raises(InvalidLabelsError, match=r"40000 objects take 10\.5 GB"):
        sampled(many, mask=True)


def test_jitter_is_uniform_up_to_a_tenth_of_each_side():
    labels = np.repeat(np.repeat(np.arange(1, 401).reshape(20, 20), 10, 0), 20, 1)
    objects = index_objects(labels)
    boxes = sample_jittered_box(objects, np.random.default_rng(1)).boxes_yx
    off = (boxes - objects.boxes_yx) / np.array([10, 20, 10, 20])
    assert np.abs(off).max() <= 0.1 + 1e-5
    assert np.abs(off.mean(axis=0)).max() < 0.02
    assert off.std(axis=0) == pytest.approx(np.full(4, 0.2 / np.sqrt(12)), rel=0.15)


def test_boxes_are_off_by_whole_pixels_all_equally_likely():
    labels = np.zeros((420, 420), int)
    ids = np.arange(1, 401).reshape(20, 20)
    labels[10:410, 10:410] = ids.repeat(20, 0).repeat(20, 1)
    tight = index_objects(labels).boxes_yx
    offs = [
        sampled(labels, seed, box="jittered-box", jitter=3).boxes_yx - tight
        for seed in range(5)
    ]
    values, counts = np.unique(np.concatenate(offs), return_counts=True)
    assert values.tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert np.abs(counts - 8000 / 7).max() < 5 * np.sqrt(8000 / 7)


def test_gaussian_boxes_have_the_bounds_of_the_reference():
    for sides, expected in (((60, 80), 8.0), ((30, 400), 20.0)):
        labels = np.arange(1, 31).reshape(10, 3).repeat(sides[0], 0).repeat(sides[1], 1)
        labels = np.pad(labels, 100)
        objects = index_objects(labels)
        off = sampled(labels, box="gaussian-box").boxes_yx - objects.boxes_yx
        assert off[:, 1::2].std() == pytest.approx(expected, rel=0.2)


def test_no_object_gives_no_prompt():
    objects = index_objects(np.zeros((5, 5), np.uint8))
    assert len(sample_random_point(objects, np.random.default_rng(0))) == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((4, 4)), "integers, got float64"),
        (np.zeros((2, 4, 4), int), "(2, 4, 4)"),
        (np.full((4, 4), -1), "negative"),
        (np.full((4, 4), 2**63, np.uint64), "9223372036854775808 is above"),
    ],
)
def test_labels_that_are_none(labels, message):
    with pytest.raises(InvalidLabelsError) as caught:
        index_objects(labels)
    assert message in str(caught.value)


def test_a_plane_has_its_prompts_whichever_planes_come_before():
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 3, (2, 3, 20, 30))
    volume[1, 0] = 0
    chosen = PromptSettings(point="random", n_points=3, seed=5)
    planes = dict(sample_planes(volume, chosen))
    assert list(planes) == list(np.ndindex(2, 3))
    assert len(planes[1, 0]) == 0
    last = dict(sample_planes(volume[:, 2:], chosen))
    assert not np.array_equal(planes[0, 2].points_yx, last[0, 0].points_yx)
    alone = dict(sample_planes(volume, chosen))
    np.testing.assert_array_equal(planes[1, 2].points_yx, alone[1, 2].points_yx)
    with pytest.raises(InvalidLabelsError, match=r"\(\.\.\., Y, X\)"):
        list(sample_planes(np.zeros(3, int), chosen))


def test_ten_thousand_objects_take_less_than_a_second():
    yy, xx = np.indices((1500, 1500))
    disc = np.hypot(yy % 15 - 7, xx % 15 - 7) < 7
    labels = np.where(disc, yy // 15 * 100 + xx // 15 + 1, 0).astype(np.uint32)
    start = time.perf_counter()
    prompts = sampled(
        labels, box="jittered-box", point="interior", n_points=3, n_negatives=2
    )
    seconds = time.perf_counter() - start
    assert len(prompts) == 10000
    # a loop over objects and pixels takes far longer than a busy machine can explain
    assert seconds < 3


class TestRealLabels:
    def test_nuclei(self, shared_data):
        paths = sorted((shared_data / "dsb2018/labels").glob("*.png"))[:3]
        for path in paths:
            labels = imread(path)
            for point in POINT_SAMPLERS:
                prompts = sampled(
                    labels, point=point, n_points=4, n_negatives=3, negative="ring"
                )
                check_points(labels, prompts, 4, 3)

    def test_neurons(self, shared_data):
        path = shared_data / "em_fib25_neuroproof/gt_bodies.tif"
        labels = tifffile.imread(path, key=0)
        for point in POINT_SAMPLERS:
            prompts = sampled(labels, point=point, n_points=4, n_negatives=3)
            check_points(labels, prompts, 4, 3)
