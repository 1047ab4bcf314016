"""Labels that are given for instances and are not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tifffile
from skimage.io import imread
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.core.io.label_doubts import instance_doubts, middle_plane
from napari_samseg.core.io.label_image import open_label_image

INSTANCES = (
    "dsb2018/labels/*.png",
    "he_monuseg/labels/*.png",
    "em_snemi_mini/labels.tif",
    "em_gala_mini/train_gt.tif",
    "axon_sem/extras/*instance-map.png",
    "track_laptrack_small/*labels*.tif",
)


def doubts_of(path):
    with open_label_image(path) as labels:
        return instance_doubts(middle_plane(labels), path)


def test_real_instances_raise_no_doubt(shared_data):
    paths = [p for name in INSTANCES for p in sorted(shared_data.glob(name))[:8]]
    assert len(paths) > 15
    assert [note for path in paths for note in doubts_of(path)] == []


def test_real_maps_of_classes_and_photographs_do(shared_data):
    for path in (shared_data / "axon_sem/classes").glob("*.png"):
        (note,) = doubts_of(path)
        assert "looks like a map of classes: 1, 2 in" in note
    for path in (shared_data / "axon_sem/images").glob("*.png"):
        (note,) = doubts_of(path)
        assert "looks like a photograph" in note


@pytest.mark.parametrize("kind", [bool, np.int16, ">u2"])
def test_masks_of_any_type_but_not_their_specks(kind):
    mask = np.zeros((3, 80, 80), kind)
    mask[1, 2::10, 2::10] = 1
    assert instance_doubts(middle_plane(mask), "m") == []
    for y in range(2, 6):
        for x in range(2, 5):
            mask[1, y::10, x::10] = 1
    (note,) = instance_doubts(middle_plane(mask), "m")
    assert "m looks like a mask: 1 in 64 pieces" in note
    assert instance_doubts(mask[0], "m") == []


@pytest.mark.parametrize(
    "command", ["prompts", "measure", "evaluate", "convert", "refine"]
)
def test_commands_that_take_instances_name_the_way_out(command, shared_data, tmp_path):
    name = "sub-rat8_sample-V915.png"
    part = np.s_[200:600, 200:600]
    classes, image = (tmp_path / f"{kind}.tif" for kind in ("classes", "images"))
    for path in (classes, image):
        values = imread(shared_data / "axon_sem" / path.stem / name)[part]
        tifffile.imwrite(path, values)
    seen = {classes: "looks like a map of classes"}
    if command in ("measure", "convert"):
        seen[image] = "looks like a photograph"
    for labels, note in seen.items():
        out = tmp_path / f"{labels.stem}-{command}"
        arguments = {
            "prompts": (labels, "--out", f"{out}.csv"),
            "measure": (labels, "--out", f"{out}.csv"),
            "evaluate": (labels, labels, "--out", out),
            "convert": (labels, f"{out}.png"),
            "refine": (image, labels, "--out", f"{out}.tif", "--min-area", 100_000),
        }[command]
        with warnings.catch_warnings(record=True, action="always") as caught:
            result = CliRunner().invoke(app, [command, *map(str, arguments)])
        assert result.exit_code == 0, result.stderr
        told = " ".join([result.stderr, *(str(one.message) for one in caught)])
        assert note in told
        assert "napari-samseg instances" in told
