from __future__ import annotations

import numpy as np

from napari_samseg.core.overlay import draw_overlay, object_colour
from napari_samseg.core.types import MaskPrediction, PlanePrompts


def draw(object_ids, crops, boxes, prompts, size=(60, 80)):
    n = len(object_ids)
    prediction = MaskPrediction(
        np.array(object_ids),
        tuple(crops),
        np.array(boxes),
        size,
        np.ones(n, np.float32),
        np.zeros((n, 4, 4), np.float32),
    )
    return draw_overlay(np.full((*size, 3), 100, np.float32), prediction, prompts)


def is_near(pixels, colour):
    return np.abs(pixels.astype(int) - colour).max(axis=-1) < 40


def test_masks_points_and_boxes_lie_where_they_belong():
    prompts = PlanePrompts(
        np.array([1, 2]),
        np.array([[[20, 20], [5, 5]], [[0, 0], [0, 0]]]),
        np.array([[1, 0], [-1, -1]]),
        np.array([[np.nan] * 4, [30, 40, 50, 70]]),
    )
    crops = [np.ones((20, 20), bool), np.zeros((0, 0), bool)]
    picture = draw([1, 2], crops, [(10, 10, 30, 30), (0, 0, 0, 0)], prompts)
    scale = 1200 // 80
    assert picture.shape == (60 * scale, 80 * scale, 3)
    centre = np.array([20.5, 20.5]) * scale
    assert is_near(picture[tuple(centre.astype(int))], (40, 200, 80))
    off = np.array([5.5, 5.5]) * scale
    assert is_near(picture[tuple(off.astype(int))], (230, 60, 60))
    # the contour runs along the outer edge of the mask, half a pixel out
    assert is_near(picture[12 * scale, 10 * scale], object_colour(1))
    # the box is half-open: its edge is the edge between two pixels
    assert is_near(picture[40 * scale, 40 * scale], (255, 225, 60))
    # the inside of the mask is tinted, the outside is not
    assert np.ptp(picture[15 * scale, 27 * scale].astype(int)) > 30
    np.testing.assert_array_equal(picture[55 * scale, 5 * scale], (100, 100, 100))


def test_a_mask_at_the_border_is_closed():
    prompts = PlanePrompts(
        np.array([3]), np.zeros((1, 0, 2)), np.zeros((1, 0)), [[0, 0, 60, 80]]
    )
    picture = draw([3], [np.ones((60, 80), bool)], [(0, 0, 60, 80)], prompts)
    assert np.ptp(picture[450, 600].astype(int)) > 30


def test_ids_that_follow_each_other_differ_in_colour():
    colours = np.array([object_colour(i) for i in range(1, 30)])
    steps = np.abs(np.diff(colours, axis=0)).sum(axis=1)
    assert steps.min() > 100
