"""The command that measures the objects of one file."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from skimage.io import imread
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.core.instances.morphometrics import measure_instances
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.ome_zarr_labels import write_ome_zarr_labels


@pytest.fixture
def run():
    runner = CliRunner()

    def call(*arguments):
        result = runner.invoke(app, ["measure", *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    return call


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_axons_with_their_myelin_and_pictures(run, shared_data, tmp_path):
    start = shared_data / "axon_sem/extras/sub-rat8_sample-V915_ads-"
    labels, myelin = f"{start}instance-map.png", f"{start}pred-myelin.png"
    image = shared_data / "axon_sem/images/sub-rat8_sample-V915.png"
    out = tmp_path / "deep/table.csv"
    for suffix in ("png", "html"):
        qc = tmp_path / f"qc.{suffix}"
        status, output, errors = run(
            labels, "--myelin", myelin, "--pixel-size", "100", "--unit", "nm",
            "--qc", qc, "--image", image, "--out", out, "--overwrite",
        )  # fmt: skip
        assert (status, errors) == (0, "")
        assert "298 objects measured in um" in output
        assert qc.stat().st_size > 10_000
    expected = measure_instances(
        imread(labels), axon=imread(myelin) < 128, pixel_size=(0.1, 0.1)
    ).columns
    rows = read(out)
    assert len(rows) == 298
    for name in ("gratio", "axon_diam (um)", "myelin_thickness (um)"):
        found = [float(row[name] or "nan") for row in rows]
        np.testing.assert_allclose(found, expected[name], rtol=1e-6)


@pytest.fixture
def square():
    labels = np.zeros((30, 40), np.uint16)
    labels[5:15, 5:25] = 3
    return labels


def save_ome(path, labels):
    about = {"axes": "YX", "PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm"}
    about |= {"PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(path, labels, ome=True, metadata=about)


def save_imagej(path, labels):
    tifffile.imwrite(
        path, labels, imagej=True, resolution=(4, 2), metadata={"unit": "micron"}
    )


def save_zarr(path, labels):
    units = ("micrometer", "micrometer")
    write_ome_zarr_labels(path, InstanceLabels(labels, scale=(0.5, 0.25), units=units))


@pytest.mark.parametrize(
    ("name", "save"),
    [("l.ome.tif", save_ome), ("l.tif", save_imagej), ("l.zarr", save_zarr)],
)
def test_the_size_of_a_pixel_is_read_from_the_file(run, tmp_path, square, name, save):
    save(tmp_path / name, square)
    out = tmp_path / "table.csv"
    status, output, notes = run(tmp_path / name, "--out", out)
    assert status == 0
    assert "pixels of 0.5 x 0.25 um (height, width)" in notes
    assert "1 object measured in um" in output
    (row,) = read(out)
    assert (row["object"], row["area (um^2)"]) == ("3", "25")
    # what a person says goes first
    run(tmp_path / name, "--out", out, "--overwrite", "--pixel-size", "1,2")
    assert read(out)[0]["area (um^2)"] == "400"


def test_units_that_are_few_peoples_are_measured_or_named(run, tmp_path, square):
    out = tmp_path / "table.csv"
    for unit, is_length in (("inch", True), ("second", False)):
        path = tmp_path / f"{unit}.zarr"
        placed = InstanceLabels(square, scale=(0.5, 0.5), units=(unit, unit))
        write_ome_zarr_labels(path, placed)
        status, _, notes = run(path, "--out", out, "--overwrite")
        assert (status == 0) == is_length
        named = "12700 x 12700 um" if is_length else "with --pixel-size"
        assert named in notes
        assert path.name in notes


def test_in_pixels_and_it_is_said(run, tmp_path, square):
    tifffile.imwrite(tmp_path / "l.tif", square)
    status, output, notes = run(tmp_path / "l.tif", "--out", tmp_path / "t.csv")
    assert status == 0
    assert "measured in pixels: no file says" in notes
    assert "1 object measured in px" in output
    assert read(tmp_path / "t.csv")[0]["area (px^2)"] == "200"
    # axes without a unit are not micrometres
    zarr_path = tmp_path / "l.zarr"
    write_ome_zarr_labels(zarr_path, InstanceLabels(square, scale=(2.0, 2.0)))
    assert "unit" not in zarr.open(zarr_path, mode="r").attrs["ome"]["multiscales"][0]
    assert "in pixels" in run(zarr_path, "--out", tmp_path / "u.csv")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{l}", "--qc", "{f}/q.png"), "add --image"),
        (("{l}", "--qc", "{f}/q.jpg", "--image", "{l}"), "not 'q.jpg'"),
        (("{l}", "--pixel-size", "1,2,3"), "height and width"),
        (("{l}", "--pixel-size", "1", "--unit", "px"), "'px' is no unit"),
        (("{l}", "--out", "{f}/t.txt"), "a .csv, not 't.txt'"),
        (("{l}", "--myelin", "{s}"), "do not belong together"),
        (("{l}", "--qc", "{f}/q.png", "--image", "{s}"), "not labels of it"),
        (("{v}",), "save the plane by itself"),
        (("{f}/none.tif",), "there is no image"),
    ],
)
def test_wrong_uses_are_told_in_one_line(run, tmp_path, square, arguments, message):
    places = {"l": tmp_path / "l.tif", "s": tmp_path / "s.png", "v": tmp_path / "v.tif"}
    tifffile.imwrite(places["l"], square)
    Image.fromarray(square[:20].astype(np.uint8)).save(places["s"])
    tifffile.imwrite(places["v"], np.stack([square, square]))
    given = [text.format(f=tmp_path, **places) for text in arguments]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "t.csv")]
    status, _, errors = run(*given)
    assert status == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "t.csv").exists()
