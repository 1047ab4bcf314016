"""The commands that export models and compare them."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import segment_anything
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_coins import labelled_coins
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.core.models import load_model
from napari_samseg.core.settings import LoopSettings, LoraSettings, TuneSettings
from napari_samseg.core.training.api import finetune
from napari_samseg.core.training.lora import add_lora, lora_state
from napari_samseg.core.training.presets import TuningPlan


@pytest.fixture
def call():
    runner = CliRunner()

    def call(*arguments):
        result = runner.invoke(app, ["models", *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    return call


def adapt(sam, path, targets="auto"):
    """Write adapters that do something, and return the weights they lead to."""
    generator = torch.Generator().manual_seed(0)
    add_lora(sam, LoraSettings(targets=targets, rank=2), generator=generator)
    for name, parameter in sam.named_parameters():
        if name.endswith(".b"):
            torch.nn.init.normal_(parameter, generator=generator)
    save_file(lora_state(sam), path)


def test_a_model_of_the_embedded_family(tiny_checkpoint, tmp_path, call):
    out = tmp_path / "new" / "copy.safetensors"
    status, words, errors = call("export", tiny_checkpoint, "--out", out)
    assert (status, errors) == (0, "")
    assert f"wrote {out}" in words
    loaded, before = (load_model(p, device="cpu") for p in (out, tiny_checkpoint))
    assert loaded.input_size == before.input_size == 64
    expected = before.sam.state_dict()
    for name, value in loaded.sam.state_dict().items():
        assert torch.equal(value, expected[name])

    adapters = tmp_path / "best_lora.safetensors"
    adapt(before.sam, adapters)
    merged = tmp_path / "merged.safetensors"
    status, _, _ = call("export", tiny_checkpoint, "--out", merged, "--lora", adapters)
    assert status == 0
    tuned = load_file(merged)
    assert set(tuned) == set(expected)
    changed = [name for name in tuned if not torch.equal(tuned[name], expected[name])]
    assert changed
    layer = before.sam.mask_decoder.transformer.layers[0].self_attn.q_proj
    name = "mask_decoder.transformer.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(tuned[name], layer.weight)

    for arguments, said in (
        ((tiny_checkpoint, "--out", out), "--overwrite"),
        (
            (tiny_checkpoint, "--out", tmp_path / "a.pth"),
            "--out " + str(tmp_path / "a.safetensors"),
        ),
        ((tiny_checkpoint, "--out", tmp_path / "a.onnx"), ".pth or .safetensors"),
        ((tiny_checkpoint, "--out", tiny_checkpoint, "--overwrite"), "would destroy"),
        (("nobody", "--out", tmp_path / "a.pth"), "no model 'nobody'"),
        (
            (tiny_checkpoint, "--out", tmp_path / "a.safetensors", "--lora", out),
            "copy.safetensors: ",
        ),
    ):
        status, _, errors = call("export", *arguments)
        assert status == 2
        assert said in errors
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*objects are smaller")
@pytest.mark.parametrize("train", ["decoder", "lora"])
def test_a_tuned_vit_b_loads_in_segment_anything(train, tmp_path, call):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = segment_anything.sam_model_registry["vit_b"]()
    base = tmp_path / "base.safetensors"
    save_file(sam.state_dict(), base)
    picture, labels = labelled_coins()
    plan = TuningPlan(
        # nothing is held out: what is learned is kept, good or not
        tune=TuneSettings(
            train=train, validation=0, corrections=0, objects=2, surroundings=1.0
        ),
        loop=LoopSettings(steps=2, warmup_steps=1, learning_rate=1e-2),
    )
    tuned = finetune(
        [picture], [labels], model=str(base), preset=plan, out=tmp_path / "tuned"
    )
    out = tmp_path / "merged.pth"
    status, words, _ = call("export", tuned.best, "--out", out)
    assert status == 0
    assert "family sam" in words
    # the registry reads the plain state dict strictly, as micro-sam does
    loaded = segment_anything.sam_model_registry["vit_b"](checkpoint=str(out))
    before, after = sam.state_dict(), loaded.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    if train == "decoder":
        assert {name.split(".")[0] for name in changed} == {"mask_decoder"}
        return
    name = "image_encoder.blocks.3.attn.qkv.weight"
    assert name in changed
    width = after[name].shape[1]
    keys = slice(width, 2 * width)
    assert torch.equal(after[name][keys], before[name][keys])


def test_adapters_that_are_not_all_are_not_merged(tiny_checkpoint, tmp_path, call):
    model = load_model(tiny_checkpoint, device="cpu")
    adapters = tmp_path / "best_lora.safetensors"
    adapt(model.sam, adapters)
    save_file(load_file(adapters), adapters, {"trained": "lora+decoder"})
    out = tmp_path / "merged.safetensors"
    status, _, errors = call(
        "export", tiny_checkpoint, "--out", out, "--lora", adapters
    )
    assert status == 2
    assert "(best.safetensors)" in errors
    assert not out.exists()


@pytest.mark.filterwarnings("ignore:.*objects are smaller")
def test_models_on_one_validation_set(shared_data, tiny_checkpoint, tmp_path, call):
    """The embedded model against random weights, on real nuclei of three images."""
    source = shared_data / "dsb2018"
    with (source / "index.csv").open(newline="") as file:
        test = [row for row in csv.DictReader(file) if row["split"] == "test"]
    names = sorted(path.name for path in (source / "labels").iterdir())
    chosen = [n for n in names if any(n[:20] in str(row.values()) for row in test)][:3]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in chosen:
        for folder in ("images", "labels"):
            picture = np.asarray(Image.open(source / folder / name))[:128, :128]
            Image.fromarray(picture).save(tmp_path / folder / name)
    config = tmp_path / "config.yaml"
    config.write_text(
        "images: images\nlabels: labels\nout: ./run\nmodel: {device: cpu}\n"
        "tune: {validation: 0.4}\n"
    )
    out = tmp_path / "out"
    options = ("--config", config, "--out", out)
    status, _, errors = call("compare", tiny_checkpoint, "default", *options)
    assert (status, errors) == (0, "")
    with (out / "models.csv").open(newline="") as file:
        rows = {(r["model"], r["prompt"]): r for r in csv.DictReader(file)}
    assert len(rows) == 4
    for prompt in ("box", "point"):
        random, trained = (
            float(rows[model, prompt]["iou"])
            for model in (str(tiny_checkpoint), "default")
        )
        assert trained > random + 0.2
        gain = float(rows["default", prompt]["gain"])
        assert gain == pytest.approx(trained - random)
        assert float(rows[str(tiny_checkpoint), prompt]["gain"]) == 0
    with (out / "objects.csv").open(newline="") as file:
        objects = list(csv.DictReader(file))
    assert len(objects) == 2 * int(float(rows["default", "box"]["objects"]))
    # of one group only, which the other images do not share
    assert len({row["image"] for row in objects}) < 3
    mean = np.mean([float(r["box"]) for r in objects if r["model"] == "default"])
    assert mean == pytest.approx(float(rows["default", "box"]["iou"]), abs=1e-4)
    page = (out / "index.html").read_text(encoding="utf-8")
    pictures = sorted((out / "pictures").iterdir())
    assert len(pictures) == 3 * min(9, len(objects) // 2)
    assert all(picture.name in page for picture in pictures)

    for arguments, said in (
        (("default", *options), "--overwrite"),
        (("default", "default", *options, "--overwrite"), "each once"),
    ):
        status, _, errors = call("compare", *arguments)
        assert status == 2
        assert said in errors


@pytest.mark.filterwarnings("ignore:.*objects are smaller")
def test_a_comparison_gives_the_scores_of_the_training(
    tiny_checkpoint, tmp_path, call, monkeypatch
):
    monkeypatch.setenv("SAMSEG_MODELS", str(tmp_path / "models"))
    picture, labels = labelled_coins()
    # larger than the model's input: there are several tiles
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "a_labels.png")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"images: a.png\nlabels: a_labels.png\nout: coins\nmodel: {tiny_checkpoint}\n"
        "tune: {validation: 0.5}\naugment: {variants: 1}\n"
        "loop: {steps: 2, warmup_steps: 1, validate_every: 1}\n"
    )
    result = CliRunner().invoke(app, ["finetune", str(config)])
    assert result.exit_code == 0, result.output
    assert "before: mean IoU 0." in result.stderr
    assert "About " in result.stderr
    out = tmp_path / "out"
    options = ("--config", config, "--out", out)
    assert call("compare", tiny_checkpoint, "coins", *options)[0] == 0
    with (out / "models.csv").open(newline="") as file:
        rows = {(r["model"], r["prompt"]): r for r in csv.DictReader(file)}
    card = json.loads((tmp_path / "models/tuned/coins/best.json").read_text())
    for prompt in ("box", "point"):
        for name, side in ((str(tiny_checkpoint), "before"), ("coins", "after")):
            row, scores = rows[name, prompt], card["scores"][side]
            assert float(row["iou"]) == pytest.approx(scores[prompt], abs=1e-4)
            error = card["errors"][side][prompt]
            assert float(row["iou_error"]) == pytest.approx(error, abs=1e-4)
        error = card["errors"]["change"][prompt]
        assert float(rows["coins", prompt]["gain_error"]) == pytest.approx(
            error, abs=1e-4
        )
    status, words, _ = call("info", "coins")
    assert status == 0
    assert f"from {tiny_checkpoint.name}" in words
    assert "3 training, 3 validation" in words
    listed = " ".join(call("list")[1].replace("│", " ").split())
    assert "on 3 objects, 20" in listed
    # two steps may well make nothing better
    assert ("no step was better" if card["step"] == 0 else "→") in listed
    status, _, errors = call("export", "coin", "--out", tmp_path / "x.safetensors")
    assert status == 2
    assert "did you mean 'coins'?" in errors
