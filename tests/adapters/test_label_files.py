"""Labels through napari's own Open and Save."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from npe2 import PluginManager, PluginManifest
from skimage.io import imread

from napari_samseg.adapters import label_files
from napari_samseg.adapters.instance_layers import add_instances
from napari_samseg.adapters.refined_layer import add_refined
from napari_samseg.adapters.write_layers import add_semantic_labels
from napari_samseg.core.errors import InvalidLabelsError, OutputError
from napari_samseg.core.io.coco import CocoDataset, CocoImage, join_coco, write_coco
from napari_samseg.core.io.coco_labels import labels_to_coco
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.label_formats import LABEL_FORMATS, ReadRequest
from napari_samseg.core.io.voxel_space import VoxelSpace


@pytest.fixture
def writers():
    manifest = PluginManifest.from_distribution("napari-samseg")
    commands = {c.id: c for c in manifest.contributions.commands}
    return {
        w.filename_extensions[0]: (w, commands[w.command])
        for w in manifest.contributions.writers
    }


@pytest.fixture
def layer(shared_data):
    labels = imread(min((shared_data / "dsb2018/labels").iterdir()))
    table = pd.DataFrame({"index": [0, 1, 2], "class": [None, "cell", "debris"]})
    return Labels(
        labels,
        name="nuclei",
        features=table,
        scale=(0.5, 0.25),
        units=("micrometer", "micrometer"),
    )


def written(layer, path, name):
    data, meta, _ = layer.as_layer_data_tuple()
    assert getattr(label_files, name)(str(path), data, meta) == [str(path)]
    return path


def test_the_menu_offers_every_format_by_its_suffix(writers):
    offered = {entry.suffixes[0] for entry in LABEL_FORMATS.values() if entry.write} - {
        ".tif"
    }  # which napari writes itself
    assert set(writers) == offered
    titles = {entry.suffixes[0]: entry.title for entry in LABEL_FORMATS.values()}
    for suffix, (writer, _) in writers.items():
        assert writer.display_name == titles[suffix]


@pytest.mark.parametrize(
    ("suffix", "name"),
    [(".json", "coco"), (".jsonl", "jsonl"), (".geojson", "geojson")],
)
def test_saved_and_opened_again(tmp_path, layer, suffix, name):
    path = written(layer, tmp_path / f"n{suffix}", f"write_{name}")
    read = label_files.choose_reader(str(path))
    ((data, attributes, kind),) = read(str(path))
    assert kind == "labels"
    np.testing.assert_array_equal(data, layer.data)
    back = Labels(data, **attributes)
    assert back.features.set_index("index").loc[2, "category"] == "debris"


def test_saved_as_zarr_png_and_rois(tmp_path, layer):
    path = written(layer, tmp_path / "n.zarr", "write_ome_zarr")
    with LABEL_FORMATS["ome-zarr"].read(path, ReadRequest()) as found:
        np.testing.assert_array_equal(found.labels[:], layer.data)
        assert found.scale == (0.5, 0.25)
        assert found.units == ("micrometer", "micrometer")
        assert found.properties == {1: {"category": "cell"}, 2: {"category": "debris"}}
    with pytest.raises(OutputError):
        written(layer, path, "write_ome_zarr")
    path = written(layer, tmp_path / "n.png", "write_png")
    np.testing.assert_array_equal(imread(path), layer.data)
    colours = imread(written(layer, tmp_path / "n.colour.png", "write_colour_png"))
    assert colours.shape == (*layer.data.shape, 3)
    assert written(layer, tmp_path / "n.zip", "write_rois").stat().st_size > 1000


def test_multiscale_labels_are_saved_at_full_resolution(tmp_path, layer):
    pyramid = Labels([layer.data, layer.data[::2, ::2]], multiscale=True)
    path = written(pyramid, tmp_path / "n.png", "write_png")
    np.testing.assert_array_equal(imread(path), layer.data)


def test_each_image_of_a_file_becomes_a_layer(tmp_path):
    labels = np.eye(6, dtype=np.uint8)
    parts = [labels_to_coco(InstanceLabels(labels * n), f"{n}.png") for n in (1, 2)]
    write_coco(tmp_path / "c.json", join_coco(parts))
    layers = label_files.read_layers(str(tmp_path / "c.json"))
    assert [attributes["name"] for _, attributes, _ in layers] == ["1", "2"]
    images = tuple(CocoImage(n, f"{n}.png", (4, 4)) for n in range(1, 40))
    write_coco(tmp_path / "many.json", CocoDataset(images, {}, {}))
    with pytest.raises(InvalidLabelsError, match="39 images, too many"):
        label_files.read_layers(str(tmp_path / "many.json"))


def test_a_file_of_many_images_is_parsed_once(tmp_path, monkeypatch):
    labels = np.eye(6, dtype=np.uint8)
    parts = [labels_to_coco(InstanceLabels(labels), f"{n}.png") for n in range(3)]
    write_coco(tmp_path / "c.json", join_coco(parts))
    parsed = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text: parsed.append(1) or loads(text))
    assert len(label_files.read_layers(str(tmp_path / "c.json"))) == 3
    assert parsed == [1]


def test_objects_of_a_volume_lie_where_the_volume_does(tmp_path):
    space = VoxelSpace(np.diag([-1.0, 2, 3, 1]), 1)
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1, 2:, 3] = 6
    dataset = labels_to_coco(InstanceLabels(labels, space=space), "v.nii")
    write_coco(tmp_path / "v.json", dataset)
    ((data, attributes, _),) = label_files.read_layers(str(tmp_path / "v.json"))
    layer = Labels(data, **attributes)
    assert layer.scale.tolist() == [3, 2, 1]
    assert {str(unit) for unit in layer.units} == {"millimeter"}
    path = written(layer, tmp_path / "back.nii", "write_nifti")
    np.testing.assert_array_equal(nibabel.load(path).affine, space.affine)
    np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj).T, labels)


@pytest.mark.parametrize(
    ("name", "content", "is_ours"),
    [
        ("a.json", '{"annotations": []}', True),
        ("a.json", '[{"type": "Feature"}]', True),
        ("a.json", '{"settings": 1}', False),
        ("a.geojson", "", True),
        ("a.txt", '"images"', False),
    ],
)
def test_other_json_is_left_to_others(tmp_path, name, content, is_ours):
    path = tmp_path / name
    path.write_text(content)
    assert (label_files.choose_reader(str(path)) is not None) == is_ours
    assert label_files.choose_reader(str(tmp_path / "none.json")) is None
    assert label_files.choose_reader([str(path), str(tmp_path / "none.json")]) is None


def test_what_was_left_out_is_shown(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("napari.utils.notifications.show_warning", shown.append)
    content = {
        "images": [{"id": 1, "file_name": "p.png", "height": 5, "width": 5}],
        "annotations": [{"image_id": 1, "iscrowd": 1, "segmentation": [[1, 1]]}],
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    label_files.read_layers(str(tmp_path / "c.json"))
    assert "c.json: p: 1 annotation of crowds" in shown[0]


def test_napari_finds_the_reader_and_the_writers(writers):
    manager = PluginManager()
    manager.register(PluginManifest.from_distribution("napari-samseg"))
    readers = list(manager.iter_compatible_readers("objects.geojson"))
    assert [reader.command for reader in readers] == ["napari-samseg.read_objects"]
    for suffix, (expected, _) in writers.items():
        writer, path = manager.get_writer(f"n{suffix}", ["labels"])
        assert (writer.command, path) == (expected.command, f"n{suffix}")


def test_a_volume_of_a_patient_is_opened_as_what_it_is(shared_data, tmp_path):
    folder = shared_data / "mri_ms_lesions"
    paths = [str(folder / f"patient19_{n}_MNI.nii.gz") for n in ("FLAIR", "lesions")]
    image, lesions = label_files.choose_reader(paths)(paths)
    assert (image[2], lesions[2]) == ("image", "labels")
    layer = Image(image[0], **image[1])
    assert layer.name == "patient19_FLAIR_MNI"
    assert layer.metadata["nifti"]["orientation"] == "LAS"
    assert {str(unit) for unit in layer.units} == {"millimeter"}
    labels = Labels(lesions[0], **lesions[1])
    path = written(labels, tmp_path / "l.nii.gz", "write_nifti")
    first, back = nibabel.load(paths[1]), nibabel.load(path)
    np.testing.assert_array_equal(back.affine, first.affine)
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(first.dataobj))


def test_labels_without_orientation_are_saved_with_a_warning(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("napari.utils.notifications.show_warning", shown.append)
    volume = Labels(np.ones((2, 3, 4), np.uint8), scale=(4, 3, 2))
    path = written(volume, tmp_path / "l.nii", "write_nifti")
    assert "nothing says how the labels are oriented" in shown[0]
    (data, attributes, kind) = label_files.read_layers(str(path))[0]
    assert (data.shape, attributes["scale"], kind) == ((2, 3, 4), (4, 3, 2), "labels")
    assert attributes["metadata"]["nifti"]["orientation"] == "unknown"
    assert "does not say how it is oriented" in shown[1]


def test_channels_of_a_volume_become_layers(tmp_path):
    vectors = np.zeros((4, 5, 6, 1, 3), np.float32)
    nibabel.save(nibabel.Nifti1Image(vectors, np.eye(4)), tmp_path / "v.nii")
    ((data, attributes, kind),) = label_files.read_layers(str(tmp_path / "v.nii"))
    assert (data.shape, attributes["channel_axis"], kind) == ((3, 6, 5, 4), 0, "image")
    assert len(attributes["scale"]) == 3


def test_labels_of_a_volume_can_be_painted_and_keep_its_space(tmp_path):
    labels = np.zeros((4, 20, 30), np.uint8)
    labels[1, 2:6, 2:6] = 7
    affine = np.diag([-1.0, 2, 3, 1])
    nibabel.save(nibabel.Nifti1Image(labels.T, affine), tmp_path / "l.nii")
    ((data, attributes, kind),) = label_files.read_layers(str(tmp_path / "l.nii"))
    assert kind == "labels"
    source = Labels(data, **attributes)
    source.paint((1, 10, 10), 3)
    assert source.data[1, 10, 10] == 3

    viewer = ViewerModel()
    viewer.add_layer(source)
    for made in (
        add_instances(viewer, source, labels, np.array([16])),
        add_refined(viewer, source, source, labels.copy(), (1, 2)),
        add_semantic_labels(viewer, source, labels, []),
    ):
        path = written(made, tmp_path / f"{made.name}.nii", "write_nifti")
        np.testing.assert_allclose(nibabel.load(path).affine, affine)
