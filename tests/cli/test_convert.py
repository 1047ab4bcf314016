"""The command that turns labels of one format into another."""

from __future__ import annotations

import json
from itertools import pairwise, permutations
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.io import imread
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.label_formats import (
    LABEL_FORMATS,
    ReadRequest,
    find_format,
)
from napari_samseg.core.io.ome_zarr_labels import (
    read_ome_zarr_labels,
    write_ome_zarr_labels,
)

BOTH_WAYS = [
    name for name, entry in LABEL_FORMATS.items() if entry.read and entry.write
]


@pytest.fixture
def run():
    runner = CliRunner()

    def call(*arguments):
        result = runner.invoke(app, ["convert", *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    return call


@pytest.fixture
def nuclei(shared_data):
    return min((shared_data / "dsb2018/labels").iterdir())


def path_of(folder, name):
    return folder / f"{name}{LABEL_FORMATS[name].suffixes[0]}"


@pytest.mark.parametrize(("first", "second"), [*permutations(BOTH_WAYS, 2)])
def test_every_format_into_every_other(run, tmp_path, first, second):
    labels = np.zeros((9, 12), np.uint16)
    labels[1:8, 1:8], labels[3:5, 3:5], labels[5, 5] = 300, 0, 7
    labels[8, 8], labels[0, 11] = 300, 2
    Image.fromarray(labels).save(tmp_path / "in.png")
    one, two = path_of(tmp_path, first), path_of(tmp_path, second)
    for source, out in ((tmp_path / "in.png", one), (one, two)):
        read_as = first if source == one else "png"
        write_as = second if out == two else first
        status, output, errors = run(source, out, "--from", read_as, "--to", write_as)
        assert status == 0, errors
        assert f"wrote {out}" in output
    with LABEL_FORMATS[second].read(two, ReadRequest()) as back:
        np.testing.assert_array_equal(np.asarray(back.labels[...]), labels)


def test_formats_are_told_by_suffix(run, tmp_path, nuclei):
    for name in ("a.zip", "a.colour.png", "a.geojson", "a.ome.zarr"):
        assert run(nuclei, tmp_path / name)[0] == 0
    assert imread(tmp_path / "a.colour.png").ndim == 3
    back = tmp_path / "back.tif"
    assert run(tmp_path / "a.geojson", back)[0] == 0
    np.testing.assert_array_equal(tifffile.imread(back), imread(nuclei))


def test_every_format_is_listed(run):
    status, output, _ = run("--help")
    assert status == 0
    text = " ".join(output.split())
    for entry in LABEL_FORMATS.values():
        assert f"{entry.name} {' '.join(entry.suffixes)}" in text
    assert "roi .zip, written only" in text


def test_volumes_and_the_image_they_belong_to(run, tmp_path, shared_data):
    folder = shared_data / "em_fib25_neuroproof"
    labels, raw = tmp_path / "labels.tif", tmp_path / "raw.tif"
    for path, whole in ((labels, "gt_bodies.tif"), (raw, "raw.tif")):
        tifffile.imwrite(path, tifffile.imread(folder / whole)[:5])
    coco = tmp_path / "v.json"
    assert run(labels, coco, "--like", raw, "--masks", "polygon")[0] == 0
    content = json.loads(coco.read_text())
    assert {image["file_name"] for image in content["images"]} == {"raw.tif"}
    assert run(coco, tmp_path / "v.zarr")[0] == 0
    assert run(tmp_path / "v.zarr", tmp_path / "v.tif")[0] == 0
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "v.tif"), tifffile.imread(labels)
    )


def test_a_suffix_means_one_format():
    for entry in LABEL_FORMATS.values():
        assert find_format(Path(f"labels{entry.suffixes[0]}")) is entry
        assert find_format(Path("other.gif"), entry.name) is entry
    assert find_format(Path("i.ome.zarr/labels/nuclei")).name == "ome-zarr"


