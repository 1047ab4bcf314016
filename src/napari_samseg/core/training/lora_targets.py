"""Which layers of a model adapters can stand beside, by the names settings know.

The encoders of SAM and TinyViT make queries, keys and values in one linear layer: they
are rows of its output, and each is a part of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import nn

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.models.mobile_sam import TinyViT, WindowAttention

__all__ = [
    "LORA_TARGETS",
    "choose_parts",
    "is_target",
    "matching_targets",
    "plain_layers",
    "rows_of",
]

# The name of a part that is a whole layer.
WHOLE = "all"
# Each target: which layers (their names in the model), and which part of them.
LORA_TARGETS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "encoder.q": (r"image_encoder\..*\.attn\.qkv", "q"),
        "encoder.k": (r"image_encoder\..*\.attn\.qkv", "k"),
        "encoder.v": (r"image_encoder\..*\.attn\.qkv", "v"),
        "encoder.proj": (r"image_encoder\..*\.attn\.proj", WHOLE),
        "encoder.lin1": (r"image_encoder\..*\.mlp\.(lin1|fc1)", WHOLE),
        "encoder.lin2": (r"image_encoder\..*\.mlp\.(lin2|fc2)", WHOLE),
        # 1 x 1 convolutions of the embedded family
        "encoder.pointwise": (
            r"image_encoder\.(up_\d+\.conv|side_\d+\.conv|neck)",
            WHOLE,
        ),
        "decoder.q": (r"mask_decoder\..*\.q_proj", WHOLE),
        "decoder.k": (r"mask_decoder\..*\.k_proj", WHOLE),
        "decoder.v": (r"mask_decoder\..*\.v_proj", WHOLE),
        "decoder.out": (r"mask_decoder\..*\.out_proj", WHOLE),
        "decoder.mlp": (r"mask_decoder\..*\.mlp\.lin[12]", WHOLE),
        "hypernetworks": (r"mask_decoder\.output_hypernetworks_mlps\..*", WHOLE),
        "iou_head": (r"mask_decoder\.iou_prediction_head\..*", WHOLE),
    }
)
# What "auto" means: as in MSSegSAM, or where an encoder has no attention.
USUAL_TARGETS = (
    ("encoder.q", "encoder.v", "encoder.lin1", "encoder.lin2"),
    ("encoder.pointwise", "decoder.q", "decoder.v"),
)


def matching_targets(sam: Sam) -> dict[str, tuple[str, ...]]:
    """Return the targets that a model has, each with the names of its layers."""
    layers = plain_layers(sam)
    found = {}
    for target, (pattern, _) in LORA_TARGETS.items():
        names = tuple(name for name in layers if re.fullmatch(pattern, name))
        if names:
            found[target] = names
    return found


def choose_parts(sam: Sam, targets: Sequence[str]) -> dict[str, list[str]]:
    """Return the layers that are to be adapted, each with its parts.

    Parameters
    ----------
    sam : segment_anything.modeling.Sam
    targets : sequence of str
        Keys in `LORA_TARGETS`, or ``auto`` alone.

    Raises
    ------
    SettingsError
        If a target is unknown, or matches no layer of this model.
    """
    known = matching_targets(sam)
    if tuple(targets) == ("auto",):
        targets = next(usual for usual in USUAL_TARGETS if set(usual) <= set(known))
    unknown = [name for name in targets if name not in LORA_TARGETS]
    if unknown:
        raise SettingsError(
            f"no layers are called {', '.join(unknown)}; there are "
            f"{', '.join(LORA_TARGETS)}"
        )
    missing = [name for name in targets if name not in known]
    if missing:
        raise SettingsError(
            f"this model has no layers for {', '.join(missing)}; it has "
            f"{', '.join(known)}"
        )
    wanted: dict[str, list[str]] = {}
    for target in targets:
        for name in known[target]:
            wanted.setdefault(name, []).append(LORA_TARGETS[target][1])
    return wanted


def is_target(layer: str, part: str) -> bool:
    """Tell whether any target means a part of the layer of that name."""
    return any(
        re.fullmatch(pattern, layer) and part == known
        for pattern, known in LORA_TARGETS.values()
    )


def plain_layers(sam: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the layers that can be adapted and are not, by name.

    Linear layers, and convolutions of 1 x 1 that see all channels.
    """
    return {
        name: module
        for name, module in sam.named_modules()
        if isinstance(module, nn.Linear)
        or (
            isinstance(module, nn.Conv2d)
            and module.kernel_size == (1, 1)
            and module.stride == (1, 1)
            and module.groups == 1
        )
        if ".lora." not in name and not name.endswith(".base")
    }


def rows_of(sam: Sam, name: str, part: str) -> torch.Tensor | None:
    """Return the rows of a layer's output that a part is.

    Parameters
    ----------
    sam : segment_anything.modeling.Sam
    name : str
        Of the layer in the model.
    part : str
        ``q``, ``k``, ``v`` or ``all``.

    Returns
    -------
    (n,) int64 tensor or None
        None for all of them.
    """
    if part == WHOLE:
        return None
    attention = sam.get_submodule(name.rpartition(".")[0])
    layer = attention.qkv
    rows = torch.arange(len(layer.weight), device=layer.weight.device)
    place = "qkv".index(part)
    if isinstance(sam.image_encoder, TinyViT) and isinstance(
        attention, WindowAttention
    ):
        # there, each head has its own queries, keys and values side by side
        return rows.view(attention.heads, 3, -1)[:, place].flatten()
    assert isinstance(sam.image_encoder, ImageEncoderViT)
    return rows.view(3, -1)[place].clone()
