"""Prompts seen from a tile mean the same place."""

from __future__ import annotations

import numpy as np
import pytest

from napari_samseg.core.prompts.framing import frame_prompts, prompted_extents
from napari_samseg.core.prompts.from_arrays import pair_prompts
from napari_samseg.core.prompts.mask_logits import mask_to_logits
from napari_samseg.core.types import PlanePrompts

SIZE = (200, 300)
TILE = (50, 100, 150, 200)


def masked(mask: np.ndarray, side: int) -> PlanePrompts:
    return PlanePrompts(
        np.array([1]),
        np.zeros((1, 0, 2), np.float32),
        np.zeros((1, 0), np.int8),
        np.full((1, 4), np.nan, np.float32),
        mask_to_logits(mask, side)[np.newaxis],
    )


def test_points_and_boxes_move_with_the_tile():
    prompts = pair_prompts([[60, 120]], boxes_yx=[[55, 110, 70, 130]], plane_size=SIZE)
    framed = frame_prompts(prompts, TILE, SIZE, 64)
    assert framed.points_yx[0].tolist() == [[10, 20]]
    assert framed.boxes_yx[0].tolist() == [5, 10, 20, 30]


def test_background_beyond_the_tile_is_left_out():
    prompts = pair_prompts(
        [[[60, 120], [10, 10], [149, 199]]], [[1, 0, 0]], plane_size=SIZE
    )
    framed = frame_prompts(prompts, TILE, SIZE, 64)
    assert framed.point_labels[0].tolist() == [1, -1, 0]
    assert framed.n_points.tolist() == [2]


def test_the_whole_plane_is_no_change():
    prompts = masked(np.indices(SIZE)[0] > 90, 64)
    framed = frame_prompts(prompts, (0, 0, *SIZE), SIZE, 64)
    np.testing.assert_array_equal(framed.low_res_masks, prompts.low_res_masks)


@pytest.mark.parametrize("side", [64, 256])
def test_a_mask_is_cut_out_and_enlarged(side):
    mask = np.zeros(SIZE, bool)
    mask[70:110, 120:180] = True
    framed = frame_prompts(masked(mask, side), TILE, SIZE, 64)
    expected = mask_to_logits(mask[50:150, 100:200], 64)
    wrong = (framed.low_res_masks[0] > 0) != (expected > 0)
    # a cell of the coarse mask is 4.7 pixels wide, of the tile's 1.6
    assert wrong.mean() < (0.06 if side == 64 else 0.015)


def test_beyond_a_narrow_tile_there_is_background():
    mask = np.ones(SIZE, bool)
    framed = frame_prompts(masked(mask, 128), (0, 100, 200, 150), SIZE, 64)
    assert (framed.low_res_masks[0][:, :16] > 0).all()
    assert (framed.low_res_masks[0][:, 16:] < 0).all()


def test_extents_hold_all_that_belongs_to_an_object():
    both = pair_prompts([[60, 120]], boxes_yx=[[70, 110, 90, 130]], plane_size=SIZE)
    assert prompted_extents(both, SIZE).tolist() == [[60, 110, 90, 130]]
    mask = np.zeros(SIZE, bool)
    mask[70:110, 120:180] = True
    (extent,) = prompted_extents(masked(mask, 300), SIZE)
    np.testing.assert_allclose(extent, [70, 120, 110, 180], atol=1)
    background = pair_prompts([[[60, 120], [1, 1]]], [[1, 0]], plane_size=SIZE)
    assert prompted_extents(background, SIZE).tolist() == [[60, 120, 61, 121]]
