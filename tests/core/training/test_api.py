from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from bids_datasets import save

import napari_samseg as samseg
from napari_samseg.core.errors import (
    InvalidLabelsError,
    OutputError,
    SettingsError,
    UnknownNameError,
)
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.models.weights import list_models
from napari_samseg.core.settings import LoopSettings, TuneSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training.api import finetune_config
from napari_samseg.core.training.config import read_config
from napari_samseg.core.training.presets import TuningPlan

PLAN = TuningPlan(
    tune=TuneSettings(objects=4, corrections=0),
    loop=LoopSettings(steps=4, warmup_steps=1, validate_every=2, learning_rate=5e-3),
)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMSEG_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_a_name_is_taken_wherever_a_model_is(
    coin_labels, model: SamModel, models: Path
) -> None:
    picture, labels = coin_labels
    seen = []
    result = samseg.finetune(
        picture, labels, model=model, preset=PLAN, out="coins", on_progress=seen.append
    )
    assert result.best == models / "tuned" / "coins" / "best.safetensors"
    assert list_models()["coins"].startswith("Tuned here from test on 5 objects, 20")
    assert [row["step"] for row in result.history] == [2, 4]
    assert seen[-1].done == 4
    boxes = [(10, 10, 60, 60)]
    by_name = samseg.segment(picture, boxes=boxes, model="coins", device="cpu")
    by_path = samseg.segment(picture, boxes=boxes, model=result.best, device="cpu")
    before = samseg.segment(picture, boxes=boxes, model=model)
    assert np.array_equal(by_name.iou_predictions, by_path.iou_predictions)
    last = samseg.segment(picture, boxes=boxes, model=result.last, device="cpu")
    assert not np.array_equal(last.iou_predictions, before.iou_predictions)
    with pytest.raises(OutputError, match="--overwrite"):
        samseg.finetune(picture, labels, model=model, preset=PLAN, out="coins")
    # what was tuned is tuned further, by its name
    again = samseg.finetune(
        picture, labels, model="coins", preset=PLAN, out=str(models / "more")
    )
    card = json.loads(again.best.with_suffix(".json").read_text())
    assert card["base"]["name"] == "coins"
    first = json.loads(result.best.with_suffix(".json").read_text())
    assert card["base"]["weights"] == first["weights"]


def test_a_group_is_not_on_both_sides(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    picture, labels = coin_labels
    images = [picture, picture[::-1], picture[:, ::-1]]
    truth = [labels, labels[::-1], labels[:, ::-1].tolist()]
    result = samseg.finetune(
        images, truth, groups=["a", "b", "a"], model=model, preset=PLAN, out=tmp_path
    )
    assert result.split == "groups"
    card = json.loads(result.last.with_suffix(".json").read_text())
    assert [image["group"] for image in card["images"]] == ["a", "b", "a"]


def test_files_and_what_is_labelled_by_class(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    picture, labels = coin_labels
    for name in ("p1_a", "p1_b", "p2_a"):
        save(tmp_path / "images" / f"{name}.png", picture)
        save(tmp_path / "masks" / f"{name}.png", np.uint8(255) * (labels > 0))
    result = samseg.finetune(
        tmp_path / "images", str(tmp_path / "masks"), semantic=True, groups=r"p\d(?=_)",
        model=model, preset=PLAN, out=tmp_path / "out",
    )  # fmt: skip
    card = json.loads(result.best.with_suffix(".json").read_text())
    assert [image["group"] for image in card["images"]] == ["p1", "p1", "p2"]
    assert result.split == "groups"


def test_a_configuration_does_the_same(
    coin_labels, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    picture, labels = coin_labels
    save(tmp_path / "image.png", picture)
    tifffile.imwrite(tmp_path / "labels.tif", labels.astype(np.uint16))
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
images: image.png
labels: labels.tif
out: ./run
model: {tiny_checkpoint}
tune: {{objects: 4, corrections: 0}}
loop: {{steps: 4, warmup_steps: 1, validate_every: 2, learning_rate: 5e-3}}
augment: {{variants: 1}}
"""
    )
    made = run_steps(finetune_config(read_config(config)))
    plan = read_config(config).plan
    called = samseg.finetune(
        tmp_path / "image.png", tmp_path / "labels.tif",
        model=tiny_checkpoint, preset=plan, out=tmp_path / "other",
    )  # fmt: skip
    cards = [
        json.loads(r.last.with_suffix(".json").read_text()) for r in (made, called)
    ]
    assert cards[0]["weights"] == cards[1]["weights"]
    assert cards[0]["scores"] == cards[1]["scores"]
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_what_cannot_be_meant(coin_labels, model: SamModel, tmp_path: Path) -> None:
    picture, labels = coin_labels
    options = {"model": model, "preset": PLAN, "out": tmp_path}
    for given, more, error, words in (
        (
            ([picture], [labels, labels]),
            {},
            InvalidLabelsError,
            "1 images and 2 labels",
        ),
        (([picture], labels), {}, InvalidLabelsError, "lists of both"),
        ((picture, labels), {"groups": ["a", "b"]}, InvalidLabelsError, "2 groups"),
        ((picture, labels[:-1]), {}, InvalidLabelsError, r"\(127, 128\)"),
        ((tmp_path, labels), {}, InvalidLabelsError, "path of their labels"),
        ((tmp_path, tmp_path), {"groups": ["a"]}, SettingsError, "regular expression"),
        ((picture, labels), {"out": "default"}, SettingsError, "choose another name"),
        ((picture, labels), {"preset": "fast"}, UnknownNameError, "no preset 'fast'"),
    ):
        with pytest.raises(error, match=words):
            samseg.finetune(*given, **{**options, **more})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("loss", ["dice + focul", "dice +"])
def test_settings_are_looked_at_before_anything_is_encoded(
    coin_labels, model: SamModel, tmp_path: Path, loss: str
) -> None:
    plan = TuningPlan(tune=TuneSettings(loss=loss))
    stages = []
    with pytest.raises((SettingsError, UnknownNameError), match="loss"):
        samseg.finetune(
            *coin_labels, model=model, preset=plan, out=tmp_path,
            on_progress=lambda step: stages.append(step.stage),
        )  # fmt: skip
    assert not stages
