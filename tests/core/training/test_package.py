"""Packages of models, as bioimage.io's own libraries see them."""

from __future__ import annotations

import gc
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.core.errors import InvalidPromptError
from napari_samseg.core.models import load_model
from napari_samseg.core.models.families import MODEL_FAMILIES
from napari_samseg.core.models.mobile_sam import build_mobile_sam
from napari_samseg.core.models.packaged import (
    PackagedSam,
    build_packaged,
    package_arguments,
)
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.predict import predict_masks
from napari_samseg.core.types import PlanePrompts

CARD = {
    "name": "nuclei",
    "family": "tiny",
    "base": {"name": "vit_b_lm", "weights": "0"},
    "images": [{"name": "a.tif", "group": "mouse 1"}],
    "scores": {"before": {"box": 0.5}, "after": {"box": 0.75}},
}
needs_library = pytest.mark.skipif(
    tuple(map(int, pydantic.VERSION.split(".")[:2])) >= (2, 14),
    reason="bioimageio.spec 0.5.12 hands pydantic what 2.14 refuses",
)


def export(*arguments: object) -> tuple[int, str]:
    told = CliRunner().invoke(app, ["models", "export", *map(str, arguments)])
    return told.exit_code, told.stderr


@needs_library
# those of the libraries, which leave files open
@pytest.mark.filterwarnings("ignore")
def test_a_package_is_valid_and_gives_the_same_masks_elsewhere(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bioimageio.core import test_model as run_package
    from bioimageio.spec import load_model_description

    monkeypatch.setenv("SAMSEG_MODELS", str(tmp_path))
    tuned = tmp_path / "tuned" / "nuclei"
    tuned.mkdir(parents=True)
    (tuned / "best.safetensors").write_bytes(tiny_checkpoint.read_bytes())
    (tuned / "best.json").write_text(json.dumps(CARD))
    out = tmp_path / "nuclei.zip"
    options = ("nuclei", "--out", out, "--format", "bioimageio")
    assert export(*options, "--author", "A Person") == (0, "")
    # with its weights, in an architecture that it names, on several sizes
    summary = run_package(out)
    assert summary.status == "passed", summary.display()

    found = load_model_description(out)
    assert found.name == "SAM nuclei"
    assert [author.name for author in found.authors] == ["A Person"]
    assert found.license == "CC-BY-4.0"  # that of vit_b_lm
    assert found.cite[0].doi == "10.1038/s41592-024-02580-4"
    with zipfile.ZipFile(out) as file:
        words = file.read("README.md").decode()
        assert json.loads(file.read("card.json")) == CARD
    assert "| box | 0.500 | 0.750 |" in words
    assert "- a.tif" in words

    assert "--overwrite" in export(*options)[1]
    status, errors = export(*options, "--overwrite", "--licence", "nobody's")
    assert status == 2
    assert "not valid: license" in errors
    assert not list(tmp_path.glob(".nuclei_*"))
    # what they leave open warns when it is collected: here rather than in other tests
    del summary, found
    gc.collect()


def test_weights_and_packages_are_told_apart(tmp_path: Path) -> None:
    for options, words in (
        (("--out", tmp_path / "a.zip"), ".pth or .safetensors"),
        (("--out", tmp_path / "a.pth", "--format", "bioimageio"), "written as .zip"),
    ):
        status, errors = export("default", *options)
        assert status == 2
        assert words in errors


def test_a_package_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bioimageio.spec", None)
    options = ("--out", tmp_path / "a.zip", "--format", "bioimageio")
    status, errors = export("default", *options)
    assert status == 2
    assert "napari-samseg[bioimageio]" in errors


def test_families_are_built_again_from_their_arguments(tiny_checkpoint: Path) -> None:
    mobile = SamModel(build_mobile_sam(128), name="mobile", family="mobile_sam")
    vit = SamModel(build_packaged("sam", 128, "vit_b"), name="vit", family="sam")
    tiny = load_model(tiny_checkpoint, device="cpu")
    assert {m.family for m in (mobile, vit, tiny)} == set(MODEL_FAMILIES)
    for model in (mobile, vit, tiny):
        made = build_packaged(**package_arguments(model))  # type: ignore[arg-type]
        made.load_state_dict(model.sam.state_dict(), strict=True)
        assert made.image_encoder.img_size == model.input_size
        assert made.prompt_encoder.image_embedding_size == model.embedding_shape[1:]


def test_masks_are_those_of_the_model_for_each_kind_of_prompt(
    tiny_checkpoint: Path,
) -> None:
    model = load_model(tiny_checkpoint, device="cpu", precision="exact")
    rng = np.random.default_rng(0)
    plane = rng.uniform(0, 255, (48, 64, 3)).astype(np.float32)
    image = torch.from_numpy(plane).permute(2, 0, 1)[None]
    module = PackagedSam(model.sam, model.family)
    boxes = np.array([[4, 5, 20, 30], [10, 30, 40, 60]], np.float32)
    points = np.array([[[10, 15], [0, 0]], [[20, 40], [12, 35]]], np.float32)
    labels = np.array([[1, -1], [1, 0]], np.int64)
    nothing = np.zeros((2, 0, 2), np.float32)
    for given_boxes, given_points in ((boxes, None), (None, points), (boxes, points)):
        prompts = PlanePrompts(
            np.array([1, 2]),
            nothing if given_points is None else points,
            np.zeros((2, 0), np.int8)
            if given_points is None
            else labels.astype(np.int8),
            np.full((2, 4), np.nan, np.float32) if given_boxes is None else boxes,
        )
        expected = predict_masks(model, model.encode(plane), prompts)
        masks, scores = module(
            image,
            None if given_boxes is None else torch.from_numpy(boxes)[None],
            None if given_points is None else torch.from_numpy(points)[None],
            None if given_points is None else torch.from_numpy(labels)[None],
        )
        np.testing.assert_array_equal(masks[0].numpy().astype(bool), expected.masks)
        np.testing.assert_allclose(scores[0].numpy(), expected.iou_predictions)
    with pytest.raises(InvalidPromptError, match="boxes, points or both"):
        module(image)
