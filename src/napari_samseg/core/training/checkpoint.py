"""Training state on disk: written beside, then renamed; read without running code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from napari_samseg.core.errors import CheckpointError, MissingFileError
from napari_samseg.core.training.writing import replacing

__all__ = ["read_training_state", "write_training_state"]


def write_training_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers and containers of them.

    The old file stays until the new one is complete: a full disk or a power cut
    leaves a state that can be read.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with replacing(path) as unfinished:
        torch.save(dict(state), unfinished)


def read_training_state(
    path: Path, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Read what `write_training_state` wrote.

    Raises
    ------
    MissingFileError
        If there is no such file.
    CheckpointError
        If it is not such a file, is damaged, or holds more than tensors and numbers.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no training state at {path}")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a readable training state; start anew or take an older one"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no training state")
    return state
