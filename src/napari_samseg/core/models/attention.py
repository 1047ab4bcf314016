"""The ViT encoder of SAM without its matrices of tokens by tokens.

`segment_anything` holds, in each block with global attention, several arrays of
heads x tokens x tokens (0.8 GB each for vit_b at 1024 pixels) whose page faults take
longer than the arithmetic, and copies every window. Here the same numbers are had
from pieces that stay in the processor's caches:

- on a processor in float32, tokens go through the linear layers some hundred at a
  time, and each head's scores are made for a few rows of queries at once;
- elsewhere, scores are never written: decomposed relative positions are folded
  into longer queries and keys (``q' = [q, q . R_h, q . R_w]``, ``k' = [k, one-hot row,
  one-hot column]``), which leaves plain scaled dot-product attention, for which
  fused kernels exist.

Padding of windows takes no arithmetic: a padded token is zero, its query, key and
value the bias alone.

Source of the formulas: `segment_anything.modeling.image_encoder` (Apache 2.0) and
MViTv2 (Li et al. 2022, arXiv:2112.01526), equation 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Block, get_rel_pos
from torch import nn

__all__ = ["Stage", "fast_stages"]

Tensor: TypeAlias = torch.Tensor
Stage = Callable[[Tensor], Tensor]

# Tokens that go through a linear layer at once on a processor: the widest array
# between two layers (4 x 768 x 1024 floats, 12 MB) is then reused memory, not new.
CPU_TOKENS = 1024
# Sums of relative positions held at once on a processor, 16 MB: enough queries for the
# kernel to share out among cores, and still in the third-level cache of many.
CPU_BIASES = 1 << 22
# Fused kernels want the length of queries and keys to be a multiple of this.
FUSED_MULTIPLE = 8


class Attend(Protocol):
    """Attention with decomposed relative positions."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, positions: Positions | None, scale: float
    ) -> Tensor:
        """Return (n, h, w, d) from q, k, v (n, h, w, d) of n heads and windows."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Relative positions of a block: (h, h, d) and (w, w, d), query by key."""

    rows: Tensor
    columns: Tensor


def fast_stages(encoder: ImageEncoderViT, dtype: torch.dtype) -> Sequence[Stage]:
    """Return the steps of a ViT which, one after the other, are its forward.

    Parameters
    ----------
    encoder : ImageEncoderViT
        On the device it is to run on.
    dtype : torch.dtype
        Of matrix products; sums, norms and the stream between blocks are float32.

    Returns
    -------
    sequence of callable
        From (B, 3, s, s) float32 pixels to (B, C, s/16, s/16) float32 features.
        In float32 they agree with the encoder's own to rounding.
    """

    def embed(pixels: Tensor) -> Tensor:
        tokens: Tensor = _in_dtype(encoder.patch_embed, pixels, dtype)
        return tokens if encoder.pos_embed is None else tokens + encoder.pos_embed

    def narrow(tokens: Tensor) -> Tensor:
        return _in_dtype(encoder.neck, tokens.permute(0, 3, 1, 2), dtype)

    def step(block: Block) -> Stage:
        return lambda tokens: _run_block(block, tokens, dtype)

    return (embed, *(step(block) for block in encoder.blocks), narrow)


def _in_dtype(module: nn.Module, values: Tensor, dtype: torch.dtype) -> Tensor:
    """Run convolutions under autocast, where they are a small part of the work."""
    enabled = dtype != torch.float32
    with torch.autocast(values.device.type, dtype=dtype, enabled=enabled):
        result: Tensor = module(values)
    return result.float()


