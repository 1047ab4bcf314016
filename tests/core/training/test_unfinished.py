from __future__ import annotations

from pathlib import Path

import pytest

from napari_samseg.core.errors import CheckpointError, OutputError
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.training.presets import PRESETS
from napari_samseg.core.training.unfinished import (
    TuningRecipe,
    read_recipe,
    unfinished_trainings,
    write_recipe,
)


def test_what_was_started_is_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "tuned" / "cells"
    recipe = TuningRecipe(ModelSettings("vit_b", "cpu"), PRESETS["lora"])
    write_recipe(folder, recipe)
    assert unfinished_trainings(tmp_path) == {}, "no step was made"
    (folder / "work" / "state.pt").touch()
    assert unfinished_trainings(tmp_path) == {"cells": folder}
    found = read_recipe(folder)
    assert found.model == recipe.model
    for part in ("tune", "loop", "augment", "lora", "tiles"):
        assert getattr(found.plan, part) == getattr(recipe.plan, part)
    path = folder / "work" / "recipe.json"
    path.write_text(path.read_text().replace('"rank"', '"rang"'))
    with pytest.raises(CheckpointError, match="start it anew"):
        read_recipe(folder)


def test_no_place_for_it(tmp_path: Path) -> None:
    (tmp_path / "cells").write_text("a file")
    with pytest.raises(OutputError, match="cannot be written"):
        write_recipe(
            tmp_path / "cells", TuningRecipe(ModelSettings(), PRESETS["quick"])
        )
