"""OME-Zarr images of both versions, and groups that are something else."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from ome_zarr_images import AXES, write_image

from napari_samseg.core.errors import InvalidImageError
from napari_samseg.core.io.image_file import open_image_file
from napari_samseg.core.planes import measure_plane
from napari_samseg.core.settings import ImageSettings


@pytest.fixture
def volume():
    """(channels, planes, rows, columns)."""
    return np.random.default_rng(0).integers(0, 60_000, (2, 3, 40, 50), dtype=np.uint16)


def expect_refusal(path, message):
    with pytest.raises(InvalidImageError, match=message), open_image_file(path):
        pass


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_and_channels_are_found(tmp_path, volume, version):
    write_image(tmp_path / "i.zarr", volume, version=version)
    with open_image_file(tmp_path / "i.zarr") as source:
        assert source.shape == (3, 40, 50)
        assert [source.level_shape(level) for level in range(2)] == [
            (3, 40, 50),
            (3, 20, 25),
        ]
        assert (source.channel_axis, source.n_channels) == (0, 2)
        settings = ImageSettings(channels=(1,), level=1)
        raw = measure_plane(source, (2,), settings).held
        np.testing.assert_array_equal(raw[..., 0], volume[1, 2, ::2, ::2])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_image_without_channels(tmp_path, volume, version):
    write_image(tmp_path / "i.zarr", volume[0], axes="zyx", version=version)
    with open_image_file(tmp_path / "i.zarr") as source:
        assert (source.channel_axis, source.shape) == (None, (3, 40, 50))


@pytest.mark.parametrize("axes", [["c", "z", "y", "x"], None])
def test_axes_of_earlier_versions(tmp_path, volume, axes):
    """Names alone up to 0.3, and before that none: t, c, z, y, x."""
    write_image(tmp_path / "i.zarr", volume if axes else volume[None])
    group = zarr.open_group(tmp_path / "i.zarr", mode="r+")
    (image,) = group.attrs["multiscales"]
    del image["axes"]
    group.attrs["multiscales"] = [image | ({"axes": axes} if axes else {})]
    with open_image_file(tmp_path / "i.zarr") as source:
        assert source.channel_axis == (0 if axes else 1)


def test_the_axis_of_the_channels_can_be_named(tmp_path, volume):
    write_image(tmp_path / "i.zarr", volume)
    with open_image_file(tmp_path / "i.zarr", channel_axis=1) as source:
        assert (source.n_channels, source.shape) == (3, (2, 40, 50))


def test_a_group_without_an_image_says_what_is_in_it(tmp_path):
    group = zarr.create_group(tmp_path / "g.zarr")
    expect_refusal(tmp_path / "g.zarr", r"choose one of what is in it \(nothing\)")
    group.create_array("raw", shape=(3, 4), dtype="u1")
    group.create_group("more")
    expect_refusal(tmp_path / "g.zarr", r"g\.zarr .* in it \(more, raw\)")


def test_a_group_of_labels_names_them(tmp_path, volume):
    labels = zarr.create_group(
        tmp_path / "i.zarr" / "labels", attributes={"ome": {"labels": ["nuclei"]}}
    )
    write_image(tmp_path / "i.zarr" / "labels" / "nuclei", volume, version="0.5")
    assert "nuclei" in labels
    expect_refusal(tmp_path / "i.zarr" / "labels", r"choose one of them \(nuclei\)")
    zarr.create_group(tmp_path / "i.zarr")
    expect_refusal(tmp_path / "i.zarr", r"choose one of them \(labels/nuclei\)")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_only_series_of_bioformats2raw_is_opened(tmp_path, volume, version):
    write_series(tmp_path / "f.zarr", [volume], version)
    # labels of the series are no further series
    zarr.create_group(
        tmp_path / "f.zarr" / "0" / "labels",
        zarr_format=2 if version == "0.4" else 3,
    )
    write_image(tmp_path / "f.zarr" / "0" / "labels" / "1", volume, version=version)
    with open_image_file(tmp_path / "f.zarr") as source:
        np.testing.assert_array_equal(source.levels[0][:], volume)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_several_series_are_named(tmp_path, volume, version):
    write_series(tmp_path / "f.zarr", [volume, volume[:, :2]], version)
    expect_refusal(tmp_path / "f.zarr", r"with images in it: choose .* \(0, 1\)")
    with open_image_file(tmp_path / "f.zarr" / "1") as source:
        assert source.shape == (2, 40, 50)


def test_the_fields_of_a_plate_are_named_as_far_as_there_is_room(tmp_path, volume):
    zarr.create_group(tmp_path / "p.zarr", attributes={"ome": {"plate": {}}})
    for column in range(8):
        for field in range(2):
            place = tmp_path / "p.zarr" / "A" / str(column) / str(field)
            write_image(place, volume[:, :1, :4, :4], version="0.5")
    for folder in ("A", *(f"A/{column}" for column in range(8))):
        zarr.create_group(tmp_path / "p.zarr" / folder)
    expect_refusal(tmp_path / "p.zarr", r"\(A/0/0, A/0/1, A/1/0, .*A/5/1, \.\.\.\)")


@pytest.mark.parametrize("broken", ["array is gone", "no datasets"])
def test_metadata_that_name_no_arrays(tmp_path, volume, broken):
    write_image(tmp_path / "i.zarr", volume)
    group = zarr.open_group(tmp_path / "i.zarr", mode="r+")
    if broken == "no datasets":
        group.attrs["multiscales"] = [{"axes": AXES}]
        expect_refusal(tmp_path / "i.zarr", "name no arrays")
    else:
        del group["1"]
        expect_refusal(tmp_path / "i.zarr", "array '1' that is not there")


def test_a_folder_of_other_files_is_no_image(tmp_path):
    (tmp_path / "notes.txt").touch()
    expect_refusal(tmp_path, "a folder without a zarr array or group")


def write_series(path, images, version):
    """Write what bioformats2raw makes of a file of several images."""
    about = {"bioformats2raw.layout": 3}
    zarr.create_group(
        path,
        zarr_format=2 if version == "0.4" else 3,
        attributes=about if version == "0.4" else {"ome": about | {"version": version}},
    ).create_group("OME")
    (path / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    for number, image in enumerate(images):
        write_image(path / str(number), image, version=version)
