"""What a training leaves: weights as safetensors, each with a card that says how.

The weights are whole: whatever was tuned is put back among the rest, so that a file
is loaded like any other checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from napari_samseg.core.models.checkpoint import DIGEST_KEY, digest_tensors
from napari_samseg.core.models.families import MODEL_FAMILIES
from napari_samseg.core.training.lora import (
    TRAINED_KEY,
    has_lora,
    lora_state,
    merge_lora,
)
from napari_samseg.core.training.writing import replacing, write_json

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from napari_samseg.core.models.sam import SamModel
    from napari_samseg.core.training.validation import ValidationScores

__all__ = [
    "TuneResult",
    "export_pth",
    "mean_iou",
    "write_tensors",
    "write_tuned",
    "write_weights",
]


@dataclass(frozen=True, slots=True)
class TuneResult:
    """How a training ended.

    Attributes
    ----------
    best : Path
        Weights of the last step whose score on the validation objects cannot be told
        from the highest; those that the training began with where no step was better
        than they; those of the last step where nothing was validated. `model=` takes
        it anywhere.
    last : Path
        Weights of the last step.
    history : tuple of dict
        A row for each validation: step, epoch, seconds, losses and scores.
    before, after : ValidationScores or None
        Of the model it was started from, and of `best`; None without validation.
    split : str
        How images were divided; see `napari_samseg.core.training.images.divide`.
    step : int
        Of `best`; 0 is the model it was started from.
    """

    best: Path
    last: Path
    history: tuple[Mapping[str, float], ...]
    before: ValidationScores | None
    after: ValidationScores | None
    split: str = field(default="groups")
    step: int = 0

    @property
    def learned(self) -> Mapping[str, float]:
        """Scores of the best validation after the first step; empty without any."""
        validated = [_scores(row) for row in self.history]
        found = [scores for scores in validated if scores]
        return max(found, key=mean_iou, default={})


def mean_iou(scores: Mapping[str, float]) -> float:
    """Return the mean over kinds of prompt of scores by name; NaN without any."""
    found = [scores[kind] for kind in ("box", "point") if kind in scores]
    return sum(found) / len(found) if found else float("nan")


def _scores(row: Mapping[str, float]) -> dict[str, float]:
    """Take the scores of a validation out of a row of a log."""
    mark = "val_"
    return {k.removeprefix(mark): v for k, v in row.items() if k.startswith(mark)}


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
    write_json(path.with_suffix(".json"), card)


def write_tuned(path: Path, model: SamModel, about: Mapping[str, Any]) -> None:
    """Write a model that learns: whole, with its card; and its adapters alone, if any.

    Parameters
    ----------
    path : Path
        Of the weights, in the folder that has the name of the model.
    model : SamModel
    about : mapping
        What the card says of its making.

    Raises
    ------
    OutputError
        If they cannot be written.
    """
    sam = model.sam
    adapters = path.with_stem(f"{path.stem}_lora")
    if not has_lora(sam):
        adapters.unlink(missing_ok=True)  # of a model that is replaced
    else:
        train = str(about["settings"]["tune"]["train"])
        write_tensors(adapters, lora_state(sam), {TRAINED_KEY: train})
        sam = copy.deepcopy(sam)
        merge_lora(sam)
    describe = MODEL_FAMILIES[model.family].metadata
    metadata = {} if describe is None else describe(sam)
    card = {
        "name": path.parent.name,
        "family": model.family,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "plugin_version": version("napari-samseg"),
        **about,
        "weights": digest_tensors(sam.state_dict()),
    }
    write_weights(path, sam, metadata, card)


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors as safetensors, beside what is there and then in its place.

    Their hash is written with them: `read_checkpoint` refuses what has changed since.

    Raises
    ------
    OutputError
        If they cannot be written; the old file stays.
    """
    from safetensors.torch import save_file

    own = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    with replacing(path) as unfinished:
        # what the library writes is for its owner alone, unlike other files
        unfinished.touch()
        mode = unfinished.stat().st_mode
        save_file(own, unfinished, {**metadata, DIGEST_KEY: digest_tensors(own)})
        unfinished.chmod(mode)


def export_pth(sam: Sam, path: Path) -> None:
    """Write the weights as ``segment_anything.sam_model_registry`` loads them.

    Raises
    ------
    OutputError
        If they cannot be written.
    """
    weights = {n: t.detach().cpu() for n, t in sam.state_dict().items()}
    with replacing(path) as unfinished:
        torch.save(weights, unfinished)
