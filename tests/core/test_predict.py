from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch

from napari_samseg.core.cache import MemoryCache
from napari_samseg.core.errors import (
    InvalidPromptError,
    ModelMemoryError,
    SettingsError,
)
from napari_samseg.core.memory import MemoryFallbackWarning
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.predict import (
    Predictor,
    predict_masks,
)
from napari_samseg.core.types import PlanePrompts

NO_BOX = (np.nan,) * 4
NO_POINT = (np.nan, np.nan)
CUDA_ERROR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


class OutOfMemory(SamModel):
    """A real model that runs out of memory above `limit` objects at once.

    `pretend` is the device it says to be on; its copy for the CPU is an ordinary
    model.
    """

    def __init__(self, sam, limit, error=CUDA_ERROR, pretend="cpu"):
        super().__init__(sam, name="tiny vit", family="sam")
        self.limit = limit
        self.error = error
        self.device = torch.device(pretend)
        self.batches = []

    def encode_batch_steps(self, planes):
        if self.limit < 0:
            raise self.error
        return (yield from super().encode_batch_steps(planes))

    def decode(self, embedding, prompts, *, multimask):
        self.batches.append(len(prompts))
        if len(prompts) > self.limit:
            raise self.error
        return super().decode(embedding, prompts, multimask=multimask)


@pytest.fixture
def model(tiny_sam):
    return SamModel(tiny_sam, name="tiny vit", family="sam")


@pytest.fixture
def plane():
    return np.random.default_rng(0).uniform(0, 255, (48, 80, 3)).astype(np.float32)


@pytest.fixture
def mixed(model):
    """Eleven objects of five kinds, in no order."""
    rng = np.random.default_rng(2)
    n, side = 11, model.low_res_size
    points = rng.uniform(0, 47, (n, 2, 2))
    labels = np.ones((n, 2))
    labels[1::2, 1] = -1
    labels[0, 0] = -1
    boxes = np.full((n, 4), np.nan)
    boxes[3:7] = [5, 6, 30, 50]
    masks = np.full((n, side, side), np.nan)
    masks[6:8] = rng.normal(0, 4, (2, side, side))
    labels[4] = -1
    points[labels == -1] = np.nan
    ids = rng.permutation(np.arange(1, n + 1))
    return PlanePrompts(ids, points, labels, boxes, masks)


def lone_points(n):
    points = np.random.default_rng(4).uniform(0, 47, (n, 1, 2))
    return PlanePrompts(np.arange(1, n + 1), points, np.ones((n, 1)), [NO_BOX] * n)


def test_a_mask_does_not_depend_on_what_else_is_asked_for(model, plane, mixed):
    embedding = model.encode(plane)
    together = predict_masks(model, embedding, mixed)
    assert together.object_ids.tolist() == mixed.object_ids.tolist()
    for i in range(len(mixed)):
        alone = predict_masks(model, embedding, mixed.select(np.array([i])))
        np.testing.assert_allclose(
            together.low_res_masks[i], alone.low_res_masks[0], atol=1e-5
        )
        np.testing.assert_allclose(
            together.iou_predictions[i], alone.iou_predictions[0], atol=1e-5
        )
        differing = together.masks[i] != alone.masks[0]
        assert differing.sum() <= 2, "more than rounding at the border"


def test_only_objects_of_one_kind_are_decoded_together(tiny_sam, plane, mixed):
    model = OutOfMemory(tiny_sam, limit=100)
    predict_masks(model, model.encode(plane), mixed)
    assert sum(model.batches) == len(mixed)
    assert len(model.batches) == 6


def test_masks_are_as_large_as_the_plane(model, plane):
    prediction = predict_masks(model, model.encode(plane), lone_points(3))
    assert prediction.masks.shape == (3, 48, 80)
    assert prediction.plane_size == (48, 80)
    for mask, crop in zip(prediction.masks, prediction.crops, strict=True):
        assert mask.sum() == crop.sum()


def test_auto_takes_three_masks_for_a_lone_point_and_the_best_of_them(model, plane):
    embedding = model.encode(plane)
    point = lone_points(1)
    auto = predict_masks(model, embedding, point)
    three = model.decode(embedding, point, multimask=True)
    best = three.iou_predictions[0].argmax()
    np.testing.assert_allclose(auto.low_res_masks[0], three.logits[0, best], atol=1e-6)
    assert auto.iou_predictions[0] == pytest.approx(three.iou_predictions[0, best])


