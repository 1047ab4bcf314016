"""SAM's two-way transformer, on tokens that stand for several.

The same layers as `segment_anything.modeling.transformer`, which takes whole maps only.
A token that stands for n of its neighbours counts n times wherever a softmax runs over
the tokens of the image: log(n) is added to its score (as in the merging of tokens by
Bolya et al., ICLR 2023).
"""

from __future__ import annotations

import torch
from segment_anything.modeling.transformer import Attention, TwoWayTransformer
from torch.nn import functional

__all__ = ["two_way"]


def two_way(
    transformer: TwoWayTransformer,
    keys: torch.Tensor,
    positions: torch.Tensor,
    tokens: torch.Tensor,
    log_counts: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Let prompts and image look at each other.

    Parameters
    ----------
    transformer : TwoWayTransformer
    keys : (N, K, C) float tensor
        Tokens of the image.
    positions : (1 or N, K, C) float tensor
        Their positional encodings.
    tokens : (N, T, C) float tensor
        Output tokens and prompts.
    log_counts : (N, K) float tensor, optional
        Logarithm of how many tokens of the image each one stands for; -inf for none.
        Of any precision.

    Returns
    -------
    tokens : (N, T, C) float tensor
    keys : (N, K, C) float tensor
    """
    mask = None if log_counts is None else log_counts[:, None, None]
    queries = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = _attend(layer.self_attn, queries, queries, queries)
        else:
            placed = queries + tokens
            queries = queries + _attend(layer.self_attn, placed, placed, queries)
        queries = layer.norm1(queries)
        seen = _attend(
            layer.cross_attn_token_to_image,
            queries + tokens,
            keys + positions,
            keys,
            mask,
        )
        queries = layer.norm2(queries + seen)
        queries = layer.norm3(queries + layer.mlp(queries))
        told = _attend(
            layer.cross_attn_image_to_token, keys + positions, queries + tokens, queries
        )
        keys = layer.norm4(keys + told)
    seen = _attend(
        transformer.final_attn_token_to_image,
        queries + tokens,
        keys + positions,
        keys,
        mask,
    )
    return transformer.norm_final_attn(queries + seen), keys


def _attend(
    layer: Attention,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run an attention layer, with something added to its scores."""
    heads = layer.num_heads
    q, k, v = (
        x.unflatten(2, (heads, -1)).transpose(1, 2)
        for x in (layer.q_proj(q), layer.k_proj(k), layer.v_proj(v))
    )
    if mask is not None:
        # the projections give what autocast chose, which a mask must agree with
        mask = mask.to(q.dtype)
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    found: torch.Tensor = layer.out_proj(mixed.transpose(1, 2).flatten(2))
    return found
