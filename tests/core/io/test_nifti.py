"""NIfTI volumes: axes, orientation, and files that say too little."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from napari_samseg.core.errors import (
    InvalidImageError,
    InvalidLabelsError,
    LabelOverflowError,
    MissingFileError,
)
from napari_samseg.core.io.image_file import OrientationWarning, open_image_file
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.nifti import nifti_stem, read_nifti, write_nifti
from napari_samseg.core.io.nifti_labels import read_nifti_labels, write_nifti_labels
from napari_samseg.core.io.voxel_space import VoxelSpace
from napari_samseg.core.planes import read_plane

# x runs to the left, y to the feet, z to the front; voxels of 2 x 3 x 4 mm
AFFINE = np.array(
    [[-2.0, 0, 0, 90], [0, 0, 4, -70], [0, -3, 0, 50], [0, 0, 0, 1]], np.float64
)


@pytest.fixture
def volume():
    return np.random.default_rng(0).integers(0, 900, (5, 6, 7)).astype(np.int16)


def save(path, array_xyz, affine=AFFINE, code=1, kind=nibabel.Nifti1Image, **header):
    image = kind(array_xyz, None if code == 0 else affine)
    if code:
        image.set_sform(affine, code)
        image.set_qform(affine, code)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


@pytest.fixture
def flair(shared_data):
    return shared_data / "mri_ms_lesions/patient19_FLAIR_MNI.nii.gz"


@pytest.fixture
def lesions(shared_data):
    return shared_data / "mri_ms_lesions/patient19_lesions_MNI.nii.gz"


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_axes_are_those_of_the_file_backwards(tmp_path, volume, name):
    path = save(tmp_path / name, volume.T)
    found = read_nifti(path)
    np.testing.assert_array_equal(found.array, volume)
    assert found.space.orientation == "LIA"
    assert found.steps["scale"] == (4, 3, 2)
    assert str(found.space) == (
        "voxels (z, y, x) of 4 x 3 x 2 mm; x, y, z run to L, I, A"
    )
    assert found.notes == ()


def test_a_file_that_is_not_compressed_is_read_when_it_is_asked_for(tmp_path, volume):
    array = read_nifti(save(tmp_path / "v.nii", volume.T)).array
    assert isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0, 0] = 1


def test_a_voxel_stays_where_it_is_in_the_patient(tmp_path, volume):
    path = save(tmp_path / "v.nii.gz", volume.T)
    canonical = read_nifti(path, canonical=True)
    assert canonical.space.orientation == "RAS"
    assert canonical.steps["scale"] == (3, 4, 2)
    expected = nibabel.as_closest_canonical(nibabel.load(path))
    np.testing.assert_array_equal(canonical.array, np.asarray(expected.dataobj).T)
    np.testing.assert_allclose(canonical.space.affine, expected.affine)


def test_a_real_image_is_opened_with_its_spacing(flair):
    with open_image_file(flair) as source:
        assert source.shape == (182, 218, 182)
        assert source.space.spacing == (1, 1, 1)
        assert source.space.orientation == "LAS"
        stored = np.asarray(nibabel.load(flair).dataobj)
        np.testing.assert_array_equal(source.levels[0][90], stored[:, :, 90].T)
        assert read_plane(source, (90,)).shape == (218, 182, 3)
    with open_image_file(flair, canonical=True) as turned:
        np.testing.assert_array_equal(
            turned.levels[0][90], np.asarray(source.levels[0][90])[:, ::-1]
        )


def test_three_voxels_along_an_axis_are_no_colours(tmp_path):
    path = save(tmp_path / "v.nii", np.zeros((3, 20, 30), np.uint8))
    with open_image_file(path) as source:
        assert not source.rgb
        assert source.shape == (30, 20, 3)


def test_scaled_values_series_and_channels(tmp_path, volume):
    image = nibabel.Nifti1Image(volume.T, AFFINE)
    image.header.set_slope_inter(0.5, -10)
    nibabel.save(image, tmp_path / "s.nii")
    found = read_nifti(tmp_path / "s.nii").array
    stored = nibabel.load(tmp_path / "s.nii")
    assert stored.dataobj.slope == 0.5
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, stored.get_fdata().T, rtol=1e-6)
    series = np.stack([volume, volume + 1])
    found = read_nifti(save(tmp_path / "t.nii", series.T))
    assert found.steps["scale"] == (1, 4, 3, 2)
    np.testing.assert_array_equal(found.array, series)
    single = read_nifti(save(tmp_path / "one.nii", series[:1].T))
    assert single.array.shape == volume.shape
    vectors = np.stack([volume] * 3)[:, np.newaxis]
    with open_image_file(save(tmp_path / "c.nii", vectors.T)) as source:
        assert (source.shape, source.n_channels) == (volume.shape, 3)
    with pytest.raises(InvalidLabelsError, match="3 values for each voxel"):
        read_nifti_labels(tmp_path / "c.nii")


def test_other_byte_orders_and_the_second_edition(tmp_path, volume):
    big = nibabel.Nifti1Image(
        volume.T, AFFINE, nibabel.Nifti1Header(endianness=">"), dtype=">i2"
    )
    nibabel.save(big, tmp_path / "big.nii")
    found = read_nifti(tmp_path / "big.nii")
    assert found.array.dtype.isnative
    np.testing.assert_array_equal(found.array, volume)
    second = save(tmp_path / "2.nii", volume.T, kind=nibabel.Nifti2Image)
    np.testing.assert_array_equal(read_nifti(second).array, volume)


def test_an_unknown_orientation_is_told_and_not_guessed(tmp_path, volume):
    path = save(tmp_path / "v.nii", volume.T, code=0, pixdim=[1, 2, 3, 4, 1, 1, 1, 1])
    found = read_nifti(path)
    assert found.space.orientation == ""
    assert found.steps["scale"] == (4, 3, 2)
    assert "v.nii does not say how it is oriented" in found.notes[0]
    with (
        pytest.warns(OrientationWarning, match="left, right, front"),
        open_image_file(path) as source,
    ):
        assert source.space.spacing == (4, 3, 2)
    with pytest.raises(InvalidImageError, match="cannot be turned to RAS"):
        read_nifti(path, canonical=True)
    with pytest.raises(InvalidImageError, match="so are its axial planes"):
        found.space.plane_axis("axial")


def test_two_affines_that_differ_are_told(tmp_path, volume):
    image = nibabel.Nifti1Image(volume.T, AFFINE)
    image.set_sform(AFFINE, 2)
    image.set_qform(np.diag([2.0, 3, 4, 1]), 1)
    nibabel.save(image, tmp_path / "v.nii")
    found = read_nifti(tmp_path / "v.nii")
    assert "sform (LIA) is taken, not qform (RAS)" in found.notes[0]
    assert found.space.orientation == "LIA"


def test_a_broken_affine_is_as_good_as_none(tmp_path, volume):
    path = save(tmp_path / "v.nii", volume.T)
    image = nibabel.load(path)
    header = image.header.copy()
    header["srow_x"], header["qform_code"] = np.nan, 0
    broken = nibabel.Nifti1Image(volume.T, None, header)
    broken.header["sform_code"] = 2
    nibabel.save(broken, tmp_path / "b.nii")
    found = read_nifti(tmp_path / "b.nii")
    assert found.space.orientation == ""
    assert np.isfinite(found.steps["scale"]).all()
    assert found.notes


def test_anatomical_planes(tmp_path, volume):
    space = read_nifti(save(tmp_path / "v.nii", volume.T)).space
    axes = [space.plane_axis(n) for n in ("axial", "coronal", "sagittal", "z", "x")]
    assert axes == [1, 0, 2, 0, 2]
    cut = space.cut(0, 2, 3)
    place = AFFINE @ [1, 1, 2 + 3 * 4, 1]
    np.testing.assert_allclose(cut.affine @ [1, 1, 4, 1], place)


def test_written_and_read_again(tmp_path, volume):
    for code, shape in ((4, (5, 6, 7)), (0, (6, 7)), (2, (2, 5, 6, 7))):
        array = np.resize(volume, shape)
        path = tmp_path / "new" / f"{code}.nii.gz"
        write_nifti(path, array, VoxelSpace(AFFINE, code))
        found = read_nifti(path)
        np.testing.assert_array_equal(found.array, array)
        assert found.array.dtype == np.int16
        assert found.space.code == code
        assert found.steps["scale"][-2:] == (3, 2)
        assert not found.is_label
        if code:
            np.testing.assert_array_equal(found.space.affine, AFFINE)
    assert {p.name for p in path.parent.iterdir()} == {f"{c}.nii.gz" for c in (0, 2, 4)}


def test_a_long_axis_needs_the_second_edition(tmp_path):
    write_nifti(tmp_path / "v.nii", np.zeros((1, 2, 40_000), np.uint8))
    assert read_nifti(tmp_path / "v.nii").array.shape == (1, 2, 40_000)


def test_real_lesions_round_trip(tmp_path, lesions):
    found = read_nifti_labels(lesions)
    assert found.units == ("millimeter",) * 3
    assert "run to L, A, S" in found.notes[0]
    write_nifti_labels(tmp_path / "l.nii.gz", found)
    first, back = nibabel.load(lesions), nibabel.load(tmp_path / "l.nii.gz")
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(first.dataobj))
    np.testing.assert_array_equal(back.affine, first.affine)
    assert back.get_data_dtype() == first.get_data_dtype()
    assert read_nifti(tmp_path / "l.nii.gz").is_label


def test_labels_that_were_saved_as_real_numbers(tmp_path):
    labels = np.zeros((4, 5, 6), np.float64)
    labels[1, 2, 3] = 70_000
    found = read_nifti_labels(save(tmp_path / "f.nii", labels.T))
    assert found.labels.dtype == np.uint32
    labels[0] = 0.5
    with pytest.raises(InvalidLabelsError, match="apply a threshold"):
        read_nifti_labels(save(tmp_path / "p.nii", labels.T))


def test_spacing_of_other_formats_is_written_in_millimetres(tmp_path):
    labels = np.ones((2, 3, 4), np.uint16)
    units = ("micrometer",) * 3
    write_nifti_labels(
        tmp_path / "v.nii", InstanceLabels(labels, scale=(50.0, 4, 2), units=units)
    )
    found = read_nifti(tmp_path / "v.nii")
    np.testing.assert_allclose(found.steps["scale"], (0.05, 0.004, 0.002), rtol=1e-6)
    assert found.space.orientation == ""


@pytest.mark.parametrize(
    ("unit", "step"), [("angstrom", 2e-7), ("inch", 50.8), ("pixel", 2)]
)
def test_other_units_become_millimetres(tmp_path, unit, step):
    # the axis in front of the three is time
    labels = np.ones((2, 2, 3, 4), np.uint16)
    units = ("second", *(unit,) * 3)
    instances = InstanceLabels(labels, scale=(1, 2, 2, 2), units=units)
    write_nifti_labels(tmp_path / "v.nii", instances)
    found = read_nifti(tmp_path / "v.nii")
    np.testing.assert_allclose(found.steps["scale"], (1, *(step,) * 3), rtol=1e-6)


def test_a_unit_that_is_no_length_is_refused(tmp_path):
    instances = InstanceLabels(
        np.ones((2, 3, 4), np.uint16),
        scale=(1, 1, 1),
        units=("micrometer", "second", "micrometer"),
    )
    with pytest.raises(InvalidLabelsError, match="have the unit 'second'"):
        write_nifti_labels(tmp_path / "v.nii", instances)


@pytest.mark.parametrize(
    ("unit", "stated", "step", "kept"),
    [
        ("second", "sec", 0.5, (0.5, "second")),
        ("millisecond", "msec", 250, (250, "millisecond")),
        ("minute", "sec", 2, (120, "second")),
    ],
)
def test_planes_in_time_are_a_series(tmp_path, unit, stated, step, kept):
    labels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    units = (unit, "micrometer", "micrometer")
    for given in (labels, labels[:, np.newaxis]):
        n = given.ndim - 3
        placed = InstanceLabels(
            given,
            scale=(step, *(5.0,) * n, 2.0, 4.0),
            units=(unit, *("micrometer",) * n, *units[1:]),
        )
        write_nifti_labels(tmp_path / "t.nii", placed)
        header = nibabel.load(tmp_path / "t.nii").header
        assert header.get_xyzt_units() == ("mm", stated)
        assert header.get_data_shape() == (4, 3, 1, 2)
        found = read_nifti_labels(tmp_path / "t.nii")
        np.testing.assert_array_equal(found.labels[:, 0], labels)
        assert (found.scale[0], found.units[0]) == kept
        np.testing.assert_allclose(found.scale[2:], (0.002, 0.004), rtol=1e-6)
        assert found.units[1:] == ("millimeter",) * 3


def test_what_cannot_be_read(tmp_path, volume):
    with pytest.raises(MissingFileError, match=r"none\.nii"):
        read_nifti(tmp_path / "none.nii")
    whole = save(tmp_path / "v.nii.gz", volume.T).read_bytes()
    flat = save(tmp_path / "v.nii", volume.T).read_bytes()
    for name, content in {
        "text.nii": b"no image" * 100,
        "cut.nii.gz": whole[: len(whole) // 2],
        "cut.nii": flat[:-100],
        "empty.nii.gz": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with (
            pytest.raises(InvalidImageError, match=f"{name} cannot be read as NIfTI"),
            open_image_file(tmp_path / name),
        ):
            pass
    colours = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, AFFINE), tmp_path / "rgb.nii")
    with pytest.raises(InvalidImageError, match=r"rgb\.nii holds colours"):
        read_nifti(tmp_path / "rgb.nii")
    many = np.zeros((2, 2, 2, 2, 2, 2), np.uint8)
    with pytest.raises(InvalidImageError, match="6 axes"):
        read_nifti(save(tmp_path / "six.nii", many))


@pytest.mark.parametrize(
    ("name", "labels", "error", "message"),
    [
        ("v.tif", np.ones((2, 2, 2), "u1"), InvalidImageError, "as .nii.gz or .nii"),
        ("v.nii", np.ones((2, 2, 2), "f4"), InvalidLabelsError, "are integers"),
        ("v.nii", -np.ones((2, 2, 2), "i4"), InvalidLabelsError, "from -1 up"),
        ("v.nii", np.full((2, 2), 2**33), LabelOverflowError, "the 32 bits of v.nii"),
        ("v.nii", np.ones(5, "u1"), InvalidImageError, r"not \(5,\)"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, labels, error, message):
    with pytest.raises(error, match=message):
        write_nifti_labels(tmp_path / name, InstanceLabels(labels))
    assert list(tmp_path.iterdir()) == []


def test_names_without_suffix(tmp_path):
    assert nifti_stem(tmp_path / "a.b.NII.GZ") == "a.b"
    assert nifti_stem(tmp_path / "a.nii") == "a"
