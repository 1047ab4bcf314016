"""Adapters of a model: added, trained, kept apart from it, merged into it.

A large model is tuned by a few numbers beside its frozen weights:
`napari_samseg.core.training.lora_layer` says how, and
`napari_samseg.core.training.lora_targets` which of its layers get them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from segment_anything.modeling import Sam
from torch import nn

from napari_samseg.core.errors import CheckpointError, SettingsError
from napari_samseg.core.settings import LoraSettings
from napari_samseg.core.training.lora_layer import LoraLayer, LoraPart
from napari_samseg.core.training.lora_targets import (
    choose_parts,
    is_target,
    plain_layers,
    rows_of,
)

__all__ = [
    "TRAINED_KEY",
    "add_lora",
    "drop_out",
    "has_lora",
    "load_lora",
    "lora_parameters",
    "lora_state",
    "merge_lora",
    "remove_lora",
]

# In the header of a file of adapters: what was trained, as in the settings.
TRAINED_KEY = "trained"


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
    wanted = choose_parts(sam, settings.target_names)
    layers = {n: layer for n, layer in plain_layers(sam).items() if n in wanted}
    for name, layer in layers.items():
        made = {
            part: _draw_part(layer, rows_of(sam, name, part), settings, generator)
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
    layers = plain_layers(sam)
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


def _adapted_layers(sam: nn.Module) -> dict[str, LoraLayer]:
    return {n: m for n, m in sam.named_modules() if isinstance(m, LoraLayer)}


def _named_parts(sam: nn.Module) -> Iterator[tuple[str, LoraPart]]:
    for name, module in sam.named_modules():
        if isinstance(module, LoraPart):
            yield name, module


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
    rows = {part: rows_of(sam, name, part) for part in parts}
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
    if layer is None or not is_target(name, part):
        raise CheckpointError(
            f"there is no layer '{name}' with a part '{part}' in this model: the "
            "adapters are of another one"
        )
    rows = rows_of(sam, name, part)
    n_rows = len(layer.weight) if rows is None else len(rows)
    rank = found.a.shape[0]
    expected = (rank, layer.weight.flatten(1).shape[1]), (n_rows, rank)
    if (tuple(found.a.shape), tuple(found.b.shape)) != expected:
        raise CheckpointError(
            f"the adapter of '{name}' has shapes {tuple(found.a.shape)} and "
            f"{tuple(found.b.shape)}, and the layer takes {expected[0]} and "
            f"{expected[1]}: it is of a model of another size"
        )
