"""Parts of a mask that were not pointed at go."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_samseg.core.prompts.islands import drop_islands
from napari_samseg.core.types import MaskPrediction, PlanePrompts

PIECES = np.array(
    [
        [1, 1, 0, 0, 0, 0],
        [1, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1, 1],
        [0, 1, 0, 0, 0, 0],
    ],
    bool,
)


def predict(crop, y0=10, x0=20):
    box = [[y0, x0, y0 + crop.shape[0], x0 + crop.shape[1]]]
    return MaskPrediction(
        np.array([1]),
        (crop,),
        np.array(box),
        (40, 50),
        np.ones(1, np.float32),
        np.zeros((1, 4, 4), np.float32),
    )


def prompt(points=(), labels=(), box=None, mask=False):
    boxes = np.full((1, 4), np.nan) if box is None else np.array([box])
    return PlanePrompts(
        np.array([1]),
        np.array(points, np.float32).reshape(1, -1, 2),
        np.array(labels, np.int8).reshape(1, -1),
        boxes.astype(np.float32),
        np.zeros((1, 4, 4), np.float32) if mask else None,
    )


def kept(prompts, crop=PIECES):
    before = predict(crop)
    after = drop_islands(before, prompts)
    assert not (after.masks & ~before.masks).any()
    return after.masks[0, 10:14, 20:26].astype(int)


def test_the_part_under_a_point_stays():
    expected = PIECES * [[1, 1, 0, 0, 0, 0]]
    expected[3] = 0
    assert (kept(prompt([(10, 20)], [1])) == expected).all()


def test_all_parts_that_were_pointed_at_stay():
    both = kept(prompt([(10, 20), (13, 21)], [1, 1]))
    assert (both[:, :2] == PIECES[:, :2]).all()
    assert not both[:, 3:].any()


def test_background_points_keep_nothing():
    assert kept(prompt([(10, 20), (13, 21)], [1, 0]))[3].sum() == 0


def test_a_box_alone_keeps_the_largest_part():
    found = kept(prompt(box=(10, 20, 14, 26)))
    assert found.sum() == 6
    assert found[1:3, 3:].all()


def test_a_mask_prompt_and_points_beside_keep_everything():
    assert (kept(prompt([(10, 20)], [1], mask=True)) == PIECES).all()
    assert (kept(prompt([(2, 2)], [1])) == PIECES).all()


def test_an_empty_mask_stays_empty():
    empty = drop_islands(predict(np.zeros((0, 0), bool)), prompt([(5, 5)], [1]))
    assert empty.masks.sum() == 0


@given(st.integers(0, 2**24 - 1), st.integers(0, 23))
def test_what_is_left_is_part_of_the_mask_and_holds_its_point(bits, place):
    crop = np.array([bits >> i & 1 for i in range(24)], bool).reshape(4, 6)
    y, x = divmod(place, 6)
    after = drop_islands(predict(crop), prompt([(10 + y, 20 + x)], [1]))
    mask = after.masks[0, 10:14, 20:26]
    assert not (mask & ~crop).any()
    assert mask[y, x] == crop[y, x]
    (y0, x0, y1, x1), (small,) = after.boxes_yx[0], after.crops
    assert small.shape == (y1 - y0, x1 - x0)
