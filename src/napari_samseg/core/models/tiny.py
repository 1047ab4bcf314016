"""The embedded family: a small convolutional encoder with SAM's own decoder.

The shipped encoder is plain convolutions and ReLU: batch normalisation exists only
while training (`TinyConfig.batch_norm`) and is folded into the convolutions by
`fold_batch_norm`, so the model is fast and can be tuned in small batches without
running statistics drifting. Prompt encoder and mask decoder are the classes of
`segment_anything`, only narrower, so whatever drives a SAM drives this one.

One thing is added to SAM: a mask prompt is always given. Where the person gave no
mask, `prompt_prior` draws the obvious guess (an ellipse in the box, a blob at the
point) and the decoder refines it instead of inventing a mask from two tokens.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import torch
from segment_anything.modeling import (
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import nn
from torch.nn import functional

from napari_samseg.core.errors import CheckpointError
from napari_samseg.core.models.tiny_blocks import (
    ConvNorm,
    GlobalAttention,
    Residual,
    Separable,
)

__all__ = [
    "ENCODERS",
    "ConvEncoder",
    "TinyConfig",
    "build_tiny",
    "fold_batch_norm",
    "is_tiny",
    "prompt_prior",
    "tiny_config",
    "tiny_metadata",
]

METADATA_KEY = "samseg_tiny_config"
# Residual convolutions, cheaper separable ones, or the first with attention between
# all places of the coarsest level.
ENCODERS = ("residual", "separable", "residual+attention")
# Logits of the prior stay within the range of confident masks, so that a user's own
# previous logits and the prior look alike to the mask-prompt convolutions.
PRIOR_LIMIT = 8.0
# Radius, in model pixels, at which the logit of a click's blob crosses zero: a click
# says nothing about size, so the blob falls off with the logarithm of the distance.
BLOB_RADIUS = 12.0


@dataclass(frozen=True, slots=True)
class TinyConfig:
    """Shape of an embedded model.

    Attributes
    ----------
    input_size : int
        Side of the square the encoder sees, in pixels; a multiple of 32.
    embed_dim : int
        Channels of the embedding, at one eighth of `input_size`.
    widths : five ints
        Channels of the encoder at strides 2, 4, 8, 16 and 32.
    depths : five ints
        Blocks at those strides.
    decoder_depth, decoder_heads, mlp_dim : int
        Layers, attention heads and hidden width of the two-way transformer.
    mask_channels : int
        Hidden channels of the mask prompt's convolutions.
    encoder : str
        One of `ENCODERS`: the blocks of the encoder.
    batch_norm : bool
        Whether the encoder still has its batch normalisation (training only).
    """

    input_size: int = 512
    embed_dim: int = 128
    widths: tuple[int, ...] = (24, 48, 96, 160, 224)
    depths: tuple[int, ...] = (0, 1, 2, 2, 2)
    decoder_depth: int = 2
    decoder_heads: int = 8
    mlp_dim: int = 384
    mask_channels: int = 16
    encoder: str = "residual"
    batch_norm: bool = False

    def __post_init__(self) -> None:
        if self.input_size <= 0 or self.input_size % 32:
            raise CheckpointError(
                f"input_size of the embedded family is a multiple of 32, "
                f"got {self.input_size}"
            )
        if self.encoder not in ENCODERS:
            raise CheckpointError(
                f"the encoder of the embedded family is one of {', '.join(ENCODERS)}, "
                f"not {self.encoder!r}"
            )
        if len(self.widths) != 5 or len(self.depths) != 5:
            raise CheckpointError(
                "the embedded family has five widths and five depths, got "
                f"{self.widths} and {self.depths}"
            )
        if self.embed_dim % (2 * self.decoder_heads) or self.embed_dim % 8:
            raise CheckpointError(
                f"embed_dim {self.embed_dim} must divide by 8 and by twice the "
                f"{self.decoder_heads} heads"
            )

    def to_json(self) -> str:
        """Return the configuration as text, as kept in a checkpoint's metadata."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TinyConfig:
        """Read what `to_json` wrote.

        Raises
        ------
        CheckpointError
            If the text is not such a configuration.
        """
        try:
            values = json.loads(text)
            known = {f.name for f in fields(cls)}
            if set(values) - known:
                raise ValueError(f"unknown fields {sorted(set(values) - known)}")
            for name in ("widths", "depths"):
                if name in values:
                    values[name] = tuple(int(v) for v in values[name])
            return cls(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the checkpoint's {METADATA_KEY} cannot be read: {error}"
            ) from error


