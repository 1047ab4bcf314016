"""MobileSAM: SAM with TinyViT for an encoder, forty times smaller than ViT-H.

Written after the papers (Wu et al. 2022, TinyViT, arXiv:2207.10666; Zhang et al.
2023, MobileSAM, arXiv:2306.14289). The names and shapes of the tensors are those of
the published checkpoints, so that these load strictly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from segment_anything.modeling import (
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from segment_anything.modeling.common import LayerNorm2d
from torch import nn

__all__ = ["TinyViT", "TinyViTConfig", "build_mobile_sam", "is_mobile_sam"]


@dataclass(frozen=True, slots=True)
class TinyViTConfig:
    """Shape of a TinyViT encoder; the defaults are MobileSAM's vit_t.

    Attributes
    ----------
    widths, depths, heads : four ints each
        Channels, blocks and attention heads of each stage. The first stage is
        convolutional and has no heads.
    windows : four ints
        Side of the attention windows of each stage, in tokens.
    out_channels : int
        Channels of the embedding.
    classes : int
        Size of the classifier from pretraining, which lies unused in checkpoints.
    """

    widths: tuple[int, int, int, int] = (64, 128, 160, 320)
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    heads: tuple[int, int, int, int] = (2, 4, 5, 10)
    windows: tuple[int, int, int, int] = (7, 7, 14, 7)
    out_channels: int = 256
    classes: int = 1000


class ConvNorm(nn.Sequential):
    """Convolution without bias, then batch normalisation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.c = conv
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve with the norm multiplied into the kernel, except in training."""
        mean, variance = self.bn.running_mean, self.bn.running_var
        if self.training or mean is None or variance is None:
            normed: torch.Tensor = self.bn(self.c(x))
            return normed
        # one pass over the pixels instead of two; the kernel is small beside them
        gain = self.bn.weight / torch.sqrt(variance + self.bn.eps)
        weight = self.c.weight * gain[:, None, None, None]
        bias = self.bn.bias - mean * gain
        if self.c.kernel_size == (1, 1):
            # with channels last a matrix product as it lies, faster on a processor
            pixels = F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias)
            return pixels.permute(0, 3, 1, 2)
        stride, padding = self.c.stride, self.c.padding
        return F.conv2d(x, weight, bias, stride, padding, groups=self.c.groups)


class PatchEmbed(nn.Module):
    """Two strided convolutions: (N, 3, y, x) to (N, C, y/4, x/4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, width // 2, 3, stride=2),
            nn.GELU(),
            ConvNorm(width // 2, width, 3, stride=2),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed the pixels."""
        # the blocks between convolutions want tokens with their channels together
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        embedded: torch.Tensor = self.seq(pixels)
        return embedded


class InvertedBottleneck(nn.Module):
    """Widen, filter each channel alone, narrow, and add: MobileNet's block."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__()
        wide = width * expansion
        self.conv1 = ConvNorm(width, wide)
        self.conv2 = ConvNorm(wide, wide, 3, groups=wide)
        self.conv3 = ConvNorm(wide, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, y, x) to the same shape."""
        wide = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(wide))


class PatchMerging(nn.Module):
    """Go to the next stage's width and, with stride 2, to half the resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs)
        self.conv2 = ConvNorm(outputs, outputs, 3, stride=stride, groups=outputs)
        self.conv3 = ConvNorm(outputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, y, x) to (N, C', y / stride, x / stride)."""
        merged: torch.Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return merged


class WindowAttention(nn.Module):
    """Attention inside one window, with a learned bias per distance between tokens."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        self.window = window

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map windows of tokens (N, window², C) to the same shape."""
        n, length, width = tokens.shape
        # Checkpoints interleave q, k and v per head.
        qkv = self.qkv(self.norm(tokens)).view(n, length, self.heads, 3, -1)
        q, k, v = qkv.permute(3, 0, 2, 1, 4)
        # the fused kernel of processors wants four axes
        bias = self.attention_biases[None, :, self._distances()].to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        projected: torch.Tensor = self.proj(
            mixed.transpose(1, 2).reshape(n, length, width)
        )
        return projected

    def _distances(self) -> torch.Tensor:
        """Index of the bias for each pair of tokens, (window², window²).

        Biases are numbered by |dy| * window + |dx|.
        """
        device = self.attention_biases.device
        axis = torch.arange(self.window, device=device)
        away = (axis[:, None] - axis[None, :]).abs()
        dy = away[:, None, :, None] * self.window
        return (dy + away[None, :, None, :]).view(self.window**2, self.window**2)


class Mlp(nn.Module):
    """Norm, widen fourfold, narrow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (..., C) to the same shape."""
        mixed: torch.Tensor = self.fc2(F.gelu(self.fc1(self.norm(tokens))))
        return mixed


class TinyViTBlock(nn.Module):
    """Window attention, a local convolution, and an MLP."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(width, heads, window)
        self.mlp = Mlp(width)
        self.local_conv = ConvNorm(width, width, 3, groups=width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, y, x) to the same shape."""
        x = self.local_conv(x + self._attend(x.permute(0, 2, 3, 1)))
        mixed: torch.Tensor = self.mlp(x.permute(0, 2, 3, 1))
        return x + mixed.permute(0, 3, 1, 2)

    def _attend(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens (N, y, x, C) to their attention (N, C, y, x)."""
        n, height, width, c = tokens.shape
        side = self.window
        # Padding is attended to as it was in training: it is no mask.
        tokens = F.pad(tokens, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = tokens.shape[1] // side, tokens.shape[2] // side
        windows = tokens.view(n, rows, side, columns, side, c).transpose(2, 3)
        mixed: torch.Tensor = self.attn(windows.reshape(-1, side * side, c))
        merged = mixed.view(n, rows, columns, side, side, c).transpose(2, 3)
        whole = merged.reshape(tokens.shape)[:, :height, :width]
        return whole.permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks of one resolution, then the way to the next."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, y, x) to the next stage's width and resolution."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyViT(nn.Module):
    """TinyViT as MobileSAM uses it: one sixteenth of the resolution comes out.

    Parameters
    ----------
    img_size : int
        Side of the square it is given, in pixels. No tensor depends on it.
    config : TinyViTConfig
    """

    def __init__(self, img_size: int = 1024, config: TinyViTConfig | None = None):
        super().__init__()
        config = config or TinyViTConfig()
        self.img_size = img_size
        self.patch_embed = PatchEmbed(config.widths[0])
        self.layers = nn.ModuleList(_build_stages(config))
        last, out = config.widths[-1], config.out_channels
        # Left over from pretraining on ImageNet; checkpoints hold them.
        self.norm_head = nn.LayerNorm(last)
        self.head = nn.Linear(last, config.classes)
        self.neck = nn.Sequential(
            nn.Conv2d(last, out, 1, bias=False),
            LayerNorm2d(out),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            LayerNorm2d(out),
        )

    def forward_stages(self) -> Sequence[Callable[[torch.Tensor], torch.Tensor]]:
        """Return the parts which, one after the other, are the encoder."""
        return (self.patch_embed, *self.layers, self.neck)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode (N, 3, side, side) into (N, C, side / 16, side / 16)."""
        for stage in self.forward_stages():
            pixels = stage(pixels)
        return pixels


def _build_stages(config: TinyViTConfig) -> list[Stage]:
    stages = []
    for i, width in enumerate(config.widths):
        depth = config.depths[i]
        blocks: list[nn.Module] = [
            InvertedBottleneck(width)
            if i == 0
            else TinyViTBlock(width, config.heads[i], config.windows[i])
            for _ in range(depth)
        ]
        # The last merging keeps the resolution: SAM wants a sixteenth, not 1/32.
        downsample = (
            PatchMerging(width, config.widths[i + 1], stride=2 if i < 2 else 1)
            if i < 3
            else None
        )
        stages.append(Stage(blocks, downsample))
    return stages


def build_mobile_sam(img_size: int = 1024, config: TinyViTConfig | None = None) -> Sam:
    """Build MobileSAM with random weights, in evaluation mode.

    Parameters
    ----------
    img_size : int
        Side of the square the encoder sees, in pixels, a multiple of 16.
    config : TinyViTConfig, optional
        Shape of the encoder; the decoder's width is its `out_channels`.
    """
    encoder = TinyViT(img_size, config)
    width = (config or TinyViTConfig()).out_channels
    grid = img_size // 16
    sam = Sam(
        encoder,
        PromptEncoder(width, (grid, grid), (img_size, img_size), mask_in_chans=16),
        MaskDecoder(
            transformer_dim=width,
            transformer=TwoWayTransformer(2, width, num_heads=8, mlp_dim=2048),
        ),
    )
    return sam.eval()


def is_mobile_sam(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether a state dict has a TinyViT encoder."""
    return any(name.startswith("image_encoder.layers.") for name in tensors)
