from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import small_config

from napari_samseg.core.errors import CheckpointError
from napari_samseg.core.models.tiny import (
    ENCODERS,
    METADATA_KEY,
    TinyConfig,
    build_tiny,
    fold_batch_norm,
    is_tiny,
    prompt_prior,
    tiny_config,
)

# each width and depth another one: none is taken for its neighbour
SMALL = small_config(
    widths=(8, 12, 16, 20, 24),
    depths=(0, 1, 0, 2, 1),
    decoder_depth=1,
    decoder_heads=4,
    mlp_dim=48,
    mask_channels=8,
)


def test_shipped_shape_fits_the_wheel_and_the_budget() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        sam = build_tiny()
        image = torch.zeros(1, 3, 512, 512)
        with FlopCounterMode(display=False) as counter:
            embedding = sam.image_encoder(image)
    assert embedding.shape == (1, 128, 64, 64)
    assert 2 * sum(p.numel() for p in sam.parameters()) < 16e6  # float16 bytes
    assert counter.get_total_flops() / 2 < 20e9
    assert sam.prompt_encoder.mask_input_size == (256, 256)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_folded_model_computes_the_same(encoder: str) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, encoder=encoder)
    sam = build_tiny(dataclasses.replace(config, batch_norm=True))
    for module in sam.image_encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.weight, 1, 0.2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    image = torch.randn(2, 3, 64, 96)
    folded = fold_batch_norm(sam)
    with torch.no_grad():
        expected = sam.eval().image_encoder(image)
        found = folded.image_encoder(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not any(
        isinstance(m, torch.nn.BatchNorm2d) for m in folded.image_encoder.modules()
    )
    # the folded tensors are those of a model built without the norm
    build_tiny(config).load_state_dict(folded.state_dict())


def test_attention_lets_far_places_see_each_other() -> None:
    torch.manual_seed(0)
    plain = build_tiny(SMALL).image_encoder
    looking = build_tiny(
        dataclasses.replace(SMALL, encoder="residual+attention")
    ).image_encoder
    looking.load_state_dict(plain.state_dict(), strict=False)
    image = torch.zeros(1, 3, 512, 512)
    lit = image.clone()
    lit[..., :32, :32] = 5
    far = (..., slice(48, None), slice(48, None))
    with torch.no_grad():
        # it begins as the encoder without
        torch.testing.assert_close(looking(lit), plain(lit))
        torch.nn.init.normal_(looking.coarse.tell.weight)
        assert torch.equal(plain(lit)[far], plain(image)[far])
        assert (looking(lit)[far] - looking(image)[far]).abs().max() > 1e-5


def test_separable_blocks_are_lighter() -> None:
    plain, separable = (
        sum(p.numel() for p in build_tiny(TinyConfig(encoder=e)).parameters())
        for e in ("residual", "separable")
    )
    assert separable < 0.7 * plain


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("stride", [2, 4])
def test_a_strided_convolution_is_one_after_space_to_depth(
    norm: bool, stride: int
) -> None:
    side = build_tiny(dataclasses.replace(TinyConfig(), batch_norm=norm)).eval()
    convolution = getattr(side.image_encoder, f"side_{8 // stride}")
    channels = TinyConfig().widths[2 - stride // 2]
    pixels = torch.randn(2, channels, 16, 24)
    with torch.no_grad():
        expected = convolution(torch.nn.functional.pixel_unshuffle(pixels, stride))
        found = convolution.unshuffled(pixels, stride)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_training_mode_is_not_changed_by_folding() -> None:
    sam = build_tiny(dataclasses.replace(SMALL, batch_norm=True)).train()
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    fold_batch_norm(sam)
    assert sam.training
    assert sam.state_dict().keys() == before.keys()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_configuration_is_read_from_metadata_or_tensors(
    encoder: str, batch_norm: bool
) -> None:
    config = dataclasses.replace(SMALL, encoder=encoder, batch_norm=batch_norm)
    tensors = build_tiny(config).state_dict()
    assert is_tiny(tensors)
    assert tiny_config(tensors, {METADATA_KEY: config.to_json()}) == config
    # the input size and the heads leave no trace in the tensors
    guessed = dataclasses.replace(tiny_config(tensors), input_size=64, decoder_heads=4)
    assert guessed == config


def test_other_families_are_not_taken() -> None:
    with pytest.raises(CheckpointError, match="not of the embedded family"):
        tiny_config({"image_encoder.pos_embed": torch.zeros(1)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"layers": 3}', "unknown fields"),
        ('{"input_size": 500}', "multiple of 32"),
        ('{"widths": [1, 2]}', "five widths"),
        ('{"embed_dim": 100}', "must divide"),
        ('{"widths": 7}', "cannot be read"),
        ('{"encoder": "vit"}', "residual, separable, residual.attention, not 'vit'"),
    ],
)
def test_damaged_configuration(text: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        TinyConfig.from_json(text)


def test_prior_of_a_box_is_its_inscribed_ellipse() -> None:
    # pixels 8 to 39 across and 16 to 31 down, both inside
    boxes = torch.tensor([[8.0, 16.0, 39.0, 31.0]])
    mask = prompt_prior(None, None, boxes, 64, 64)[0, 0] > 0
    ys, xs = np.nonzero(mask.numpy())
    assert (ys.min(), xs.min(), ys.max(), xs.max()) == (16, 8, 31, 39)
    assert mask.sum().item() == pytest.approx(np.pi * 16 * 8, rel=0.03)


def test_prior_of_a_point_is_a_blob_at_it() -> None:
    points, labels = torch.tensor([[[40.0, 20.0]]]), torch.ones(1, 1)
    logits = prompt_prior(points, labels, None, 64, 128)[0, 0]
    y, x = np.unravel_index(int(logits.argmax()), logits.shape)
    assert (y, x) == (10, 20)
    assert (logits > 0).sum().item() == pytest.approx(np.pi * 12**2 / 4, rel=0.05)


def test_prior_of_clicks_adds_and_takes_away() -> None:
    points = torch.tensor([[[20.0, 20.0], [44.0, 20.0], [44.0, 44.0], [0.0, 0.0]]])
    labels = torch.tensor([[1, 1, 0, -1]])
    logits = prompt_prior(points, labels, None, 64, 64)[0, 0]
    assert logits[20, 20] > 0
    assert logits[20, 44] > 0
    assert logits[44, 44] < -3
    assert logits[0, 0] < 0


def test_beside_a_box_a_click_stays_local() -> None:
    boxes = torch.tensor([[8.0, 8.0, 55.0, 55.0]])
    points = torch.tensor([[[32.0, 32.0]]])
    plain = prompt_prior(None, None, boxes, 64, 64)
    cut = prompt_prior(points, torch.zeros(1, 1), boxes, 64, 64)
    assert cut[0, 0, 32, 32] < 0 < plain[0, 0, 32, 32]
    assert torch.equal(cut[..., :16, :], plain[..., :16, :])


@given(
    st.floats(0, 60),
    st.floats(0, 60),
    st.floats(1, 60),
    st.integers(0, 8),
)
@settings(max_examples=60, deadline=None)
def test_prior_of_a_window_is_that_part_of_the_whole(
    x: float, y: float, side: float, tokens: int
) -> None:
    offset = 8.0 * tokens
    boxes = torch.tensor([[x, y, x + side, y + side]])
    points = torch.tensor([[[x, y]]])
    label = torch.ones(1, 1)
    for given_points, given_boxes in ((points, None), (None, boxes), (points, boxes)):
        moved_points = None if given_points is None else given_points - offset
        moved_boxes = None if given_boxes is None else given_boxes - offset
        labels = None if given_points is None else label
        whole = prompt_prior(given_points, labels, given_boxes, 64, 128)
        window = prompt_prior(moved_points, labels, moved_boxes, 32, 64)
        start = int(offset) // 2
        torch.testing.assert_close(
            window,
            whole[..., start : start + 32, start : start + 32],
            atol=1e-4,
            rtol=0,
        )
        assert whole.abs().max() <= 8


def test_prior_needs_a_prompt() -> None:
    with pytest.raises(ValueError, match="points or boxes"):
        prompt_prior(None, None, None, 64, 64)
