"""The command that turns semantic labels into instance labels."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.io import imread
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.core.io.label_formats import ReadRequest, find_format
from napari_samseg.core.io.ome_zarr_labels import read_ome_zarr_labels


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
        (("{mask}", "--out", "{folder}/o.jpg"), "'o.jpg' tells no label format"),
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


def elongated(path):
    """Two balls of sections twice as thick as pixels, that touch along z."""
    z, y, x = np.ogrid[:26, :24, :24]
    near = [(2 * (z - c)) ** 2 + (y - 12) ** 2 + (x - 12) ** 2 < 90 for c in (7, 15)]
    mask = (near[0] | near[1]).astype(np.uint8)
    angle = np.deg2rad(10)
    affine = np.eye(4)
    affine[:2, :2] = [
        [-np.cos(angle), np.sin(angle)],
        [np.sin(angle), np.cos(angle)],
    ]
    affine[:3, :3] *= [0.5, 0.5, 1]
    affine[:3, 3] = 5, 6, 7
    image = nibabel.Nifti1Image(mask.T, affine)
    image.set_sform(affine, 1)
    nibabel.save(image, path)
    return mask


WATERSHED = ("--method", "watershed", "--min-distance", 12, "--smoothing", 0)


def test_a_volume_of_a_patient_keeps_its_place_and_its_spacing(run, tmp_path):
    source, out = tmp_path / "m.nii.gz", tmp_path / "o.nii.gz"
    mask = elongated(source)
    status, output, notes = run(source, *WATERSHED, "--out", out)
    assert status == 0
    assert "2 objects" in output
    assert "has pixels of 2 x 1 x 1" in notes
    first, found = nibabel.load(source), nibabel.load(out)
    np.testing.assert_array_equal(found.affine, first.affine)
    labels = np.asarray(found.dataobj).T
    np.testing.assert_array_equal(labels > 0, mask > 0)
    # as cubes, their middles are nearer to each other than asked for
    cubes = tmp_path / "c.tif"
    given = ("--spacing", "1,1,1", "--out", cubes)
    assert "1 objects" in run(source, *WATERSHED, *given)[1]
    # and the same spacing from OME-Zarr
    runner = CliRunner()
    zarr = tmp_path / "m.zarr"
    assert runner.invoke(app, ["convert", str(source), str(zarr)]).exit_code == 0
    out = tmp_path / "o.zarr"
    assert "2 objects" in run(zarr, *WATERSHED, "--out", out)[1]
    back = read_ome_zarr_labels(out)
    np.testing.assert_array_equal(back.labels[...], labels)
    np.testing.assert_allclose(back.scale, (1, 0.5, 0.5))
    assert back.units == ("millimeter",) * 3


@pytest.mark.parametrize("name", ["o.png", "o.json", "o.geojson", "o.zarr", "o.zip"])
def test_instances_in_the_formats_of_other_programs(run, tmp_path, name):
    mask = np.zeros((40, 40), np.uint8)
    mask[2:10, 2:10], mask[20:30, 20:30] = 1, 1
    tifffile.imwrite(tmp_path / "m.tif", mask)
    out = tmp_path / name
    assert run(tmp_path / "m.tif", "--out", out)[0] == 0
    form = find_format(out)
    if form.read is None:
        assert out.stat().st_size > 100
        return
    with form.read(out, ReadRequest(shape=(40, 40))) as found:
        labels = np.asarray(found.labels[...])
        np.testing.assert_array_equal(labels > 0, mask > 0)
        assert labels.max() == 2
    status, _, errors = run(tmp_path / "m.tif", "--out", out)
    assert status == 2
    assert "is there already" in errors


def test_a_volume_is_no_picture(run, tmp_path):
    tifffile.imwrite(tmp_path / "m.tif", np.ones((5, 9, 9), np.uint8))
    status, _, errors = run(tmp_path / "m.tif", "--out", tmp_path / "o.png")
    assert status == 2
    assert "holds one plane" in errors


def test_ids_of_before_are_no_grey_levels(run, tmp_path):
    before = np.zeros((40, 40), np.uint8)
    before[2:10, 2:10], before[20:30, 20:30] = 100, 250
    Image.fromarray(before).save(tmp_path / "before.png")
    Image.fromarray((before > 0).astype(np.uint8) * 255).save(tmp_path / "mask.png")
    out = tmp_path / "o.tif"
    files = (tmp_path / "mask.png", "--before", tmp_path / "before.png", "--out", out)
    assert run(*files)[0] == 0
    np.testing.assert_array_equal(tifffile.imread(out), before)
