from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from napari_samseg.core.errors import CheckpointError, OutputError, SettingsError
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.training.presets import PRESETS
from napari_samseg.core.training.unfinished import (
    TuningRecipe,
    check_resumed,
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


def started(**augment: float) -> TuningRecipe:
    plan = PRESETS["quick"]
    varied = dataclasses.replace(plan.augment, **augment)
    return TuningRecipe(ModelSettings(), dataclasses.replace(plan, augment=varied))


def test_what_varies_embeddings_may_change_on_the_way(tmp_path: Path) -> None:
    write_recipe(tmp_path, started())
    with pytest.warns(UserWarning, match=r"augment\.feature_noise was 0\.0, now 0\.5"):
        check_resumed(tmp_path, started(feature_noise=0.5))
    # variants of images are encoded already
    with pytest.raises(SettingsError, match=r"augment\.noise was 8\.0, now 9\.0"):
        check_resumed(tmp_path, started(noise=9.0))


def test_a_recipe_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(tmp_path, started())

    def fill_the_disk(path: Path, text: str, **_: str) -> None:
        with path.open("w") as file:
            file.write(text[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill_the_disk)
    with pytest.raises(OutputError, match=r"No space left on device.*make room"):
        write_recipe(tmp_path, started(feature_noise=0.5))
    monkeypatch.undo()
    assert read_recipe(tmp_path).plan.augment == started().plan.augment
    assert not list(tmp_path.rglob("*.part"))