def test_what_stays_behind_is_told(run, tmp_path):
    mask = np.zeros((40, 40), np.uint8)
    mask[5:20, 5:20] = 255
    mask[5, 5:12] = 130
    Image.fromarray(mask).save(tmp_path / "m.png")
    # a category that nobody has given is nothing to know
    for category, is_known in (("object", False), ("cell", True)):
        given = ("--category", category, "--overwrite")
        status, _, notes = run(tmp_path / "m.png", tmp_path / "m.json", *given)
        assert status == 0
        assert "looks like a picture of a mask" in notes
        back = (tmp_path / "m.json", tmp_path / "m.tif", "--overwrite")
        status, _, notes = run(*back)
        assert status == 0
        assert ("what is known of 2 objects" in notes) == is_known
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "m.tif"), mask)


def test_a_file_is_split_by_patient(run, tmp_path):
    images = [
        {"id": n, "file_name": f"P{n // 4}_{n}.png", "height": 3, "width": 3}
        for n in range(20)
    ]
    source = tmp_path / "all.json"
    source.write_text(json.dumps({"images": images, "annotations": []}))
    out = tmp_path / "parts"
    split = ("--split", "train=0.6,val=0.4", "--group", r"^(P\d+)_")
    status, output, _ = run(source, out, *split)
    assert status == 0
    assert "train: 12 images\nval: 8 images" in output
    found = [
        {
            image["file_name"][:2]
            for image in json.loads((out / name / "annotations.json").read_text())[
                "images"
            ]
        }
        for name in ("train", "val")
    ]
    assert (len(found[0]), len(found[1])) == (3, 2)
    assert found[0].isdisjoint(found[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{mask}", "{folder}/o.txt"), "tells no label format"),
        (("{mask}", "{folder}/o.tif", "--to", "gif"), "no label format 'gif'"),
        (("{mask}", "{folder}/o.tif", "--to", "coco"), "written as .json"),
        (("{mask}", "{folder}/o.npy"), "cannot be written, only read"),
        (("{mask}", "{mask}"), "choose another name"),
        (("{folder}/none.png", "{folder}/o.tif"), "there is no image"),
        (("{folder}/none.json", "{folder}/o.tif"), "there is no file"),
        (("{folder}/none.zip", "{folder}/o.tif"), "cannot be read, only written"),
        (("{mask}", "{folder}/taken.zarr"), "is there already"),
        (("{mask}", "{folder}/o.tif", "--like", "{small}"), "do not belong together"),
        (("{wide}", "{folder}/o.png"), "write a .tif, or relabel without gaps"),
        (("{mask}", "{folder}", "--split", "train"), "--split takes names"),
        (("{folder}/taken.zarr", "{folder}/o.tif"), "no zarr array or group"),
    ],
)
def test_wrong_uses_are_told_in_one_line(run, tmp_path, arguments, message):
    places = {name: tmp_path / f"{name}.png" for name in ("mask", "small")}
    places["wide"] = tmp_path / "wide.tif"
    mask = np.zeros((30, 30), np.uint8)
    mask[5:9, 5:9] = 3
    Image.fromarray(mask).save(places["mask"])
    Image.fromarray(mask[:20]).save(places["small"])
    tifffile.imwrite(places["wide"], mask.astype(np.uint32) * 30_000)
    (tmp_path / "taken.zarr").mkdir()
    given = [text.format(folder=tmp_path, **places) for text in arguments]
    status, _, errors = run(*given)
    assert status == 2
    assert message in errors
    assert errors.count("\n") == 1
    np.testing.assert_array_equal(imread(places["mask"]), mask)
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    "more", [(), ("--axis", "coronal", "--parts", "--drop-empty", "--masks", "polygon")]
)
def test_lesions_to_coco_and_back(run, tmp_path, shared_data, more):
    folder = shared_data / "mri_ms_lesions"
    lesions = folder / "patient19_lesions_MNI.nii.gz"
    like = ("--like", folder / "patient19_FLAIR_MNI.nii.gz")
    coco, back = tmp_path / "l.json", tmp_path / "back.nii.gz"
    status, _, notes = run(lesions, coco, *like, "--category", "lesion", *more)
    assert status == 0
    assert "x, y, z run to L, A, S" in notes
    content = json.loads(coco.read_text())
    assert [item["name"] for item in content["categories"]] == ["lesion"]
    sizes = {(image["height"], image["width"]) for image in content["images"]}
    assert sizes == {(182, 182) if more else (218, 182)}
    assert run(coco, back, *like)[0] == 0
    first, second = nibabel.load(lesions), nibabel.load(back)
    np.testing.assert_array_equal(np.asarray(second.dataobj), np.asarray(first.dataobj))
    np.testing.assert_array_equal(second.affine, first.affine)
    assert second.get_data_dtype() == first.get_data_dtype()


