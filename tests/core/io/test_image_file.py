from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_samseg.core.errors import InvalidImageError, MissingFileError
from napari_samseg.core.io.image_file import open_image_file
from napari_samseg.core.io.pixel_size import read_pixel_steps
from napari_samseg.core.planes import read_plane


@pytest.fixture
def volume():
    return np.random.default_rng(0).integers(0, 60_000, (3, 20, 30), dtype=np.uint16)


def write_tiff(path, volume):
    tifffile.imwrite(path, volume, photometric="minisblack")


def write_zarr(path, volume):
    zarr.save_array(path, volume)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("stack.tif", write_tiff),
        ("stack.zarr", write_zarr),
        ("stack.npy", np.save),
    ],
)
def test_a_stack_is_read_one_plane_at_a_time(tmp_path, volume, name, write):
    path = tmp_path / name
    write(path, volume)
    with open_image_file(path) as source:
        assert source.shape == volume.shape
        assert source.dtype == np.uint16
        # a zarr array or a memory map: nothing has been read yet
        assert type(source.levels[0]) is not np.ndarray
        np.testing.assert_array_equal(source.levels[0][1], volume[1])
        assert read_plane(source, (1,)).shape == (20, 30, 3)


def test_a_picture_is_read_with_its_colours(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    with open_image_file(tmp_path / "picture.png") as source:
        assert source.rgb
        assert source.shape == (20, 30)


def test_an_image_that_is_not_there_is_named(tmp_path):
    with (
        pytest.raises(MissingFileError, match=r"nowhere\.tif"),
        open_image_file(tmp_path / "nowhere.tif"),
    ):
        pass


@pytest.mark.parametrize("name", ["text.tif", "text.npy", "text.png", "text.doc"])
def test_a_file_that_is_no_image_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_text("no image")
    with (
        pytest.raises(InvalidImageError, match=f"{name} cannot be read as an image"),
        open_image_file(path),
    ):
        pass


def test_an_npy_of_objects_is_never_unpickled(tmp_path):
    path = tmp_path / "objects.npy"
    np.save(path, np.array([[{}, {}]], dtype=object))
    with (
        pytest.raises(InvalidImageError, match="cannot be read"),
        open_image_file(path),
    ):
        pass


def test_a_zarr_group_is_refused(tmp_path):
    zarr.create_group(tmp_path / "group.zarr")
    with (
        pytest.raises(InvalidImageError, match=r"group\.zarr cannot be read"),
        open_image_file(tmp_path / "group.zarr"),
    ):
        pass


def test_transparency_is_no_channel(tmp_path):
    grey = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)
    picture = Image.merge("LA", [Image.fromarray(grey), Image.new("L", (30, 20), 255)])
    picture.save(tmp_path / "image.png")
    with open_image_file(tmp_path / "image.png") as source:
        assert source.shape == (20, 30)
        np.testing.assert_array_equal(source.levels[0], grey)


def test_a_tiff_that_was_cut_off_is_named(tmp_path):
    path = tmp_path / "part.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint16))
    path.write_bytes(path.read_bytes()[:-3000])
    with (
        pytest.raises(InvalidImageError, match=r"part\.tif is damaged or cut off"),
        open_image_file(path) as source,
    ):
        read_plane(source, ())


def test_ome_header_without_the_order_of_axes(tmp_path, volume):
    path = tmp_path / "stack.ome.tif"
    space = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    header = f'<?xml version="1.0"?><OME xmlns="{space}"><Image><Pixels/></Image></OME>'
    about = {"description": header, "metadata": None, "photometric": "minisblack"}
    tifffile.imwrite(path, volume, **about)
    with open_image_file(path) as source:
        np.testing.assert_array_equal(source.levels[0][...], volume)
    assert read_pixel_steps(path) == {}
