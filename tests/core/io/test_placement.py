"""How large pixels are, from files that say so in part."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from napari_samseg.core.convert_file import ConvertJob, convert_file
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.nifti import read_nifti
from napari_samseg.core.io.ome_zarr_labels import write_ome_zarr_labels
from napari_samseg.core.io.placement import (
    axes_without_size,
    read_placement,
    relative_spacing,
)
from napari_samseg.core.settings import ConvertSettings
from napari_samseg.core.steps import run_steps

VOLUME = np.zeros((4, 6, 8), np.uint16)
VOLUME[1:3, 2:5, 2:6] = 1
HALF_MICRONS = {
    f"PhysicalSize{axis}{end}": value
    for axis in "YX"
    for end, value in (("", 0.5), ("Unit", "\u00b5m"))
}
RESOLVED = {"resolution": (2, 2)}


@pytest.fixture
def convert(tmp_path):
    def run(source, name):
        out = tmp_path / name
        return out, run_steps(convert_file(ConvertJob(source, out), ConvertSettings()))

    return run


@pytest.mark.parametrize(
    "options",
    [
        {"ome": True, "metadata": {"axes": "ZYX", **HALF_MICRONS}},
        {
            "imagej": True,
            "resolution": (2, 2),
            "metadata": {"axes": "ZYX", "unit": "um"},
        },
        {
            "imagej": True,
            "resolution": (2, 2),
            "metadata": {"axes": "TYX", "unit": "um"},
        },
    ],
)
def test_planes_of_unknown_distance_are_no_thousandfold_apart(
    tmp_path, convert, options
):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, VOLUME, **options)
    place = read_placement(path, 3)
    assert place["units"] == ("pixel", "micrometer", "micrometer")
    assert relative_spacing(place) is None
    assert axes_without_size(place) == (0,)
    out, notes = convert(path, "stack.nii.gz")
    np.testing.assert_allclose(read_nifti(out).space.spacing, [5e-4] * 3, rtol=1e-6)
    assert any("how large a pixel is along Z:" in note for note in notes)


def test_lengths_in_several_units_and_pixels_that_are_no_squares():
    units = ("nanometer", "micrometer", "micrometer")
    assert relative_spacing({"scale": (50, 0.5, 0.5), "units": units}) == pytest.approx(
        (1, 10, 10)
    )
    nobody = ("pixel", "", "dimensionless")
    assert relative_spacing({"scale": (2, 0.5, 0.5), "units": nobody}) == (4, 1, 1)
    assert axes_without_size({"units": nobody}) == ()
    assert axes_without_size({"units": units}) == ()
    assert axes_without_size({}) == ()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "about",
    [
        '<BinaryOnly MetadataFile="a.companion.ome" UUID="urn:uuid:1"/>',
        '<Image ID="Image:0"></Image>',
        "<Image><Pixels Dimen",
        "",
    ],
)
def test_an_ome_header_that_says_nothing_is_no_obstacle(tmp_path, convert, about):
    path = tmp_path / "labels.ome.tif"
    name = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    header = f'<?xml version="1.0"?><OME xmlns="{name}">{about}</OME>'
    tifffile.imwrite(path, VOLUME[1], description=header, metadata=None)
    assert read_placement(path, 2) == {}
    out, _ = convert(path, "labels.tif")
    np.testing.assert_array_equal(tifffile.imread(out), VOLUME[1])


@pytest.mark.parametrize(
    ("first", "unit", "kept"),
    [
        ((2, "centimeter"), "centimeter", (2, "centimeter", 0.5, "centimeter")),
        ((2, "meter"), "meter", (2, "meter", 0.5, "meter")),
        ((2, "angstrom"), "angstrom", (2, "angstrom", 0.5, "angstrom")),
        ((2, "inch"), "inch", (50_800, "micrometer", 12_700, "micrometer")),
        ((2, "decimeter"), "micron", (2e5, "micrometer", 0.5, "micrometer")),
        ((5, "minute"), "micrometer", (5, "minute", 0.5, "micrometer")),
    ],
)
def test_a_tiff_keeps_lengths_and_times_and_tells_the_rest(
    tmp_path, convert, first, unit, kept
):
    path = tmp_path / "labels.zarr"
    units = (first[1], unit, unit)
    placed = InstanceLabels(
        VOLUME, scale=(first[0], 0.5, 0.5), units=units, translation=(10, 20, 0)
    )
    write_ome_zarr_labels(path, placed)
    out, notes = convert(path, "labels.tif")
    found = read_placement(out, 3)
    assert found["scale"] == pytest.approx((kept[0], kept[2], kept[2]))
    assert found["units"] == (kept[1], kept[3], kept[3])
    assert any("10, 20, 0 stays behind" in note for note in notes)
    np.testing.assert_array_equal(tifffile.imread(out), VOLUME)
