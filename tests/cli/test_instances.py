"""The command that turns semantic labels into instance labels."""

from __future__ import annotations

import re

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from skimage.io import imread
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.core.instances import disk_job
from napari_samseg.core.instances.components import label_components
from napari_samseg.core.instances.file_job import InstancesJob, instances_file
from napari_samseg.core.instances.watershed import watershed_from_points
from napari_samseg.core.io.image_file import open_image_file
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.label_formats import ReadRequest, find_format
from napari_samseg.core.io.ome_zarr_labels import (
    read_ome_zarr_labels,
    write_ome_zarr_labels,
)
from napari_samseg.core.settings import InstanceSettings


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
    # both masks say themselves which method it is
    status, output, errors = run(*masks, "--out", out)
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
        (("--axon", "{mask}"), "--axon goes with --myelin"),
        (("{mask}", "--dtype", "uint64"), "are written as OME-Zarr alone"),
        (("{mask}", "--dtype", "int8"), "ids are uint32 or uint64, not 'int8'"),
        (("{mask}", "--blocks"), "out.zarr"),
        (("{mask}", "--blocks", "--out", "{folder}/labels/o.tif"), "/o.zarr"),
        (("{mask}", "--blocks", "--out", "{folder}/o.nii.gz"), "/o.zarr"),
        (
            ("{mask}", "--blocks", "--before", "{mask}", "--out", "{folder}/o.zarr"),
            "leave --before out",
        ),
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
    assert "1 object" in run(source, *WATERSHED, *given)[1]
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


def same_objects(found, expected):
    """Tell whether ids of both say the same, up to their numbers."""
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@pytest.fixture
def bodies(shared_data):
    volume = tifffile.imread(shared_data / "em_fib25_neuroproof/gt_bodies.tif")
    return volume[:20, :90, :80].astype(np.uint16)


@pytest.mark.parametrize("kind", ["tif", "zarr", "ome-zarr"])
def test_block_by_block_as_in_memory(run, tmp_path, bodies, kind, monkeypatch):
    from napari_samseg.core.instances import blockwise

    path = tmp_path / f"bodies.{kind.removeprefix('ome-')}"
    given = InstanceLabels(bodies, scale=(8.0, 4, 4), units=("nanometer",) * 3)
    if kind == "tif":
        tifffile.imwrite(path, bodies, metadata={"axes": "ZYX"})
    elif kind == "zarr":
        zarr.create_array(path, data=bodies, chunks=(8, 32, 32))
    else:
        write_ome_zarr_labels(path, given)
    whole, parts = tmp_path / "whole.tif", tmp_path / "parts.zarr"
    options = (path, "--min-size", 30, "--connectivity", 6)
    status, expected, _ = run(*options, "--out", whole)
    assert status == 0
    # many blocks, chosen by the size of the volume
    monkeypatch.setattr(blockwise, "BLOCK_VALUES", 40_000)
    monkeypatch.setattr(disk_job, "MEMORY_VALUES", 100_000)
    status, output, errors = run(*options, "--out", parts)
    assert (status, errors) == (0, "")
    assert output.splitlines()[0] == expected.splitlines()[0]
    with open_image_file(parts) as source:
        found = np.asarray(source.levels[0])
    assert found.dtype == np.uint32
    assert same_objects(found, tifffile.imread(whole))
    back = read_ome_zarr_labels(parts)
    assert back.scale == (given.scale if kind == "ome-zarr" else (1.0, 1, 1))
    group = zarr.open_group(parts, mode="r")
    assert len(group.attrs["ome"]["image-label"]["colors"]) == found.max()
    # a folder is never replaced
    status, _, errors = run(*options, "--out", parts, "--overwrite")
    assert status == 2
    assert "is there already" in errors


