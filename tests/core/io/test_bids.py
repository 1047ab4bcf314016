from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from bids_datasets import BidsTree, save

from napari_samseg.core.errors import MissingFileError
from napari_samseg.core.io.bids import index_bids
from napari_samseg.core.io.bids_names import BidsName

LABELS = ("seg-axon-manual", "seg-myelin-manual")


@pytest.fixture
def tree(tmp_path):
    return BidsTree(tmp_path / "dataset")


def texts(dataset):
    return [str(missing) for missing in dataset.missing]


def test_a_whole_dataset_lacks_nothing(tree):
    tree.add("sub-1")
    tree.add("sub-1", "sample-2")
    dataset = index_bids(tree.root, LABELS)
    assert texts(dataset) == []
    first, second = dataset.images
    assert first.path.name == "sub-1_sample-1_SEM.png"
    assert second.name["sample"] == "sample-2"
    assert first.pixel_size == (0.1, 0.1)
    assert first.labels[LABELS[0]] == tree.label("sub-1", "sample-1", "axon")
    assert dataset.description["Name"] == "fibres"


def test_what_is_of_sub_10_is_not_of_sub_1(tree):
    tree.add("sub-1")
    tree.add("sub-10")
    tree.add("sub-10", "sample-11")
    for subject, sample in (("sub-1", "sample-1"), ("sub-10", "sample-1")):
        tree.label(subject, sample, "axon").unlink()
    # of another subject, another sample, and another image of the sample
    folder = tree.label("sub-1", "sample-1", "axon").parent
    for name in ("sub-10_sample-1_SEM", "sub-1_sample-11_SEM", "sub-1_sample-1_TEM"):
        save(folder / f"{name}_seg-axon-manual.png", np.zeros((60, 80), np.uint8))
    images = {image.sample: image for image in index_bids(tree.root, LABELS).images}
    assert LABELS[0] not in images["sub-1 sample-1"].labels
    assert LABELS[0] not in images["sub-10 sample-1"].labels
    assert "sub-10_sample-11" in images["sub-10 sample-11"].labels[LABELS[0]].name


def test_what_is_missing_is_told_for_each_sample(tree):
    for subject in ("sub-1", "sub-2", "sub-3", "sub-4"):
        tree.add(subject)
    tree.label("sub-1", "sample-1", "axon").rename(
        tree.label("sub-1", "sample-1", "axon").with_name(
            "sub-1_sample-1_SEM_seg-axon-auto.png"
        )
    )
    tree.stem("sub-2", "sample-1").with_suffix(".json").unlink()
    tree.stem("sub-3", "sample-1").with_suffix(".png").unlink()
    tree.samples = [("sub-1", "sample-1"), ("sub-2", "sample-1"), ("sub-3", "sample-1")]
    tree.write_tables()
    (tree.root / "participants.tsv").write_text("participant_id\nsub-1\nsub-9\n")
    (tree.root / "sub-5").mkdir()
    assert texts(index_bids(tree.root, LABELS)) == [
        (
            "sub-1 sample-1: no seg-axon-manual in labels/sub-1/micr; there are "
            "sub-1_sample-1_SEM_seg-axon-auto, sub-1_sample-1_SEM_seg-myelin-manual"
        ),
        "sub-2 sample-1: no sub-2_sample-1_SEM.json, which states the size of a pixel",
        "sub-3 sample-1: no image, though it is in samples.tsv",
        "sub-4 sample-1: not in samples.tsv",
        "sub-5: no folder micr",
        "sub-9: no image, though in participants.tsv",
    ]


def test_double_names_are_told_and_neither_is_taken(tree):
    stem = tree.add("sub-1")
    tree.add("sub-2")
    save(stem.with_suffix(".tif"), np.zeros((60, 80), np.uint8))
    label = tree.label("sub-2", "sample-1", "axon")
    save(label.with_suffix(".tif"), np.zeros((60, 80), np.uint8))
    tree.samples.append(("sub-2", "sample-1"))
    tree.write_tables()
    dataset = index_bids(tree.root, LABELS)
    assert [image.sample for image in dataset.images] == ["sub-2 sample-1"]
    assert LABELS[0] not in dataset.images[0].labels
    assert texts(dataset) == [
        (
            "sub-1 sample-1: sub-1_sample-1_SEM.png and sub-1_sample-1_SEM.tif have "
            "one name and are left out: keep one of them"
        ),
        "sub-2 sample-1: 2 rows of samples.tsv are its",
        (
            "sub-2 sample-1: sub-2_sample-1_SEM_seg-axon-manual.png and "
            "sub-2_sample-1_SEM_seg-axon-manual.tif are both its seg-axon-manual"
        ),
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sub-2_sample-1_SEM.png", "its name is that of another folder"),
        ("sub-1_SEM.png", "its name has no sample-"),
        ("picture of it.png", "it has no BIDS name"),
        ("sub-1_sub-1_sample-1_SEM.png", "it has no BIDS name"),
    ],
)
def test_files_in_the_wrong_place_are_told(tree, name, message):
    stem = tree.add("sub-1")
    shutil.copy(stem.with_suffix(".png"), stem.parent / name)
    dataset = index_bids(tree.root)
    assert len(dataset.images) == 1
    (text,) = texts(dataset)
    assert name in text
    assert message in text


