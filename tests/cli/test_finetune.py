"""The command that tunes models, on a real photograph."""

from __future__ import annotations

import json
import signal
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.data import coins
from skimage.filters import threshold_otsu
from skimage.measure import label
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.core.training.validation import Validation

pytestmark = pytest.mark.filterwarnings("always:.*objects are smaller")

SETTINGS = """
images: images
labels: labels
out: {out}
model: {{model: {model}, device: cpu}}
tune: {{objects: 4, corrections: 0, min_area: 200}}
loop:
  steps: {steps}
  warmup_steps: 1
  validate_every: 2
  learning_rate: 5e-3
augment: {{variants: 1}}
"""


@pytest.fixture
def call():
    runner = CliRunner()

    def call(*arguments):
        result = runner.invoke(app, ["finetune", *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    return call


@pytest.fixture
def config(tmp_path, tiny_checkpoint, monkeypatch):
    """A function that writes a configuration beside two images with labels."""
    monkeypatch.setenv("SAMSEG_MODELS", str(tmp_path / "models"))
    picture = coins()[150:278, 40:168]
    labels = label(picture > threshold_otsu(picture)).astype(np.uint16)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, step in (("a", 1), ("b", -1)):
        Image.fromarray(picture[::step]).save(tmp_path / "images" / f"{name}.png")
        tifffile.imwrite(tmp_path / "labels" / f"{name}_mask.tif", labels[::step])

    def write(out="./run", steps=4, more=""):
        path = tmp_path / "config.yaml"
        text = SETTINGS.format(out=out, steps=steps, model=tiny_checkpoint)
        path.write_text(text + more)
        return path

    return write


def test_tuning_from_a_file(config, call, tmp_path):
    status, words, errors = call(config("coins"))
    assert status == 0
    assert "step 2 of 4: loss" in errors
    assert "validation IoU 0." in errors
    for row in ("IoU by a box", "IoU by a point", "Dice by a point"):
        assert row in words
    best = tmp_path / "models" / "tuned" / "coins" / "best.safetensors"
    assert f"best: {best}" in words
    assert "no group (patient, animal, file) is on both sides" in words
    listed = CliRunner().invoke(app, ["models", "list"]).stdout
    assert "coins" in listed
    card = json.loads(best.with_suffix(".json").read_text())
    for step, told in ((3, "step 3"), (0, "no step was better: the weights of ")):
        best.with_suffix(".json").write_text(json.dumps({**card, "step": step}))
        about = CliRunner().invoke(app, ["models", "info", "coins"]).stdout
        assert f"decoder, {told}" in about
    # the list says it too, instead of a score that did not change
    table = CliRunner().invoke(app, ["models", "list"]).stdout
    assert "no step was better" in " ".join(table.replace("│", " ").split())


def test_what_would_be_done(config, call, tmp_path):
    status, words, errors = call(config(), "--dry-run", "--out", tmp_path / "other")
    assert status == 0
    assert "objects are smaller than 200 px" in errors
    train, validate = (
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in words.splitlines()
        if " on " in line and "│" in line
    )
    assert train[0] == "train on"
    assert validate[0] == "validate on"
    assert train[1:3] == validate[1:3]
    assert {train[3], validate[3]} == {"a.png", "b.png"}
    assert "2 images, 2 planes with objects" in words
    assert "train: decoder, 4 steps, loss dice + bce" in words
    assert f"folder: {tmp_path / 'other'}" in words
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("preset: slow", "no preset 'slow'"),
        ("tune: {loss: nothing}", "no loss 'nothing'"),
        ("model: nobody", "there is no model 'nobody'"),
        ("model: nobody.pth", "there is no checkpoint"),
        ("tune: {min_area: 1000000}", "no object of at least 1000000 px"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(config, call, tmp_path, more, words):
    path = config()
    # the last of two lines of one name counts
    path.write_text(path.read_text() + more)
    for options in ((), ("--dry-run",)):
        status, _, errors = call(path, *options)
        assert status == 2
        *stages, last = errors.splitlines()
        assert words in last
        assert all(stage.endswith(" ...") for stage in stages)
    assert not (tmp_path / "run" / "best.safetensors").exists()


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_library_that_is_missing_names_its_extra(config, call, monkeypatch, options):
    """Before anything is read, though the loss is counted last."""
    monkeypatch.setitem(sys.modules, "gudhi.cubical_complex", None)
    path = config()
    path.write_text(path.read_text() + 'tune: {loss: "dice + 0.1*topology"}')
    status, words, errors = call(path, *options)
    assert status == 2
    assert "with GUDHI, which is not installed" in errors
    assert "pip install 'napari-samseg[train]', or choose another loss" in errors
    assert "objects" not in words


def test_labels_that_do_not_fit_their_images(config, call, tmp_path):
    path = config()
    labels = tmp_path / "labels"
    tifffile.imwrite(labels / "a_mask.tif", np.ones((128, 127), np.uint8))
    for options in ((), ("--dry-run",)):
        status, _, errors = call(path, *options)
        assert status == 2
        last = errors.splitlines()[-1]
        assert "a.png" in last
        assert "(128, 127)" in last
        assert "(128, 128)" in last
    for name in "ab":
        (labels / f"{name}_mask.tif").rename(labels / f"other_{name}.tif")
    status, _, errors = call(path, "--dry-run")
    assert status == 2
    assert "no image of" in errors
    assert "same name" in errors


def test_a_single_image_and_a_single_object(config, call, tmp_path):
    path = config(steps=2)
    for folder, name in (("images", "b.png"), ("labels", "b_mask.tif")):
        (tmp_path / folder / name).unlink()
    status, words, _ = call(path, "--dry-run")
    assert status == 0
    assert "1 image, 1 plane with objects" in words
    assert "the objects at one end of it are validated on" in words
    mask = tmp_path / "labels" / "a_mask.tif"
    labels = tifffile.imread(mask)
    largest = np.bincount(labels[labels > 0]).argmax()
    tifffile.imwrite(mask, np.where(labels == largest, labels, 0))
    status, words, errors = call(path)
    assert status == 0, errors
    assert "nothing is validated: the last weights count as the best" in words
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_a_broken_checkpoint_is_told(config, call, tmp_path, tiny_checkpoint):
    path = config()
    broken = tmp_path / "broken.safetensors"
    whole = tiny_checkpoint.read_bytes()
    text = path.read_text()
    for content in (whole[: len(whole) // 2], b"", b"no weights"):
        broken.write_bytes(content)
        path.write_text(text + f"model: {{model: {broken}, device: cpu}}")
        status, _, errors = call(path)
        assert status == 2
        assert "broken.safetensors" in errors.splitlines()[-1]
        assert "Traceback" not in errors
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_ctrl_c_keeps_what_was_learned(config, call, tmp_path, monkeypatch):
    plain = Validation.score_steps

    def press(self, *args, **options):
        found = yield from plain(self, *args, **options)
        # in the middle of a step; the second is of step 2
        press.count += 1
        if press.count == 2:
            signal.raise_signal(signal.SIGINT)
        return found

    press.count = 0
    monkeypatch.setattr(Validation, "score_steps", press)
    status, words, errors = call(config(steps=6))
    assert status == 130
    assert "with --resume goes on" in errors
    assert "before" in words
    assert "so far" in words
    run = tmp_path / "run"
    assert (run / "best.safetensors").exists()
    assert (run / "last.safetensors").exists()
    assert (run / "log.csv").read_text().splitlines()[-1].startswith("2,")
    status, _, errors = call(tmp_path / "config.yaml")
    assert status == 2
    assert "is not over" in errors
    status, words, errors = call(tmp_path / "config.yaml", "--resume")
    assert status == 0, errors
    assert f"best: {run / 'best.safetensors'}" in words
    assert (run / "log.csv").read_text().splitlines()[-1].startswith("6,")
    assert not (run / "work").exists()
