"""OME-Zarr labels: back exactly, plane by plane, and listed in their image."""

from __future__ import annotations

import json

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_images import write_image

from napari_samseg.core.errors import InvalidLabelsError, MissingFileError, OutputError
from napari_samseg.core.io.image_file import open_image_file
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.ome_zarr_labels import (
    read_ome_zarr_labels,
    write_ome_zarr_labels,
)


@pytest.fixture
def neurons(shared_data):
    return tifffile.imread(shared_data / "em_fib25_neuroproof/gt_bodies.tif")[:3]


def test_a_real_volume_comes_back(tmp_path, neurons):
    wide = np.tile(neurons, (1, 3, 4))
    known = {int(wide.max()): {"category": "axon", "area": np.float32(2)}}
    given = InstanceLabels(
        wide, known, scale=(50.0, 4.0, 4.0), units=("nanometer",) * 3
    )
    path = tmp_path / "n.zarr"
    write_ome_zarr_labels(path, given)
    back = read_ome_zarr_labels(path)
    np.testing.assert_array_equal(back.labels[:], wide)
    assert back.labels.dtype == f"u{wide.itemsize}"
    assert back.labels.chunks[0] == 1
    assert back.properties == {int(wide.max()): {"category": "axon", "area": 2.0}}
    assert (back.scale, back.units) == (given.scale, given.units)
    with open_image_file(path) as source:
        shapes = [level.shape for level in source.levels]
        np.testing.assert_array_equal(source.levels[2][:], wide[:, ::4, ::4])
    assert shapes == [(3, 750, 1000), (3, 375, 500), (3, 188, 250)]
    about = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    assert about["version"] == "0.5"
    changes = [
        dataset["coordinateTransformations"]
        for dataset in about["multiscales"][0]["datasets"]
    ]
    assert changes[1] == [{"type": "scale", "scale": [50.0, 8.0, 8.0]}]
    colours = {c["label-value"]: c["rgba"] for c in about["image-label"]["colors"]}
    assert set(colours) == set(np.unique(wide).tolist()) - {0}
    assert [p.name for p in tmp_path.iterdir()] == ["n.zarr"]


def test_lazy_labels_are_computed_a_plane_at_a_time(tmp_path):
    computed = []

    def block(block_info=None):
        computed.append(block_info[None]["chunk-location"][0])
        return np.full((1, 40, 30), computed[-1], np.uint16)

    lazy = da.map_blocks(block, chunks=((1,) * 5, (40,), (30,)), dtype="u2")
    computed.clear()
    write_ome_zarr_labels(tmp_path / "l.zarr", InstanceLabels(lazy))
    assert computed == [0, 1, 2, 3, 4]
    assert read_ome_zarr_labels(tmp_path / "l.zarr").labels[3].max() == 3


def test_labels_of_an_image_are_listed_in_it(tmp_path, neurons):
    image = tmp_path / "i.zarr"
    write_image(image, neurons, axes="zyx", version="0.5")
    for name in ("neurons", "more"):
        write_ome_zarr_labels(image / "labels" / name, InstanceLabels(neurons))
    group = zarr.open_group(image / "labels", mode="r")
    assert group.attrs["ome"] == {"version": "0.5", "labels": ["neurons", "more"]}
    about = group["more"].attrs["ome"]["image-label"]
    assert about["source"] == {"image": "../../"}
    with open_image_file(image) as source:
        np.testing.assert_array_equal(source.levels[0][:], neurons)
    np.testing.assert_array_equal(
        read_ome_zarr_labels(image, "more").labels[:], neurons
    )
    with pytest.raises(InvalidLabelsError, match="has the labels neurons, more: name"):
        read_ome_zarr_labels(image)


def test_what_is_there_stays(tmp_path):
    (tmp_path / "n.zarr").mkdir()
    (tmp_path / "n.zarr" / "mine.txt").touch()
    with pytest.raises(OutputError, match="is there already"):
        write_ome_zarr_labels(tmp_path / "n.zarr", InstanceLabels(np.ones((2, 2), int)))
    assert (tmp_path / "n.zarr" / "mine.txt").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 2)),
        np.full((3, 2, 2), -1),
        np.zeros(3, int),
        np.zeros((1,) * 6, int),
    ],
)
def test_nothing_is_left_of_labels_that_are_none(tmp_path, wrong):
    with pytest.raises(InvalidLabelsError):
        write_ome_zarr_labels(tmp_path / "n.zarr", InstanceLabels(wrong))
    assert list(tmp_path.iterdir()) == []


def test_places_without_labels(tmp_path):
    with pytest.raises(MissingFileError, match="no labels"):
        read_ome_zarr_labels(tmp_path / "none.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(InvalidLabelsError, match="no zarr array or group"):
        read_ome_zarr_labels(tmp_path / "empty.zarr")
    write_image(tmp_path / "f.zarr", np.zeros((1, 9, 9), np.float32), axes="zyx")
    with pytest.raises(InvalidLabelsError, match="an image of float32"):
        read_ome_zarr_labels(tmp_path / "f.zarr")


def test_labels_are_not_added_to_an_image_of_zarr_2(tmp_path):
    group = zarr.open_group(tmp_path / "image.zarr", mode="w", zarr_format=2)
    group.create_group("labels").attrs["labels"] = ["old"]
    path = tmp_path / "image.zarr/labels/new"
    with pytest.raises(OutputError, match="zarr 2"):
        write_ome_zarr_labels(path, InstanceLabels(np.ones((4, 4), np.uint8)))
    assert not (path.parent / "zarr.json").exists()
    assert not path.exists()


def test_a_folder_called_labels_is_not_taken_for_an_image(tmp_path):
    path = tmp_path / "labels" / "nuclei.zarr"
    write_ome_zarr_labels(path, InstanceLabels(np.ones((4, 4), np.uint8)))
    assert [entry.name for entry in path.parent.iterdir()] == ["nuclei.zarr"]
    assert "source" not in zarr.open(path).attrs["ome"]["image-label"]
    # an image need not be called so
    zarr.open_group(tmp_path / "image", mode="w")
    write_ome_zarr_labels(
        tmp_path / "image" / "labels" / "n", InstanceLabels(np.ones((4, 4), np.uint8))
    )
    listed = zarr.open_group(tmp_path / "image" / "labels").attrs["ome"]["labels"]
    assert listed == ["n"]
