"""Read checkpoints without running code from them, and say what is wrong with them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xxhash
from torch import nn

from napari_samseg.core.errors import CheckpointError, MissingFileError
from napari_samseg.core.memory import is_memory_error

__all__ = [
    "DIGEST_KEY",
    "SUFFIXES",
    "Checkpoint",
    "digest_tensors",
    "load_tensors",
    "read_checkpoint",
]

SUFFIXES = (".pth", ".pt", ".safetensors")

# Where training tools put the model among optimizer states: micro-sam, PyTorch
# Lightning, MedSAM.
NESTED_IN = ("model_state", "state_dict", "model")
# Every SAM-like model has a prompt encoder; what stands before it in the names
# ("sam.", "module.", "model.") was put there by a training tool.
LANDMARK = "prompt_encoder."


# Where what this package writes keeps the hash of the tensors.
DIGEST_KEY = "samseg_digest"


class Checkpoint(NamedTuple):
    """Tensors of a model by name, and text stored beside them."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]


def digest_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return a hash of tensors by name (xxh3, 128 bits)."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the tensors of a checkpoint, on the CPU.

    Only tensors and plain containers are read: a pickle that would run code is
    refused. Models nested under another key or behind a common prefix, as training
    tools write them, are unwrapped.

    Raises
    ------
    MissingFileError
        If there is no such file.
    CheckpointError
        If the file is of another kind, damaged, holds code, or no tensors.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no checkpoint {path}")
    if path.suffix not in SUFFIXES:
        raise CheckpointError(
            f"{path.name} is not a checkpoint: {', '.join(SUFFIXES)} are read"
        )
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
    else:
        tensors, metadata = _find_tensors(_read_pickle(path)), {}
    if not tensors:
        raise CheckpointError(f"{path.name} holds no tensors by name")
    return Checkpoint(_without_prefix(tensors), metadata)


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} is damaged: {error}") from error
    if DIGEST_KEY in metadata and metadata[DIGEST_KEY] != digest_tensors(tensors):
        raise CheckpointError(
            f"{path.name} is damaged, its weights are not those that were written: "
            "copy it again, or take another checkpoint of the same training"
        )
    return tensors, metadata


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _is_truncated(path):
            raise CheckpointError(f"{path.name} is damaged or cut short") from error
        raise CheckpointError(
            f"{path.name} holds Python objects other than tensors. Reading them could "
            "run code, so it is refused. Save the state_dict alone, best as "
            ".safetensors, and load that."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if is_memory_error(error):
            raise
        # a file of text fails with the number of an opcode, which tells nobody anything
        reason = "" if str(error).isdigit() else f": {error}"
        raise CheckpointError(
            f"{path.name} is damaged or no PyTorch checkpoint{reason}"
        ) from error


def _is_truncated(path: Path) -> bool:
    """Tell whether a file starts as a zip archive, as torch writes, but is none."""
    with path.open("rb") as file:
        return file.read(2) == b"PK" and not zipfile.is_zipfile(path)


def _find_tensors(content: Any) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for key in NESTED_IN:
        if isinstance(content.get(key), Mapping):
            return _find_tensors(content[key])
    return {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }


def _without_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = next((name for name in tensors if LANDMARK in name), LANDMARK)
    prefix = found[: found.index(LANDMARK)]
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def load_tensors(
    module: nn.Module, tensors: Mapping[str, torch.Tensor], name: str
) -> None:
    """Put tensors into a module, all of them and nothing else.

    The module may be on the meta device; it takes the tensors over, in float32
    where they are floating point.

    Raises
    ------
    CheckpointError
        If tensors are missing, unexpected or of the wrong shape; the first few of
        each are named. `name` is what the message calls the checkpoint.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    problems = [
        *_first_few("missing", missing),
        *_first_few("unexpected", unexpected),
        *_first_few("of the wrong shape", misshapen),
    ]
    if problems:
        raise CheckpointError(f"{name} does not fit its family: {'; '.join(problems)}")
    ready = {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in tensors.items()
    }
    module.load_state_dict(
        {key: tensor.contiguous() for key, tensor in ready.items()}, assign=True
    )


def _first_few(what: str, items: list[str], limit: int = 3) -> Iterable[str]:
    if items:
        more = f" and {len(items) - limit} more" if len(items) > limit else ""
        tensors = "tensor" if len(items) == 1 else "tensors"
        yield f"{len(items)} {tensors} {what}: {', '.join(items[:limit])}{more}"
