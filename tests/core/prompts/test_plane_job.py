"""Prompts of chosen planes, and what becomes of them when they are edited."""

from __future__ import annotations

import numpy as np
import pytest

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.prompts.from_labels import sample_planes
from napari_samseg.core.prompts.plane_job import (
    attach_masks,
    join_prompts,
    sample_planes_steps,
    unprompted_objects,
)
from napari_samseg.core.settings import PromptSettings
from napari_samseg.core.steps import run_steps


@pytest.fixture
def stack():
    labels = np.zeros((3, 20, 20), np.uint16)
    labels[0, 2:8, 2:8], labels[0, 12, 12] = 5, 9
    labels[2, 3:9, 10:18] = 7
    return labels


def test_planes_that_are_asked_for(stack):
    settings = PromptSettings(point="random", min_area=4)
    given = dict(sample_planes(stack, settings))
    found = run_steps(sample_planes_steps(stack, settings))
    assert list(found.planes) == [(0,), (2,)]
    for plane, prompts in found.planes.items():
        np.testing.assert_array_equal(prompts.points_yx, given[plane].points_yx)
    assert str(found.counts).startswith("2 objects, 2 prompts in 3 planes")
    missing = unprompted_objects(found.object_ids, found.planes)
    assert {plane: ids.tolist() for plane, ids in missing.items()} == {(0,): [9]}

    one = run_steps(sample_planes_steps(stack.astype(float), settings, planes=[(2,)]))
    np.testing.assert_array_equal(one.planes[(2,)].points_yx, given[(2,)].points_yx)
    with pytest.raises(InvalidLabelsError, match="no object in this plane of"):
        run_steps(sample_planes_steps(stack, settings, planes=[(1,)]))


def test_masks_come_back_to_what_was_edited(stack):
    settings = PromptSettings(mask=True, mask_size=16)
    (made,) = run_steps(sample_planes_steps(stack[0], settings)).planes.values()
    bare = attach_masks(None, made)
    assert len(bare) == 0  # all had a box, which is gone
    kept = attach_masks(made.select(np.array([1])), made)
    np.testing.assert_array_equal(kept.low_res_masks, made.low_res_masks[1:])
    only = PromptSettings(box="none", mask=True, mask_size=16)
    (masks,) = run_steps(sample_planes_steps(stack[0], only)).planes.values()
    np.testing.assert_array_equal(
        attach_masks(None, masks).object_ids, masks.object_ids
    )


def test_prompts_of_one_plane_are_put_together(stack):
    asked = PromptSettings(point="random", n_points=3)
    (first,) = run_steps(sample_planes_steps(stack[0], asked)).planes.values()
    (second,) = run_steps(
        sample_planes_steps(stack[0] // 5 * 5, PromptSettings())
    ).planes.values()
    both = join_prompts(first, second)
    assert both.object_ids.tolist() == [5, 9, 10]
    assert both.n_points.tolist() == [3, 1, 0]


def test_a_mask_of_many_pieces_is_told(stack):
    mask = np.zeros((3, 80, 80), np.uint8)
    is_in = np.arange(80) % 10 < 5
    squares = np.logical_and.outer(is_in, is_in)
    mask[:, squares] = 1
    found = run_steps(sample_planes_steps(mask, PromptSettings(), name="layer 'm'"))
    (note,) = found.notes
    assert note.startswith("layer 'm' looks like a mask: 1 in 64 pieces")
    assert "Labels to instances in napari" in note
    assert run_steps(sample_planes_steps(stack, PromptSettings())).notes == []
