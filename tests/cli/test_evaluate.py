"""The command that compares labels with true ones."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.core.io.coco import write_coco
from napari_samseg.core.io.coco_labels import labels_to_coco
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.ome_zarr_labels import write_ome_zarr_labels


@pytest.fixture
def call():
    runner = CliRunner()

    def call(*arguments):
        result = runner.invoke(app, ["evaluate", *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    return call


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def nuclei(shared_data, tmp_path):
    """Four real images; their labels, made worse from one to the next."""
    source = shared_data / "dsb2018"
    names = sorted(path.name for path in (source / "labels").iterdir())[:4]
    for folder in ("true", "found", "images"):
        (tmp_path / folder).mkdir()
    for worse, name in enumerate(names):
        shutil.copy(source / "labels" / name, tmp_path / "true")
        shutil.copy(source / "images" / name, tmp_path / "images")
        labels = np.array(Image.open(source / "labels" / name)).astype(np.uint16)
        labels = np.roll(labels, 2 * worse, axis=1)
        stem = name.removesuffix(".png")
        tifffile.imwrite(tmp_path / "found" / f"{stem}.tif", labels)
    return tmp_path, [name.removesuffix(".png") for name in names]


def test_instances_of_real_nuclei(nuclei, call):
    folder, names = nuclei
    out = folder / "out"
    status, output, errors = call(
        folder / "found", folder / "true", "--out", out, "--images", folder / "images"
    )
    assert (status, errors) == (0, "")
    assert f"best: {names[0][:20]}" in output
    samples = rows_of(out / "samples.csv")
    assert [row["sample"] for row in samples] == names
    for score in ("iou", "dice", "pq", "ap"):
        values = [float(row[score]) for row in samples]
        assert values[0] == 1
        assert max(values[1:]) < 1
        assert min(values) > 0
    assert float(samples[0]["hd95"]) == 0
    assert 0 < float(samples[1]["hd95"]) <= 2
    assert samples[0]["true_objects"] == samples[0]["matched"]

    summary = {row["score"]: row for row in rows_of(out / "summary.csv")}
    mean = np.mean([float(row["pq"]) for row in samples])
    assert float(summary["pq"]["mean"]) == pytest.approx(mean, abs=1e-5)
    assert float(summary["pq"]["low"]) < mean < float(summary["pq"]["high"])
    (pooled,) = rows_of(out / "classes.csv")
    assert pooled["class"] == "object"
    assert pooled["samples"] == "4"
    assert 0.5 < float(pooled["pq"]) < 1
    thresholds = [float(pooled[f"ap{t}"]) for t in range(50, 100, 5)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert np.mean(thresholds) == pytest.approx(float(pooled["ap"]), abs=1e-5)

    page = (out / "index.html").read_text(encoding="utf-8")
    for picture in sorted((out / "pictures").iterdir()):
        assert picture.name in page
        assert np.asarray(Image.open(picture).convert("RGB")).std() > 5
    assert len(list((out / "pictures").iterdir())) == 8
    assert "<dt>pq<dd>panoptic quality" in page

    before = sorted(folder.rglob("*"))
    status, shown, errors = call(folder / "found", folder / "true")
    assert (status, errors) == (0, "")
    assert "ap75" in shown
    assert "ap80" not in shown
    assert "wrote" not in shown
    assert sorted(folder.rglob("*")) == before

    status, _, errors = call(folder / "found", folder / "true", "--out", out)
    assert status == 2
    assert "--overwrite" in errors


def test_classes_by_hand_and_pictures_that_lack_one(tmp_path, call):
    for folder in ("true", "found"):
        (tmp_path / folder).mkdir()
    true = np.zeros((40, 40), np.uint8)
    true[4:20, 4:20], true[24:36, 4:36] = 255, 127
    found = np.where(true == 127, 0, true)
    found[4:20, 12:20] = 0
    for folder, labels in (("true", true), ("found", found)):
        Image.fromarray(labels).save(tmp_path / folder / "a.png")
    out = tmp_path / "out"
    status, _, errors = call(
        tmp_path / "found", tmp_path / "true", "--out", out, "--classes", "all",
        "--spacing", "0.5,0.5",
    )  # fmt: skip
    assert (status, errors) == (0, "")
    rows = {row["class"]: row for row in rows_of(out / "samples.csv")}
    assert set(rows) == {"127", "255"}
    assert float(rows["255"]["sensitivity"]) == 0.5
    assert float(rows["255"]["dice"]) == pytest.approx(2 / 3, abs=1e-6)
    assert float(rows["255"]["hd95"]) == 4
    assert rows["127"]["precision"] == ""
    assert float(rows["127"]["hd95"]) == pytest.approx(20 * 2**0.5, abs=1e-5)
    # each connected part of a class is an object: half of it is above no threshold
    assert (rows["255"]["true_objects"], rows["255"]["matched"]) == ("1", "0")
    assert (rows["127"]["true_objects"], rows["127"]["found_objects"]) == ("1", "0")
    assert float(rows["127"]["pq"]) == float(rows["127"]["ap"]) == 0
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "mean Dice" in page
    assert "each connected part of one is an object" in page

    status, _, _ = call(
        tmp_path / "found", tmp_path / "true", "--out", out, "--classes", "255",
        "--overwrite",
    )  # fmt: skip
    assert status == 0
    assert [row["class"] for row in rows_of(out / "samples.csv")] == ["255"]


def test_a_volume(tmp_path, call):
    true = np.zeros((3, 20, 20), np.uint16)
    true[1, 2:10, 2:10], true[1:, 12:18, 12:18] = 5, 9
    tifffile.imwrite(tmp_path / "true.tif", true, photometric="minisblack")
    tifffile.imwrite(tmp_path / "found.tif", true, photometric="minisblack")
    status, _, _ = call(
        tmp_path / "found.tif", tmp_path / "true.tif", "--out", tmp_path / "out"
    )
    assert status == 0
    (row,) = rows_of(tmp_path / "out" / "samples.csv")
    assert (row["true_objects"], row["pq"], row["hd95"]) == ("2", "1.0", "0.0")
    assert "plane 1" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_files_without_a_partner(nuclei, call):
    folder, names = nuclei
    extra = folder / "found" / "other.tif"
    tifffile.imwrite(extra, np.zeros((4, 4), np.uint8))
    status, _, errors = call(folder / "found", folder / "true", "--out", folder / "out")
    assert status == 0
    assert "1 file in" in errors
    assert "other" in errors
    (folder / "found" / f"{names[2]}.tif").unlink()
    status, _, errors = call(folder / "found", folder / "true", "--out", folder / "o")
    assert status == 2
    assert names[2] in errors
    assert not (folder / "o").exists()


def test_what_does_not_fit(tmp_path, call):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint8))
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((8, 9), np.uint8))
    (tmp_path / "empty").mkdir()
    out = ("--out", tmp_path / "out")
    for found, true, words in (
        ("a.tif", "b.tif", "(8, 9)"),
        ("a.tif", "c.tif", "no labels"),
        ("a.tif", "empty", "two folders"),
        ("empty", "empty", "no files"),
    ):
        status, _, errors = call(tmp_path / found, tmp_path / true, *out)
        assert status == 2
        assert words in errors
    status, _, errors = call(
        tmp_path / "a.tif", tmp_path / "a.tif", *out, "--spacing", "1"
    )
    assert status == 2
    assert "one positive number" in errors


def test_labels_of_an_image_and_coco_in_folders(tmp_path, call):
    labels = np.zeros((20, 20), np.uint16)
    labels[2:9, 2:9], labels[12:18, 12:18] = 5, 9
    given = InstanceLabels(labels)
    path = tmp_path / "image.zarr" / "labels" / "nuclei"
    write_ome_zarr_labels(path, given)
    status, _, errors = call(path, path, "--out", tmp_path / "one")
    assert (status, errors) == (0, "")
    for folder in ("true", "found"):
        (tmp_path / folder).mkdir()
        # describes a dataset, and is none of its labels
        (tmp_path / folder / "dataset.json").write_text('{"Name": "cells"}')
    write_coco(tmp_path / "found/a.json", labels_to_coco(given, "a.png"))
    tifffile.imwrite(tmp_path / "true/a.tif", labels)
    folders = tmp_path / "found", tmp_path / "true"
    status, _, errors = call(*folders, "--out", tmp_path / "many")
    assert (status, errors) == (0, "")
    (row,) = rows_of(tmp_path / "many" / "samples.csv")
    assert (row["sample"], row["matched"]) == ("a", "2")


def test_negative_labels_name_their_file(tmp_path, call):
    for name, low in (("found.tif", -3), ("true.tif", 0)):
        tifffile.imwrite(tmp_path / name, np.full((9, 9), low, np.int16))
    files = tmp_path / "found.tif", tmp_path / "true.tif"
    status, _, errors = call(*files, "--out", tmp_path / "out")
    assert status == 2
    assert "found.tif holds negative labels, -3 is the lowest" in errors


def test_what_is_so_of_many_files_is_told_once(shared_data, tmp_path, call):
    path = shared_data / "axon_sem" / "classes" / "sub-rat8_sample-V915.png"
    classes = np.array(Image.open(path))
    (tmp_path / "classes").mkdir()
    for i, start in enumerate((200, 500)):
        part = classes[200:600, start : start + 400]
        Image.fromarray(part).save(tmp_path / "classes" / f"part{i}.png")
    folder = tmp_path / "classes"
    status, _, errors = call(folder, folder, "--out", tmp_path / "out")
    assert status == 0
    (note,) = errors.splitlines()
    assert "part0.png looks like a map of classes" in note
    assert note.endswith("; so it is with 1 other file")


def test_ids_are_not_taken_for_classes(tmp_path):
    ids = np.arange(144, dtype=np.uint16).reshape(12, 12)
    path = tmp_path / "ids.tif"
    tifffile.imwrite(path, ids)
    arguments = [str(path), str(path), "--classes", "all", "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert result.exit_code == 2
    assert "143 different values" in result.stderr
    assert "leave out --classes" in result.stderr
