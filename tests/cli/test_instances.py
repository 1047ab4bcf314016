"""The command that turns semantic labels into instance labels."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.io import imread
from typer.testing import CliRunner

from napari_samseg.cli import app


@pytest.fixture
def run():
    runner = CliRunner()

    def call(*arguments):
        result = runner.invoke(app, ["instances", *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    return call


def test_the_golden_map_from_two_masks(run, shared_data, tmp_path):
    start = shared_data / "axon_sem/extras/sub-rat8_sample-V915_ads-"
    masks = ("--axon", f"{start}pred-axon.png", "--myelin", f"{start}pred-myelin.png")
    out = tmp_path / "instances.png"
    status, output, errors = run(*masks, "--method", "axon-myelin", "--out", out)
    assert (status, errors) == (0, "")
    assert "298 objects, 537 pixels belong to none" in output
    golden = imread(f"{start}instance-map.png")
    np.testing.assert_array_equal(imread(out), golden)


def test_a_picture_of_classes(run, shared_data, tmp_path):
    path = shared_data / "axon_sem/classes/sub-rat2_sample-data5.png"
    out = tmp_path / "instances.tif"
    status, output, _ = run(path, "--method", "axon-myelin", "--out", out)
    assert status == 0
    assert "objects" in output
    assert tifffile.imread(out).max() > 300


def test_what_was_changed_is_told(run, tmp_path):
    mask = np.zeros((60, 60), np.uint8)
    mask[10:50, 10:50] = 255
    mask[10, 10:20] = 130
    Image.fromarray(mask).save(tmp_path / "mask.png")
    status, output, notes = run(
        tmp_path / "mask.png", "--min-size", 5000, "--out", tmp_path / "o.tif"
    )
    assert status == 0
    assert "10 pixels had values between those of the classes 0, 255" in notes
    assert "0 objects, 1 too small removed" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is nothing to read"),
        (("{mask}", "--axon", "{mask}"), "give either"),
        (("{folder}/none.tif",), "there is no image"),
        (("{mask}", "--method", "magic"), "'magic' is not one of components"),
        (("{mask}", "--out", "{mask}"), "choose another name"),
        (("{mask}", "--out", "{folder}/o.jpg"), "not as 'o.jpg'"),
        (("{mask}", "--spacing", "1,x"), "--spacing takes numbers"),
        (("{mask}", "--method", "watershed", "--spacing", "1,1,1"), "2 positive"),
        (("--axon", "{mask}", "--myelin", "{small}"), "not masks of one image"),
    ],
)
def test_wrong_uses_are_told_in_one_line(run, tmp_path, arguments, message):
    mask = np.zeros((30, 30), np.uint8)
    mask[5:9, 5:9] = 255
    places = {"mask": tmp_path / "mask.png", "small": tmp_path / "small.png"}
    Image.fromarray(mask).save(places["mask"])
    Image.fromarray(mask[:20]).save(places["small"])
    given = [text.format(folder=tmp_path, **places) for text in arguments]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "out.tif")]
    status, _, errors = run(*given)
    assert status == 2
    assert message in errors
    assert errors.count("\n") == 1
    np.testing.assert_array_equal(imread(places["mask"]), mask)


def test_ids_of_before_are_no_grey_levels(run, tmp_path):
    before = np.zeros((40, 40), np.uint8)
    before[2:10, 2:10], before[20:30, 20:30] = 100, 250
    Image.fromarray(before).save(tmp_path / "before.png")
    Image.fromarray((before > 0).astype(np.uint8) * 255).save(tmp_path / "mask.png")
    out = tmp_path / "o.tif"
    files = (tmp_path / "mask.png", "--before", tmp_path / "before.png", "--out", out)
    assert run(*files)[0] == 0
    np.testing.assert_array_equal(tifffile.imread(out), before)
