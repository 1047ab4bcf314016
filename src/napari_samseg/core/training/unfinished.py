"""Trainings that were stopped, and what it takes to go on with them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from napari_samseg.core.errors import CheckpointError, OutputError
from napari_samseg.core.models.weights import tuned_folder
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.training.presets import PLAN_PARTS, TuningPlan

__all__ = [
    "STATE",
    "WORK",
    "TuningRecipe",
    "is_unfinished",
    "read_recipe",
    "unfinished_trainings",
    "write_recipe",
]

# Beside the state of the training, and gone with it.
WORK, STATE, RECIPE = "work", "state.pt", "recipe.json"


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
    path = folder / WORK / RECIPE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error}): make room or choose another folder"
        ) from error


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
