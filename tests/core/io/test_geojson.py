"""GeoJSON as QuPath has it: back exactly, and what is no area is counted."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.io import imread

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.io.geojson import read_geojson, write_geojson
from napari_samseg.core.io.instance_labels import InstanceLabels


def test_real_labels_come_back(tmp_path, shared_data):
    nuclei = imread(min((shared_data / "dsb2018/labels").iterdir()))
    volume = tifffile.imread(shared_data / "em_fib25_neuroproof/gt_bodies.tif")[:3]
    for labels in (nuclei, volume, volume[np.newaxis, :, :80, :70]):
        write_geojson(tmp_path / "o.geojson", InstanceLabels(labels))
        back = read_geojson(tmp_path / "o.geojson")
        assert back.notes == ()
        np.testing.assert_array_equal(back.labels, labels)


@given(hnp.arrays(np.uint8, (6, 7), elements=st.integers(0, 2)))
def test_polygons_are_closed_and_holes_run_the_other_way(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("g") / "o.geojson"
    write_geojson(path, InstanceLabels(labels))
    features = json.loads(path.read_text())["features"]
    assert len(features) == len(np.unique(labels[labels > 0]))
    for feature in features:
        geometry = feature["geometry"]
        many = geometry["type"] == "MultiPolygon"
        polygons = geometry["coordinates"] if many else [geometry["coordinates"]]
        area = 0.0
        for polygon in polygons:
            for ring in polygon:
                assert ring[0] == ring[-1]
                x, y = np.array(ring, float).T
                area += (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2
        assert area == (labels == int(feature["properties"]["name"])).sum()
    np.testing.assert_array_equal(read_geojson(path).labels, labels)


def test_what_is_known_of_objects(tmp_path):
    labels = np.zeros((5, 5), int)
    labels[1, 1:3], labels[3, 3] = 7, 9
    known = {7: {"category": "Tumor", "area um^2": 1.5, "stain": "dark", "x": np.nan}}
    path = tmp_path / "o.geojson"
    write_geojson(path, InstanceLabels(labels, known), object_type="detection")
    first, second = json.loads(path.read_text())["features"]
    about = first["properties"]
    assert about["objectType"] == "detection"
    assert about["classification"]["name"] == "Tumor"
    assert len(about["classification"]["color"]) == 3
    assert about["measurements"] == {"area um^2": 1.5}
    assert "classification" not in second["properties"]
    back = read_geojson(path).properties
    assert back[7] == {"category": "Tumor", "area um^2": 1.5, "stain": "dark"}
    assert back[9] == {}


def qupath(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def polygon(*corners, **more):
    return {"type": "Polygon", "coordinates": [[*corners, corners[0]]], **more}


SQUARE = polygon([1.2, 1.2], [4.2, 1.2], [4.2, 4.2], [1.2, 4.2])


def test_what_qupath_writes(tmp_path):
    """An array of features of an older QuPath: measurements as a list, no ids."""
    path = tmp_path / "q.geojson"
    content = [
        qupath(
            SQUARE,
            objectType="annotation",
            name="lesion",
            classification={"names": ["Immune", "CD3"]},
            measurements=[{"name": "Area", "value": 9.0}],
        ),
        qupath({"type": "Point", "coordinates": [3, 3]}),
        qupath({"type": "LineString", "coordinates": [[3, 3], [5, 5]]}),
        qupath({"type": "Polygon", "coordinates": [[[1, 1], [2, 2]]]}),
        qupath(
            {"type": "Polygon", "coordinates": [[[1, 1], [2, "x"], [3, 3], [1, 1]]]}
        ),
        qupath({"type": "Polygon"}),
        qupath(None),
        qupath(polygon([50, 50], [60, 50], [60, 60])),
        qupath({"type": "GeometryCollection", "geometries": [SQUARE]}, name="2"),
    ]
    path.write_text(json.dumps(content))
    found = read_geojson(path, (10, 10))
    notes = "\n".join(found.notes)
    assert "2 shapes left out: points and lines" in notes
    assert "4 shapes left out: the polygon is broken" in notes
    assert "1 shape left out: no centre" in notes
    assert "1 object on top of larger ones, in 9 pixels" in notes
    expected = np.zeros((10, 10), int)
    expected[1:4, 1:4] = 2
    np.testing.assert_array_equal(found.labels, expected)
    assert found.properties[1] == {
        "name": "lesion",
        "category": "Immune: CD3",
        "Area": 9.0,
    }


def test_the_size_is_that_of_the_image_or_as_far_as_shapes_reach(tmp_path):
    path = tmp_path / "q.geojson"
    path.write_text(json.dumps(qupath(SQUARE)))
    assert read_geojson(path, (7, 8)).shape == (7, 8)
    found = read_geojson(path)
    assert found.shape == (5, 5)
    assert "(5, 5) is as far as" in found.notes[0]
    deep = SQUARE | {"plane": {"c": -1, "z": 2, "t": 0}}
    path.write_text(json.dumps([qupath(deep)]))
    found = read_geojson(path)
    assert found.shape == (3, 5, 5)
    assert not found.labels[:2].any()
    assert "1 shape left out" in read_geojson(path, (2, 5, 5)).notes[0]
    # of one plane of a stack, and of one time of several
    moved = SQUARE | {"plane": {"c": -1, "z": 0, "t": 1}}
    path.write_text(json.dumps([qupath(deep), qupath(moved), qupath(SQUARE)]))
    for shape, n_others in (((5, 5), 2), ((3, 5, 5), 1)):
        found = read_geojson(path, shape)
        others = "shapes" if n_others > 1 else "shape"
        assert f"{n_others} {others} left out: in another plane" in found.notes[0]
        assert len(np.unique(found.labels)) == len(shape)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": [], "annotations": []}, "but COCO: name it .json"),
        ([1, 2], "not GeoJSON"),
        ({"type": "FeatureCollection", "features": 3}, "not GeoJSON"),
        ({"type": "FeatureCollection", "features": []}, "name an image of that size"),
        (qupath(polygon([0, 0], [1e12, 0], [1e12, 1])), "are no pixels"),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    (tmp_path / "q.geojson").write_text(json.dumps(content))
    with pytest.raises(InvalidLabelsError, match=message):
        read_geojson(tmp_path / "q.geojson")


def test_nothing_is_written_of_labels_that_are_none(tmp_path):
    path = tmp_path / "o.geojson"
    for wrong in (np.full((2, 2), -1), np.zeros((2, 2)), np.zeros((2,) * 5, int)):
        with pytest.raises(InvalidLabelsError):
            write_geojson(path, InstanceLabels(wrong))
    assert list(tmp_path.iterdir()) == []


def _feature(x, object_id=None, **more):
    ring = [[x, 1], [x + 4, 1], [x + 4, 5], [x, 5], [x, 1]]
    known = {} if object_id is None else {"metadata": {"object_id": str(object_id)}}
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": known} | more


def _read(path, features):
    content = {"type": "FeatureCollection", "features": features, "shape": [20, 30]}
    path.write_text(json.dumps(content))
    return read_geojson(path)


def test_ids_stay_when_one_shape_has_none(tmp_path):
    features = [_feature(1, 7), _feature(8), _feature(15, 42)]
    found = _read(tmp_path / "a.geojson", features)
    assert [int(found.labels[3, x]) for x in (3, 10, 17)] == [7, 43, 42]
    assert any("1 shape without an id" in note for note in found.notes)


def test_shapes_that_share_an_id_are_told(tmp_path):
    found = _read(tmp_path / "a.geojson", [_feature(1, 7), _feature(8, 7)])
    assert any("1 shape with the id of another" in note for note in found.notes)


@pytest.mark.parametrize(
    "properties",
    [[1], 5, {"measurements": [1]}, {"classification": {"names": 5}}],
)
def test_properties_that_are_none_do_no_harm(tmp_path, properties):
    found = _read(tmp_path / "a.geojson", [_feature(1, properties=properties)])
    assert set(np.unique(found.labels)) == {0, 1}


def test_a_plane_that_is_none_is_counted(tmp_path):
    feature = _feature(1)
    feature["geometry"]["plane"] = {"z": "a"}
    found = _read(tmp_path / "a.geojson", [feature])
    assert any("polygon is broken" in note for note in found.notes)


def test_a_number_is_no_geojson(tmp_path):
    (tmp_path / "a.geojson").write_text("5")
    with pytest.raises(InvalidLabelsError, match="not GeoJSON"):
        read_geojson(tmp_path / "a.geojson")
