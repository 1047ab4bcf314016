from __future__ import annotations

from pathlib import Path

import pytest

from napari_samseg.core.errors import (
    MissingFileError,
    SettingsError,
    UnknownNameError,
)
from napari_samseg.core.training.config import TuneConfig, read_config
from napari_samseg.core.training.presets import PRESETS

LEAST = {"images": "pictures", "labels": "truth", "out": "./run"}


def read(folder: Path, text: str = "", **least: str) -> TuneConfig:
    path = folder / "config.yaml"
    lines = [f"{name}: {value}" for name, value in {**LEAST, **least}.items() if value]
    path.write_text("\n".join([*lines, text]))
    return read_config(path)


def test_what_is_left_out_is_the_preset(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert config.plan == PRESETS["quick"]
    assert config.model.model == "default"
    # paths are seen from the file
    assert config.files.images == tmp_path / "pictures"
    assert config.files.labels == tmp_path / "truth"
    assert config.out == tmp_path / "run"
    assert config.loggers == ()


def test_all_that_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMSEG_MODELS", str(tmp_path / "models"))
    text = """
preset: lora
semantic: true
classes: [1, 255]
group: patient\\d+
channel_axis: 0
stores: [store, "s3://bucket/store"]
log: wandb
model: {model: weights/own.pth, device: cpu}
tune: {loss: dice_squared + bce, box: 0, epochs: 3}
loop: {learning_rate: 4e-5, weight_decay: 1e-4, seed: 7}
augment: {flip: false}
lora: {rank: 8}
tiles: {tiling: whole}
image: {normalisation: minmax, channels: 1}
"""
    config = read(tmp_path, text, out="nuclei")
    assert config.out == tmp_path / "models" / "tuned" / "nuclei"
    files = config.files
    assert (files.semantic, files.classes, files.channel_axis) == (True, (1, 255), 0)
    assert files.group == r"patient\d+"
    assert files.settings.channels == (1,)
    assert config.stores == (str(tmp_path / "store"), "s3://bucket/store")
    assert config.loggers == ("wandb",)
    assert config.model.model == str(tmp_path / "weights" / "own.pth")
    plan = config.plan
    assert plan.loop.learning_rate == 4e-5
    assert plan.loop.schedule == PRESETS["lora"].loop.schedule
    assert (plan.tune.box, plan.tune.epochs, plan.lora.rank) == (0, 3, 8)
    assert not plan.augment.flip
    assert plan.tiles.tiling == "whole"


def test_an_absolute_path_and_a_bids_dataset(tmp_path: Path) -> None:
    config = read(
        tmp_path, images="/data", labels="", bids_labels="seg-axon", out="/out"
    )
    assert config.files.images == Path("/data")
    assert config.files.labels is None
    assert config.out == Path("/out")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs: 3", "unknown epochs; known are images, labels"),
        ("loop: {stepz: 3}", "loop has no 'stepz'; it has steps, optimizer"),
        ("loop: {steps: 1.5}", r"loop\.steps must be a whole number, not 1\.5"),
        ("loop: {steps: [3]}", r"loop\.steps must be a whole number, not \[3\]"),
        ("loop: {steps: }", r"loop\.steps must be a whole number, not None"),
        ("loop: {steps: true}", "must be a whole number, not True"),
        ("loop: {learning_rate: fast}", "must be a number, not 'fast'"),
        ("loop: {learning_rate: 7}", "loop: Learning rate: 7.0 is outside 0 to 1"),
        ("loop: {learning_rate: .nan}", "nan is outside"),
        ("loop: {optimizer: sgd}", "loop: Optimiser: 'sgd' is not one of adamw"),
        ("tune: {box: 0, point: 0}", "tune: choose boxes or points"),
        ("augment: {flip: 1}", "must be true or false, not 1"),
        ("image: {channels: red}", r"image\.channels must be a whole number"),
        ("semantic: 'no'", "semantic must be true or false, not 'no'"),
        ("classes: [1]", "not said to be semantic"),
        ("loop: 3", "loop must be lines of `name: value`"),
        ("log: 3", r"log must be text .*not 3"),
        ("bids_labels: seg", "either `labels: PATH` or"),
        ("model: 3", "model must be lines"),
        ("tune: [", "is no YAML"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "config.yaml") in str(caught.value)


def test_what_is_missing(tmp_path: Path) -> None:
    for name, words in (
        ("images", "`images: PATH` is missing"),
        ("labels", "either `labels: PATH`"),
        ("out", "`out: NAME` is missing"),
    ):
        with pytest.raises(SettingsError, match=words):
            read(tmp_path, **{name: ""})
    with pytest.raises(SettingsError, match="'vit_b' is the name of a model"):
        read(tmp_path, out="vit_b")
    with pytest.raises(MissingFileError, match=r"no configuration .*none\.yaml"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(SettingsError, match="lines of `name: value`"):
        read_config(tmp_path / "list.yaml")


def test_names_that_are_unknown(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no preset 'slow': choose one of quick"):
        read(tmp_path, "preset: slow")
    with pytest.raises(UnknownNameError, match="no logger 'neptune': choose of wandb"):
        read(tmp_path, "log: [neptune]")
