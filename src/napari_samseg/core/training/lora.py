"""Low-rank adapters: tune a large model by a few numbers beside its frozen weights.

Hu et al. 2021, LoRA, arXiv:2106.09685: y = W x + (alpha / r) B A x, where A and B have
rank r and B starts at zero, so that nothing changes at first.

The encoders of SAM and TinyViT make queries, keys and values in one linear layer: they
are rows of its output, and each has its own A and B here. An adapted layer answers for
`weight` with the sum, so whatever reads weights, as
`napari_samseg.core.models.attention` does, sees the adapted ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import nn

from napari_samseg.core.errors import CheckpointError, SettingsError
from napari_samseg.core.models.mobile_sam import TinyViT, WindowAttention
from napari_samseg.core.settings import LoraSettings

__all__ = [
    "LORA_TARGETS",
    "TRAINED_KEY",
    "LoraLayer",
    "add_lora",
    "drop_out",
    "has_lora",
    "load_lora",
    "lora_parameters",
    "lora_state",
    "matching_targets",
    "merge_lora",
    "remove_lora",
]

# The name of a part that is a whole layer.
WHOLE = "all"
# In the header of a file of adapters: what was trained, as in the settings.
TRAINED_KEY = "trained"
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


def matching_targets(sam: Sam) -> dict[str, tuple[str, ...]]:
    """Return the targets that a model has, each with the names of its layers."""
    layers = _plain_layers(sam)
    found = {}
    for target, (pattern, _) in LORA_TARGETS.items():
        names = tuple(name for name in layers if re.fullmatch(pattern, name))
        if names:
            found[target] = names
    return found


def add_lora(
    sam: Sam, settings: LoraSettings, *, generator: torch.Generator | None = None
) -> tuple[str, ...]:
    """Put adapters beside the layers of a model, which does not change by it.

    Parameters
    ----------
    sam : segment_anything.modeling.Sam
        Of any family; changed in place. Its adapted layers are frozen, the adapters
        learn; everything else stays as it is.
    settings : LoraSettings
    generator : torch.Generator, optional
        Draws A, on the processor.

    Returns
    -------
    tuple of str
        Names of the adapted layers.

    Raises
    ------
    SettingsError
        If a target matches no layer of this model, or there are adapters already.
    """
    if has_lora(sam):
        raise SettingsError(
            "this model has adapters already: merge or remove them before others are "
            "added"
        )
    known = matching_targets(sam)
    targets = settings.target_names
    if targets == ("auto",):
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
    layers = {n: layer for n, layer in _plain_layers(sam).items() if n in wanted}
    for name, layer in layers.items():
        made = {
            part: _draw_part(layer, _rows(sam, name, part), settings, generator)
            for part in wanted[name]
        }
        _adapt(sam, name, made, settings.dropout)
    return tuple(layers)


def has_lora(sam: nn.Module) -> bool:
    """Tell whether a model has adapters."""
    return any(isinstance(module, LoraLayer) for module in sam.modules())


def drop_out(sam: nn.Module, *, on: bool) -> None:
    """Let the dropout of adapters act, or not; the rest of a model has none."""
    for layer in _adapted_layers(sam).values():
        layer.dropout.train(on)


def lora_parameters(sam: nn.Module) -> list[nn.Parameter]:
    """Return what learns: A and B of all adapters."""
    return [p for _, part in _named_parts(sam) for p in part.parameters()]


def lora_state(sam: nn.Module) -> dict[str, torch.Tensor]:
    """Return the adapters alone, to be saved: all that `load_lora` needs."""
    return {
        f"{name}.{key}": tensor.detach().clone()
        for name, part in _named_parts(sam)
        for key, tensor in part.state_dict().items()
    }


def load_lora(sam: Sam, state: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Read adapters, into those of the model or, where it has none, as new ones.

    Returns
    -------
    tuple of str
        Names of the adapted layers.

    Raises
    ------
    CheckpointError
        If a tensor is missing, is of another shape or has no place in this model;
        the model is then as it was.
    """
    parts = _read_parts(state)
    layers = _plain_layers(sam)
    if has_lora(sam):
        _check_same(sam, state)
        for name, part in _named_parts(sam):
            part.load_state_dict(parts[name].state_dict())
    else:
        by_layer: dict[str, dict[str, LoraPart]] = {}
        for name, part in parts.items():
            layer, _, key = name.rpartition(".lora.")
            _check_fits(sam, layers, layer, key, part)
            by_layer.setdefault(layer, {})[key] = part
        for layer, made in by_layer.items():
            _adapt(sam, layer, made, 0.0)
    return tuple(dict.fromkeys(name.rpartition(".lora.")[0] for name in parts))


