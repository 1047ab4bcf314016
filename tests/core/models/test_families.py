"""Every family keeps the promises of `PromptableModel`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import small_config

from napari_samseg.core.errors import InvalidImageError, InvalidPromptError
from napari_samseg.core.models import MODEL_FAMILIES
from napari_samseg.core.models.families import detect_family
from napari_samseg.core.models.mobile_sam import TinyViTConfig, build_mobile_sam
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.models.tiny import build_tiny
from napari_samseg.core.types import PlanePrompts

SMALL_TINY_VIT = TinyViTConfig(
    widths=(16, 16, 32, 32),
    depths=(1, 1, 1, 1),
    heads=(1, 1, 2, 2),
    windows=(3, 3, 3, 3),
    out_channels=32,
    classes=4,
)


NOTHING = PlanePrompts(
    np.zeros(0), np.zeros((0, 0, 2)), np.zeros((0, 0)), np.zeros((0, 4))
)


@pytest.fixture(params=list(MODEL_FAMILIES))
def model(request, make_tiny_sam):
    builders = {
        "sam": make_tiny_sam,
        "mobile_sam": lambda: build_mobile_sam(64, SMALL_TINY_VIT),
        "tiny": lambda: build_tiny(small_config()),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = builders[request.param]()
    prior = MODEL_FAMILIES[request.param].prior
    return SamModel(sam, name="small", family=request.param, prior=prior)


@pytest.fixture
def plane():
    return np.random.default_rng(0).uniform(0, 255, (48, 80, 3)).astype(np.float32)


def lone_points(*points_yx):
    n = len(points_yx)
    return PlanePrompts(
        object_ids=np.arange(1, n + 1),
        points_yx=np.array(points_yx)[:, None],
        point_labels=np.ones((n, 1)),
        boxes_yx=np.full((n, 4), np.nan),
    )


def boxes(*boxes_yx):
    n = len(boxes_yx)
    return PlanePrompts(
        np.arange(1, n + 1), np.zeros((n, 0, 2)), np.zeros((n, 0)), boxes_yx
    )


def test_an_embedding_has_the_shape_the_model_says(model, plane):
    embedding = model.encode(plane)
    features = embedding.features["image_embed"]
    assert features.shape == model.embedding_shape
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert embedding.original_size == (48, 80)
    assert embedding.input_size == (38, 64)
    assert embedding.encoder_digest == model.encoder_digest


def test_encoding_changes_neither_the_plane_nor_with_repetition(model, plane):
    before = plane.copy()
    first, second = model.encode(plane), model.encode(plane)
    np.testing.assert_array_equal(plane, before)
    np.testing.assert_array_equal(
        first.features["image_embed"], second.features["image_embed"]
    )


def test_encoding_in_steps_gives_the_module_its_own_output(model, plane):
    steps = model.encode_steps(plane)
    progress = []
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as stop:
            embedding = stop.value
            break
    assert [step.done for step in progress] == list(range(1, len(progress) + 1))
    with torch.inference_mode():
        whole = model.sam.image_encoder(model._preprocess([plane]))[0].numpy()
    np.testing.assert_allclose(embedding.features["image_embed"], whole, atol=1e-5)


def test_large_encoders_yield_between_their_parts(model, plane):
    steps = sum(1 for _ in model.encode_steps(plane))
    assert steps == {"sam": 3, "mobile_sam": 5, "tiny": 0}[model.family]


def test_encoding_can_be_given_up(model, plane):
    steps = model.encode_steps(plane)
    next(steps, None)
    steps.close()


@pytest.mark.parametrize("multimask", [True, False])
def test_decoding_gives_logits_and_scores(model, plane, multimask):
    embedding = model.encode(plane)
    prompts = lone_points([5, 5], [20, 70])
    decoded = model.decode(embedding, prompts, multimask=multimask)
    masks = 3 if multimask else 1
    side = model.low_res_size
    assert decoded.logits.shape == (2, masks, side, side)
    assert decoded.logits.dtype == np.float32
    assert decoded.iou_predictions.shape == (2, masks)


def test_every_kind_of_prompt_changes_the_mask(model, plane):
    embedding = model.encode(plane)
    side = model.low_res_size
    point = np.array([[[20, 30]]])
    one, none = np.ones((1, 1)), np.full((1, 4), np.nan)
    box = np.array([[10, 10, 40, 50]])
    mask = np.full((1, side, side), 4.0)
    kinds = [
        PlanePrompts([1], point, one, none),
        PlanePrompts([1], point, one, box),
        PlanePrompts([1], point, one, none, mask),
        PlanePrompts([1], np.zeros((1, 0, 2)), np.zeros((1, 0)), box),
        PlanePrompts([1], np.zeros((1, 0, 2)), np.zeros((1, 0)), none, mask),
        PlanePrompts([1], np.array([[[20, 30], [5, 5]]]), [[1, 0]], none),
        PlanePrompts([1], np.array([[[20, 30], [5, 5]]]), [[1, 1]], none),
    ]
    logits = [
        model.decode(embedding, prompts, multimask=False).logits for prompts in kinds
    ]
    for i, a in enumerate(logits):
        for b in logits[:i]:
            assert not np.allclose(a, b, atol=1e-6)


def test_padding_does_not_matter(model, plane):
    embedding = model.encode(plane)
    plain = lone_points([5, 5])
    padded = PlanePrompts(
        [1], [[[np.nan] * 2, [5, 5], [0, 0]]], [[-1, 1, -1]], plain.boxes_yx
    )
    a = model.decode(embedding, plain, multimask=True)
    b = model.decode(embedding, padded, multimask=True)
    np.testing.assert_array_equal(a.logits, b.logits)


def test_a_mask_prompt_of_another_resolution_is_refused(model, plane):
    prompts = PlanePrompts(
        [1], np.zeros((1, 0, 2)), np.zeros((1, 0)), [[np.nan] * 4], np.ones((1, 7, 7))
    )
    with pytest.raises(InvalidPromptError, match="7 x 7"):
        model.decode(model.encode(plane), prompts, multimask=False)


def test_mixed_kinds_of_prompt_are_refused(model, plane):
    embedding = model.encode(plane)
    mixed = PlanePrompts(
        [1, 2], [[[5, 5]], [[5, 5]]], [[1], [1]], [[np.nan] * 4, [0, 0, 9, 9]]
    )
    with pytest.raises(InvalidPromptError, match="predict_masks"):
        model.decode(embedding, mixed, multimask=False)


def test_no_prompt_is_refused(model, plane):
    with pytest.raises(InvalidPromptError, match="no prompt"):
        model.decode(model.encode(plane), NOTHING, multimask=False)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (0, 8, 3)])
def test_a_plane_of_another_shape_is_refused(model, shape):
    with pytest.raises(InvalidImageError, match="plane to encode"):
        model.encode(np.zeros(shape, np.float32))


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (64, 64), (200, 64)])
def test_planes_of_any_size_are_encoded(model, size):
    embedding = model.encode(np.full((*size, 3), 7, np.float32))
    assert np.isfinite(embedding.features["image_embed"]).all()


def test_the_digest_is_of_the_encoder_alone(model):
    before = model.encoder_digest
    copy = SamModel(model.sam, name="other", family=model.family)
    with torch.no_grad():
        model.sam.mask_decoder.iou_token.weight.add_(1)
        assert copy.encoder_digest == before
        next(model.sam.image_encoder.parameters()).view(-1)[0].add_(1e-3)
    changed = SamModel(model.sam, name="small", family=model.family)
    assert changed.encoder_digest != before


def test_a_model_on_the_cpu_is_its_own_copy_there(model):
    assert model.on_cpu() is model


def test_a_copy_for_the_cpu_gives_the_same_masks(model, plane):
    embedding = model.encode(plane)
    copy = model._cpu_copy
    assert copy.device.type == "cpu"
    assert copy.encoder_digest == model.encoder_digest
    prompts = boxes([3, 3, 20, 30])
    a = model.decode(embedding, prompts, multimask=False)
    b = copy.decode(embedding, prompts, multimask=False)
    np.testing.assert_array_equal(a.logits, b.logits)


def test_the_family_is_detected_from_the_tensors(model):
    assert detect_family(model.sam.state_dict(), "small") == model.family


def test_a_low_precision_encoder_gives_nearly_the_same(model, plane):
    exact = model.encode(plane).features["image_embed"]
    fast = SamModel(
        model.sam, name="fast", family=model.family, dtype=torch.bfloat16
    ).encode(plane)
    approximate = fast.features["image_embed"]
    assert approximate.dtype == np.float32
    assert not np.array_equal(exact, approximate)
    cosine = (exact * approximate).sum() / np.sqrt(
        (exact**2).sum() * (approximate**2).sum()
    )
    assert cosine > 0.99
