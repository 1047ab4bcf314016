"""Small models of the embedded family with random weights, which tests share."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from napari_samseg.core.models.tiny import TinyConfig, build_tiny

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

SMALL = TinyConfig(
    input_size=64,
    embed_dim=32,
    widths=(4, 8, 8, 16, 16),
    depths=(0, 1, 1, 1, 1),
    decoder_heads=2,
    mlp_dim=32,
    mask_channels=8,
)


def small_config(**changes: Any) -> TinyConfig:
    """The shape of the small model, with some fields changed."""
    return dataclasses.replace(SMALL, **changes)


def build_small(**changes: Any) -> Sam:
    """The module of that shape, with the same random weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_tiny(small_config(**changes))
