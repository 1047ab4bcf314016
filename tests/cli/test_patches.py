"""The commands that cut files into patches and put them together again."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from skimage.io import imread
from typer.testing import CliRunner

from napari_samseg.cli import app


@pytest.fixture
def run():
    def call(*arguments):
        result = CliRunner().invoke(app, ["patches", *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    return call


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "patches"


@pytest.mark.parametrize(
    ("size", "stride"), [("128", ""), ("128,100", "90,100"), ("700", ""), ("64", "33")]
)
def test_a_real_picture_comes_back(run, shared_data, tmp_path, folder, size, stride):
    source = min((shared_data / "he_monuseg/images").iterdir())
    picture = imread(source)[:300, :410]
    Image.fromarray(picture).save(tmp_path / "he.png")
    flags = ("--size", size, *(("--stride", stride) if stride else ()))
    asked = ("cut", tmp_path / "he.png", *flags, "--out", folder, "--format", "png")
    status, output, errors = run(*asked)
    assert status == 0, errors
    names = sorted(path.name for path in folder.glob("*.png"))
    patches = "1 patch " if len(names) == 1 else f"{len(names)} patches "
    assert f"wrote {patches}" in output
    assert names == json.loads((folder / "patches.json").read_text())["files"]
    sides = [int(n) for n in (size.split(",") * 2)[:2]]
    assert {imread(folder / name).shape for name in names} == {(*sides, 3)}
    y, x = map(int, names[-1].removesuffix(".png").split("_")[1:])
    part = imread(folder / names[-1])[: 300 - y, : 410 - x]
    np.testing.assert_array_equal(part, picture[y : y + sides[0], x : x + sides[1]])
    out = tmp_path / "back.png"
    assert run("stitch", folder, "--out", out)[0] == 0
    np.testing.assert_array_equal(imread(out), picture)


@pytest.mark.parametrize("size", ["50,60", "2,50,60", "4,100,100"])
@pytest.mark.parametrize("suffix", [".tif", ".npy", ".zarr"])
def test_labels_of_a_volume_come_back(run, shared_data, tmp_path, folder, size, suffix):
    labels = tifffile.imread(shared_data / "em_fib25_neuroproof/gt_bodies.tif")
    labels = labels[:3, :91, :77]
    tifffile.imwrite(tmp_path / "l.tif", labels, photometric="minisblack")
    source = ("cut", tmp_path / "l.tif", "--labels", "--size", size)
    status, _, errors = run(*source, "--out", folder)
    assert status == 0, errors
    found = {tifffile.imread(path).shape for path in folder.glob("*.tif")}
    assert found == {tuple(map(int, size.split(",")))}
    assert all(
        set(np.unique(tifffile.imread(path))) <= {0, *np.unique(labels)}
        for path in folder.glob("*.tif")
    )
    out = tmp_path / f"back{suffix}"
    status, output, errors = run("stitch", folder, "--out", out)
    assert status == 0, errors
    assert "3 x 91 x 77" in output
    read = {".tif": tifffile.imread, ".npy": np.load, ".zarr": zarr.open_array}
    back = read[suffix](out)
    assert back.dtype == labels.dtype
    np.testing.assert_array_equal(back[:], labels)


def test_a_volume_of_a_patient_comes_back_to_its_place(run, tmp_path, folder):
    labels = np.arange(5 * 7 * 9, dtype=np.uint16).reshape(9, 7, 5)
    affine = np.diag([-2.0, 3, 4, 1])
    nibabel.save(nibabel.Nifti1Image(labels, affine), tmp_path / "l.nii.gz")
    out = tmp_path / "back.nii.gz"
    asked = ("cut", tmp_path / "l.nii.gz", "--labels", "--size", "3,4,4")
    assert run(*asked, "--out", folder)[0] == 0
    assert (folder / "l_0_0_0.tif").is_file()
    assert run("stitch", folder, "--out", out)[0] == 0
    back = nibabel.load(out)
    np.testing.assert_array_equal(np.asarray(back.dataobj), labels)
    np.testing.assert_array_equal(back.affine, affine)


def test_what_was_made_of_patches_is_put_together(run, tmp_path, folder):
    """Probabilities of an image of colours, as a network gives them."""
    picture = np.random.default_rng(0).integers(0, 255, (50, 40, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "p.png")
    asked = ("cut", tmp_path / "p.png", "--size", "32", "--stride", "20")
    assert run(*asked, "--out", folder, "--format", "npy")[0] == 0
    made = tmp_path / "made"
    made.mkdir()
    for path in folder.glob("*.npy"):
        grey = np.load(path).mean(axis=-1, dtype=np.float32)
        tifffile.imwrite(made / f"{path.stem}.tif", grey)
    out = tmp_path / "back.tif"
    status, _, errors = run("stitch", made, "--out", out)
    assert status == 2
    assert "--grid names the folder" in errors
    asked = ("stitch", made, "--grid", folder, "--out", out)
    assert run(*asked, "--overlap", "mean")[0] == 0
    back = tifffile.imread(out)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, picture.mean(axis=-1), rtol=1e-5)
    first = min(made.iterdir())
    first.write_bytes(b"cut off")
    status, _, errors = run(*asked, "--overwrite")
    assert status == 2
    assert f"{first.name} cannot be read" in errors
    first.unlink()
    status, _, errors = run(*asked, "--overwrite")
    assert status == 2
    assert "there is no patch p_00_00" in errors


def test_channels_stay_together(run, tmp_path, folder):
    image = np.random.default_rng(0).integers(0, 9, (4, 2, 30, 20), np.uint16)
    np.save(tmp_path / "c.npy", image)
    asked = ("cut", tmp_path / "c.npy", "--channel-axis", 1, "--size", "16")
    assert run(*asked, "--out", folder)[0] == 0
    assert {tifffile.imread(p).shape for p in folder.glob("*.tif")} == {(2, 16, 16)}
    assert run("stitch", folder, "--out", tmp_path / "back.npy")[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "back.npy"), image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cut", "{image}", "--out", "{folder}/p", "--size", "8,8,8"), "last axes"),
        (("cut", "{image}", "--out", "{folder}/p", "--size", "x"), "--size takes"),
        (("cut", "{image}", "--out", "{folder}/p", "--stride", "999"), "leave gaps"),
        (("cut", "{image}", "--out", "{folder}/p", "--format", "gif"), ".tif, .png"),
        (("cut", "{folder}/none.tif", "--out", "{folder}/p"), "there is no image"),
        (("cut", "{image}", "--out", "{image}"), "is a file"),
        (("cut", "{image}", "--out", "{folder}/full", "--size", "8"), "--overwrite"),
        (("stitch", "{folder}/full", "--out", "{folder}/o.jpg"), "not as 'o.jpg'"),
        (("stitch", "{folder}/full", "--out", "{image}"), "--overwrite"),
        (("stitch", "{folder}", "--out", "{folder}/o.tif"), "patches.json"),
    ],
)
def test_wrong_uses_are_told_in_one_line(run, tmp_path, arguments, message):
    image = tmp_path / "i.png"
    Image.fromarray(np.ones((20, 20), np.uint8)).save(image)
    assert run("cut", image, "--size", "8", "--out", tmp_path / "full")[0] == 0
    given = [text.format(folder=tmp_path, image=image) for text in arguments]
    status, _, errors = run(*given)
    assert status == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert imread(image).shape == (20, 20)
    assert not (tmp_path / "p").exists()


def test_a_damaged_list_of_patches_is_told(run, tmp_path, folder):
    folder.mkdir()
    for content in ("[]", "{}", "{", '{"shape": [1], "size": [2], "stride": "x"}'):
        (folder / "patches.json").write_text(content)
        status, _, errors = run("stitch", folder, "--out", tmp_path / "o.tif")
        assert status == 2
        assert "patches.json" in errors


def test_patches_of_before_do_not_stay(run, tmp_path, folder):
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(tmp_path / name, np.ones((60, 60), np.uint8))
    asked = ("cut", tmp_path / "a.tif", "--labels", "--out", folder, "--overwrite")
    assert run(*asked, "--size", 20)[0] == 0
    (folder / "mine.tif").touch()
    assert run(*asked, "--size", 40)[0] == 0
    listed = json.loads((folder / "patches.json").read_text())["files"]
    assert {p.name for p in folder.iterdir()} == {*listed, "patches.json", "mine.tif"}
    assert len(listed) == 4
    other = ("cut", tmp_path / "b.tif", "--out", folder, "--size", 40, "--overwrite")
    status, _, errors = run(*other)
    assert status == 2
    assert "the patches of 'a' lie, and these are of 'b': choose a folder" in errors
    assert run("stitch", folder, "--out", tmp_path / "back.tif")[0] == 0
