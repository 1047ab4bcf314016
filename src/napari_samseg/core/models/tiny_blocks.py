"""What the encoders of the embedded family are built of."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

__all__ = ["ConvNorm", "GlobalAttention", "Residual", "Separable"]


class ConvNorm(nn.Module):
    """A convolution and, while training, its batch normalisation."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        norm: bool,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups)
        self.norm = nn.BatchNorm2d(c_out, momentum=0.03) if norm else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve (B, C, Y, X), and normalise while training."""
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)

    def unshuffled(self, x: torch.Tensor, stride: int) -> torch.Tensor:
        """Convolve 1 x 1 after `pixel_unshuffle` by `stride`, without its copy.

        In bfloat16 the copy is made: on processors with AMX, torch 2.15 returns wrong
        values for kernels of 4 and strides of 4 on 16 or 24 channels.
        """
        if x.dtype == torch.bfloat16:
            unshuffled: torch.Tensor = self(functional.pixel_unshuffle(x, stride))
            return unshuffled
        weight = self.conv.weight.view(self.conv.out_channels, -1, stride, stride)
        x = functional.conv2d(x, weight, self.conv.bias, stride)
        return x if self.norm is None else self.norm(x)

    def fold(self) -> None:
        """Multiply the running statistics into the convolution and drop the norm."""
        if self.norm is None or self.norm.running_var is None:
            return
        std = torch.sqrt(self.norm.running_var + self.norm.eps)
        gain = self.norm.weight / std
        weight = self.conv.weight * gain[:, None, None, None]
        bias = self.conv.bias
        mean = self.norm.running_mean
        if bias is None or mean is None:
            return
        bias = (bias - mean) * gain + self.norm.bias
        self.conv.weight = nn.Parameter(weight.detach())
        self.conv.bias = nn.Parameter(bias.detach())
        self.norm = None


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, channels: int, *, norm: bool) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels, norm=norm)
        self.second = ConvNorm(channels, channels, norm=norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Refine (B, C, Y, X)."""
        inner = functional.relu(self.first(x), inplace=True)
        return functional.relu(self.second(inner).add_(x), inplace=True)


class Separable(nn.Module):
    """A 5x5 convolution of each channel by itself and two 1x1 ones, beside identity.

    A quarter of the weights of `Residual`, with a wider view.
    """

    def __init__(self, channels: int, *, norm: bool) -> None:
        super().__init__()
        c = channels
        self.depthwise = ConvNorm(c, c, 5, groups=c, norm=norm)
        self.first = ConvNorm(c, 2 * c, 1, norm=norm)
        self.second = ConvNorm(2 * c, c, 1, norm=norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Refine (B, C, Y, X)."""
        inner = functional.relu(self.first(self.depthwise(x)), inplace=True)
        return functional.relu(self.second(inner).add_(x), inplace=True)


class GlobalAttention(nn.Module):
    """Every place of a coarse map looks at every other one, beside the identity.

    It begins as the identity, so that it can be added to a trained encoder. Places are
    told apart by their content alone, and so a map may have any size.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = math.gcd(channels, 8)
        self.norm = nn.LayerNorm(channels)
        self.look = nn.Linear(channels, 3 * channels)
        self.tell = nn.Linear(channels, channels)
        nn.init.zeros_(self.tell.weight)
        nn.init.zeros_(self.tell.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Refine (B, C, Y, X)."""
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.look(self.norm(tokens)).chunk(3, dim=2)
        )
        seen = functional.scaled_dot_product_attention(q, k, v)
        told = self.tell(seen.transpose(1, 2).flatten(2)).transpose(1, 2)
        found: torch.Tensor = x + told.unflatten(2, x.shape[2:])
        return found
