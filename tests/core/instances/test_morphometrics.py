from __future__ import annotations

import csv

import numpy as np
import pytest
from bids_datasets import draw_fibres
from skimage.io import imread
from skimage.measure import regionprops

from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.instances.components import label_components
from napari_samseg.core.instances.morphometrics import (
    measure_instances,
    write_morphometrics,
)


def test_shapes_are_those_of_regionprops():
    rng = np.random.default_rng(0)
    labels = label_components(rng.random((80, 90)) > 0.6, 4) * 3
    columns = measure_instances(labels, pixel_size=(0.5, 0.5)).columns
    objects = regionprops(labels)
    assert columns["object"].tolist() == [o.label for o in objects]
    for name, values in {
        "area (um^2)": [o.area * 0.25 for o in objects],
        "diam (um)": [o.equivalent_diameter_area * 0.5 for o in objects],
        "minor_diam (um)": [o.axis_minor_length * 0.5 for o in objects],
        "major_diam (um)": [o.axis_major_length * 0.5 for o in objects],
        "y0 (px)": [o.centroid[0] for o in objects],
        "x0 (px)": [o.centroid[1] for o in objects],
        "bbox_max_x": [o.bbox[3] for o in objects],
    }.items():
        np.testing.assert_allclose(columns[name], values, atol=1e-6, err_msg=name)
    large = [i for i, o in enumerate(objects) if o.area > 3]
    np.testing.assert_allclose(
        columns["eccentricity"][large],
        [objects[i].eccentricity for i in large],
        atol=1e-6,
    )
    borders = [
        o.bbox[0] == 0 or o.bbox[1] == 0 or o.bbox[2] == 80 or o.bbox[3] == 90
        for o in objects
    ]
    assert columns["image_border_touching"].tolist() == borders


def test_axons_in_their_myelin():
    axon, myelin = draw_fibres()
    labels = label_components(axon | myelin)
    table = measure_instances(labels, axon=axon, pixel_size=(0.1, 0.1))
    columns = table.columns
    inner, outer = columns["axon_diam (um)"], columns["axonmyelin_diam (um)"]
    np.testing.assert_allclose(inner, [1.2, 1.0], rtol=0.03)
    np.testing.assert_allclose(outer, [2.0, 2.4], rtol=0.03)
    np.testing.assert_allclose(columns["gratio"], inner / outer)
    np.testing.assert_allclose(columns["myelin_thickness (um)"], (outer - inner) / 2)
    areas = [myelin[labels == i].sum() * 0.01 for i in (1, 2)]
    np.testing.assert_allclose(columns["myelin_area (um^2)"], areas)
    np.testing.assert_allclose(columns["x0 (px)"], [20, 55])
    np.testing.assert_allclose(columns["axon_minor_diam (um)"], inner, rtol=0.02)


def test_real_fibres_agree_with_areas_counted_one_by_one(shared_data):
    start = shared_data / "axon_sem/extras/sub-rat8_sample-V915_ads-"
    labels = imread(f"{start}instance-map.png")
    axon = imread(f"{start}pred-axon.png") > 127
    columns = measure_instances(labels, axon=axon).columns
    assert len(columns["object"]) == 298
    for i in (0, 17, 297):
        mask = labels == i + 1
        ratio = np.sqrt((mask & axon).sum() / mask.sum())
        assert columns["gratio"][i] == pytest.approx(ratio)
        assert columns["axonmyelin_area (px^2)"][i] == mask.sum()
    assert ((columns["gratio"] > 0) & (columns["gratio"] <= 1)).all()


def test_pixels_that_are_no_squares():
    labels = np.zeros((40, 40), int)
    labels[10:20, 10:30] = 1
    columns = measure_instances(labels, pixel_size=(2, 1)).columns
    assert columns["area (um^2)"] == [400]
    # a square of 20 um
    assert columns["eccentricity"][0] == pytest.approx(0, abs=0.1)
    np.testing.assert_allclose(
        columns["minor_diam (um)"], columns["major_diam (um)"], rtol=0.01
    )


def test_odd_objects(tmp_path):
    labels = np.zeros((30, 40), np.uint32)
    labels[5, 5] = 7
    labels[10:14, 10] = 2**31
    labels[29, 39] = 9
    axon = labels == 7
    columns = measure_instances(labels, axon=axon).columns
    assert columns["object"].tolist() == [7, 9, 2**31]
    np.testing.assert_array_equal(columns["gratio"], [1, np.nan, np.nan])
    assert columns["axon_major_diam (px)"][0] == 0
    assert columns["eccentricity"][0] == 0
    assert columns["axonmyelin_minor_diam (px)"][2] == 0
    assert columns["image_border_touching"].tolist() == [False, True, False]
    path = tmp_path / "folder" / "table.csv"
    write_morphometrics(path, measure_instances(labels, axon=axon))
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["gratio"] for row in rows] == ["1", "", ""]
    assert rows[1]["image_border_touching"] == "True"


def test_units_stand_in_the_names():
    labels = np.eye(9, dtype=int)
    pixels, lengths = (
        measure_instances(labels, pixel_size=size) for size in (None, (0.1, 0.1))
    )
    assert (pixels.unit, lengths.unit) == ("px", "um")
    assert {"area (px^2)", "diam (px)"} <= set(pixels.columns)
    assert {"area (um^2)", "diam (um)"} <= set(lengths.columns)
    assert len(pixels) == 1


def test_empty_labels_have_a_header(tmp_path):
    table = measure_instances(np.zeros((9, 9), int), axon=np.zeros((9, 9), bool))
    write_morphometrics(tmp_path / "table.csv", table)
    (line,) = (tmp_path / "table.csv").read_text().splitlines()
    assert line.startswith("object,x0 (px),y0 (px),gratio,axon_area (px^2)")


def test_what_cannot_be_measured_is_refused():
    labels = np.ones((9, 9), int)
    with pytest.raises(InvalidLabelsError, match="no objects yet"):
        measure_instances(labels > 0)
    with pytest.raises(InvalidLabelsError, match=r"shape \(8, 9\) does not fit"):
        measure_instances(labels, axon=labels[1:])
    with pytest.raises(InvalidLabelsError, match="plane"):
        measure_instances(np.ones((5, 9, 9), int))
    for size in ((0, 1), (np.nan, 1), (1, 1, 1)):
        with pytest.raises(SettingsError, match="two positive numbers"):
            measure_instances(labels, pixel_size=size)


def test_large_areas_are_written_in_full(tmp_path):
    labels = np.zeros((1700, 1700), np.uint8)
    labels[:1500, :1501] = 1
    table = measure_instances(labels)
    write_morphometrics(tmp_path / "table.csv", table)
    (row,) = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    assert row["area (px^2)"] == "2251500"
    written = float(row["diam (px)"])
    assert written == pytest.approx(table.columns["diam (px)"][0], rel=1e-8)