@pytest.mark.parametrize(
    ("prompts", "lone"),
    [
        (PlanePrompts([1], [[(9, 9)]], [[1]], [NO_BOX]), True),
        (PlanePrompts([1], [[(9, 9), NO_POINT]], [[1, -1]], [NO_BOX]), True),
        (PlanePrompts([1], [[(9, 9), (5, 5)]], [[1, 0]], [NO_BOX]), False),
        (PlanePrompts([1], [[(9, 9)]], [[1]], [(0, 0, 20, 20)]), False),
    ],
)
def test_auto_takes_one_mask_where_the_prompt_is_clear(model, plane, prompts, lone):
    embedding = model.encode(plane)
    auto = predict_masks(model, embedding, prompts).low_res_masks
    forced = predict_masks(model, embedding, prompts, multimask=lone).low_res_masks
    other = predict_masks(model, embedding, prompts, multimask=not lone).low_res_masks
    np.testing.assert_array_equal(auto, forced)
    assert not np.allclose(auto, other)


def test_an_unknown_multimask_is_refused(model, plane):
    with pytest.raises(SettingsError, match="'three'"):
        predict_masks(model, model.encode(plane), lone_points(1), multimask="three")


def test_an_empty_prompt_set_is_refused(model, plane):
    nothing = lone_points(1).select(np.zeros(0, int))
    with pytest.raises(InvalidPromptError, match="there is no prompt"):
        predict_masks(model, model.encode(plane), nothing)


@pytest.mark.parametrize("point", [(-0.6, 5), (5, 79.6), (48, 5), (500, 500)])
def test_a_point_outside_is_refused_by_name(model, plane, point):
    prompts = PlanePrompts(
        [4, 7], [[(9, 9), NO_POINT], [(9, 9), point]], [[1, -1], [1, 0]], [NO_BOX] * 2
    )
    with pytest.raises(InvalidPromptError, match=r"object 7.*outside.*48 x 80"):
        predict_masks(model, model.encode(plane), prompts)


@pytest.mark.parametrize("point", [(-0.5, 0), (47.5, 79.5)])
def test_a_point_on_the_border_is_inside(model, plane, point):
    prompts = PlanePrompts([1], [[point]], [[1]], [NO_BOX])
    assert len(predict_masks(model, model.encode(plane), prompts)) == 1


def test_a_box_outside_is_refused_by_name(model, plane):
    prompts = PlanePrompts(
        [4, 7],
        np.zeros((2, 0, 2)),
        np.zeros((2, 0)),
        [(0, 0, 9, 9), (50, 0, 60, 9)],
    )
    with pytest.raises(InvalidPromptError, match=r"box of object 7.*outside"):
        predict_masks(model, model.encode(plane), prompts)


def test_a_box_over_the_border_is_cut(model, plane):
    embedding = model.encode(plane)
    over = PlanePrompts([1], np.zeros((1, 0, 2)), np.zeros((1, 0)), [(-5, 60, 20, 99)])
    cut = dataclasses.replace(over, boxes_yx=[(0, 60, 20, 80)])
    np.testing.assert_array_equal(
        predict_masks(model, embedding, over).low_res_masks,
        predict_masks(model, embedding, cut).low_res_masks,
    )


def test_an_embedding_of_another_encoder_is_refused(model, plane, make_tiny_sam):
    other = SamModel(make_tiny_sam(96), name="other", family="sam")
    with pytest.raises(SettingsError, match="another encoder"):
        predict_masks(model, other.encode(plane), lone_points(1))


def test_a_half_precision_embedding_is_decoded(model, plane):
    embedding = model.encode(plane)
    half = dataclasses.replace(
        embedding,
        features={"image_embed": embedding.features["image_embed"].astype(np.float16)},
    )
    a, b = (predict_masks(model, e, lone_points(2)) for e in (embedding, half))
    np.testing.assert_allclose(a.low_res_masks, b.low_res_masks, atol=0.02)


# -- memory ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        CUDA_ERROR,
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    ],
    ids=["cuda", "python", "cpu", "mps"],
)
def test_smaller_batches_take_over_and_say_so(tiny_sam, model, plane, error):
    short = OutOfMemory(tiny_sam, limit=1, error=error)
    embedding = model.encode(plane)
    with pytest.warns(MemoryFallbackWarning, match="at a time instead"):
        prediction = predict_masks(short, embedding, lone_points(5))
    assert short.batches[-5:] == [1] * 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = predict_masks(model, embedding, lone_points(5))
    np.testing.assert_allclose(
        prediction.low_res_masks, expected.low_res_masks, atol=1e-5
    )


def test_decoding_goes_on_on_the_cpu_and_says_so(tiny_sam, model, plane):
    full = OutOfMemory(tiny_sam, limit=-1, pretend="cuda")
    embedding = model.encode(plane)
    with pytest.warns(MemoryFallbackWarning) as record:
        prediction = predict_masks(full, embedding, lone_points(6))
    messages = [str(warning.message) for warning in record]
    assert messages == [
        "cuda ran out of memory: decoding 3 at a time instead",
        "cuda ran out of memory: decoding 1 at a time instead",
        "cuda ran out of memory: decoding on the CPU instead",
    ]
    assert full.batches == [6, 3, 1]
    expected = predict_masks(model, embedding, lone_points(6))
    np.testing.assert_array_equal(prediction.low_res_masks, expected.low_res_masks)


