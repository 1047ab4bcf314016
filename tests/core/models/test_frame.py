from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from segment_anything.utils.transforms import ResizeLongestSide

from napari_samseg.core.models.frame import (
    boxes_to_frame,
    crop_mask,
    points_to_frame,
    resize_plane,
    resized_size,
)

SIZES = [(64, 64), (40, 100), (100, 37), (200, 150), (7, 5)]


@pytest.mark.parametrize("size", SIZES)
def test_resizing_is_that_of_sam_within_a_grey_level(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected = ResizeLongestSide(64).apply_image(image)
    resized = resize_plane(image.astype(np.float32), 64)[0].permute(1, 2, 0).numpy()
    assert resized.shape == expected.shape
    assert np.abs(resized - expected).max() <= 1


def test_a_read_only_plane_is_resized_without_warning():
    plane = np.zeros((8, 8, 3), np.float32)
    plane.flags.writeable = False
    assert resize_plane(plane, 16).shape == (1, 3, 16, 16)


def test_a_very_elongated_plane_keeps_a_pixel():
    assert resized_size((1, 5000), 64) == (1, 64)
    assert resize_plane(np.ones((1, 5000, 3), np.float32), 64).shape == (1, 3, 1, 64)


@pytest.mark.parametrize("size", SIZES)
def test_prompts_go_where_sam_puts_them(size):
    sam = ResizeLongestSide(64)
    points_yx = np.array([[[0, 0], [3, 4]], [[2.5, 1], [6, 4]]], np.float32)
    expected = sam.apply_coords(points_yx[..., ::-1], size)
    np.testing.assert_allclose(points_to_frame(points_yx, size, 64), expected, 1e-6)
    boxes_yx = np.array([[1, 2, 5, 4], [0, 0, 7, 5]], np.float32)
    expected = sam.apply_boxes(np.array([[2, 1, 3, 4], [0, 0, 4, 6]]), size)
    np.testing.assert_allclose(boxes_to_frame(boxes_yx, size, 64), expected, 1e-6)


def upscale_like_sam(
    logits: np.ndarray, original_size: tuple[int, int], side: int
) -> np.ndarray:
    y, x = resized_size(original_size, side)
    square = F.interpolate(
        torch.from_numpy(logits)[None, None], (side, side), mode="bilinear"
    )
    full = F.interpolate(square[..., :y, :x], original_size, mode="bilinear")
    return full[0, 0].numpy()


def paste(crop: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[box[0] : box[2], box[1] : box[3]] = crop
    return mask


@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    seed=st.integers(0, 2**32 - 1),
    offset=st.floats(-3, 3),
)
def test_masks_are_those_of_sam(size, seed, offset):
    rng = np.random.default_rng(seed)
    logits = rng.normal(offset, 1, (16, 16)).astype(np.float32)
    full = upscale_like_sam(logits, size, 64)
    crop, box = crop_mask(logits, size, 64)
    # Sums of products in another order may round the other way at the border.
    sure = np.abs(full) > 1e-5
    np.testing.assert_array_equal(paste(crop, box, size)[sure], (full > 0)[sure])
    if crop.size:
        assert crop.shape == (box[2] - box[0], box[3] - box[1])
        edges = crop[0], crop[-1], crop[:, 0], crop[:, -1]
        assert all(edge.any() for edge in edges), "the box is not tight"


def test_one_positive_logit_gives_one_small_crop():
    logits = np.full((64, 64), -1, np.float32)
    logits[10, 40] = 5
    crop, box = crop_mask(logits, (1000, 800), 256)
    assert (
        box.tolist()
        == np.argwhere(upscale_like_sam(logits, (1000, 800), 256) > 0).min(0).tolist()
        + (
            np.argwhere(upscale_like_sam(logits, (1000, 800), 256) > 0).max(0) + 1
        ).tolist()
    )
    assert crop.size < 40 * 40


def test_no_positive_logit_gives_an_empty_crop():
    crop, box = crop_mask(np.full((16, 16), -1, np.float32), (30, 30), 64)
    assert crop.shape == (0, 0)
    assert box.tolist() == [0, 0, 0, 0]


def test_logits_in_the_padding_alone_give_an_empty_crop():
    logits = np.full((16, 16), -1, np.float32)
    logits[14:, :] = 1
    crop, _ = crop_mask(logits, (30, 60), 64)
    assert crop.shape == (0, 0)


def test_a_large_mask_is_computed_in_blocks(monkeypatch):
    from napari_samseg.core.models import frame

    logits = np.random.default_rng(3).normal(0.5, 1, (16, 16)).astype(np.float32)
    whole, box = crop_mask(logits, (300, 200), 64)
    monkeypatch.setattr(frame, "BLOCK_PIXELS", 1000)
    blocks, same_box = crop_mask(logits, (300, 200), 64)
    np.testing.assert_array_equal(whole, blocks)
    np.testing.assert_array_equal(box, same_box)


def test_a_small_mask_in_a_huge_plane_takes_little_memory():
    logits = np.full((256, 256), -1, np.float32)
    logits[100:104, 30:35] = 1
    tracemalloc.start()
    try:
        crop, box = crop_mask(logits, (20_000, 15_000), 1024)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 300 < min(crop.shape) < max(crop.shape) < 500
    assert box[0] // 78 in (99, 100)
    # A plane of logits alone would be 1.2 GB.
    assert peak < 200 << 20