def merge_lora(sam: Sam) -> None:
    """Add the adapters to the weights: the model is plain again, and does the same."""
    for name, layer in _adapted_layers(sam).items():
        _replace(sam, name, layer.merged())


def remove_lora(sam: Sam) -> None:
    """Take the adapters away: the model is what it was before `add_lora`."""
    for name, layer in _adapted_layers(sam).items():
        _replace(sam, name, layer.base)


def _plain_layers(sam: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Layers that can be adapted and are not, by name."""
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


def _adapted_layers(sam: nn.Module) -> dict[str, LoraLayer]:
    return {n: m for n, m in sam.named_modules() if isinstance(m, LoraLayer)}


def _named_parts(sam: nn.Module) -> Iterator[tuple[str, LoraPart]]:
    for name, module in sam.named_modules():
        if isinstance(module, LoraPart):
            yield name, module


def _rows(sam: Sam, name: str, part: str) -> torch.Tensor | None:
    """Rows of a layer's output that are queries, keys or values; None for all."""
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


def _draw_part(
    layer: nn.Linear | nn.Conv2d,
    rows: torch.Tensor | None,
    settings: LoraSettings,
    generator: torch.Generator | None,
) -> LoraPart:
    weight = layer.weight
    inputs = weight.flatten(1).shape[1]
    n_rows = len(weight) if rows is None else len(rows)
    a = torch.empty(settings.rank, inputs)
    nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
    return LoraPart(
        a.to(weight),
        torch.zeros(n_rows, settings.rank).to(weight),
        torch.tensor(settings.alpha / settings.rank).to(weight),
    )


def _adapt(sam: Sam, name: str, parts: Mapping[str, LoraPart], dropout: float) -> None:
    layer = sam.get_submodule(name)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    rows = {part: _rows(sam, name, part) for part in parts}
    adapted = LoraLayer(layer, rows, parts, dropout).to(layer.weight.device)
    _replace(sam, name, adapted.train(layer.training))


def _replace(sam: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(sam.get_submodule(parent), child, module)


def _read_parts(state: Mapping[str, torch.Tensor]) -> dict[str, LoraPart]:
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        part, _, key = name.rpartition(".")
        tensors.setdefault(part, {})[key] = tensor
    parts = {}
    for name, of_part in tensors.items():
        if set(of_part) != {"a", "b", "scale"} or ".lora." not in name:
            raise CheckpointError(
                f"{name} is no adapter with a, b and scale but has "
                f"{', '.join(sorted(of_part))}: this is no file of adapters, or a "
                "damaged one"
            )
        parts[name] = LoraPart(
            of_part["a"].clone(), of_part["b"].clone(), of_part["scale"].clone()
        )
    if not parts:
        raise CheckpointError("there are no adapters in this file")
    return parts


def _check_same(sam: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    own = lora_state(sam)
    differ = [
        name
        for name in sorted(own.keys() | state.keys())
        if name not in own or name not in state or own[name].shape != state[name].shape
    ]
    if differ:
        raise CheckpointError(
            f"these adapters are not those of the model: {len(differ)} tensors are "
            f"missing or of another shape, such as {differ[0]}; take the same targets "
            "and rank, or remove those of the model first"
        )


def _check_fits(
    sam: Sam,
    layers: Mapping[str, nn.Linear | nn.Conv2d],
    name: str,
    part: str,
    found: LoraPart,
) -> None:
    layer = layers.get(name)
    fits = layer is not None and any(
        re.fullmatch(pattern, name) and part == known
        for pattern, known in LORA_TARGETS.values()
    )
    if not fits or layer is None:
        raise CheckpointError(
            f"there is no layer '{name}' with a part '{part}' in this model: the "
            "adapters are of another one"
        )
    rows = _rows(sam, name, part)
    n_rows = len(layer.weight) if rows is None else len(rows)
    rank = found.a.shape[0]
    expected = (rank, layer.weight.flatten(1).shape[1]), (n_rows, rank)
    if (tuple(found.a.shape), tuple(found.b.shape)) != expected:
        raise CheckpointError(
            f"the adapter of '{name}' has shapes {tuple(found.a.shape)} and "
            f"{tuple(found.b.shape)}, and the layer takes {expected[0]} and "
            f"{expected[1]}: it is of a model of another size"
        )