class ConvEncoder(nn.Module):
    """Blocks of convolutions down to stride 32 and up again to stride 8.

    The strides 2 and 4 join the embedding through space-to-depth, so that detail
    finer than a token survives into its channels. Space-to-depth before a 1 x 1
    convolution is a convolution that strides by the size of its kernel: so it is
    computed, without the copy.
    """

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.img_size = config.input_size
        norm, w = config.batch_norm, config.widths
        block = Separable if config.encoder == "separable" else Residual
        self.downs = nn.ModuleList(
            ConvNorm(c_in, c_out, stride=2, norm=norm)
            for c_in, c_out in zip((3, *w[:-1]), w, strict=True)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(block(c, norm=norm) for _ in range(depth)))
            for c, depth in zip(w, config.depths, strict=True)
        )
        c = config.embed_dim
        looks = config.encoder == "residual+attention"
        self.coarse = GlobalAttention(w[4]) if looks else nn.Identity()
        self.up_32 = ConvNorm(w[4], w[3], 1, norm=norm)
        self.fuse_16 = block(w[3], norm=norm)
        self.up_16 = ConvNorm(w[3], c, 1, norm=norm)
        self.side_8 = ConvNorm(w[2], c, 1, norm=norm)
        self.side_4 = ConvNorm(w[1] * 4, c, 1, norm=norm)
        self.side_2 = ConvNorm(w[0] * 16, c, 1, norm=norm)
        self.fuse_8 = block(c, norm=norm)
        self.neck = nn.Conv2d(c, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode (B, 3, Y, X), sides multiples of 32, into (B, C, Y/8, X/8)."""
        x = x.contiguous(memory_format=torch.channels_last)
        scales = []
        for down, stage in zip(self.downs, self.stages, strict=True):
            x = stage(functional.relu(down(x), inplace=True))
            scales.append(x)
        at_2, at_4, at_8, at_16, at_32 = scales
        up = functional.interpolate(self.up_32(self.coarse(at_32)), scale_factor=2.0)
        at_16 = self.fuse_16(functional.relu(up.add_(at_16), inplace=True))
        up = functional.interpolate(self.up_16(at_16), scale_factor=2.0)
        sides = self.side_8(at_8).add_(up)
        sides = sides.add_(self.side_4.unshuffled(at_4, 2))
        sides = sides.add_(self.side_2.unshuffled(at_2, 4))
        joined = functional.relu(sides, inplace=True)
        embedding: torch.Tensor = self.neck(self.fuse_8(joined))
        return embedding


def build_tiny(config: TinyConfig | None = None) -> Sam:
    """Build a model of the embedded family with random weights.

    Returns
    -------
    segment_anything.modeling.Sam
        Embedding (embed_dim, input_size / 8, input_size / 8); low-resolution masks
        of side input_size / 2.
    """
    config = TinyConfig() if config is None else config
    c, tokens = config.embed_dim, config.input_size // 8
    transformer = TwoWayTransformer(
        depth=config.decoder_depth,
        embedding_dim=c,
        mlp_dim=config.mlp_dim,
        num_heads=config.decoder_heads,
    )
    return Sam(
        image_encoder=ConvEncoder(config),
        prompt_encoder=PromptEncoder(
            embed_dim=c,
            image_embedding_size=(tokens, tokens),
            input_image_size=(config.input_size, config.input_size),
            mask_in_chans=config.mask_channels,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=transformer,
            transformer_dim=c,
            iou_head_depth=3,
            iou_head_hidden_dim=c,
        ),
    )


def fold_batch_norm(sam: Sam) -> Sam:
    """Return a copy in evaluation mode whose encoder is convolutions only."""
    folded = copy.deepcopy(sam).eval()
    for module in folded.image_encoder.modules():
        if isinstance(module, ConvNorm):
            module.fold()
    return folded


def is_tiny(state_dict: Mapping[str, torch.Tensor]) -> bool:
    """Whether the tensors are those of the embedded family."""
    return {
        "image_encoder.downs.0.conv.weight",
        "image_encoder.side_2.conv.weight",
        "mask_decoder.iou_token.weight",
    } <= set(state_dict)


def tiny_config(
    state_dict: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> TinyConfig:
    """Find the configuration of a checkpoint.

    Parameters
    ----------
    state_dict : mapping of str to tensor
        Tensors of the checkpoint.
    metadata : mapping of str to str, optional
        Header of a safetensors file. The input size and the number of heads leave
        no trace in the tensors: without metadata the defaults are assumed.

    Raises
    ------
    CheckpointError
        If the tensors are not of this family or the metadata cannot be read.
    """
    if not is_tiny(state_dict):
        raise CheckpointError("these tensors are not of the embedded family")
    if metadata and METADATA_KEY in metadata:
        return TinyConfig.from_json(metadata[METADATA_KEY])
    stages, encoder = range(5), "residual"
    if "image_encoder.fuse_8.depthwise.conv.weight" in state_dict:
        encoder = "separable"
    elif "image_encoder.coarse.look.weight" in state_dict:
        encoder = "residual+attention"
    prefix = "mask_decoder.transformer.layers"
    return TinyConfig(
        embed_dim=state_dict["mask_decoder.iou_token.weight"].shape[1],
        widths=tuple(
            state_dict[f"image_encoder.downs.{i}.conv.weight"].shape[0] for i in stages
        ),
        depths=tuple(_count(state_dict, f"image_encoder.stages.{i}") for i in stages),
        decoder_depth=_count(state_dict, prefix),
        mlp_dim=state_dict[f"{prefix}.0.mlp.lin1.weight"].shape[0],
        mask_channels=state_dict["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        encoder=encoder,
        batch_norm="image_encoder.downs.0.norm.weight" in state_dict,
    )


def tiny_metadata(sam: Sam) -> dict[str, str]:
    """Return what a checkpoint of a model must say beside its tensors."""
    found = tiny_config(sam.state_dict())
    layer = sam.mask_decoder.transformer.layers[0]
    config = dataclasses.replace(
        found,
        input_size=int(sam.image_encoder.img_size),
        decoder_heads=int(layer.self_attn.num_heads),
    )
    return {METADATA_KEY: config.to_json()}


def _count(names: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Count the numbered children of a module from the names of its tensors."""
    start = len(prefix) + 1
    children = {n[start:].split(".")[0] for n in names if n.startswith(f"{prefix}.")}
    return len(children)


def prompt_prior(
    points_xy: torch.Tensor | None,
    labels: torch.Tensor | None,
    boxes_xyxy: torch.Tensor | None,
    mask_size: int | Sequence[int],
    input_size: int | Sequence[int],
) -> torch.Tensor:
    """Draw the mask that a person would guess from the prompts alone.

    A box gives the ellipse inscribed in it, with logits that fall linearly in its
    elliptical radius. A lone click gives a blob whose logit falls with the logarithm
    of the distance, crossing zero at 12 pixels. Beside a box, a click only raises its
    own surroundings; a background click lowers them.

    Parameters
    ----------
    points_xy : (N, P, 2) float tensor or None
        Model pixels (after resizing); an integer is the centre of a pixel.
    labels : (N, P) tensor or None
        1 foreground, 0 background, -1 padding.
    boxes_xyxy : (N, 4) float tensor or None
        First and last pixel, both inside, as SAM takes boxes.
    mask_size, input_size : int or (Y, X)
        Size of the low-resolution mask and of the input it covers, in pixels.

    Returns
    -------
    (N, 1, *mask_size) float32 tensor of logits
    """
    given = boxes_xyxy if points_xy is None else points_xy
    if given is None:
        raise ValueError("a prior needs points or boxes")
    grid_y, grid_x = _mask_grid(mask_size, input_size, given.device)
    prior = torch.full(
        (len(given), *grid_y.shape[:1], *grid_x.shape),
        -PRIOR_LIMIT,
        device=given.device,
    )
    if boxes_xyxy is not None:
        x0, y0, x1, y1 = (v[:, None] for v in boxes_xyxy.float().unbind(1))
        # inclusive pixels to the edges around them
        radius_x = (x1 + 1 - x0).clamp(min=1) / 2
        radius_y = (y1 + 1 - y0).clamp(min=1) / 2
        dx = (grid_x[None] - (x0 + x1 + 1) / 2) / radius_x
        dy = (grid_y[None] - (y0 + y1 + 1) / 2) / radius_y
        radius = torch.sqrt(dx.square()[:, None, :] + dy.square()[:, :, None])
        prior = (PRIOR_LIMIT * (1 - radius)).clamp(-PRIOR_LIMIT, PRIOR_LIMIT)
    if points_xy is not None and labels is not None:
        prior = _add_points(prior, points_xy, labels, (grid_y, grid_x), boxes_xyxy)
    return prior[:, None]


def _mask_grid(
    mask_size: int | Sequence[int],
    input_size: int | Sequence[int],
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres of the low-resolution pixels in continuous model coordinates."""
    sizes = [
        (s, s) if isinstance(s, int) else tuple(s) for s in (mask_size, input_size)
    ]
    axes = []
    for count, extent in zip(*sizes, strict=True):
        steps = torch.arange(count, device=device, dtype=torch.float32)
        axes.append((steps + 0.5) * (extent / count))
    return axes[0], axes[1]


def _add_points(
    prior: torch.Tensor,
    points_xy: torch.Tensor,
    labels: torch.Tensor,
    grid: tuple[torch.Tensor, torch.Tensor],
    boxes: torch.Tensor | None,
) -> torch.Tensor:
    grid_y, grid_x = grid
    for k in range(points_xy.shape[1]):
        dx = grid_x[None] - (points_xy[:, k, :1].float() + 0.5)
        dy = grid_y[None] - (points_xy[:, k, 1:].float() + 0.5)
        distance = torch.sqrt(dx.square()[:, None, :] + dy.square()[:, :, None])
        blob = 2 * (2 - torch.log2(1 + distance * (3 / BLOB_RADIUS)))
        if boxes is not None:  # the box knows the size: the click stays local
            blob = torch.where(blob > 0, blob, -PRIOR_LIMIT)
        blob = blob.clamp(min=-PRIOR_LIMIT)
        label = labels[:, k, None, None]
        prior = torch.where(label == 1, torch.maximum(prior, blob), prior)
        prior = torch.where(
            label == 0, torch.minimum(prior, (-2 * blob).clamp(max=PRIOR_LIMIT)), prior
        )
    return prior
