from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.draw import disk
from skimage.transform import resize

from napari_samseg.core.errors import InvalidPromptError, UnknownNameError
from napari_samseg.core.prompts.from_arrays import draw_prompts, pair_prompts
from napari_samseg.core.prompts.from_geometry import (
    PROMPT_READERS,
    Gesture,
    check_gesture,
    gather_prompts,
    label_gesture,
)
from napari_samseg.core.prompts.mask_logits import mask_to_logits

SIZE = (60, 80)


def disk_mask(centre=(30, 40), radius=12, size=SIZE):
    mask = np.zeros(size, bool)
    mask[disk(centre, radius, shape=size)] = True
    return mask


def square(low, high):
    return np.array([[low, low], [low, high], [high, high], [high, low]], float)


class TestPairPrompts:
    def test_points_are_one_object_each(self):
        prompts = pair_prompts([[5, 6], [7, 8]], plane_size=SIZE)
        np.testing.assert_array_equal(prompts.object_ids, [1, 2])
        np.testing.assert_array_equal(prompts.points_yx, [[[5, 6]], [[7, 8]]])
        np.testing.assert_array_equal(prompts.point_labels, [[1], [1]])
        assert not prompts.has_box.any()

    def test_points_and_boxes_pair_by_row(self):
        prompts = pair_prompts(
            [[5, 6], [20, 30]],
            boxes_yx=[[np.nan] * 4, [10, 20, 30, 40]],
            plane_size=SIZE,
        )
        np.testing.assert_array_equal(prompts.has_box, [False, True])
        np.testing.assert_array_equal(prompts.boxes_yx[1], [10, 20, 30, 40])

    def test_several_points_per_object(self):
        prompts = pair_prompts(
            [[[5, 6], [7, 8]], [[20, 30], [0, 0]]], [[1, 0], [1, -1]], plane_size=SIZE
        )
        np.testing.assert_array_equal(prompts.n_points, [2, 1])

    def test_combine_makes_one_object_with_the_hull_of_all_boxes(self):
        prompts = pair_prompts(
            [[5, 6], [7, 8], [9, 9]],
            [1, 1, 0],
            [[10, 20, 30, 40], [2, 25, 20, 50]],
            combine=True,
            plane_size=SIZE,
        )
        assert len(prompts) == 1
        np.testing.assert_array_equal(prompts.point_labels, [[1, 1, 0]])
        np.testing.assert_array_equal(prompts.boxes_yx, [[2, 20, 30, 50]])

    def test_combine_drops_padding(self):
        prompts = pair_prompts(
            [[[5, 6], [0, 0]], [[7, 8], [9, 9]]],
            [[1, -1], [1, 0]],
            combine=True,
            plane_size=SIZE,
        )
        np.testing.assert_array_equal(prompts.point_labels, [[1, 1, 0]])

    @pytest.mark.parametrize(
        ("given_prompts", "message"),
        [
            ({}, "empty"),
            ({"points_yx": np.empty((0, 2)), "boxes_yx": []}, "empty"),
            ({"points_yx": [[5, 6]], "point_labels": [0]}, "only background"),
            ({"points_yx": [[5, 6], [100, 3]]}, r"point 1 \(y=100, x=3\).*60 x 80"),
            ({"points_yx": [[5, np.nan]]}, "point 0"),
            ({"points_yx": [[5, 6]], "boxes_yx": [[0, 0, 5, 5]] * 2}, "do not pair"),
            ({"boxes_yx": [[0, 90, 9, 99]]}, r"box 0 \(y0=0.*outside the plane"),
            ({"boxes_yx": [[5, 5, 5, 9]]}, "box 0 .*is empty"),
            ({"boxes_yx": [[5, 5, np.inf, 9]]}, "box 0 .*not finite"),
            ({"boxes_yx": [[5, 5, 9]]}, "must be"),
            ({"points_yx": [[1, 2, 3]]}, "must be"),
            ({"point_labels": [1]}, "no points"),
            ({"points_yx": [[1, 2]], "point_labels": [1, 1]}, "do not match"),
            ({"points_yx": [[1, 2]], "point_labels": [7]}, "labels are 1"),
        ],
    )
    def test_bad_prompts_are_named(self, given_prompts, message):
        with pytest.raises(InvalidPromptError, match=message):
            pair_prompts(**given_prompts, plane_size=SIZE)

    def test_a_lone_negative_point_is_an_error_when_combined_too(self):
        with pytest.raises(InvalidPromptError, match="only background"):
            pair_prompts([[5, 6]], [0], combine=True, plane_size=SIZE)

    def test_a_box_over_the_edge_is_clipped(self):
        prompts = pair_prompts(boxes_yx=[[-5, 70, 20, 95]], plane_size=SIZE)
        np.testing.assert_array_equal(prompts.boxes_yx, [[0, 70, 20, 80]])

    @given(y=st.floats(-100, 200, width=32), x=st.floats(-100, 200, width=32))
    def test_a_point_is_taken_exactly_where_the_plane_has_a_pixel(self, y, x):
        inside = -0.5 <= y <= SIZE[0] - 0.5 and -0.5 <= x <= SIZE[1] - 0.5
        if inside:
            assert pair_prompts([[y, x]], plane_size=SIZE).points_yx.shape == (1, 1, 2)
        else:
            with pytest.raises(InvalidPromptError):
                pair_prompts([[y, x]], plane_size=SIZE)