def test_a_watershed_in_blocks_and_nothing_left_by_a_stop(run, tmp_path, bodies):
    path, out = tmp_path / "mask.npy", tmp_path / "labels.zarr"
    np.save(path, (bodies > 0) & (np.indices(bodies.shape)[1] % 30 > 0))
    options = ("--method", "watershed", "--min-distance", 6, "--blocks")
    status, output, _ = run(path, *options, "--out", out)
    assert status == 0
    labels = read_ome_zarr_labels(out).labels[:]
    np.testing.assert_array_equal(labels > 0, np.load(path))
    assert output.startswith(f"{labels.max()} objects")
    job = InstancesJob(tmp_path / "none.zarr", labels=path, blocks=True)
    steps = instances_file(job, InstanceSettings())
    for step in steps:
        if step.stage == "renumbering":
            break
    steps.close()
    assert not (tmp_path / "none.zarr").exists()
    assert list(tmp_path.glob(".samseg-*")) == []


def test_two_masks_in_blocks(run, tmp_path):
    yx = np.indices((80, 90))
    axon = np.hypot(*(yx - 30)) < 8
    for name, mask in (("axon", axon), ("myelin", (np.hypot(*(yx - 30)) < 12) & ~axon)):
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"{name}.png")
    masks = ("--axon", tmp_path / "axon.png", "--myelin", tmp_path / "myelin.png")
    options = (*masks, "--blocks", "--method", "components")
    status, output, _ = run(*options, "--out", tmp_path / "o.zarr")
    assert (status, output.splitlines()[0]) == (0, "2 objects")
    status, _, errors = run(*masks, "--blocks", "--out", tmp_path / "p.zarr")
    assert status == 2
    assert "components or watershed" in errors


def test_a_photograph_is_refused_unless_it_is_meant(run, shared_data, tmp_path):
    folder = shared_data / "dsb2018"
    (path,) = (folder / "images").glob("1631352d*.png")
    image = imread(path)
    grey = image[..., 0] if image.ndim == 3 else image
    # in the byte order of another machine
    np.save(tmp_path / "raw.npy", grey.astype(">u2"))
    for more in (("o.tif",), ("o.zarr", "--blocks")):
        out, *options = more
        given = (tmp_path / "raw.npy", *options, "--out", tmp_path / out)
        status, _, error = run(*given)
        assert (status, error.count("\n")) == (2, 1)
        assert "looks like a photograph" in error
        assert not (tmp_path / out).exists()
        status, _, notes = run(*given, "--as-is")
        assert status == 0
        assert "looks like a photograph" in notes
    assert run(folder / "labels" / path.name, "--out", tmp_path / "l.tif")[2] == ""


def test_seeds_from_points_of_napari_and_from_tables_of_prompts(run, tmp_path):
    yx = np.indices((40, 70))
    discs = [np.hypot(yx[0] - 20, yx[1] - x) < 14 for x in (20, 44)]
    mask = discs[0] | discs[1]
    np.save(tmp_path / "mask.npy", mask)
    expected, n_none = watershed_from_points(mask, [(20, 18), (20, 46)])
    assert n_none == 0
    (tmp_path / "napari.csv").write_text(
        "index,axis-0,axis-1\n0,20.0,18.0\n1,20.0,46.0\n"
    )
    (tmp_path / "own.csv").write_text(
        "object,y,x,label\n7,20,18,1\n7,2,2,0\n9,20,46,1\n"
    )
    centres = np.zeros(mask.shape, np.uint16)
    centres[18:23, 16:21], centres[18:23, 44:49] = 4, 5
    tifffile.imwrite(tmp_path / "centres.tif", centres)
    prompts = CliRunner().invoke(
        app,
        [
            "prompts",
            str(tmp_path / "centres.tif"),
            "--kind",
            "box",
            "--out",
            str(tmp_path / "prompts.csv"),
        ],
    )
    assert prompts.exit_code == 0
    for name in ("napari", "own", "prompts"):
        out = tmp_path / f"{name}.tif"
        options = ("--seeds", tmp_path / f"{name}.csv", "--out", out)
        status, output, errors = run(tmp_path / "mask.npy", *options)
        assert (status, errors) == (0, "")
        assert output.startswith("2 objects")
        np.testing.assert_array_equal(tifffile.imread(out), expected)
    (tmp_path / "napari.csv").write_text("index,axis-0,axis-1,axis-2\n0,1,20,18\n")
    options = ("--seeds", tmp_path / "napari.csv", "--out", tmp_path / "v.tif")
    status, _, errors = run(tmp_path / "mask.npy", *options)
    assert status == 2
    assert "3 coordinates, and the labels are a plane" in errors