def test_no_memory_at_all_is_an_error_of_its_own(tiny_sam, model, plane):
    embedding = model.encode(plane)
    with (
        pytest.warns(MemoryFallbackWarning),
        pytest.raises(ModelMemoryError, match="one object with model tiny vit"),
    ):
        predict_masks(OutOfMemory(tiny_sam, limit=-1), embedding, lone_points(2))


def test_other_errors_are_not_taken_for_lack_of_memory(tiny_sam, model, plane):
    broken = OutOfMemory(tiny_sam, limit=-1, error=RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        predict_masks(broken, model.encode(plane), lone_points(2))


def test_encoding_goes_on_on_the_cpu_and_says_so(tiny_sam, model, plane):
    full = OutOfMemory(tiny_sam, limit=-1, pretend="cuda")
    full.dtype = torch.bfloat16
    predictor = Predictor(full)
    with pytest.warns(MemoryFallbackWarning, match="cuda.*encoding on the CPU"):
        embedding = predictor.encode(plane)
    np.testing.assert_array_equal(
        embedding.features["image_embed"], model.encode(plane).features["image_embed"]
    )
    # It is kept as what it is, float32, not under the name of bfloat16.
    key = predictor.key(plane)
    assert key.precision == "bfloat16"
    assert predictor.cache.get(key) is None
    exact = dataclasses.replace(key, precision="float32")
    assert predictor.cache.get(exact) is embedding
    # and found there, rather than tried on the full device again
    assert predictor.encode(plane) is embedding


def test_a_model_is_copied_to_the_cpu_only_when_it_must(tiny_sam, plane):
    roomy = OutOfMemory(tiny_sam, limit=100)
    roomy.on_cpu = lambda: pytest.fail("copied without need")
    assert len(Predictor(roomy).predict(plane, lone_points(2))) == 2


def test_no_memory_to_encode_is_an_error_of_its_own(tiny_sam, plane):
    predictor = Predictor(OutOfMemory(tiny_sam, limit=-1))
    with pytest.raises(ModelMemoryError, match="48 x 80 pixels with model tiny vit"):
        predictor.encode(plane)


# -- the predictor ----------------------------------------------------------------


def test_each_plane_is_encoded_once(model, plane):
    predictor = Predictor(model)
    first = predictor.encode(plane)
    assert predictor.encode(plane.copy()) is first
    assert list(predictor.encode_steps(plane)) == []
    assert predictor.encode(plane + 1) is not first


def test_encoding_in_steps_fills_the_cache(model, plane):
    predictor = Predictor(model)
    assert [step.stage for step in predictor.encode_steps(plane)] == ["encoding"] * 3
    assert predictor.cache.get(predictor.key(plane)) is not None


def test_encoding_given_up_half_way_leaves_nothing(model, plane):
    predictor = Predictor(model)
    steps = predictor.encode_steps(plane)
    next(steps)
    steps.close()
    assert predictor.cache.get(predictor.key(plane)) is None


def test_predictors_can_share_a_cache_and_models_never_mix(model, plane, make_tiny_sam):
    cache = MemoryCache()
    other = SamModel(make_tiny_sam(96), name="other", family="sam")
    a, b = Predictor(model, cache), Predictor(other, cache)
    assert a.encode(plane).features["image_embed"].shape == (32, 4, 4)
    assert b.encode(plane).features["image_embed"].shape == (32, 6, 6)
    assert Predictor(model, cache).encode(plane) is a.encode(plane)


def test_a_key_of_another_encoder_is_refused(model, plane):
    predictor = Predictor(model)
    for change in ({"encoder_digest": "x"}, {"precision": "float16"}):
        key = dataclasses.replace(predictor.key(plane), **change)
        with pytest.raises(SettingsError, match="another encoder or precision"):
            predictor.encode(plane, key)


def test_a_known_key_is_used(model, plane):
    predictor = Predictor(model)
    key = dataclasses.replace(
        predictor.key(plane), plane_digest="the third", plane=(3,)
    )
    embedding = predictor.encode(plane, key)
    assert predictor.cache.get(key) is embedding
    assert predictor.cache.get(predictor.key(plane)) is None


def test_cached_features_cannot_be_changed(model, plane):
    embedding = Predictor(model).encode(plane)
    with pytest.raises(ValueError, match="read-only"):
        embedding.features["image_embed"][:] = 0


def test_predicting_is_encoding_and_decoding(model, plane):
    predictor = Predictor(model)
    prediction = predictor.predict(plane, lone_points(2))
    expected = predict_masks(model, model.encode(plane), lone_points(2))
    np.testing.assert_array_equal(prediction.masks, expected.masks)
    assert prediction.object_ids.tolist() == [1, 2]