class TestDrawPrompts:
    def test_each_row_is_drawn_as_an_object(self):
        boxes = [[np.nan] * 4, [10, 20, 30, 40]]
        click, box = draw_prompts([[5, 6], [7, 8]], None, boxes, plane_size=SIZE)
        assert [g.kind for g in click] == ["click"]
        assert [g.kind for g in box] == ["click", "box"]

    def test_background_alone_refines_but_is_no_object(self):
        points, labels = [[5, 6], [7, 8], [9, 9]], [0, -1, 1]
        given = {"plane_size": SIZE, "combine": True}
        (drawn,) = draw_prompts(points, labels, refines=True, **given)
        assert [(*g.vertices_yx[0], g.positive) for g in drawn] == [
            (5, 6, False),
            (9, 9, True),
        ]
        (alone,) = draw_prompts([[5, 6]], [0], refines=True, **given)
        assert not alone[0].positive
        with pytest.raises(InvalidPromptError):
            draw_prompts([[5, 6]], [0], **given)


class TestReaders:
    @pytest.mark.parametrize("kind", PROMPT_READERS)
    def test_each_reads_something_that_can_prompt(self, kind):
        mask = np.ones((10, 20), bool)
        vertices = [[20.0, 20.0], [30.0, 40.0]]
        if kind == "lasso":
            vertices = square(20, 30)
        gesture = Gesture(kind, np.array(vertices), mask=mask)
        prompts = gather_prompts({3: [gesture]}, SIZE, 64)
        assert prompts.object_ids.tolist() == [3]
        check_gesture(gesture, SIZE)

    @pytest.mark.parametrize("kind", PROMPT_READERS)
    def test_each_refuses_what_lies_outside(self, kind):
        gesture = Gesture(kind, square(200, 210), mask=np.ones((5, 5), bool))
        with pytest.raises(InvalidPromptError) as read:
            PROMPT_READERS[kind](gesture, SIZE)
        with pytest.raises(InvalidPromptError) as checked:
            check_gesture(gesture, SIZE)
        assert str(read.value) == str(checked.value)

    @pytest.mark.parametrize("kind", ["lasso", "label"])
    def test_a_check_makes_no_mask_of_the_plane(self, kind):
        side = 10**7
        vertices = np.array([[7.0, 3.0], [12.0, 9.0], [7.0, 9.0]])
        if kind == "label":
            vertices = vertices[:2]
        gesture = Gesture(kind, vertices, mask=np.ones((5, 6), bool))
        check_gesture(gesture, (side, side))

    def test_a_lasso_around_a_large_plane_is_quick(self):
        angle = np.linspace(0, 2 * np.pi, 500)
        ring = 1500 + 1400 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
        start = time.perf_counter()
        prompt = PROMPT_READERS["lasso"](Gesture("lasso", ring), (3000, 3000))
        mask_to_logits(prompt.mask, 256)
        # point by point, skimage takes minutes
        assert time.perf_counter() - start < 5
        assert prompt.mask.sum() == pytest.approx(np.pi * 1400**2, rel=1e-3)

    def test_a_rectangle_around_pixels_gives_their_half_open_box(self):
        # pixels 10..19 by 20..39
        gesture = Gesture("box", np.array([[9.5, 19.5], [19.5, 39.5]]))
        np.testing.assert_array_equal(
            PROMPT_READERS["box"](gesture, SIZE).box_yx, [10, 20, 20, 40]
        )

    def test_a_negative_box_is_refused(self):
        gesture = Gesture("box", np.array([[1.0, 1], [5, 5]]), positive=False)
        with pytest.raises(InvalidPromptError, match="cannot be negative"):
            PROMPT_READERS["box"](gesture, SIZE)

    @pytest.mark.parametrize("positive", [True, False])
    def test_a_scribble_keeps_its_ends_sign_and_line(self, positive):
        line = np.array([[10.0, 10.0], [10.0, 30.0], [30.0, 30.0]])
        prompt = PROMPT_READERS["scribble"](Gesture("scribble", line, positive), SIZE)
        np.testing.assert_array_equal(prompt.points_yx[[0, -1]], line[[0, -1]])
        assert set(prompt.point_labels) == {int(positive)}
        on_line = (prompt.points_yx[:, 0] == 10) | (prompt.points_yx[:, 1] == 30)
        assert on_line.all()
        assert 2 < len(prompt.points_yx) <= 12

    def test_a_scribble_that_leaves_the_plane_keeps_its_inside(self):
        line = np.array([[30.0, -40.0], [30.0, 40.0]])
        prompt = PROMPT_READERS["scribble"](Gesture("scribble", line), SIZE)
        assert len(prompt.points_yx) > 0
        assert (prompt.points_yx[:, 1] >= -0.5).all()

    def test_a_dab_with_the_scribble_tool_is_one_point(self):
        prompt = PROMPT_READERS["scribble"](
            Gesture("scribble", np.array([[3, 4]])), SIZE
        )
        np.testing.assert_array_equal(prompt.points_yx, [[3, 4]])

    def test_a_negative_lasso_gives_background_points_inside(self):
        gesture = Gesture("lasso", square(10, 25), positive=False)
        prompt = PROMPT_READERS["lasso"](gesture, SIZE)
        assert prompt.mask is None
        assert set(prompt.point_labels) == {0}
        assert ((prompt.points_yx >= 10) & (prompt.points_yx <= 25)).all()

    def test_the_label_under_a_click_comes_back_as_it_was(self):
        labels = np.zeros(SIZE, np.uint32)
        truth = disk_mask()
        labels[truth] = 70000
        labels[0, 0] = 2
        gesture = label_gesture(labels, (30.2, 39.8))
        prompt = PROMPT_READERS["label"](gesture, SIZE)
        np.testing.assert_array_equal(prompt.mask, truth)
        rows, columns = np.nonzero(truth)
        np.testing.assert_array_equal(
            prompt.box_yx,
            [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1],
        )

    def test_no_label_under_the_click(self):
        with pytest.raises(InvalidPromptError, match=r"no label at \(y=3, x=4\)"):
            label_gesture(np.zeros(SIZE, int), (3, 4))