def test_a_broken_link_is_told(tree):
    stem = tree.add("sub-1")
    tree.add("sub-2")
    stem.with_suffix(".png").unlink()
    stem.with_suffix(".png").symlink_to(tree.root / ".git" / "annex" / "gone")
    label = tree.label("sub-2", "sample-1", "axon")
    label.unlink()
    label.symlink_to(tree.root / "gone")
    sidecar = tree.stem("sub-2", "sample-1").with_suffix(".json")
    sidecar.unlink()
    sidecar.symlink_to(tree.root / "gone")
    dataset = index_bids(tree.root, LABELS)
    assert len(dataset.images) == 1
    found = "\n".join(texts(dataset))
    assert "SEM.png is a link to a file that is not here (git annex get" in found
    assert "seg-axon-manual.png is a link to a file that is not here" in found
    assert "sub-2_sample-1_SEM.json is a link to a file that is not here" in found


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"PixelSize": [70, 140], "PixelSizeUnits": "nm"}, (0.14, 0.07)),
        ({"PixelSize": [0.001, 0.002, 5], "PixelSizeUnits": "mm"}, (2.0, 1.0)),
        ({"PixelSize": [0.3], "PixelSizeUnits": "um"}, (0.3, 0.3)),
        ({"PixelSize": [0.1, 0.1]}, "PixelSizeUnits is None"),
        ({"PixelSize": [0.1, 0.1], "PixelSizeUnits": ["um"]}, "not one of mm, um, nm"),
        ({"PixelSize": [0.1, -1], "PixelSizeUnits": "um"}, "not two or three positive"),
        ({"PixelSize": [True, 1], "PixelSizeUnits": "um"}, "PixelSize is [True, 1]"),
        ({"PixelSize": "0.1", "PixelSizeUnits": "um"}, "PixelSize is '0.1'"),
        ({"PixelSizeUnits": "um"}, "has no PixelSize"),
        ([0.1], "is no JSON object"),
    ],
)
def test_the_size_of_a_pixel(tree, fields, expected):
    path = tree.add("sub-1").with_suffix(".json")
    path.write_text(json.dumps(fields))
    dataset = index_bids(tree.root)
    if isinstance(expected, tuple):
        assert dataset.images[0].pixel_size == pytest.approx(expected)
        assert not dataset.missing
    else:
        assert dataset.images[0].pixel_size is None
        assert any(expected in t and path.name in t for t in texts(dataset))


def test_json_files_are_inherited(tree):
    for subject in ("sub-1", "sub-2", "sub-10"):
        tree.add(subject).with_suffix(".json").unlink()
    general = {"PixelSize": [5, 5], "PixelSizeUnits": "um"}
    (tree.root / "SEM.json").write_text(json.dumps(general))
    (tree.root / "TEM.json").write_text(json.dumps({"PixelSize": [7, 7]}))
    special = tree.root / "sub-1" / "sub-1_SEM.json"
    special.write_text(json.dumps({"PixelSize": [3, 3]}))
    sizes = {i.name["sub"]: i.pixel_size for i in index_bids(tree.root).images}
    assert sizes == {"sub-1": (3, 3), "sub-2": (5, 5), "sub-10": (5, 5)}


def test_sessions_and_labels_without_the_suffix(tree):
    tree.add("sub-1")
    folder = tree.root / "sub-1" / "ses-2" / "micr"
    save(folder / "sub-1_ses-2_sample-1_SEM.ome.tif", np.zeros((9, 9), np.uint8))
    place = tree.root / "derivatives" / "labels" / "sub-1" / "ses-2" / "micr"
    save(place / "sub-1_ses-2_sample-1_label-axon_dseg.png", np.zeros((9, 9), np.uint8))
    first, second = index_bids(tree.root, ["label-axon_dseg"]).images
    assert not first.labels
    assert second.name.extension == ".ome.tif"
    assert second.labels["label-axon_dseg"].parent == place


def test_tables_that_cannot_be_read_are_told(tree):
    tree.add("sub-1")
    (tree.root / "samples.tsv").write_text("sample\nsample-1\n")
    (tree.root / "participants.tsv").write_bytes(b"\xff\xfe\x00")
    (tree.root / "dataset_description.json").write_text("{")
    found = "\n".join(texts(index_bids(tree.root)))
    assert "samples.tsv has no column participant_id, sample_id" in found
    assert "participants.tsv is not text in UTF-8" in found
    assert "dataset_description.json is not JSON" in found
    for name in ("samples.tsv", "dataset_description.json"):
        (tree.root / name).unlink()
    found = texts(index_bids(tree.root))
    assert {"no samples.tsv", "no dataset_description.json"} <= set(found)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match="there is no folder"):
        index_bids(tmp_path / "none")
    with pytest.raises(MissingFileError, match="no BIDS microscopy images"):
        index_bids(tmp_path)


def test_names_are_taken_apart():
    name = BidsName.parse("sub-1_sample-2a_chunk-03_SEM.ome.tif")
    assert name["chunk"] == "chunk-03"
    assert name["ses"] == ""
    assert (name.entity_stem, name.suffix) == ("sub-1_sample-2a_chunk-03", "SEM")
    assert name.stem + name.extension == "sub-1_sample-2a_chunk-03_SEM.ome.tif"
    for wrong in ("sub-1_sample-2_SEM.jpg", "sub_SEM.png", "sub-1_x-y-z_SEM.png"):
        with pytest.raises(ValueError, match="no BIDS name"):
            BidsName.parse(wrong)
