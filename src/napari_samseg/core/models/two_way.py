"""SAM's two-way transformer, in fewer steps, and on tokens that stand for several.

The same layers as `segment_anything.modeling.transformer`. There, every token of the
image is projected to queries, keys and values, head by head, although it meets no more
than a handful of prompts. The score of a token x for a prompt is (x W) . k, which is
x . (W k): the few prompts are projected instead, and what is left for the thousands of
tokens are two products with narrow matrices. The same goes for values. Sums are made in
another order, which differs by what float32 rounds.

A token that stands for n of its neighbours counts n times wherever a softmax runs over
the tokens of the image: log(n) is added to its score (as in the merging of tokens by
Bolya et al., ICLR 2023).
"""

from __future__ import annotations

import torch
from segment_anything.modeling.transformer import Attention, TwoWayTransformer
from torch import nn
from torch.nn import functional

__all__ = ["two_way"]

# Prompts so many times as many as there are channels in a head cost more when they are
# projected than the tokens would.
MOST_PROMPTS = 1.5


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
    mask = None if log_counts is None else log_counts[:, None]
    queries = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = _attend(layer.self_attn, queries, queries, queries)
        else:
            placed = queries + tokens
            queries = queries + _attend(layer.self_attn, placed, placed, queries)
        queries = layer.norm1(queries)
        here = keys + positions
        seen = _look(
            layer.cross_attn_token_to_image, queries + tokens, here, keys, mask
        )
        queries = layer.norm2(queries + seen)
        queries = layer.norm3(queries + layer.mlp(queries))
        told = _tell(layer.cross_attn_image_to_token, here, queries + tokens, queries)
        keys = layer.norm4(keys + told)
    last = transformer.final_attn_token_to_image
    seen = _look(last, queries + tokens, keys + positions, keys, mask)
    return transformer.norm_final_attn(queries + seen), keys


def _look(
    layer: Attention,
    queries: torch.Tensor,
    here: torch.Tensor,
    keys: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Let prompts (N, T, C) look at tokens (N, K, C); returns (N, T, C)."""
    if not _is_narrow(layer, queries, layer.k_proj, layer.v_proj):
        return _attend(layer, queries, here, keys, mask)
    t, heads = queries.shape[1], layer.num_heads
    asked = layer.q_proj(queries).unflatten(2, (heads, -1))
    asked = asked * asked.shape[-1] ** -0.5
    # what the bias of the keys adds is the same for all, which a softmax does not see
    wide = torch.einsum("nthd,hdc->nthc", asked, _by_head(layer.k_proj.weight, heads))
    scores = wide.flatten(1, 2) @ here.transpose(1, 2)
    if mask is not None:
        scores = scores + mask.to(scores.dtype)
    mixed = (scores.softmax(dim=2) @ keys).unflatten(1, (t, heads))
    values = torch.einsum("nthc,hdc->nthd", mixed, _by_head(layer.v_proj.weight, heads))
    found: torch.Tensor = layer.out_proj(values.flatten(2) + layer.v_proj.bias)
    return found


def _tell(
    layer: Attention, here: torch.Tensor, placed: torch.Tensor, queries: torch.Tensor
) -> torch.Tensor:
    """Let tokens (N, K, C) look at prompts (N, T, C); returns (N, K, C)."""
    if not _is_narrow(layer, queries, layer.q_proj, layer.out_proj):
        return _attend(layer, here, placed, queries)
    t, heads = queries.shape[1], layer.num_heads
    offered = layer.k_proj(placed).unflatten(2, (heads, -1))
    offered = offered * offered.shape[-1] ** -0.5
    wide = torch.einsum("nthd,hdc->nthc", offered, _by_head(layer.q_proj.weight, heads))
    offset = torch.einsum(
        "nthd,hd->nth", offered, layer.q_proj.bias.unflatten(0, (heads, -1))
    )
    # prompts before tokens: the softmax then runs along whole rows
    scores = wide.flatten(1, 2) @ here.transpose(1, 2) + offset.flatten(1)[..., None]
    shares = scores.unflatten(1, (t, heads)).softmax(dim=1).flatten(1, 2)
    values = layer.v_proj(queries).unflatten(2, (heads, -1))
    weight = layer.out_proj.weight.unflatten(1, (heads, -1))
    told = torch.einsum("nthd,chd->nthc", values, weight).flatten(1, 2)
    found: torch.Tensor = shares.transpose(1, 2) @ told + layer.out_proj.bias
    return found


def _by_head(weight: torch.Tensor, heads: int) -> torch.Tensor:
    apart: torch.Tensor = weight.unflatten(0, (heads, -1))
    return apart


def _is_narrow(layer: Attention, queries: torch.Tensor, *folded: nn.Module) -> bool:
    """Tell whether projecting the prompts is cheaper, and the layers can be."""
    head = layer.internal_dim // layer.num_heads
    # a layer with adapters is more than its weight
    is_plain = all(type(module) is nn.Linear for module in folded)
    return is_plain and queries.shape[1] <= MOST_PROMPTS * head


def _attend(
    layer: Attention,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run an attention layer, with something (N, 1, K) added to its scores."""
    heads = layer.num_heads
    q, k, v = (
        x.unflatten(2, (heads, -1)).transpose(1, 2)
        for x in (layer.q_proj(q), layer.k_proj(k), layer.v_proj(v))
    )
    if mask is not None:
        # the projections give what autocast chose, which a mask must agree with
        mask = mask[:, None].to(q.dtype)
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    found: torch.Tensor = layer.out_proj(mixed.transpose(1, 2).flatten(2))
    return found