class TestGather:
    def test_gestures_of_an_object_add_up_and_a_new_box_replaces(self):
        gestures = {
            7: [
                Gesture("click", np.array([[30.0, 40.0]])),
                Gesture("box", np.array([[1.0, 1.0], [5.0, 5.0]])),
                Gesture("click", np.array([[3.0, 4.0]]), positive=False),
                Gesture("box", np.array([[20.0, 20.0], [50.0, 50.0]])),
            ],
            9: [Gesture("click", np.array([[10.0, 10.0]]))],
        }
        prompts = gather_prompts(gestures, SIZE, 64)
        np.testing.assert_array_equal(prompts.object_ids, [7, 9])
        np.testing.assert_array_equal(prompts.point_labels, [[1, 0], [1, -1]])
        np.testing.assert_array_equal(prompts.boxes_yx[0], [20.5, 20.5, 50.5, 50.5])
        np.testing.assert_array_equal(prompts.has_box, [True, False])

    def test_only_objects_with_a_lasso_have_a_mask(self):
        gestures = {
            1: [Gesture("lasso", square(10, 30))],
            2: [Gesture("click", np.array([[10.0, 10.0]]))],
        }
        prompts = gather_prompts(gestures, SIZE, 64)
        np.testing.assert_array_equal(prompts.has_mask, [True, False])
        assert prompts.low_res_masks.shape == (2, 64, 64)

    @pytest.mark.parametrize("gestures", [{}, {1: []}])
    def test_nothing_drawn(self, gestures):
        with pytest.raises(InvalidPromptError, match="no prompt yet"):
            gather_prompts(gestures, SIZE, 64)

    def test_background_alone_names_the_object(self):
        gestures = {4: [Gesture("click", np.array([[3.0, 4.0]]), positive=False)]}
        with pytest.raises(InvalidPromptError, match="object 4 has only background"):
            gather_prompts(gestures, SIZE, 64)


class TestGesture:
    def test_unknown_kind_lists_the_known(self):
        with pytest.raises(UnknownNameError, match="click, box, scribble"):
            Gesture("wink", np.zeros((1, 2)))

    @pytest.mark.parametrize(
        "vertices", [np.zeros((0, 2)), np.zeros((2, 3)), [[np.inf, 1]]]
    )
    def test_bad_vertices(self, vertices):
        with pytest.raises(InvalidPromptError):
            Gesture("click", np.asarray(vertices))


@pytest.mark.parametrize("size", [(60, 80), (80, 60), (300, 500), (17, 16)])
@pytest.mark.parametrize("low_res_size", [64, 256])
def test_logits_thresholded_at_zero_give_the_mask_back(size, low_res_size):
    mask = disk_mask((size[0] // 2, size[1] // 2), min(size) // 3, size)
    logits = mask_to_logits(mask, low_res_size)
    assert logits.shape == (low_res_size, low_res_size)
    scale = low_res_size / max(size)
    height, width = (round(side * scale) for side in size)
    assert (logits[height:] < 0).all()
    assert (logits[:, width:] < 0).all()
    back = resize(logits[:height, :width], size, order=1) > 0
    iou = (back & mask).sum() / (back | mask).sum()
    assert iou > 0.9