def test_a_volume_takes_its_place_from_its_image(run, tmp_path):
    affine = np.diag([-2.0, 3, 4, 1])
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for name, place in (("image", affine), ("elsewhere", affine + np.eye(4, k=3))):
        image = nibabel.Nifti1Image(np.zeros((4, 3, 2), np.float32), place)
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    tifffile.imwrite(tmp_path / "l.tif", labels)
    out, like = tmp_path / "l.nii.gz", ("--like", tmp_path / "image.nii.gz")
    status, _, notes = run(tmp_path / "l.tif", out)
    assert status == 0
    assert "nothing says how the labels are oriented" in notes
    status, _, notes = run(tmp_path / "l.tif", out, *like, "--overwrite")
    assert (status, notes) == (0, "")
    np.testing.assert_array_equal(nibabel.load(out).affine, affine)
    turned = tmp_path / "ras.nii.gz"
    assert run(out, turned, *like, "--canonical")[0] == 0
    expected = nibabel.as_closest_canonical(nibabel.load(out))
    np.testing.assert_array_equal(nibabel.load(turned).affine, expected.affine)
    np.testing.assert_array_equal(
        np.asarray(nibabel.load(turned).dataobj), np.asarray(expected.dataobj)
    )
    elsewhere = ("--like", tmp_path / "elsewhere.nii.gz")
    status, _, errors = run(out, tmp_path / "o.nii", *elsewhere)
    assert status == 2
    assert "lie in different places" in errors


