"""COCO and JSON-lines: back exactly, and nothing lost without being counted."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from skimage.io import imread

from napari_samseg.core.errors import (
    InvalidLabelsError,
    LabelOverflowError,
    MissingFileError,
    SettingsError,
)
from napari_samseg.core.io.coco import (
    join_coco,
    read_coco,
    read_json_lines,
    write_coco,
    write_json_lines,
)
from napari_samseg.core.io.coco_labels import coco_to_labels, labels_to_coco
from napari_samseg.core.io.coco_masks import _unpack
from napari_samseg.core.io.instance_labels import InstanceLabels

FORMATS = {
    "coco": (write_coco, read_coco),
    "lines": (write_json_lines, read_json_lines),
}


@pytest.fixture
def real_labels(shared_data):
    nuclei = imread(min((shared_data / "dsb2018/labels").iterdir()))
    neurons = tifffile.imread(shared_data / "em_fib25_neuroproof/gt_bodies.tif")
    return {"nuclei": nuclei, "neurons": neurons[0], "volume": neurons[:4, :90]}


@pytest.mark.parametrize("which", ["nuclei", "neurons", "volume"])
@pytest.mark.parametrize("masks", ["rle", "polygon"])
@pytest.mark.parametrize("kind", FORMATS)
def test_real_labels_come_back(tmp_path, real_labels, which, masks, kind):
    labels = real_labels[which]
    known = {int(labels.max()): {"category": "large", "score": 0.5}}
    write, read = FORMATS[kind]
    dataset = labels_to_coco(InstanceLabels(labels, known), "a.tif", masks=masks)
    write(tmp_path / "file", dataset)
    back = coco_to_labels(read(tmp_path / "file"))
    assert back.notes == ()
    np.testing.assert_array_equal(back.labels, labels)
    assert back.labels.dtype == np.uint32
    assert back.properties[int(labels.max())]["category"] == "large"


@given(hnp.arrays(np.uint16, (7, 6), elements=st.integers(0, 2)))
def test_pycocotools_reads_the_same_pixels(labels):
    """Run lengths and polygons, holes included, as any other program takes them."""
    for masks in ("rle", "polygon"):
        dataset = labels_to_coco(InstanceLabels(labels), "a.png", masks=masks)
        for item in dataset.of(dataset.images[0]):
            found = item["segmentation"]
            if masks == "polygon":
                found = coco_mask.merge(coco_mask.frPyObjects(found, *labels.shape))
            mask = coco_mask.decode(found).astype(bool)
            np.testing.assert_array_equal(mask, labels == item["object_id"])
            assert item["area"] == mask.sum()
            x, y, width, height = item["bbox"]
            assert mask[y : y + height, x : x + width].sum() == mask.sum()


def coco_file(path, annotations, size=(10, 12), **more):
    content = {
        "images": [
            {"id": 3, "file_name": "p.png", "height": size[0], "width": size[1]}
        ],
        "annotations": [{"image_id": 3, "category_id": 7, **a} for a in annotations],
        "categories": [{"id": 7, "name": "cell"}],
        **more,
    }
    path.write_text(json.dumps(content))
    return path


SQUARE = [1, 1, 5, 1, 5, 5, 1, 5]


def test_what_cannot_be_painted_is_counted(tmp_path):
    runs = coco_mask.encode(np.asfortranarray(np.eye(10, 12, dtype=np.uint8)))
    path = coco_file(
        tmp_path / "c.json",
        [
            {"id": 11, "segmentation": [SQUARE]},
            {
                "id": 12,
                "segmentation": {"size": [10, 12], "counts": [0, 120]},
                "iscrowd": 1,
            },
            {"id": 13, "segmentation": [[1, 1, 5, 1]]},
            {"id": 14, "segmentation": [[1, 1, 5, 1, 5]]},
            {"id": 15, "segmentation": [[1, 1, 5, 1, 5, float("nan")]]},
            {"id": 16, "segmentation": [["a", 1, 5, 1, 5, 5]]},
            {"id": 17, "segmentation": {"size": [9, 9], "counts": [81]}},
            {"id": 18, "segmentation": {"size": [10, 12], "counts": [5, 5]}},
            {"id": 19, "segmentation": {"size": [10, 12], "counts": "nonsense"}},
            {"id": 20, "segmentation": {"size": [10, 12]}},
            {"id": 21, "segmentation": [], "bbox": [1, 1, 3, 3]},
            {"id": 22, "segmentation": []},
            {"id": 23, "segmentation": [[50, 50, 60, 50, 60, 60]]},
            {"id": 24, "segmentation": {"size": [10, 12], "counts": [0, 12, 108]}},
            {
                "id": 25,
                "segmentation": {
                    "size": [10, 12],
                    "counts": runs["counts"].decode(),
                },
            },
            {"id": 26, "image_id": 99, "segmentation": [SQUARE]},
        ],
    )
    found = coco_to_labels(read_coco(path))
    notes = "\n".join(found.notes)
    assert "1 annotation of crowds left out" in notes
    assert "9 annotations left out: the mask is broken" in notes
    assert "1 annotation left out: there is a box and no mask" in notes
    assert "1 annotation left out: no centre" in notes
    assert "1 annotation left out: the file does not hold the image" in notes
    assert set(np.unique(found.labels)) == {0, 1, 2, 3}
    assert found.properties[1]["category"] == "cell"


def test_overlaps_follow_a_rule_and_are_counted(tmp_path):
    path = coco_file(
        tmp_path / "c.json",
        [
            {"id": 1, "segmentation": [[2, 2, 4, 2, 4, 4, 2, 4]]},
            {"id": 2, "segmentation": [[0, 0, 8, 0, 8, 8, 0, 8]]},
            {"id": 3, "segmentation": [[2, 2, 4, 2, 4, 4, 2, 4]]},
        ],
    )
    found = coco_to_labels(read_coco(path))
    expected = np.zeros((10, 12), int)
    expected[:8, :8] = 2
    expected[2:4, 2:4] = 3
    np.testing.assert_array_equal(found.labels, expected)
    overlap, hidden = found.notes
    assert overlap.startswith("2 objects on top of larger ones, in 8 pixels: ")
    assert hidden == "1 object hidden whole under smaller ones, and lost: 1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "it is a list"),
        ('{"type": "FeatureCollection", "features": []}', "name it .geojson"),
        ('{"images": [{"id": 1}]}', "a height and a width"),
        ('{"images": [{"id": 1, "height": 0, "width": 3}]}', "has no pixels"),
        ('{"images": [null]}', "a height and a width"),
        (
            json.dumps({"images": [{"id": 1, "height": 2, "width": 3}] * 2}),
            "same id",
        ),
    ],
)
def test_files_that_are_no_coco(tmp_path, content, message):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(InvalidLabelsError, match=message):
        read_coco(tmp_path / "c.json")


def test_files_that_are_no_files(tmp_path):
    with pytest.raises(MissingFileError, match="no file"):
        read_coco(tmp_path / "none.json")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(InvalidLabelsError, match="not a text file"):
        read_coco(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 2 is not JSON"),
        ("[]", "line 2 is not a JSON object"),
        ('{"file_name": "b.png"}', "line 2: an image needs"),
        ('{"height": 1, "width": 1, "objects": {"a": [1], "b": []}}', "one length"),
        ('{"height": 1, "width": 1, "objects": {"a": 1}}', "one length"),
        ('{"height": 1, "width": 1, "objects": [1]}', "one length"),
    ],
)
def test_lines_that_are_none(tmp_path, line, message):
    first = '{"file_name": "a.png", "height": 4, "width": 4}'
    (tmp_path / "m.jsonl").write_text(f"{first}\n{line}\n")
    with pytest.raises(InvalidLabelsError, match=message):
        read_json_lines(tmp_path / "m.jsonl")


def test_one_image_of_several_is_named(tmp_path):
    labels = np.eye(5, dtype=np.uint8)
    parts = [
        labels_to_coco(InstanceLabels(labels * n), f"folder/{n}.png") for n in (1, 2)
    ]
    both = join_coco(parts)
    assert [image.image_id for image in both.images] == [1, 2]
    with pytest.raises(InvalidLabelsError, match=r"2 images.*folder/1\.png"):
        coco_to_labels(both)
    with pytest.raises(InvalidLabelsError, match=r"no image '3\.png'"):
        coco_to_labels(both, "3.png")
    np.testing.assert_array_equal(coco_to_labels(both, "2.png").labels, labels * 2)
    twice = join_coco([parts[0], parts[0]])
    with pytest.raises(InvalidLabelsError, match="not the planes of one volume"):
        coco_to_labels(twice)


def test_planes_that_are_missing_are_counted():
    dataset = labels_to_coco(InstanceLabels(np.ones((4, 3, 3), int)), "v.tif")
    some = dataset.select(image for image in dataset.images if image.plane != (1,))
    found = coco_to_labels(some)
    assert found.shape == (4, 3, 3)
    assert "1 plane of the volume" in found.notes[0]
    assert not found.labels[1].any()


def test_labels_that_are_none():
    with pytest.raises(InvalidLabelsError, match="from -1 up"):
        labels_to_coco(InstanceLabels(np.full((2, 2), -1)), "a.png")
    with pytest.raises(InvalidLabelsError, match="integers, not float64"):
        labels_to_coco(InstanceLabels(np.zeros((2, 2))), "a.png")
    with pytest.raises(SettingsError, match="rle or polygon"):
        labels_to_coco(InstanceLabels(np.zeros((2, 2), int)), "a.png", masks="x")
    empty = labels_to_coco(InstanceLabels(np.zeros((2, 2), int)), "a.png")
    assert not coco_to_labels(empty).labels.any()
    wide = np.array([[2**40, 0]], np.uint64)
    with pytest.raises(LabelOverflowError, match="1099511627776 does not fit"):
        coco_to_labels(labels_to_coco(InstanceLabels(wide), "a.png"))


def _dataset(tmp_path, items, **other):
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": 30}
    content = {"images": [image], "annotations": items, "categories": []} | other
    (tmp_path / "a.json").write_text(json.dumps(content))
    return read_coco(tmp_path / "a.json")


def _square(at, **more):
    ring = [at, 1, at + 4, 1, at + 4, 5, at, 5]
    return {"image_id": 1, "segmentation": [ring], **more}


@pytest.mark.parametrize(
    "counts",
    ["", "1", "52", "o", "zz~", [1.5, 2, 596.5], [600.0], [True, 599], 5, None],
)
def test_runs_that_do_not_fill_the_image_are_broken(tmp_path, counts):
    runs = {"size": [20, 30], "counts": counts}
    found = coco_to_labels(_dataset(tmp_path, [{"image_id": 1, "segmentation": runs}]))
    assert not found.labels.any()
    assert any("mask is broken" in note for note in found.notes)


def test_a_size_that_is_none_is_broken(tmp_path):
    runs = {"size": 5, "counts": "a"}
    found = coco_to_labels(_dataset(tmp_path, [{"image_id": 1, "segmentation": runs}]))
    assert any("mask is broken" in note for note in found.notes)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_strings_of_runs_mean_what_they_mean_to_pycocotools(mask):
    packed = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    lengths = _unpack(packed["counts"].decode())
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    np.testing.assert_array_equal(flat.reshape(mask.shape, order="F"), mask)


def test_ids_stay_when_one_annotation_has_none(tmp_path):
    crowd = {"image_id": 1, "iscrowd": 1, "segmentation": {"size": [20, 30]}}
    items = [_square(1, object_id=7), _square(8), _square(15, object_id=42), crowd]
    found = coco_to_labels(_dataset(tmp_path, items))
    assert [int(found.labels[3, x]) for x in (3, 10, 17)] == [7, 43, 42]
    assert any(
        "1 annotation without an id, numbered from" in note for note in found.notes
    )


def test_annotations_left_out_take_no_ids(tmp_path):
    crowd = {"image_id": 1, "iscrowd": 1, "segmentation": {"size": [20, 30]}}
    found = coco_to_labels(_dataset(tmp_path, [crowd, _square(1, object_id=7)]))
    assert set(np.unique(found.labels)) == {0, 7}
    assert not any("without an id" in note for note in found.notes)


def test_an_id_used_twice_in_a_plane_is_told(tmp_path):
    items = [_square(1, object_id=7), _square(8, object_id=7)]
    found = coco_to_labels(_dataset(tmp_path, items))
    assert any("1 annotation with the id of another" in n for n in found.notes)


def test_json_lines_keep_what_is_known_of_objects(tmp_path):
    labels = np.zeros((9, 9), np.uint8)
    labels[1:3, 1:3], labels[5:7, 5:7] = 1, 2
    known = {1: {"category": "cell", "score": 0.5}, 2: {"category": "cell"}}
    dataset = labels_to_coco(InstanceLabels(labels, known), "a.tif")
    write_json_lines(tmp_path / "a.jsonl", dataset)
    back = coco_to_labels(read_json_lines(tmp_path / "a.jsonl"))
    assert back.properties == known


@pytest.mark.parametrize("other", [{"categories": 5}, {"annotations": 5}])
def test_what_is_no_list_is_told(tmp_path, other):
    with pytest.raises(InvalidLabelsError, match="are no list"):
        _dataset(tmp_path, [], **other)


@pytest.mark.parametrize(
    ("more", "message"), [({"plane": [-2]}, "below 0"), ({"height": 10**7}, "too many")]
)
def test_images_that_cannot_be(tmp_path, more, message):
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": 30} | more
    with pytest.raises(InvalidLabelsError, match=message):
        _dataset(tmp_path, [], images=[image])
