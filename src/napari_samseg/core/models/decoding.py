"""SAM's mask decoder on objects of one image or of several, in fewer steps.

The same weights and the same masks as `segment_anything.modeling.MaskDecoder`, but for
what float32 rounds. That one takes one image and many prompts; a training batch has a
row of embeddings for each object instead, and may be a part of the canvas. Transposed
convolutions whose stride is their size share nothing between tokens: they are products
with a matrix, and only their results are put in their places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling import MaskDecoder
from torch.nn import functional

from napari_samseg.core.models.two_way import two_way

__all__ = ["DistantTokens", "decode_objects"]


@dataclass(frozen=True, slots=True, eq=False)
class DistantTokens:
    """A few tokens of an image that stand for all beyond the surroundings of objects.

    Attributes
    ----------
    keys, positions : (N, F, C) float tensor
    log_counts : (N, F) float tensor
        Logarithm of how many tokens each stands for; -inf where it is not needed.
    """

    keys: torch.Tensor
    positions: torch.Tensor
    log_counts: torch.Tensor


def decode_objects(
    decoder: MaskDecoder,
    embeddings: torch.Tensor,
    positions: torch.Tensor,
    sparse: torch.Tensor,
    dense: torch.Tensor,
    rest: DistantTokens | None = None,
    *,
    masks: slice = slice(None),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode N objects.

    Parameters
    ----------
    decoder : MaskDecoder
    embeddings : (1 or N, C, h, w) float tensor
    positions : (1, C, h, w) float tensor
        Dense positional encoding of that part.
    sparse : (N, T, C) float tensor
    dense : (N, C, h, w) float tensor
    rest : DistantTokens, optional
        What else of the image the prompts look at; no mask is computed there.
    masks : slice
        Which of the masks: SAM has four, that for clear prompts, then three for
        ambiguous ones.

    Returns
    -------
    logits : (N, M, 4h, 4w) float tensor
    iou_predictions : (N, M) float tensor
    """
    n, height, width = len(sparse), dense.shape[2], dense.shape[3]
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([outputs.expand(n, -1, -1), sparse], dim=1)
    keys = (embeddings + dense).flatten(2).transpose(1, 2).contiguous()
    places, log_counts = positions.flatten(2).transpose(1, 2).contiguous(), None
    if rest is not None:
        keys = torch.cat([keys, rest.keys], dim=1)
        places = torch.cat([places.expand(n, -1, -1), rest.positions], dim=1)
        log_counts = functional.pad(rest.log_counts, (height * width, 0))
    hidden, source = two_way(decoder.transformer, keys, places, tokens, log_counts)
    source = source[:, : height * width]
    heads = list(enumerate(decoder.output_hypernetworks_mlps))[masks]
    weights = torch.stack([head(hidden[:, 1 + i]) for i, head in heads], dim=1)
    cells = weights @ _upscale(decoder.output_upscaling, source).transpose(1, 2)
    # each token has 2 x 2 cells, and each of these 2 x 2 pixels
    cells = cells.unflatten(2, (height, width, 2, 2, 2, 2))
    logits = cells.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(
        n, len(heads), 4 * height, 4 * width
    )
    return logits, decoder.iou_prediction_head(hidden[:, 0])[:, masks]


def _upscale(upscaling: Any, source: torch.Tensor) -> torch.Tensor:
    """Return the pixels (N, 16 K, c) of tokens (N, K, C), token by token."""
    first, norm, activate, second, activate_again = upscaling
    cells = functional.layer_norm(
        _spread(first, source), norm.weight.shape, norm.weight, norm.bias, norm.eps
    )
    found: torch.Tensor = activate_again(_spread(second, activate(cells)))
    return found


def _spread(layer: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Turn each of (N, K, C) tokens into 2 x 2, (N, 4 K, c), as the layer does."""
    # (C, c, 2, 2): rows before columns before channels
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)
    spread = functional.linear(tokens, weight, layer.bias.repeat(4))
    cells: torch.Tensor = spread.unflatten(2, (4, -1)).flatten(1, 2)
    return cells