def oblique_labels(path):
    """x runs to the left, y to the front, z to the feet, and all somewhat askew."""
    angle = np.deg2rad(17)
    turn = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, 1]]
    )
    turn[2, 2] = np.cos(angle)
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.9, 1.1, -3.0])
    affine[:3, 3] = 80, -60, 40
    labels = np.zeros((11, 9, 6), np.uint8)
    labels[1:4, 2, 0:3], labels[7:, 5:8, 4], labels[0, 0, 0] = 3, 9, 1
    image = nibabel.Nifti1Image(labels, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nibabel.save(image, path)


def same_volume(first, second):
    first, second = nibabel.load(first), nibabel.load(second)
    np.testing.assert_array_equal(np.asarray(second.dataobj), np.asarray(first.dataobj))
    np.testing.assert_allclose(second.affine, first.affine, atol=1e-5)


@pytest.mark.parametrize("name", ["l.json", "l.jsonl"])
@pytest.mark.parametrize("cut", [(), ("--axis", "coronal", "--slices", "1:8:3")])
def test_a_turned_volume_comes_back_through_coco(run, tmp_path, name, cut):
    source, coco = tmp_path / "in.nii.gz", tmp_path / name
    oblique_labels(source)
    back, ras = tmp_path / "back.nii.gz", tmp_path / "ras.nii.gz"
    assert run(source, coco, "--canonical", *cut)[0] == 0
    if not cut:
        assert run(coco, back, "--like", source)[0] == 0
        same_volume(source, back)
    assert run(coco, ras)[0] == 0
    expected = nibabel.as_closest_canonical(nibabel.load(source))
    found = nibabel.load(ras)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
    inside = np.asarray(expected.dataobj).copy()
    if cut:
        gone = np.setdiff1d(np.arange(9), [1, 4, 7])
        inside[:, gone] = 0
    np.testing.assert_array_equal(np.asarray(found.dataobj), inside)


def test_coco_as_stored_is_turned_when_asked(run, tmp_path):
    source, coco = tmp_path / "in.nii.gz", tmp_path / "l.json"
    oblique_labels(source)
    assert run(source, coco)[0] == 0
    assert run(coco, tmp_path / "back.nii.gz")[0] == 0
    same_volume(source, tmp_path / "back.nii.gz")
    ras = (coco, tmp_path / "ras.nii.gz", "--canonical")
    for like in ((), ("--like", source, "--overwrite")):
        assert run(*ras, *like)[0] == 0
        expected = nibabel.as_closest_canonical(nibabel.load(source))
        nibabel.save(expected, tmp_path / "expected.nii.gz")
        same_volume(tmp_path / "expected.nii.gz", ras[1])
    moved = nibabel.load(source)
    moved.set_sform(moved.affine + np.eye(4, k=3), 1)
    moved.set_qform(moved.affine, 1)
    nibabel.save(moved, tmp_path / "moved.nii.gz")
    like = ("--like", tmp_path / "moved.nii.gz")
    status, _, errors = run(coco, tmp_path / "o.nii.gz", *like)
    assert status == 2
    assert "lie in different places" in errors


def test_categories_keep_their_numbers_and_those_without_objects(run, tmp_path):
    square = [1, 1, 5, 1, 5, 5, 1, 5]
    content = {
        "images": [{"id": 3, "file_name": "p.png", "height": 9, "width": 9}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": n, "segmentation": [ring]}
            for n, ring in ((17, square), (40, [x + 3 for x in square]))
        ],
        "categories": [{"id": 5, "name": "rare"}, {"id": 17, "name": "cell"}],
    }
    source, out = tmp_path / "in.json", tmp_path / "out.json"
    source.write_text(json.dumps(content))
    assert run(source, out)[0] == 0
    found = json.loads(out.read_text())
    names = {item["id"]: item["name"] for item in found["categories"]}
    assert names == {5: "rare", 17: "cell", 40: "40"}
    assert [item["category_id"] for item in found["annotations"]] == [17, 40]
    assert found["images"][0]["file_name"] == "p.png"


def test_tiff_says_how_large_pixels_are(run, tmp_path):
    labels = np.zeros((2, 8, 9), np.uint32)
    labels[0, 2:5, 2:5], labels[1, 3:6, 3:6] = 7, 70_000
    known = {"scale": (2.0, 0.25, 0.5), "units": ("micrometer",) * 3}
    write_ome_zarr_labels(tmp_path / "in.zarr", InstanceLabels(labels, **known))
    files = [tmp_path / name for name in ("in.zarr", "a.tif", "b.tif", "out.zarr")]
    for source, out in pairwise(files):
        assert run(source, out)[0] == 0
    np.testing.assert_array_equal(tifffile.imread(files[2]), labels)
    found = read_ome_zarr_labels(files[-1])
    assert {key: getattr(found, key) for key in known} == known
    plane = tmp_path / "plane.tif"
    tifffile.imwrite(
        plane, labels[0].astype(np.uint16), imagej=True, resolution=(4, 2),
        metadata={"unit": "um"},
    )  # fmt: skip
    status, _, notes = run(plane, tmp_path / "plane.png")
    assert status == 0
    assert "16-bit PNG does not say how large pixels are: 0.5 x 0.25 (micrometer)" in (
        notes
    )


def test_ids_above_32_bits(run, tmp_path):
    labels = np.zeros((9, 9), np.uint64)
    labels[1:3, 1:3], labels[5:8, 5:8] = 2**35, 4
    np.save(tmp_path / "wide.npy", labels)
    for suffix in (".json", ".jsonl", ".geojson"):
        out = tmp_path / f"out{suffix}"
        status, _, errors = run(tmp_path / "wide.npy", out)
        assert status == 2
        assert f"wide.npy: object id {2**35} does not fit unsigned 32 bits" in errors
        assert not out.exists()
        # another program wrote them
        fitting = np.where(labels == 2**35, 123_456_789, labels).astype(np.uint32)
        tifffile.imwrite(tmp_path / "l.tif", fitting)
        assert run(tmp_path / "l.tif", out)[0] == 0
        out.write_text(out.read_text().replace("123456789", str(2**35)))
        status, _, notes = run(out, tmp_path / "back.tif", "--overwrite")
        assert status == 0
        assert "1 id above 4294967295, more than 32 bits hold, got new num" in notes
        back = tifffile.imread(tmp_path / "back.tif")
        np.testing.assert_array_equal(back, np.where(labels == 2**35, 5, labels))
        (tmp_path / "l.tif").unlink()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".nii.gz"])
