"""The ViT encoder in pieces gives what segment_anything's own gives."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from napari_samseg.core.models import attention
from napari_samseg.core.models.attention import fast_stages


def make_encoder(input_size: int = 160, **changes: object) -> ImageEncoderViT:
    """Build a small ViT; positions from N(0, 0.02), which start at zero otherwise."""
    options = {
        "img_size": input_size,
        "embed_dim": 48,
        "depth": 3,
        "num_heads": 3,
        "out_chans": 32,
        "use_rel_pos": True,
        "window_size": 7,
        "global_attn_indexes": (1,),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = ImageEncoderViT(**(options | changes))
        for name, parameter in encoder.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                torch.nn.init.normal_(parameter, std=0.02)
    return encoder.eval().requires_grad_(False)


def run(encoder: ImageEncoderViT, pixels: torch.Tensor, dtype=torch.float32):
    with torch.inference_mode():
        for stage in fast_stages(encoder, dtype):
            pixels = stage(pixels)
    return pixels


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rel_pos": False},
        {"use_abs_pos": False, "window_size": 5},
        {"qkv_bias": False},
    ],
    ids=["as SAM", "no relative positions", "windows that fit", "no bias"],
)
def test_agrees_with_segment_anything(changes, folded, pixels, monkeypatch):
    encoder = make_encoder(**changes)
    if folded:
        monkeypatch.setattr(attention, "_attend_in_pieces", attention._attend_folded)
    expected = encoder(pixels)
    assert expected.std() > 0.5
    torch.testing.assert_close(run(encoder, pixels), expected, atol=1e-4, rtol=0)


def test_positions_matter(pixels):
    encoder = make_encoder()
    before = run(encoder, pixels)
    encoder.blocks[0].attn.rel_pos_w.mul_(-1)
    assert (run(encoder, pixels) - before).abs().max() > 1e-3


@pytest.mark.parametrize("biases", [1, 700, 10**9])
def test_any_size_of_piece_gives_the_same(biases, pixels, monkeypatch):
    encoder = make_encoder()
    expected = run(encoder, pixels)
    monkeypatch.setattr(attention, "CPU_BIASES", biases)
    monkeypatch.setattr(attention, "CPU_TOKENS", 33)
    torch.testing.assert_close(run(encoder, pixels), expected, atol=1e-5, rtol=0)


def test_half_precision_is_near(pixels):
    encoder = make_encoder()
    half = run(encoder, pixels, torch.bfloat16)
    assert half.dtype == torch.float32
    alike = torch.cosine_similarity(half, encoder(pixels), dim=1)
    assert alike.min() > 0.999


@pytest.mark.parametrize(
    "side", [512, pytest.param(1024, marks=pytest.mark.slow)], ids=["512", "1024"]
)
def test_blocks_of_vit_b_agree(side):
    """One window block and one global block as in vit_b, padding and bands included."""
    encoder = make_encoder(
        side,
        embed_dim=768,
        depth=2,
        num_heads=12,
        out_chans=256,
        window_size=14,
    )
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = encoder(pixels)
    difference = (run(encoder, pixels) - expected).abs().max()
    assert difference <= 1e-4
    assert expected.std() > 0.5
