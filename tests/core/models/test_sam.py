from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry

from napari_samseg.core.errors import CheckpointError, SettingsError
from napari_samseg.core.models.frame import resize_plane
from napari_samseg.core.models.sam import SamModel, build_sam, resize_positions
from napari_samseg.core.predict import predict_masks
from napari_samseg.core.types import PlanePrompts

POINT, SECOND = (20, 30), (35, 60)  # y, x
BOX = (10, 12, 40, 55)  # half-open y0, x0, y1, x1
SAM_BOX = np.array([12, 10, 54, 39])  # x0, y0, x1, y1, the last pixel inside
NO_BOX = (np.nan,) * 4
MASK = np.random.default_rng(1).normal(0, 4, (1, 16, 16)).astype(np.float32)


def xy(*points_yx):
    return np.array(points_yx)[:, ::-1]


# Our prompts beside SamPredictor's, each with the masks that are asked for.
KINDS = {
    "point": (
        PlanePrompts([1], [[POINT]], [[1]], [NO_BOX]),
        {"point_coords": xy(POINT), "point_labels": np.array([1])},
    ),
    "two points": (
        PlanePrompts([1], [[POINT, SECOND]], [[1, 0]], [NO_BOX]),
        {"point_coords": xy(POINT, SECOND), "point_labels": np.array([1, 0])},
    ),
    "box": (
        PlanePrompts([1], np.zeros((1, 0, 2)), np.zeros((1, 0)), [BOX]),
        {"box": SAM_BOX},
    ),
    "point and box": (
        PlanePrompts([1], [[POINT]], [[1]], [BOX]),
        {"point_coords": xy(POINT), "point_labels": np.array([1]), "box": SAM_BOX},
    ),
    "mask": (
        PlanePrompts([1], np.zeros((1, 0, 2)), np.zeros((1, 0)), [NO_BOX], MASK),
        {"mask_input": MASK},
    ),
    "point, box and mask": (
        PlanePrompts([1], [[POINT]], [[1]], [BOX], MASK),
        {
            "point_coords": xy(POINT),
            "point_labels": np.array([1]),
            "box": SAM_BOX,
            "mask_input": MASK,
        },
    ),
}


def predictor_for(sam, plane):
    """Return SamPredictor with the plane set, resized in torch as planes here are."""
    predictor = SamPredictor(sam)
    size = plane.shape[:2]
    predictor.set_torch_image(resize_plane(plane, sam.image_encoder.img_size), size)
    return predictor


def assert_same(prediction, predicted, *, several):
    """Compare with what SamPredictor returned, logits at full size included."""
    logits, iou, low_res = predicted
    best = int(iou.argmax()) if several else 0
    np.testing.assert_allclose(prediction.iou_predictions[0], iou[best], atol=1e-5)
    np.testing.assert_allclose(prediction.low_res_masks[0], low_res[best], atol=1e-4)
    # Where SAM itself is within rounding of its threshold, either side is right.
    sure = np.abs(logits[best]) > 1e-4
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(
        prediction.masks[0][sure], (logits[best] > 0)[sure], strict=True
    )


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("size", [(48, 80), (90, 70), (64, 64)])
def test_masks_are_those_of_sam_predictor(tiny_sam, kind, size, multimask):
    plane = np.random.default_rng(0).uniform(0, 255, (*size, 3)).astype(np.float32)
    ours, theirs = KINDS[kind]
    model = SamModel(tiny_sam, name="tiny vit", family="sam")
    prediction = predict_masks(
        model, model.encode(plane), ours, multimask=multimask, islands=True
    )
    predictor = predictor_for(tiny_sam, plane)
    predicted = predictor.predict(
        **theirs, multimask_output=multimask, return_logits=True
    )
    assert_same(prediction, predicted, several=multimask)


