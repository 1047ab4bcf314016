"""The command that turns a BIDS dataset into derivatives."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bids_datasets import BidsTree, save
from PIL import Image
from skimage.io import imread
from typer.testing import CliRunner

from napari_samseg.cli import app

MASKS = ("--axon", "seg-axon-manual", "--myelin", "seg-myelin-manual")
PIXEL_SIZES = {"sub-rat8_sample-V915": 0.07, "sub-rat3_sample-data9": 0.1}


@pytest.fixture
def run():
    runner = CliRunner()

    def call(*arguments):
        result = runner.invoke(app, ["bids", *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    return call


@pytest.fixture
def axon_sem(shared_data, tmp_path):
    """Part of data_axondeepseg_sem as published, V915 with AxonDeepSeg's masks."""
    source = shared_data / "axon_sem"
    tree = BidsTree(tmp_path / "data_axondeepseg_sem")
    for name, size in PIXEL_SIZES.items():
        subject, sample = name.split("_")
        tree.samples.append((subject, sample))
        stem = tree.stem(subject, sample)
        stem.parent.mkdir(parents=True)
        stem.with_suffix(".png").symlink_to(source / "images" / f"{name}.png")
        sidecar = {"PixelSize": [size, size], "PixelSizeUnits": "um"}
        stem.with_suffix(".json").write_text(json.dumps(sidecar))
        classes = imread(source / "classes" / f"{name}.png")
        for value, what in ((2, "axon"), (1, "myelin")):
            label = tree.label(subject, sample, what)
            predicted = source / "extras" / f"{name}_ads-pred-{what}.png"
            if predicted.exists():
                label.parent.mkdir(parents=True, exist_ok=True)
                label.symlink_to(predicted)
            else:
                save(label, (classes == value).astype(np.uint8) * 255)
    tree.write_tables()
    return tree.root


def test_the_golden_map_from_a_dataset(run, shared_data, axon_sem):
    status, output, errors = run(axon_sem, *MASKS)
    assert (status, errors) == (0, "")
    assert "sub-rat8_sample-V915: 298 objects, 537 pixels belong to none" in output
    assert "2 images done, 0 were complete, 0 could not be done" in output
    folder = axon_sem / "derivatives" / "maps" / "sub-rat8" / "micr"
    golden = imread(
        shared_data / "axon_sem/extras/sub-rat8_sample-V915_ads-instance-map.png"
    )
    stem = folder / "sub-rat8_sample-V915"
    np.testing.assert_array_equal(imread(f"{stem}_instance-map.png"), golden)
    for name in ("prompts", "morphometrics"):
        assert len((folder / f"{stem}_{name}.csv").read_text().splitlines()) == 299
    for name in ("qc.png", "qc.html"):
        assert (folder / f"{stem}_{name}").stat().st_size < 2_000_000
    with Image.open(f"{stem}_qc.png") as picture:
        assert max(picture.size) <= 1600
    status, output, _ = run(axon_sem, *MASKS)
    assert status == 0
    assert "0 images done, 2 were complete, 0 could not be done" in output


def test_what_is_missing_is_listed_at_the_end(run, tmp_path):
    tree = BidsTree(tmp_path / "dataset")
    tree.add("sub-1").with_suffix(".json").unlink()
    tree.add("sub-2")
    tree.label("sub-2", "sample-1", "myelin").unlink()
    twice = tree.add("sub-3")
    save(twice.with_suffix(".tif"), np.zeros((60, 80), np.uint8))
    status, output, errors = run(tree.root, *MASKS, "--out", tmp_path / "maps")
    assert status == 1
    assert "1 image done, 0 were complete, 1 could not be done" in output
    assert f"derivatives: {tmp_path / 'maps'}" in output
    note, no_json, no_myelin, double, not_done = errors.splitlines()
    assert "note: sub-1_sample-1: measured in pixels" in note
    assert "missing: sub-1 sample-1: no sub-1_sample-1_SEM.json" in no_json
    assert "missing: sub-2 sample-1: no seg-myelin-manual" in no_myelin
    assert "missing: sub-3 sample-1: sub-3_sample-1_SEM.png and sub-3_sam" in double
    assert "not done: sub-2_sample-1: its labels are missing: seg-myelin" in not_done


def test_ctrl_c_says_how_to_go_on(run, tmp_path, monkeypatch):
    tree = BidsTree(tmp_path / "dataset")
    tree.add("sub-1")

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    place = "napari_samseg.core.instances.bids_job.write_qc_page"
    monkeypatch.setattr(place, stop)
    status, _, errors = run(tree.root, *MASKS)
    assert status == 130
    assert "the same command goes on" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say how the labels of each image are named"),
        (("--axon", "a"), "say how the labels of each image are named"),
        ((*MASKS, "--out", "{root}"), "choose a folder of its own"),
        ((*MASKS, "--pixel-size", "x"), "--pixel-size takes numbers"),
        ((*MASKS, "--pixel-size", "0"), "micrometres above 0, or one of its height"),
        ((*MASKS, "--pixel-size", "0.1,-1"), "not 0.1, -1"),
        ((*MASKS, "--out", "{root}/derivatives/labels"), "holds the labels"),
        ((*MASKS, "--map-format", "gif"), "png or tif"),
        ((*MASKS, "--method", "magic"), "'magic' is not one of"),
    ],
)
def test_wrong_uses_are_told_in_one_line(run, tmp_path, arguments, message):
    tree = BidsTree(tmp_path / "dataset")
    tree.add("sub-1")
    given = [text.format(root=tree.root) for text in arguments]
    status, _, errors = run(tree.root, *given)
    assert status == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert not (tree.root / "derivatives" / "maps").exists()