def test_what_has_room_for_ids_above_32_bits_is_named(run, tmp_path, suffix):
    labels = np.zeros((9, 9), np.uint64)
    labels[1:3, 1:3] = 2**35
    np.save(tmp_path / "wide.npy", labels)
    out = tmp_path / f"out{suffix}"
    status, _, errors = run(tmp_path / "wide.npy", out)
    assert (status, out.exists()) == (2, False)
    assert f"wide.npy: id {2**35} does not fit the 32 bits of out{suffix}" in errors
    assert "write a .zarr" in errors
    assert run(tmp_path / "wide.npy", tmp_path / "out.zarr")[0] == 0
    back = read_ome_zarr_labels(tmp_path / "out.zarr")
    np.testing.assert_array_equal(np.asarray(back.labels[...]), labels)


def test_negative_labels_name_their_file(run, tmp_path):
    tifffile.imwrite(tmp_path / "neg.tif", np.full((9, 9), -2, np.int16))
    for suffix in (".png", ".nii.gz", ".json"):
        status, _, errors = run(tmp_path / "neg.tif", tmp_path / f"out{suffix}")
        assert (status, "neg.tif: label ids from -2" in errors) == (2, True), suffix


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_labels_without_an_object_are_told(run, tmp_path, name):
    tifffile.imwrite(tmp_path / "none.tif", np.zeros((9, 9), np.uint16))
    out = path_of(tmp_path, name)
    status, output, notes = run(tmp_path / "none.tif", out, "--to", name)
    assert (status, f"wrote {out}" in output) == (0, True)
    assert "none.tif holds no object: all its pixels are 0" in notes
    with LABEL_FORMATS[name].read(out, ReadRequest()) as back:
        assert back.shape == (9, 9)
        assert not np.asarray(back.labels[...]).any()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("../evil=0.5,val=0.5", "a part is called '../evil'"),
        ("/tmp/evil=0.5,val=0.5", "a part is called '/tmp/evil'"),
        ("train=nan,val=0.5", "shares are above 0"),
        ("train=0.5,val=nan", "shares are above 0"),
    ],
)
def test_parts_lie_below_the_folder_and_have_a_share(run, tmp_path, split, message):
    images = [
        {"id": i, "file_name": f"{i}.png", "width": 9, "height": 9} for i in (1, 2)
    ]
    content = {"images": images, "annotations": [], "categories": []}
    (tmp_path / "in.json").write_text(json.dumps(content))
    out = tmp_path / "out" / "parts"
    status, _, errors = run(tmp_path / "in.json", out, "--split", split)
    assert (status, message in errors) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]