def test_the_way_back_from_objects(run, tmp_path, bodies):
    # ids in 8 bits are no grey levels of a picture
    labels = np.zeros((60, 60), np.uint8)
    labels[5:25, 5:25], labels[30:50, 30:50] = 120, 250
    Image.fromarray(labels).save(tmp_path / "objects.png")
    out = tmp_path / "lines.tif"
    options = ("--method", "boundaries", "--inward", 2, "--outward", 1, "--out", out)
    status, output, errors = run(tmp_path / "objects.png", *options)
    assert (status, errors) == (0, "")
    lines = tifffile.imread(out)
    assert lines.sum() == 2 * (22**2 - 4 - 16**2)
    assert f"{lines.sum()} pixels of 2 objects" in output
    volume = tmp_path / "bodies.tif"
    tifffile.imwrite(volume, bodies)
    status, _, _ = run(volume, "--method", "mask", "--out", tmp_path / "mask.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "mask.tif"), bodies > 0)


def test_points_that_do_not_count_as_given_are_told(run, tmp_path):
    mask = np.zeros((30, 30), np.uint8)
    mask[5:15, 5:25] = 1
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    rows = "y,x\n9,8\n9,20\n9,20\n25,20\n"
    (tmp_path / "points.csv").write_text(rows)
    given = (tmp_path / "mask.tif", "--seeds", tmp_path / "points.csv")
    status, output, notes = run(*given, "--out", tmp_path / "out.tif")
    assert (status, output.splitlines()[0]) == (0, "2 objects")
    assert "1 of 4 points on background, where nothing grows" in notes
    assert "1 of 3 objects got no pixels: points of others lie at the" in notes
    for more in ("--no-blocks", "--blocks"):
        out = tmp_path / "other.zarr"
        status, _, errors = run(*given, "--method", "components", more, "--out", out)
        assert status == 2
        assert "points.csv: seeds are for the method points" in errors
    status, _, errors = run(*given, "--blocks", "--out", tmp_path / "other.zarr")
    assert status == 2
    assert "these 900 pixels are worked on block by block" in errors


def test_photographs_are_no_masks_of_axons_and_myelin(run, tmp_path):
    rng = np.random.default_rng(0)
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 10:30] = 255
    for name, image in (
        ("mask.tif", mask),
        ("photo.tif", rng.integers(1, 150, mask.shape, np.uint8)),
    ):
        tifffile.imwrite(tmp_path / name, image)
    for axon, myelin in (("mask", "photo"), ("photo", "mask")):
        given = (
            "--axon",
            tmp_path / f"{axon}.tif",
            "--myelin",
            tmp_path / f"{myelin}.tif",
        )
        out = ("--method", "axon-myelin", "--out", tmp_path / "out.tif")
        status, _, errors = run(*given, *out)
        assert status == 2
        assert "photo.tif looks like a photograph" in errors
        assert not (tmp_path / "out.tif").exists()
    assert run(*given, *out, "--as-is")[0] == 0


