"""The command that refines labels."""

from __future__ import annotations

import csv

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from scipy import ndimage
from skimage.io import imread, imsave
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.core.instances.components import label_components
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.ome_zarr_labels import (
    read_ome_zarr_labels,
    write_ome_zarr_labels,
)
from napari_samseg.core.refine.api import refine
from napari_samseg.core.settings import RefineSettings


@pytest.fixture
def call(monkeypatch):
    runner = CliRunner()

    def call(*arguments):
        result = runner.invoke(app, [*map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    return call


@pytest.fixture
def stack(tmp_path):
    """Three planes with two discs each, and squares as their rough labels."""
    rows, columns = np.mgrid[:64, :64]
    image = np.full((3, 64, 64), 40, np.uint8)
    labels = np.zeros((3, 64, 64), np.uint16)
    for y, x, object_id in ((20, 20, 300), (44, 42, 7)):
        image[:, (rows - y) ** 2 + (columns - x) ** 2 < 100] = 200
        labels[:, y - 6 : y + 7, x - 6 : x + 7] = object_id
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="minisblack")
    tifffile.imwrite(tmp_path / "rough.tif", labels, photometric="minisblack")
    return tmp_path, image, labels


def test_from_files_to_files(stack, call):
    folder, image, labels = stack
    status, output, errors = call(
        "refine", folder / "image.tif", folder / "rough.tif",
        "--out", folder / "new.tif", "--report", folder / "doubts.csv",
        "--planes", "0:2", "--margin", 4, "--overlap", "keep", "--device", "cpu",
    )  # fmt: skip
    assert (status, errors) == (0, "")
    assert output.startswith("2 objects, 4 masks in 2 planes, 4 refined, ")
    assert "mean doubt" not in output
    assert "doubt is 1 minus the product of the three after it" in output
    found = tifffile.imread(folder / "new.tif")
    np.testing.assert_array_equal(found[2], labels[2])
    disc = image[0] == 200
    for plane in found[:2]:
        assert set(np.unique(plane)) == {0, 7, 300}
        assert ((plane > 0) & disc).sum() / ((plane > 0) | disc).sum() > 0.85
    with (folder / "doubts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert {(row["object"], row["plane_0"]) for row in rows} == {
        ("7", "0"), ("7", "1"), ("300", "0"), ("300", "1")
    }  # fmt: skip
    doubts = [float(row["doubt"]) for row in rows]
    assert doubts == sorted(doubts, reverse=True)
    listed = [line.split("│") for line in output.splitlines() if "refined │" in line]
    shown = [(row[1].strip(), row[2].strip(), float(row[3])) for row in listed]
    assert shown == [
        (row["object"], row["plane_0"], round(doubt, 2))
        for row, doubt in zip(rows, doubts, strict=True)
    ]
    for row in listed:
        doubt, *parts = map(float, row[3:7])
        assert doubt == pytest.approx(1 - np.prod(parts), abs=0.03)
    for row in rows:
        plane = found[int(row["plane_0"])]
        assert int(row["area_after"]) == (plane == int(row["object"])).sum()


def test_ome_zarr_and_a_store(stack, call, tiny_checkpoint):
    """Planes come from the store that `embed` made."""
    folder, _, labels = stack
    names = folder / "image.tif", folder / "rough.tif"
    model = "--model", tiny_checkpoint, "--device", "cpu"
    status, _, errors = call("embed", names[0], "--out", folder / "store", *model)
    assert status == 0, errors
    for store in ((), ("--embeddings", folder / "store")):
        status, _, errors = call(
            "refine", *names, "--out", folder / f"new{len(store)}.zarr", *model, *store
        )
        assert (status, errors) == (0, "")
    found = [zarr.open(folder / f"new{n}.zarr/0", mode="r")[...] for n in (0, 2)]
    assert found[0].shape == labels.shape
    assert set(np.unique(found[0])) == {0, 7, 300}
    assert (found[0] != found[1]).mean() < 0.01, "float16 on the way"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "rough.tif"), "is what is read"),
        (("--out", "new.doc"), "tells no label format"),
        (("--out", "new.png"), "a .png holds one plane"),
        (("--out", "new.tif", "--report", "r.txt"), "a report is a .csv"),
        (("--out", "new.tif", "--planes", "2:9"), "are not in a stack of 3"),
        (("--out", "new.tif", "--prompts", "boxes"), "--prompts: 'boxes'"),
        (("--out", "new.tif", "--overlap", "all"), "Where masks overlap"),
        (("--out", "new.tif", "--embeddings", "nowhere"), "nowhere"),
    ],
)
def test_what_is_wrong_is_told_at_once(stack, call, monkeypatch, arguments, message):
    folder, _, labels = stack
    monkeypatch.chdir(folder)
    status, _, errors = call("refine", "image.tif", "rough.tif", *arguments)
    assert status == 2
    assert message in errors
    np.testing.assert_array_equal(tifffile.imread("rough.tif"), labels)
    assert {path.name for path in folder.iterdir()} == {"image.tif", "rough.tif"}


def test_ids_that_do_not_fit_are_refused_before_the_model(stack, call):
    folder, _, labels = stack
    wide = labels.astype(np.uint64)
    wide[2, labels[2] == 7] = 2**40
    np.save(folder / "wide.npy", wide)
    out = folder / "new.tif"
    status, _, errors = call(
        *("refine", folder / "image.tif", folder / "wide.npy", "--out", out),
        # there is no such model
        *("--model", "none"),
    )
    assert status == 2
    assert f"id {2**40} does not fit new.tif" in errors
    assert not out.exists()


