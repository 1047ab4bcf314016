"""Points that contradict the box of their object are told."""

from __future__ import annotations

import numpy as np
import pytest

from napari_samseg.core.prompts.from_arrays import pair_prompts
from napari_samseg.core.prompts.from_geometry import Gesture, gather_prompts
from napari_samseg.core.prompts.stray_points import (
    PromptWarning,
    describe_stray,
    find_stray,
    warn_stray,
)

BOX = (10, 10, 20, 20)


def stray(points, labels=None, boxes=(BOX,)):
    return find_stray(pair_prompts(points, labels, boxes, plane_size=(50, 50))).tolist()


def test_a_box_reaches_half_a_pixel_around_its_pixels():
    for inside in ((9.5, 9.5), (19.5, 19.5), (15, 10)):
        assert stray([inside]) == []
    for outside in ((9.4, 15), (15, 19.6), (45, 45)):
        assert stray([outside]) == [1]


def test_background_points_and_objects_without_box_are_no_matter():
    points = [[(15, 15), (40, 40)], [(15, 15), (40, 40)], [(40, 40), (0, 0)]]
    labels = [[1, 0], [1, 1], [1, -1]]
    boxes = [BOX, BOX, (np.nan,) * 4]
    assert stray(points, labels, boxes) == [2]


def test_the_box_of_a_lasso_was_not_drawn():
    lasso = Gesture("lasso", np.array([[5, 5], [5, 15], [15, 15], [15, 5]], float))
    click = Gesture("click", np.array([[40, 40]], float))
    assert not len(find_stray(gather_prompts({3: [lasso, click]}, (50, 50), 64)))


def test_one_warning_names_them_all():
    prompts = pair_prompts([(40, 40)] * 12, None, [BOX] * 12, plane_size=(50, 50))
    with pytest.warns(PromptWarning, match=r"objects 1, 2, .*, 10, \.\.\. have a") as w:
        warn_stray(prompts)
    assert len(w) == 1
    assert describe_stray(np.array([7])).startswith("object 7 has a point outside")