def _run_block(block: Block, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Run one transformer block on tokens (B, H, W, C) float32."""
    in_pieces = tokens.device.type == "cpu"
    weights = _Weights.of(block, dtype)
    # planes one by one on a processor: a batch would only fall out of its caches
    batches = tokens.split(1) if in_pieces else (tokens,)
    results = [_run_batch(block, weights, batch, in_pieces) for batch in batches]
    return results[0] if len(results) == 1 else torch.cat(results)


def _run_batch(
    block: Block, weights: _Weights, tokens: Tensor, in_pieces: bool
) -> Tensor:
    count, height, width, channels = tokens.shape
    rows = tokens.reshape(-1, channels)
    step = CPU_TOKENS if in_pieces else len(rows)
    qkv = rows.new_empty((len(rows), 3 * channels), dtype=weights.dtype)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        normed = block.norm1(rows[part]).to(weights.dtype)
        weights.qkv.write(normed, qkv[part])
    n_heads = block.attn.num_heads
    split = qkv.view(count, height, width, 3, n_heads, channels // n_heads)
    attended = _attend_block(block, weights, split).reshape(-1, channels)
    del qkv, split
    result = torch.empty_like(rows)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        stream = torch.add(rows[part], weights.proj(attended[part]), out=result[part])
        hidden = weights.lin1(block.norm2(stream).to(weights.dtype))
        stream += weights.lin2(block.mlp.act(hidden))
    return result.view(tokens.shape)


@dataclass(frozen=True, slots=True)
class _Linear:
    """A linear layer's weights in the precision of the products."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, layer: nn.Linear, dtype: torch.dtype) -> _Linear:
        bias: Tensor | None = layer.bias
        return cls(layer.weight.to(dtype), None if bias is None else bias.to(dtype))

    def __call__(self, values: Tensor) -> Tensor:
        return F.linear(values, self.weight, self.bias)

    def write(self, values: Tensor, out: Tensor) -> None:
        """Write the result where it belongs, which saves a copy."""
        if self.bias is None:
            torch.mm(values, self.weight.t(), out=out)
        else:
            torch.addmm(self.bias, values, self.weight.t(), out=out)


@dataclass(frozen=True, slots=True)
class _Weights:
    """Weights of a block's linear layers."""

    qkv: _Linear
    proj: _Linear
    lin1: _Linear
    lin2: _Linear
    dtype: torch.dtype

    @classmethod
    def of(cls, block: Block, dtype: torch.dtype) -> _Weights:
        attention, mlp = block.attn, block.mlp
        return cls(
            _Linear.of(attention.qkv, dtype),
            _Linear.of(attention.proj, dtype),
            _Linear.of(mlp.lin1, dtype),
            _Linear.of(mlp.lin2, dtype),
            dtype,
        )


def _attend_block(block: Block, weights: _Weights, qkv: Tensor) -> Tensor:
    """Attend within each plane or window: (B, H, W, 3, heads, d) to (B, H, W, C)."""
    count, height, width, _, n_heads, depth = qkv.shape
    side = block.window_size
    in_pieces = qkv.device.type == "cpu" and qkv.dtype == torch.float32
    attend: Attend = _attend_in_pieces if in_pieces else _attend_folded
    if side == 0:
        q, k, v = qkv.permute(3, 0, 4, 1, 2, 5).flatten(1, 2).unbind(0)
        positions = _positions(block, height, width, qkv.dtype)
        out = attend(q, k, v, positions, block.attn.scale)
        out = out.view(count, n_heads, height, width, depth).permute(0, 2, 3, 1, 4)
        return out.reshape(count, height, width, -1)
    positions = _positions(block, side, side, qkv.dtype)
    out = torch.empty(
        (count, height, width, n_heads * depth), dtype=qkv.dtype, device=qkv.device
    )
    band = side if in_pieces else height
    for top in range(0, height, band):
        rows = qkv[:, top : top + band]
        q, k, v = _windows(rows, side, weights.qkv.bias).unbind(0)
        part = attend(q, k, v, positions, block.attn.scale)
        _put_windows(part, out[:, top : top + band])
    return out


def _positions(
    block: Block, height: int, width: int, dtype: torch.dtype
) -> Positions | None:
    if not block.attn.use_rel_pos:
        return None
    return Positions(
        get_rel_pos(height, height, block.attn.rel_pos_h).to(dtype),
        get_rel_pos(width, width, block.attn.rel_pos_w).to(dtype),
    )


def _windows(qkv: Tensor, side: int, bias: Tensor | None) -> Tensor:
    """Cut (B, H, W, 3, heads, d) into (3, B * windows * heads, side, side, d)."""
    count, height, width, _, n_heads, depth = qkv.shape
    high, wide = -(-height // side), -(-width // side)
    if (high * side, wide * side) != (height, width):
        filler = qkv.new_zeros(()) if bias is None else bias.view(3, n_heads, depth)
        padded = filler.expand(count, high * side, wide * side, 3, n_heads, depth)
        padded = padded.contiguous()
        padded[:, :height, :width] = qkv
        qkv = padded
    cut = qkv.reshape(count, high, side, wide, side, 3, n_heads, depth)
    return cut.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, side, side, depth)


def _put_windows(windows: Tensor, out: Tensor) -> None:
    """Write (B * windows * heads, side, side, d) back to (B, H, W, C), less padding."""
    count, height, width, _ = out.shape
    side, depth = windows.shape[1], windows.shape[3]
    high, wide = -(-height // side), -(-width // side)
    whole = windows.view(count, high, wide, -1, side, side, depth)
    whole = whole.permute(0, 1, 4, 2, 5, 3, 6)
    whole = whole.reshape(count, high * side, wide * side, -1)
    out.copy_(whole[:, :height, :width])


def _attend_in_pieces(
    q: Tensor, k: Tensor, v: Tensor, positions: Positions | None, scale: float
) -> Tensor:
    """Attend for as many heads and rows of queries at once as `CPU_BIASES` lets.

    The kernel of a processor makes scores, their softmax and its product with the
    values tile by tile in the caches. It takes positions as a mask that is added,
    queries by keys, which is why they come in pieces.
    """
    n, height, width, depth = q.shape
    tokens = height * width
    keys, values = k.reshape(1, n, tokens, depth), v.reshape(1, n, tokens, depth)
    out = q.new_empty((n, height, width, depth))
    band = min(height, max(1, CPU_BIASES // (width * tokens)))
    heads = min(n, max(1, CPU_BIASES // (band * width * tokens)))
    memory = q.new_empty((heads, band, width, height, width))
    for first in range(0, n, heads):
        some = slice(first, first + heads)
        for top in range(0, height, band):
            queries = q[some, top : top + band]
            biases = None
            if positions is not None:
                rows = positions.rows[top : top + band]
                biases = torch.add(
                    torch.einsum("nhwc,hkc->nhwk", queries, rows)[..., None],
                    torch.einsum("nhwc,wkc->nhwk", queries, positions.columns)[
                        ..., None, :
                    ],
                    out=memory[: len(queries), : queries.shape[1]],
                ).reshape(1, len(queries), -1, tokens)
            out[some, top : top + band] = F.scaled_dot_product_attention(
                queries.flatten(1, 2)[None],
                keys[:, some],
                values[:, some],
                attn_mask=biases,
                scale=scale,
            ).view(queries.shape)
    return out


def _attend_folded(
    q: Tensor, k: Tensor, v: Tensor, positions: Positions | None, scale: float
) -> Tensor:
    """Attend through a fused kernel, relative positions folded into q and k."""
    n, height, width, depth = q.shape
    tokens = height * width
    queries, keys = [q * scale], [k]
    if positions is not None:
        queries += [
            torch.einsum("nhwc,hkc->nhwk", q, positions.rows),
            torch.einsum("nhwc,wkc->nhwk", q, positions.columns),
        ]
        row = torch.eye(height, dtype=q.dtype, device=q.device)
        column = torch.eye(width, dtype=q.dtype, device=q.device)
        keys += [
            row[:, None].expand(n, height, width, height),
            column.expand(n, height, width, width),
        ]
    length = sum(part.shape[-1] for part in keys)
    # kernels that are fused take q, k and v of one length
    spare = -length % FUSED_MULTIPLE
    folded_q = F.pad(torch.cat(queries, -1), (0, spare)).view(1, n, tokens, -1)
    folded_k = F.pad(torch.cat(keys, -1), (0, spare)).view(1, n, tokens, -1)
    folded_v = F.pad(v, (0, length + spare - depth)).view(1, n, tokens, -1)
    out = F.scaled_dot_product_attention(folded_q, folded_k, folded_v, scale=1.0)
    return out[0, ..., :depth].reshape(n, height, width, depth)
