"""Trainings that were stopped, and what it takes to go on with them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from napari_samseg.core.errors import (
    CheckpointError,
    MissingFileError,
    OutputError,
    SettingsError,
)
from napari_samseg.core.models.weights import TUNED_FILE, tuned_folder
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.training.presets import PLAN_PARTS, TuningPlan
from napari_samseg.core.training.writing import write_json

__all__ = [
    "LAST",
    "STATE",
    "WORK",
    "TuningRecipe",
    "check_base",
    "check_resumed",
    "check_training_folder",
    "drop_state",
    "is_unfinished",
    "read_recipe",
    "unfinished_trainings",
    "write_base",
    "write_recipe",
]

# Beside the state of the training, and gone with it.
WORK, STATE, RECIPE, BASE = "work", "state.pt", "recipe.json", "base.json"
# The weights of the last step, beside the best.
LAST = "last.safetensors"
# What the views in the folder were made with, or what learns: another value would not
# fit what is there.
FIXED = {
    "model": ("model", "input_size"),
    "tune": ("train", "validation", "held_out", "min_area", "balance"),
    "loop": ("seed", "optimizer"),
    "augment": (),
    "lora": (),
    "tiles": (),
}
# What follows from where it runs.
MACHINE = ("device", "precision")
# Variants of an embedding are drawn in each step.
DRAWN = ("feature_noise", "feature_dropout")


@dataclass(frozen=True, slots=True)
class TuningRecipe:
    """What a training was started with, its images apart: they lie in its folder.

    Attributes
    ----------
    model : ModelSettings
    plan : TuningPlan
    """

    model: ModelSettings
    plan: TuningPlan


def write_recipe(folder: Path, recipe: TuningRecipe) -> None:
    """Write into the folder of a training what it is started with.

    Raises
    ------
    OutputError
        If that is not possible.
    """
    content = {"model": asdict(recipe.model), "plan": recipe.plan.as_dict()}
    write_json(folder / WORK / RECIPE, content)


def write_base(folder: Path, base: Mapping[str, str]) -> None:
    """Write into the folder of a training which weights it starts from.

    Parameters
    ----------
    folder : Path
    base : mapping
        Name of the model, and the hash of its weights.

    Raises
    ------
    OutputError
        If that is not possible.
    """
    write_json(folder / WORK / BASE, base)


def check_base(folder: Path, base: Mapping[str, str]) -> None:
    """Refuse to go on from other weights than those that a training started from.

    What was encoded, and what has been learned, fit those alone.

    Raises
    ------
    SettingsError
        If the model of that name has other weights now.
    CheckpointError
        If it cannot be read which they were.
    """
    path = folder / WORK / BASE
    try:
        first = json.loads(path.read_text(encoding="utf-8"))["weights"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not say from which weights the training started ({error}): "
            "start anew under another name or with --overwrite"
        ) from error
    if first != base["weights"]:
        raise SettingsError(
            f"the training was started from other weights than {base['name']!r} has "
            "now: put them back, or start anew under another name or with --overwrite"
        )


def read_recipe(folder: Path) -> TuningRecipe:
    """Read what a training was started with.

    Raises
    ------
    CheckpointError
        If that is gone, damaged, or of another version.
    """
    path = folder / WORK / RECIPE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        parts = {
            part: kind(**content["plan"][part]) for part, kind in PLAN_PARTS.items()
        }
        return TuningRecipe(ModelSettings(**content["model"]), TuningPlan(**parts))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not say how the training was started ({error}): start it "
            "anew under another name"
        ) from error


def is_unfinished(folder: Path) -> bool:
    """Tell whether a training lies in a folder that can be resumed."""
    return (folder / WORK / STATE).is_file()


def unfinished_trainings(folder: Path | None = None) -> dict[str, Path]:
    """Return the folders of trainings of the models folder that can be resumed.

    Parameters
    ----------
    folder : Path, optional
        Where models lie; `models_folder` by default.
    """
    found = sorted(tuned_folder(folder).glob(f"*/{WORK}/{STATE}"))
    return {
        path.parent.parent.name: path.parent.parent
        for path in found
        if path.with_name(RECIPE).is_file()
    }


def check_training_folder(
    folder: Path, *, resume: bool = False, overwrite: bool = False
) -> None:
    """Refuse to begin where a model would be lost, and to resume where nothing is.

    Parameters
    ----------
    folder : Path
        Of the training; need not exist.
    resume : bool
        Go on with the training in the folder.
    overwrite : bool
        Replace the model in the folder, and the training.

    Raises
    ------
    SettingsError
        If both are asked for.
    OutputError
        If a model, or a training that is not over, is in the folder, and neither is.
    MissingFileError
        If there is nothing to resume.
    """
    if resume and overwrite:
        raise SettingsError(
            "--resume goes on with a training and --overwrite starts anew: choose one"
        )
    has_begun = (folder / WORK).is_dir()
    kept = [name for name in (TUNED_FILE, LAST) if (folder / name).is_file()]
    if resume and not has_begun:
        why = "the one whose model is there is over" if kept else "leave out --resume"
        raise MissingFileError(f"there is no training to resume in {folder}: {why}")
    if resume or overwrite:
        return
    ways = "another name (--out), or --overwrite to replace it"
    if is_unfinished(folder):
        raise OutputError(
            f"a training that is not over lies in {folder}: --resume goes on with it; "
            f"or choose {ways}"
        )
    if kept:
        more = "; --resume goes on with the training there" if has_begun else ""
        raise OutputError(
            f"there is a model {folder.name!r} already ({folder / kept[0]}): choose "
            f"{ways}{more}"
        )


def drop_state(folder: Path) -> None:
    """Let go of a training in a folder, so that nobody resumes it."""
    (folder / WORK / STATE).unlink(missing_ok=True)


def check_resumed(folder: Path, now: TuningRecipe) -> None:
    """Tell in what a training that is resumed differs from what it was started with.

    Parameters
    ----------
    folder : Path
        Of the training; one that was started with a loaded model has no recipe.
    now : TuningRecipe

    Warns
    -----
    UserWarning
        If settings differ that may: they count from now on.

    Raises
    ------
    SettingsError
        If the data in the folder, or what learns, was made with other ones.
    """
    if not (folder / WORK / RECIPE).is_file():
        return
    recipes = (read_recipe(folder), now)
    old, new = ({"model": asdict(r.model), **r.plan.as_dict()} for r in recipes)
    fixed: list[str] = []
    free: list[str] = []
    for part, values in old.items():
        for name, value in values.items():
            if value == new[part][name] or name in MACHINE:
                continue
            is_whole = not FIXED[part] and name not in DRAWN
            is_fixed = name in FIXED[part] or is_whole
            told = f"{part}.{name} was {value!r}, now {new[part][name]!r}"
            (fixed if is_fixed else free).append(told)
    if fixed:
        raise SettingsError(
            f"the training was started with other settings: {'; '.join(fixed)}. Put "
            "them back, or start anew under another name or with --overwrite"
        )
    if free:
        warnings.warn(
            f"from here on with other settings than at the start: {'; '.join(free)}",
            stacklevel=2,
        )
