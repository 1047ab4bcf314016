from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import tifffile
from bids_datasets import BidsTree, draw_fibres, save
from PIL import Image

from napari_samseg.core.errors import MissingFileError, OutputError, SettingsError
from napari_samseg.core.instances.bids_job import BidsJob, bids_derivatives
from napari_samseg.core.settings import InstanceSettings

MASKS = {"axon": "seg-axon-manual", "myelin": "seg-myelin-manual"}
FILES = (
    "instance-map.json",
    "instance-map.png",
    "morphometrics.csv",
    "myelinmap.png",
    "prompts.csv",
    "qc.html",
    "qc.png",
)


@pytest.fixture
def tree(tmp_path):
    return BidsTree(tmp_path / "dataset")


def make(tree, *, method="axon-myelin", min_size=0, **options):
    if "labels" not in options:
        options = MASKS | options
    settings = InstanceSettings(method=method, min_size=min_size)
    steps = bids_derivatives(BidsJob(tree.root, **options), settings)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def maps(tree, subject="sub-1"):
    return tree.root / "derivatives" / "maps" / subject / "micr"


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_all_that_belongs_to_an_image_is_written(tree):
    tree.add("sub-1")
    report = make(tree)
    ((name, found),) = report.made
    assert (name, found.n_objects) == ("sub-1_sample-1", 2)
    assert (report.failed, report.notes, report.missing) == ([], [], ())
    folder = maps(tree)
    assert sorted(p.name for p in folder.iterdir()) == [
        f"sub-1_sample-1_{name}" for name in FILES
    ]
    axon, myelin = draw_fibres()
    labels = np.asarray(Image.open(folder / "sub-1_sample-1_instance-map.png"))
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels > 0, axon | myelin)
    myelin_map = np.asarray(Image.open(folder / "sub-1_sample-1_myelinmap.png"))
    np.testing.assert_array_equal(myelin_map, np.where(myelin, labels, 0))
    text = (folder / "sub-1_sample-1_morphometrics.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["object"] for row in rows] == ["1", "2"]
    assert float(rows[1]["axonmyelin_diam (um)"]) == pytest.approx(2.4, rel=0.03)
    text = (folder / "sub-1_sample-1_prompts.csv").read_text()
    prompts = list(csv.DictReader(text.splitlines()))
    for prompt, row in zip(prompts, rows, strict=True):
        assert {k: v for k, v in row.items() if k.startswith("bbox")} == {
            k: v for k, v in prompt.items() if k.startswith("bbox")
        }
        y, x = (int(float(prompt[name])) for name in ("y0", "x0"))
        assert labels[y, x] == int(prompt["object"])


def test_the_folder_is_a_dataset_of_derivatives(tree):
    tree.add("sub-1")
    make(tree)
    text = (maps(tree).parents[1] / "dataset_description.json").read_text()
    description = json.loads(text)
    assert description["Name"] == "Instances of fibres"
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "napari-samseg"
    assert description["DatasetLinks"] == {"raw": "../.."}
    assert description["License"] == "CC0"
    record = json.loads((maps(tree) / "sub-1_sample-1_instance-map.json").read_text())
    assert record["Sources"][0] == "bids:raw:sub-1/micr/sub-1_sample-1_SEM.png"
    assert (record["PixelSize"], record["PixelSizeUnits"]) == ([0.1, 0.1], "um")
    assert (record["Objects"], record["UnassignedPixels"]) == (2, 0)
    assert record["Samseg"]["Complete"] is True


def test_what_is_complete_stays_and_what_is_missing_is_added(tree):
    tree.add("sub-1")
    tree.add("sub-2")
    make(tree)
    prompts = maps(tree) / "sub-1_sample-1_prompts.csv"
    prompts.write_text("by hand")
    (maps(tree) / "sub-1_sample-1_qc.png").unlink()
    tree.add("sub-3")
    report = make(tree)
    assert [name for name, _ in report.made] == ["sub-1_sample-1", "sub-3_sample-1"]
    assert report.kept == ["sub-2_sample-1"]
    assert prompts.read_text() == "by hand"
    assert (maps(tree) / "sub-1_sample-1_qc.png").exists()
    assert make(tree).made == []


def test_nothing_is_overwritten_unless_asked(tree):
    tree.add("sub-1")
    tree.add("sub-2")
    maps(tree, "sub-2").mkdir(parents=True)
    foreign = maps(tree, "sub-2") / "sub-2_sample-1_qc.png"
    foreign.write_text("mine")
    report = make(tree)
    assert [name for name, _ in report.failed] == ["sub-2_sample-1"]
    assert "elsewhere, and stays: --overwrite makes it anew" in report.failed[0][1]
    before = contents(maps(tree))
    report = make(tree, min_size=400)
    assert "made from other files or settings, and stays" in report.failed[0][1]
    assert contents(maps(tree)) == before
    assert foreign.read_text() == "mine"
    assert sorted(p.name for p in maps(tree, "sub-2").iterdir()) == [foreign.name]
    report = make(tree, min_size=400, overwrite=True)
    assert [found.n_objects for _, found in report.made] == [1, 1]
    assert contents(maps(tree)) != before


@pytest.mark.parametrize("content", [{"Samseg": 5}, {"Samseg": None}, [5], 5])
def test_a_record_of_somebody_else_stops_nothing(tree, content):
    tree.add("sub-1")
    tree.add("sub-2")
    record = maps(tree) / "sub-1_sample-1_instance-map.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps(content))
    report = make(tree)
    assert [name for name, _ in report.made] == ["sub-2_sample-1"]
    ((name, reason),) = report.failed
    assert name == "sub-1_sample-1"
    assert f"{record} and what belongs to it was made elsewhere" in reason
    assert len(make(tree, overwrite=True).made) == 1


def test_labels_that_changed_are_noticed(tree):
    tree.add("sub-1")
    make(tree)
    path = tree.label("sub-1", "sample-1", "axon")
    save(path, np.asarray(Image.open(path))[::-1].copy())
    ((_, reason),) = make(tree).failed
    assert "made from other files or settings" in reason


def test_what_was_cut_off_is_made_anew(tree, monkeypatch):
    tree.add("sub-1")

    def fail(*arguments, **options):
        raise KeyboardInterrupt

    place = "napari_samseg.core.instances.bids_job.write_qc_picture"
    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(KeyboardInterrupt):
            make(tree)
    instances = maps(tree) / "sub-1_sample-1_instance-map.png"
    instances.write_bytes(instances.read_bytes()[:50])
    assert len(make(tree).made) == 1
    assert np.asarray(Image.open(instances)).max() == 2
    assert make(tree).kept == ["sub-1_sample-1"]


def test_one_bad_image_does_not_keep_the_others_from_it(tree):
    for i in range(1, 8):
        tree.add(f"sub-{i}")
    tree.label("sub-1", "sample-1", "axon").unlink()
    tree.label("sub-2", "sample-1", "myelin").write_bytes(b"no picture")
    small = np.zeros((30, 40), np.uint8)
    save(tree.label("sub-3", "sample-1", "axon"), small)
    for what in ("axon", "myelin"):
        save(tree.label("sub-4", "sample-1", what), small)
    tree.stem("sub-5", "sample-1").with_suffix(".png").write_bytes(b"")
    colours = np.zeros((60, 80, 3), np.uint8)
    colours[..., 0] = 255
    save(tree.label("sub-6", "sample-1", "axon"), colours)
    report = make(tree)
    assert [name for name, _ in report.made] == ["sub-7_sample-1"]
    reasons = [reason for _, reason in report.failed]
    for reason, part in zip(
        reasons,
        (
            "its labels are missing: seg-axon-manual",
            "sub-2_sample-1_SEM_seg-myelin-manual.png cannot be read",
            "they are not masks of one image",
            "has 60 x 80 pixels, and its labels 30 x 40: they are not labels of it",
            "sub-5_sample-1_SEM.png cannot be read",
            "is a coloured picture",
        ),
        strict=True,
    ):
        assert part in reason
    assert [m.sample for m in report.missing] == ["sub-1 sample-1"]
    left = sorted(p.name for p in maps(tree).parents[1].rglob("*_*.*"))
    assert left == ["dataset_description.json", *(f"sub-7_sample-1_{n}" for n in FILES)]


def test_rgb_masks_with_soft_edges(tree):
    tree.add("sub-1")
    path = tree.label("sub-1", "sample-1", "axon")
    mask = np.asarray(Image.open(path)).copy()
    edge = np.flatnonzero((mask == 0) & (np.roll(mask, 1, axis=1) == 255))
    mask.ravel()[edge[::2]], mask.ravel()[edge[1::2]] = 30, 233
    save(path, np.stack([mask] * 3, axis=-1))
    report = make(tree)
    assert [found.n_objects for _, found in report.made] == [2]
    assert f"{len(edge)} pixels had values between" in report.notes[0][1]


def test_pixels_of_unknown_size_and_labels_without_objects(tree):
    for subject in ("sub-1", "sub-2"):
        tree.add(subject).with_suffix(".json").unlink()
    for what in ("axon", "myelin"):
        save(tree.label("sub-2", "sample-1", what), np.zeros((60, 80), np.uint8))
    report = make(tree)
    unknown = "measured in pixels: the size of a pixel is not known"
    assert report.notes == [
        ("sub-1_sample-1", unknown),
        ("sub-2_sample-1", "its labels hold no object"),
        ("sub-2_sample-1", unknown),
    ]
    (header, *rows) = (
        (maps(tree, "sub-2") / "sub-2_sample-1_morphometrics.csv")
        .read_text()
        .splitlines()
    )
    assert "axon_diam (px)" in header
    assert rows == []
    # they are as true of files that a second run leaves alone
    second = make(tree)
    assert second.kept == ["sub-1_sample-1", "sub-2_sample-1"]
    assert second.notes == report.notes
    report = make(tree, pixel_size=(0.2,), overwrite=True)
    assert report.notes == [("sub-2_sample-1", "its labels hold no object")]
    text = (maps(tree) / "sub-1_sample-1_morphometrics.csv").read_text()
    assert "axon_diam (um)" in text


def test_one_file_of_classes_and_another_format(tree):
    stem = tree.add("sub-1")
    axon, myelin = draw_fibres()
    folder = tree.label("sub-1", "sample-1", "axon").parent
    classes = np.where(axon, 2, myelin).astype(np.uint8)
    save(folder / f"{stem.name}_dseg.png", classes)
    out = tree.root.parent / "elsewhere"
    report = make(tree, labels="dseg", method="components", out=out, map_format="tif")
    assert [found.n_objects for _, found in report.made] == [4]
    place = out / "sub-1" / "micr"
    assert tifffile.imread(place / "sub-1_sample-1_instance-map.tif").max() == 4
    assert not list(place.glob("*myelin*"))
    text = (place / "sub-1_sample-1_morphometrics.csv").read_text()
    assert text.startswith("object,x0 (px),y0 (px),area (um^2),diam (um)")
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetLinks"] == {"raw": "../dataset"}


def test_what_is_to_know_of_how_objects_were_found_is_told(tree):
    tree.add("sub-1")
    report = make(tree, method="components")
    ((name, note),) = report.notes
    assert name == "sub-1_sample-1"
    assert "the method axon-myelin makes one object of each axon" in note
    again = make(tree, method="components")
    assert (again.made, again.notes) == ([], report.notes)


def test_labels_may_lie_beyond_the_dataset(tree):
    tree.add("sub-1")
    elsewhere = tree.root.parent / "masks"
    (tree.root / "derivatives" / "labels").rename(elsewhere)
    report = make(tree, labels_folder=elsewhere)
    assert [found.n_objects for _, found in report.made] == [2]
    record = json.loads((maps(tree) / "sub-1_sample-1_instance-map.json").read_text())
    assert record["Sources"] == [
        "bids:raw:sub-1/micr/sub-1_sample-1_SEM.png",
        "../masks/sub-1/micr/sub-1_sample-1_SEM_seg-axon-manual.png",
        "../masks/sub-1/micr/sub-1_sample-1_SEM_seg-myelin-manual.png",
    ]


def test_more_objects_than_16_bits_are_refused_with_the_way_out(tree):
    tree.add("sub-1", shape=(520, 520))
    dots = np.zeros((520, 520), np.uint8)
    dots[::2, ::2] = 255
    for what in ("axon", "myelin"):
        save(tree.label("sub-1", "sample-1", what), dots)
    ((_, reason),) = make(tree).failed
    assert "67600 does not fit the 16 bits" in reason
    assert "write a .tif" in reason
    # what that has left does not stand in the way
    for what in ("axon", "myelin"):
        few = np.where(np.arange(520) < 20, dots, 0)
        save(tree.label("sub-1", "sample-1", what), few)
    assert len(make(tree, map_format="tif").made) == 1


def test_images_that_differ_in_their_suffix_keep_apart(tree):
    stem = tree.add("sub-1")
    folder = tree.label("sub-1", "sample-1", "axon").parent
    for path in (*stem.parent.iterdir(), *folder.iterdir()):
        new = path.with_name(path.name.replace("_SEM", "_TEM"))
        new.write_bytes(path.read_bytes())
    report = make(tree)
    assert [name for name, _ in report.made] == [
        "sub-1_sample-1_SEM",
        "sub-1_sample-1_TEM",
    ]


def test_volumes_are_refused_and_single_planes_are_not(tree):
    stem = tree.add("sub-1")
    tree.add("sub-2")
    for subject in ("sub-1", "sub-2"):
        path = tree.stem(subject, "sample-1").with_suffix(".png")
        image = np.asarray(Image.open(path))
        path.unlink()
        n = 1 if subject == "sub-1" else 3
        stack = np.repeat(image[np.newaxis], n, axis=0)
        tifffile.imwrite(path.with_suffix(".ome.tif"), stack)
    assert stem.with_suffix(".ome.tif").exists()
    report = make(tree)
    assert [name for name, _ in report.made] == ["sub-1_sample-1"]
    assert "has 3 x 60 x 80 pixels" in report.failed[0][1]


def test_folders_of_images_are_not_written_to(tree):
    tree.add("sub-1")
    before = contents(tree.root)
    for out in (tree.root, tree.root / "sub-1" / "micr"):
        with pytest.raises(OutputError, match="holds the images of the dataset"):
            make(tree, out=out)
    labels = tree.root / "derivatives" / "labels"
    for out in (labels, labels / "sub-1"):
        with pytest.raises(OutputError, match="holds the labels of the dataset"):
            make(tree, out=out)
    other = tree.root.parent / "other"
    BidsTree(other)
    with pytest.raises(OutputError, match="of type 'raw', not of derivatives"):
        make(tree, out=other)
    (other / "dataset_description.json").write_text("{")
    with pytest.raises(OutputError, match="cannot be read"):
        make(tree, out=other)
    assert contents(tree.root) == before


def test_wrong_jobs_are_refused(tree):
    tree.add("sub-1")
    for names in ({}, {"axon": "a"}, {"labels": "l", "axon": "a", "myelin": "m"}):
        with pytest.raises(SettingsError, match="say how the labels"):
            BidsJob(tree.root, **names)
    with pytest.raises(SettingsError, match="png or tif"):
        BidsJob(tree.root, labels="l", map_format="gif")
    for sides in ((1, 2, 3), (0,), (0.1, -1), (math.nan,), (math.inf, 1), ()):
        with pytest.raises(SettingsError, match="the size of a pixel is one number"):
            BidsJob(tree.root, labels="l", pixel_size=sides)
    job = BidsJob(tree.root / "none", labels="l")
    with pytest.raises(MissingFileError, match="there is no folder"):
        list(bids_derivatives(job, InstanceSettings()))