def test_a_table_says_of_which_class_objects_are(run, tmp_path):
    classes = np.zeros((40, 40), np.uint8)
    classes[2:8, 2:8], classes[20:30, 20:30], classes[22:26, 22:26] = 1, 1, 2
    tifffile.imwrite(tmp_path / "classes.tif", classes)
    table = tmp_path / "table.csv"
    asked = (tmp_path / "classes.tif", "--table", table, "--overwrite")
    rows = ["object,class,pixels", "1,1,36", "2,1,84", "3,2,16"]
    for out in (("--out", tmp_path / "o.tif"), ("--out", tmp_path / "o.zarr")):
        blocks = "--blocks" if out[1].suffix == ".zarr" else "--no-blocks"
        status, output, errors = run(*asked, *out, blocks)
        assert status == 0
        # block by block, nobody looks at all classes at once
        assert ("the method axon-myelin makes one object" in errors) == (
            blocks == "--no-blocks"
        )
        assert table.read_text().splitlines() == rows
        assert output.endswith(f"wrote {table}\n")
    for name, more in (("w.zarr", ()), ("b.zarr", ("--blocks", "--min-size", 20))):
        wide = ("--dtype", "uint64", "--out", tmp_path / name)
        assert run(tmp_path / "classes.tif", *wide, *more)[0] == 0
        found = read_ome_zarr_labels(tmp_path / name).labels
        assert (found.dtype, found[...].max()) == (np.uint64, 2 if more else 3)
    # axons grow into their myelin
    run(*asked, "--method", "axon-myelin", "--out", tmp_path / "a.tif")
    assert table.read_text().splitlines()[1:] == ["1,1,84", "1,2,16"]
    status, _, errors = run(tmp_path / "classes.tif", "--table", tmp_path / "t.txt")
    assert (status, "a .csv, not 't.txt'" in errors) == (2, True)


def test_a_table_of_classes_as_wide_as_files_have(run, tmp_path):
    classes = np.zeros((20, 20), np.uint64)
    classes[2:5, 2:5], classes[10:12, 10:12] = 3, 1 << 40
    np.save(tmp_path / "classes.npy", classes)
    for out, blocks in (("o.tif", "--no-blocks"), ("o.zarr", "--blocks")):
        table = tmp_path / f"{out}.csv"
        given = (tmp_path / "classes.npy", "--table", table, blocks)
        status, _, errors = run(*given, "--out", tmp_path / out)
        assert (status, errors) == (0, "")
        assert table.read_text().splitlines()[1:] == ["1,3,9", f"2,{1 << 40},4"]


def test_thin_sections_that_fall_to_pieces_are_noted(run, shared_data, tmp_path):
    mask = tifffile.imread(shared_data / "em_vnc_sstem/mitochondria.tif")
    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, mask[:4, 380:700, 300:700], photometric="minisblack")
    given = (path, "--method", "watershed", "--spacing")

    def objects(*more):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr"
        status, _, notes = run(*given, *more, "--out", out)
        assert status == 0
        return np.asarray(read_ome_zarr_labels(out).labels[...]), notes

    labels, notes = objects("44,4,4")
    n_parts = label_components(labels > 0).max()
    assert f"{n_parts} components became {labels.max()} objects" in notes
    distance = re.search(r"to about (\d+) px", notes)[1]
    # the unit does not matter, nor whether it goes by blocks
    for more in (("11,1,1",), ("44,4,4", "--blocks")):
        again, more_notes = objects(*more)
        np.testing.assert_array_equal(again, labels)
        assert more_notes == notes
    fewer, notes = objects("44,4,4", "--min-distance", distance)
    assert fewer.max() <= 2 * n_parts
    assert "became" not in notes


def test_planes_of_unknown_distance_are_noted(run, tmp_path):
    path, out = tmp_path / "stack.tif", tmp_path / "out.tif"
    volume = np.zeros((4, 20, 20), np.uint8)
    volume[:, 4:16, 4:16] = 1
    tifffile.imwrite(
        path,
        volume,
        imagej=True,
        resolution=(2, 2),
        metadata={"axes": "ZYX", "unit": "um"},
    )
    given = (path, "--method", "watershed", "--out", out, "--overwrite")
    for more, is_noted in (((), True), (("--spacing", "3,1,1"), False)):
        status, _, notes = run(*given, *more)
        assert status == 0
        assert ("how large a pixel is along axis 0" in notes) == is_noted


def test_objects_that_touch_at_waists_are_no_reason_for_a_note(run, tmp_path):
    y, x = np.ogrid[:60, :420]
    discs = [(y - 30) ** 2 + (x - c) ** 2 < 14**2 for c in range(20, 400, 26)]
    Image.fromarray(np.any(discs, axis=0).astype(np.uint8)).save(tmp_path / "m.png")
    out = tmp_path / "o.tif"
    found = run(tmp_path / "m.png", "--method", "watershed", "--out", out)
    assert (found[0], found[2]) == (0, "")
    assert "15 objects" in found[1]
