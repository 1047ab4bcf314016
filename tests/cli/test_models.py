"""The commands that export models and compare them."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import segment_anything
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.core.models import load_model
from napari_samseg.core.settings import LoraSettings
from napari_samseg.core.training.lora import add_lora, lora_state


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
        ((tiny_checkpoint, "--out", tmp_path / "a.pth"), "written as .safetensors"),
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
def test_a_tuned_vit_b_loads_in_segment_anything(tmp_path, call):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = segment_anything.sam_model_registry["vit_b"]()
    base = tmp_path / "tuned.safetensors"
    save_file(sam.state_dict(), base)
    adapters = tmp_path / "lora.safetensors"
    adapt(sam, adapters, "encoder.q, encoder.v, encoder.lin1")
    out = tmp_path / "merged.pth"
    status, words, _ = call("export", base, "--out", out, "--lora", adapters)
    assert status == 0
    assert "family sam" in words
    # the registry reads the plain state dict strictly, as micro-sam does
    loaded = segment_anything.sam_model_registry["vit_b"](checkpoint=str(out))
    own = sam.image_encoder.blocks[3].attn.qkv.weight
    torch.testing.assert_close(loaded.image_encoder.blocks[3].attn.qkv.weight, own)
    plain = load_file(base)["image_encoder.blocks.3.attn.qkv.weight"]
    width = plain.shape[1]
    assert torch.equal(own[width : 2 * width], plain[width : 2 * width])  # the keys
    assert not torch.allclose(own[:width], plain[:width])


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
