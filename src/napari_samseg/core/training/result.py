"""What a training leaves: weights as safetensors, each with a card that says how.

The weights are whole: whatever was tuned is put back among the rest, so that a file
is loaded like any other checkpoint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xxhash

from napari_samseg.core.errors import OutputError

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from napari_samseg.core.training.validation import ValidationScores

__all__ = [
    "TuneResult",
    "digest_weights",
    "export_pth",
    "write_tensors",
    "write_weights",
]


@dataclass(frozen=True, slots=True)
class TuneResult:
    """How a training ended.

    Attributes
    ----------
    best : Path
        Weights with the highest score on the validation objects, or the last where
        nothing was validated; `model=` takes it anywhere.
    last : Path
        Weights of the last step.
    history : tuple of dict
        A row for each validation: step, epoch, seconds, losses and scores.
    before, after : ValidationScores or None
        Of the model it was started from, and of `best`; None without validation.
    split : str
        How images were divided; see `napari_samseg.core.training.images.divide`.
    """

    best: Path
    last: Path
    history: tuple[Mapping[str, float], ...]
    before: ValidationScores | None
    after: ValidationScores | None
    split: str = field(default="groups")


def digest_weights(sam: Sam) -> str:
    """Return a hash of all weights of a model (xxh3, 128 bits)."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(sam.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_weights(
    path: Path, sam: Sam, metadata: Mapping[str, str], card: Mapping[str, Any]
) -> None:
    """Write weights and, beside them, their card as ``.json``.

    Each is written beside and then renamed: a full disk leaves the old ones.

    Raises
    ------
    OutputError
        If they cannot be written.
    """
    write_tensors(path, sam.state_dict(), metadata)
    note = path.with_suffix(".json.part")
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    try:
        note.write_text(text, encoding="utf-8")
        _replace(note, path.with_suffix(".json"))
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        note.unlink(missing_ok=True)


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors as safetensors, beside what is there and then in its place.

    Raises
    ------
    OutputError
        If they cannot be written; the old file stays.
    """
    from safetensors.torch import save_file

    own = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    try:
        save_file(own, unfinished, dict(metadata))
        _replace(unfinished, path)
    except (OSError, RuntimeError) as error:  # safetensors has errors of its own
        raise _cannot_write(path, error) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _cannot_write(path: Path, error: Exception) -> OutputError:
    return OutputError(
        f"{path} cannot be written ({error}): make room or choose another folder; "
        "what was there before is kept"
    )


def _replace(unfinished: Path, path: Path) -> None:
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)


def export_pth(sam: Sam, path: Path) -> None:
    """Write the weights as ``segment_anything.sam_model_registry`` loads them.

    Raises
    ------
    OutputError
        If they cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.part")
    try:
        torch.save(
            {n: t.detach().cpu() for n, t in sam.state_dict().items()}, unfinished
        )
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:
        raise _cannot_write(path, error) from error
    finally:
        unfinished.unlink(missing_ok=True)
