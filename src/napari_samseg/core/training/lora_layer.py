"""A layer with low-rank adapters beside it.

Hu et al. 2021, LoRA, arXiv:2106.09685: y = W x + (alpha / r) B A x, where A and B have
rank r and B starts at zero, so that nothing changes at first.

An adapted layer answers for `weight` with the sum, so whatever reads weights, as
`napari_samseg.core.models.attention` does, sees the adapted ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

__all__ = ["LoraLayer", "LoraPart"]


class LoraPart(nn.Module):
    """The matrices A and B of a layer, or of some rows of its output.

    Attributes
    ----------
    a : (r, inputs) parameter
        Kaiming-uniform as a linear layer's weight (a = sqrt 5).
    b : (rows, r) parameter
        Zero.
    scale : () float tensor
        alpha / r; stored with the matrices, which mean nothing without it.
    """

    scale: torch.Tensor

    def __init__(self, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(b)
        self.register_buffer("scale", scale)

    def delta(self) -> torch.Tensor:
        """Return what is added to the weight, (rows, inputs)."""
        return self.scale * (self.b @ self.a)


class LoraLayer(nn.Module):
    """A linear layer, or a 1 x 1 convolution, with adapters beside it.

    Parameters
    ----------
    base : nn.Linear or nn.Conv2d
        It is frozen.
    rows : mapping of name to (n,) int64 tensor, or to None
        Rows of the output that each part adds to; None for all.
    parts : mapping of name to LoraPart
    dropout : float
    """

    def __init__(
        self,
        base: nn.Linear | nn.Conv2d,
        rows: Mapping[str, torch.Tensor | None],
        parts: Mapping[str, LoraPart],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora = nn.ModuleDict(parts)
        self.dropout = nn.Dropout(dropout)
        for name in parts:
            self.register_buffer(f"rows_{name}", rows[name], persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """Weight with adapters, of the form of the layer's own."""
        weight: torch.Tensor = self.base.weight
        flat = weight.flatten(1)
        for rows, part in self._parts():
            delta = part.delta().to(flat.dtype)
            flat = flat + delta if rows is None else flat.index_add(0, rows, delta)
        return flat.view_as(weight)

    @property
    def bias(self) -> torch.Tensor | None:
        """Bias of the layer."""
        return self.base.bias

    @property
    def out_channels(self) -> int:
        """Channels that come out of a convolution."""
        return len(self.base.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map as the layer does, plus what the adapters add."""
        is_conv = isinstance(self.base, nn.Conv2d)
        y: torch.Tensor = self.base(x)
        x = self.dropout(x)
        if is_conv:
            x = x.movedim(1, -1)
        added = torch.zeros((), dtype=y.dtype, device=y.device)
        for rows, part in self._parts():
            delta = part.scale * nn.functional.linear(
                nn.functional.linear(x, part.a), part.b
            )
            if rows is None:
                added = added + delta
            else:
                y = y.index_add(-1, rows, delta.to(y.dtype))
        return y + (added.movedim(-1, 1) if is_conv else added)

    def merged(self) -> nn.Linear | nn.Conv2d:
        """Return the layer alone, its weight the sum."""
        with torch.no_grad():
            self.base.weight.copy_(self.weight)
        return self.base

    def _parts(self) -> Iterator[tuple[torch.Tensor | None, LoraPart]]:
        for name, part in self.lora.items():
            yield getattr(self, f"rows_{name}"), part  # type: ignore[misc]
