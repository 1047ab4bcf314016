"""What the Fine-tune panel says of progress and results."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from napari_samseg.core.amounts import describe_seconds
from napari_samseg.core.errors import SettingsError

if TYPE_CHECKING:
    from napari_samseg.core.training.result import TuneResult
    from napari_samseg.core.training.validation import ValidationScores
    from napari_samseg.core.types import TrainingProgress

__all__ = [
    "check_name",
    "describe_counts",
    "describe_result",
    "describe_scores",
    "describe_step",
    "free_name",
    "read_ids",
]

SPLITS = {
    "groups": "objects of other images",
    "planes": "objects of other planes of the same volume",
    "sections": "objects that it saw in other planes",
    "objects": "other objects of the same image",
}
# Of what a model was tuned on, in a name that is made of it.
LONGEST = 24
# What a folder may be called on every system.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]*")
# A difference that does not count, as the last digit may be luck.
SAME = 0.005


def describe_counts(n_objects: int, n_planes: int, n_images: int) -> str:
    """Say what there is to learn from."""
    objects = "object" if n_objects == 1 else "objects"
    planes = "plane" if n_planes == 1 else "planes"
    text = f"{n_objects:,} {objects} on {n_planes:,} {planes}"
    return f"{text} of {n_images} images." if n_images > 1 else f"{text}."


def describe_step(name: str, progress: TrainingProgress, seconds: float | None) -> str:
    """Say how far the training of a model is, and how long it will still take."""
    text = f"Training {name!r}: step {progress.done} of {progress.total}"
    if seconds is not None:
        text += f", {describe_seconds(seconds)} left"
    return f"{text}."


def describe_scores(before: ValidationScores, after: ValidationScores) -> str:
    """Say two sets of scores beside each other."""
    parts = []
    for kind in ("point", "box"):
        old, new = getattr(before, kind), getattr(after, kind)
        if old == old and new == new:  # it is no number where it was not asked for
            parts.append(f"{kind} IoU {old:.2f} \u2192 {new:.2f}")
    return ", ".join(parts)


def describe_result(result: TuneResult) -> str:
    """Say what a training has brought."""
    before, after = result.before, result.after
    if before is None:
        return "Trained. Nothing was held out, so that nobody knows how good it is."
    if after is None:
        return "There is no score yet that could be kept."
    what = SPLITS.get(result.split, "objects that it was not trained on")
    if after.n_objects == 1:
        what = what.replace("objects", "object")
    on = f"on {after.n_objects} {what}"
    if not result.step:
        return _describe_nothing_better(before.score, result, on)
    text = f"{describe_scores(before, after)}, {on}"
    # what is worse is never kept
    if after.score < before.score + SAME:
        return f"{text}. It is hardly better than before: label more, or train longer."
    return f"{text}."


def _describe_nothing_better(before: float, result: TuneResult, on: str) -> str:
    from napari_samseg.core.training.result import mean_iou

    kept = "the new model has the weights that it was started from"
    if not result.learned:
        return f"Nothing was scored since it began: so far {kept}."
    return (
        f"No step made it better: mean IoU {before:.2f} before, "
        f"{mean_iou(result.learned):.2f} after at best, {on}. So {kept}: label more, "
        "or train longer or at a lower learning rate."
    )


def check_name(name: str, taken: set[str]) -> str:
    """Return what is wrong with the name of a new model; empty if nothing is."""
    if not name:
        return "Give the new model a name."
    if not NAME.fullmatch(name) or name.endswith((" ", ".")):
        return f"{name!r} is no name for a folder: use letters, digits, - and _."
    if name in taken:
        return f"There is a model {name!r} already: choose another name."
    return ""


def free_name(what: str, taken: set[str]) -> str:
    """Return a name for a model that was tuned on something."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", what).strip("-._") or "model"
    # hashes and paths in names of layers say nothing, and are cut off in the panel
    clean = clean[:LONGEST].rstrip("-._")
    name, number = f"{clean}-tuned", 2
    while name in taken:
        name, number = f"{clean}-tuned-{number}", number + 1
    return name


def read_ids(text: str) -> tuple[int, ...]:
    """Read numbers of labels, with commas or spaces between them.

    Raises
    ------
    SettingsError
        If they are no numbers above 0.
    """
    parts = text.replace(",", " ").split()
    if not all(part.isdigit() and int(part) for part in parts):
        raise SettingsError(f"{text!r} are no numbers of labels, such as 1, 3")
    return tuple(int(part) for part in parts)