def test_labels_of_another_image(stack, call):
    folder, _, labels = stack
    tifffile.imwrite(folder / "half.tif", labels[:, :32], photometric="minisblack")
    status, _, errors = call(
        "refine", folder / "image.tif", folder / "half.tif", "--out", folder / "n.tif"
    )
    assert status == 2
    assert "half.tif" in errors
    assert "do not belong together" in errors


def test_nifti_stays_where_it_lies(stack, call):
    folder, image, labels = stack
    affine = np.diag([-1.0, 2, 3, 1])
    for name, array in (("image", image), ("rough", labels)):
        volume = nibabel.Nifti1Image(array.T, affine)
        volume.set_sform(affine, 1)
        nibabel.save(volume, folder / f"{name}.nii.gz")
    names = folder / "image.nii.gz", folder / "rough.nii.gz"
    out = folder / "new.nii.gz"
    status, _, errors = call(
        "refine", *names, "--out", out, "--planes", "0:1", "--device", "cpu"
    )
    assert status == 0, errors
    found = nibabel.load(out)
    np.testing.assert_array_equal(found.affine, affine)
    assert int(found.header["sform_code"]) == 1


def test_ome_zarr_keeps_its_pixels(stack, call):
    folder, _, labels = stack
    known = {
        "scale": (2.0, 0.5, 0.25),
        "units": ("micrometer",) * 3,
        "translation": (10.0, 20.0, 30.0),
    }
    write_ome_zarr_labels(folder / "rough.zarr", InstanceLabels(labels, **known))
    status, _, errors = call(
        "refine", folder / "image.tif", folder / "rough.zarr",
        "--out", folder / "new.zarr", "--planes", "0:1", "--device", "cpu",
    )  # fmt: skip
    assert status == 0, errors
    found = read_ome_zarr_labels(folder / "new.zarr")
    assert {key: getattr(found, key) for key in known} == known


def test_masks_are_split_and_what_the_model_does_not_see_is_listed(
    shared_data, tmp_path, call
):
    folder = shared_data / "dsb2018"
    (path,) = (folder / "images").glob("1631352d*.png")
    true = imread(folder / "labels" / path.name)[:256, :256]
    imsave(tmp_path / "image.png", imread(path)[:256, :256], check_contrast=False)
    # nuclei that touch are one in the mask; and a line lies across nothing
    mask = (true > 0).astype(np.uint8)
    mask[-2:] = 1
    imsave(tmp_path / "mask.png", 255 * mask, check_contrast=False)
    status, output, errors = call(
        "refine", tmp_path / "image.png", tmp_path / "mask.png", "--split",
        "--out", tmp_path / "new.tif", "--report", tmp_path / "report.csv",
        "--device", "cpu", "--precision", "exact",
    )  # fmt: skip
    assert (status, errors) == (0, "")
    found = tifffile.imread(tmp_path / "new.tif")
    np.testing.assert_array_equal(found > 0, mask > 0)
    n_together = label_components(mask).max()
    assert len(np.unique(found)) - 1 > n_together
    # the largest keeps the id of the mask
    sizes = np.bincount(found.ravel())
    assert sizes[255] == sizes[1:].max()
    with (tmp_path / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {int(row["object"]) for row in rows} == set(np.unique(found)) - {0}
    doubts = [float(row["doubt"]) for row in rows]
    assert doubts == sorted(doubts, reverse=True)
    states = {int(row["object"]): row["status"] for row in rows}
    assert states[found[-1, -1]] == "disagrees"
    n_split = sum(state == "split" for state in states.values())
    assert f"{n_split} parts of objects that were split" in output
    assert "the mask is a different object" in output
    assert n_split >= 2
    assert all(int(row["parts"]) > 1 for row in rows if row["status"] == "split")


def test_new_ids_are_new_in_all_planes(tmp_path, stack):
    """Parts of one plane do not get the ids that objects of another one have."""
    _, image, labels = stack
    both = np.where(labels > 0, 255, 0).astype(np.uint8)
    found = refine(image, both, settings=RefineSettings(split=True), device="cpu")
    assert found.labels.dtype == np.uint32
    np.testing.assert_array_equal(found.labels > 0, both > 0)
    ids = [set(np.unique(plane)) - {0} for plane in found.labels]
    assert ids == [{255, 256}, {255, 257}, {255, 258}]
    assert found.counts.n_prompted == 6


@pytest.mark.filterwarnings("default::UserWarning")
def test_smoothed_masks_are_split_at_their_levels(tmp_path, call):
    rows, columns = np.mgrid[:64, :64]
    disc = (rows - 20) ** 2 + (columns - 20) ** 2 < 100
    disc |= (rows - 46) ** 2 + (columns - 44) ** 2 < 100
    imsave(tmp_path / "image.png", np.where(disc, 200, 40).astype(np.uint8))
    smooth = ndimage.gaussian_filter(np.where(disc, 255.0, 0), 1).astype(np.uint8)
    imsave(tmp_path / "mask.png", np.stack([smooth] * 3, axis=-1))
    n_between = np.count_nonzero((smooth > 0) & (smooth < 255))
    status, output, errors = call(
        "refine", tmp_path / "image.png", tmp_path / "mask.png", "--split",
        "--out", tmp_path / "new.tif", "--device", "cpu",
    )  # fmt: skip
    assert status == 0
    told = f"mask.png: {n_between} pixels had values between those of the classes"
    assert told in errors
    assert output.startswith("2 objects, ")
    assert "pixels got new ids" in output
    found = tifffile.imread(tmp_path / "new.tif")
    np.testing.assert_array_equal(found > 0, smooth > 127)