def test_an_8_bit_image_gives_nearly_what_sam_predictor_gives(tiny_sam):
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    predictor = SamPredictor(tiny_sam)
    predictor.set_image(image)
    model = SamModel(tiny_sam, name="tiny vit", family="sam")
    features = model.encode(image.astype(np.float32)).features["image_embed"]
    expected = predictor.features[0].numpy()
    # Pillow rounds the resized image to whole grey levels, torch does not.
    np.testing.assert_allclose(features, expected, atol=0.05)
    assert np.abs(features - expected).mean() < 0.01


@pytest.mark.slow
def test_masks_are_those_of_sam_predictor_with_vit_b():
    torch.manual_seed(0)
    sam = sam_model_registry["vit_b"]()
    for name, parameter in sam.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    plane = np.random.default_rng(0).uniform(0, 255, (300, 400, 3)).astype(np.float32)
    model = SamModel(sam, name="vit_b", family="sam")
    embedding = model.encode(plane)
    predictor = predictor_for(sam, plane)
    for kind in ("point", "two points", "box", "point and box"):
        ours, theirs = KINDS[kind]
        for multimask in (True, False):
            prediction = predict_masks(
                model, embedding, ours, multimask=multimask, islands=True
            )
            predicted = predictor.predict(
                **theirs, multimask_output=multimask, return_logits=True
            )
            assert_same(prediction, predicted, several=multimask)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_a_vit_is_built_to_fit_its_tensors(name):
    with torch.device("meta"):
        expected = sam_model_registry[name]().state_dict()
        built = build_sam(expected).state_dict()
    assert {key: value.shape for key, value in built.items()} == {
        key: value.shape for key, value in expected.items()
    }


def test_a_vit_trained_at_another_size_is_built_at_that_size():
    with torch.device("meta"):
        sam = sam_model_registry["vit_b"]()
        resize_positions(sam, 512)
        built = build_sam(sam.state_dict())
    assert built.image_encoder.img_size == 512
    assert built.prompt_encoder.mask_input_size == (128, 128)


def test_a_vit_of_unknown_width_is_refused(tiny_sam):
    with pytest.raises(CheckpointError, match=r"width is 32; known widths: 768"):
        build_sam(tiny_sam.state_dict())


def test_another_input_size_interpolates_the_positions(make_tiny_sam):
    """A model made for 64 px and resized to 96 is one made for 96 px."""
    resized, made = make_tiny_sam(64), make_tiny_sam(96)
    resize_positions(resized, 96)
    assert {key: value.shape for key, value in resized.state_dict().items()} == {
        key: value.shape for key, value in made.state_dict().items()
    }
    model = SamModel(resized, name="resized", family="sam")
    assert model.input_size == 96
    assert model.embedding_shape == (32, 6, 6)
    plane = np.random.default_rng(0).uniform(0, 255, (96, 60, 3)).astype(np.float32)
    prompts = KINDS["box"][0]
    prediction = predict_masks(model, model.encode(plane), prompts, islands=True)
    predictor = predictor_for(resized, plane)
    predicted = predictor.predict(
        box=SAM_BOX, multimask_output=False, return_logits=True
    )
    assert_same(prediction, predicted, several=False)


def test_resizing_there_and_back_keeps_smooth_positions(tiny_sam):
    smooth = torch.linspace(0, 1, 4)[None, :, None, None].expand(1, 4, 4, 32)
    tiny_sam.image_encoder.pos_embed.data = smooth.clone()
    resize_positions(tiny_sam, 128)
    positions = tiny_sam.image_encoder.pos_embed[0, :, 0, 0]
    assert (positions.diff() > 0).all()
    torch.testing.assert_close(positions.mean(), smooth.mean(), atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [0, -16, 100])
def test_an_impossible_input_size_is_refused(tiny_sam, size):
    with pytest.raises(SettingsError, match="multiple of 16"):
        resize_positions(tiny_sam, size)


def test_weights_are_not_trained_by_accident(tiny_sam):
    SamModel(tiny_sam.train(), name="tiny vit", family="sam")
    assert not tiny_sam.training
    assert not any(parameter.requires_grad for parameter in tiny_sam.parameters())
