"""Folders of OME-Zarr labels through napari's own Open; images are left to others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from napari.components import ViewerModel
from npe2 import PluginManager, PluginManifest
from ome_zarr_images import write_image

from napari_samseg.adapters import label_folders
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.ome_zarr_labels import write_ome_zarr_labels


@pytest.fixture
def labels():
    labels = np.zeros((3, 300, 310), np.uint16)
    labels[1:, 20:90, 30:200], labels[0, 5:9, 5:9] = 700, 2
    return labels


@pytest.fixture
def given(labels):
    return InstanceLabels(
        labels,
        {700: {"category": "axon"}},
        scale=(50.0, 4.0, 4.0),
        units=("nanometer",) * 3,
        translation=(100.0, 8.0, 0.0),
    )


def opened(path):
    viewer = ViewerModel()
    for data, attributes, _ in label_folders.choose_folder_reader(str(path))(str(path)):
        viewer.add_labels(data, **attributes)
    return list(viewer.layers)


def test_labels_are_opened_where_they_lie_and_can_be_painted(tmp_path, given):
    write_ome_zarr_labels(tmp_path / "n.zarr", given)
    (layer,) = opened(tmp_path / "n.zarr")
    assert layer.name == "n"
    np.testing.assert_array_equal(layer.data, given.labels)
    assert tuple(layer.scale) == given.scale
    assert tuple(layer.translate) == given.translation
    assert {str(unit) for unit in layer.units} == {"nanometer"}
    assert layer.features.set_index("index").loc[700, "category"] == "axon"
    layer.paint((1, 200, 200), 9)
    assert layer.data[1, 200, 200] == 9
    assert label_folders.read_label_folders(str(tmp_path / "n.zarr"))[0][0].max() == 700


def test_large_labels_are_shown_from_their_pyramid(tmp_path, given, monkeypatch):
    write_ome_zarr_labels(tmp_path / "n.zarr", given)
    monkeypatch.setattr(label_folders, "EDITABLE_BYTES", 1000)
    (layer,) = opened(tmp_path / "n.zarr")
    assert layer.multiscale
    assert [level.shape for level in layer.data] == [(3, 300, 310), (3, 150, 155)]
    assert tuple(layer.scale) == given.scale


def test_an_image_is_left_to_others_and_its_labels_are_not(tmp_path, given, labels):
    for version in ("0.4", "0.5"):
        image = tmp_path / f"{version}.zarr"
        write_image(image, labels, axes="zyx", version=version)
        assert label_folders.choose_folder_reader(str(image)) is None
    for name in ("cells", "more"):
        write_ome_zarr_labels(image / "labels" / name, given)
        write_ome_zarr_labels(tmp_path / "alone.zarr" / "labels" / name, given)
    assert label_folders.choose_folder_reader(str(image)) is None
    for folder in (image / "labels", tmp_path / "alone.zarr"):
        assert [layer.name for layer in opened(folder)] == ["cells", "more"]
    assert [layer.name for layer in opened(image / "labels" / "more")] == ["more"]
    both = [str(image / "labels"), str(image)]
    assert label_folders.choose_folder_reader(both) is None


def test_labels_of_the_edition_before_are_opened(tmp_path, labels):
    write_image(tmp_path / "l.zarr", labels, axes="zyx", version="0.4")
    place = tmp_path / "l.zarr" / ".zattrs"
    about = json.loads(place.read_text()) | {"image-label": {"version": "0.4"}}
    place.write_text(json.dumps(about))
    (layer,) = opened(tmp_path / "l.zarr")
    np.testing.assert_array_equal(layer.data, labels)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"attributes": 3}', "{}"])
def test_other_folders_are_left_to_others(tmp_path, content):
    if content is not None:
        (tmp_path / "zarr.json").write_text(content)
    assert label_folders.choose_folder_reader(str(tmp_path)) is None


def test_napari_finds_the_reader(tmp_path):
    manager = PluginManager()
    manager.register(PluginManifest.from_distribution("napari-samseg"))
    readers = [r.command for r in manager.iter_compatible_readers(str(tmp_path))]
    assert readers == ["napari-samseg.read_label_folders"]
