from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_samseg.core.errors import InvalidLabelsError, UnknownNameError
from napari_samseg.core.prompts.from_labels import (
    PROMPT_SAMPLERS,
    index_objects,
    prompt_sampler,
    sample_centre_point,
    sample_jittered_box,
    sample_random_point,
    sample_random_points,
)

LABELS = hnp.arrays(
    np.uint16,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([0, 0, 0, 1, 2, 7, 65535]),
)


@given(LABELS, st.sampled_from(sorted(PROMPT_SAMPLERS)), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_every_sampler_prompts_inside_its_object(
    labels: np.ndarray, name: str, seed: int
) -> None:
    objects = index_objects(labels)
    prompts = PROMPT_SAMPLERS[name](objects, np.random.default_rng(seed))
    assert prompts.object_ids.tolist() == sorted(set(labels[labels > 0].tolist()))
    again = PROMPT_SAMPLERS[name](objects, np.random.default_rng(seed))
    np.testing.assert_array_equal(prompts.points_yx, again.points_yx)
    np.testing.assert_array_equal(prompts.boxes_yx, again.boxes_yx)
    for i, object_id in enumerate(prompts.object_ids):
        for y, x in prompts.points_yx[i].astype(int):
            assert labels[y, x] == object_id
        if prompts.has_box[i]:
            ys, xs = np.nonzero(labels == object_id)
            tight = np.array([ys.min(), xs.min(), ys.max() + 1, xs.max() + 1])
            slack = 0.1 * np.tile(tight[2:] - tight[:2], 2) + 1e-4
            assert (np.abs(prompts.boxes_yx[i] - tight) <= slack).all()


@given(LABELS)
@settings(max_examples=50, deadline=None)
def test_index_lists_each_object_once(labels: np.ndarray) -> None:
    objects = index_objects(labels)
    assert objects.areas.sum() == len(objects.pixels) == np.count_nonzero(labels)
    listed = labels.ravel()[objects.pixels]
    np.testing.assert_array_equal(
        listed, np.repeat(objects.object_ids, objects.areas).astype(labels.dtype)
    )


def test_small_objects_are_left_out_and_rows_can_be_chosen() -> None:
    labels = np.zeros((8, 8), np.int32)
    labels[:3, :3], labels[5, 5], labels[6:, :4] = 4, 9, 2
    objects = index_objects(labels, min_area=2)
    assert objects.object_ids.tolist() == [2, 4]
    assert objects.areas.tolist() == [8, 9]
    second = objects.select(np.array([1]))
    assert second.boxes_yx.tolist() == [[0, 0, 3, 3]]
    assert (labels.ravel()[second.pixels] == 4).all()


def test_random_points_cover_the_object_evenly() -> None:
    labels = np.zeros((4, 5), np.uint8)
    labels[1:3, 1:4] = 3
    objects = index_objects(labels)
    prompts = sample_random_points(objects, np.random.default_rng(0), count=6000)
    _, counts = np.unique(prompts.points_yx[0], axis=0, return_counts=True)
    assert len(counts) == 6
    # five standard deviations of a count of 6000 draws at one sixth
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(6000 * (1 / 6) * (5 / 6))


def test_centre_point_of_a_crescent_is_inside() -> None:
    yy, xx = np.mgrid[:40, :40]
    crescent = (np.hypot(yy - 20, xx - 20) < 18) & (np.hypot(yy - 20, xx - 26) > 16)
    prompts = sample_centre_point(
        index_objects(crescent.astype(int)), np.random.default_rng(0)
    )
    y, x = prompts.points_yx[0, 0].astype(int)
    assert crescent[y, x]
    assert not crescent[20, round(xx[crescent].mean()) + 4]


def test_jitter_is_uniform_up_to_a_tenth_of_each_side() -> None:
    labels = np.repeat(np.repeat(np.arange(1, 401).reshape(20, 20), 10, 0), 20, 1)
    objects = index_objects(labels)
    boxes = sample_jittered_box(objects, np.random.default_rng(1)).boxes_yx
    off = (boxes - objects.boxes_yx) / np.array([10, 20, 10, 20])
    assert np.abs(off).max() <= 0.1 + 1e-5
    assert np.abs(off.mean(axis=0)).max() < 0.02
    assert off.std(axis=0) == pytest.approx(np.full(4, 0.2 / np.sqrt(12)), rel=0.15)


def test_no_object_gives_no_prompt() -> None:
    objects = index_objects(np.zeros((5, 5), np.uint8))
    assert len(sample_random_point(objects, np.random.default_rng(0))) == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((4, 4)), "integers, got float64"),
        (np.zeros((2, 4, 4), int), "(2, 4, 4)"),
        (np.full((4, 4), -1), "negative"),
    ],
)
def test_labels_that_are_none(labels: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidLabelsError) as caught:
        index_objects(labels)
    assert message in str(caught.value)


def test_unknown_sampler_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="jittered_box"):
        prompt_sampler("circle")
