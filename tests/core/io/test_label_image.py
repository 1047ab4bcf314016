from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_samseg.core.errors import (
    InvalidImageError,
    InvalidLabelsError,
    LabelOverflowError,
)
from napari_samseg.core.io.class_image import read_class_image, read_mask_image
from napari_samseg.core.io.label_formats import LABEL_FORMATS, ReadRequest
from napari_samseg.core.io.label_image import open_label_image, write_label_image
from napari_samseg.core.io.label_planes import PictureWarning, open_label_planes
from napari_samseg.core.io.picture import write_colour_labels, write_picture


@pytest.mark.parametrize(
    ("largest", "dtype"), [(0, np.uint16), (65_535, np.uint16), (65_536, np.uint32)]
)
def test_ids_come_back_in_the_smallest_of_two_types(tmp_path, largest, dtype):
    labels = np.array([[0, 1], [2, largest]], np.int64)
    path = tmp_path / "folder" / "labels.tif"
    write_label_image(path, labels)
    written = tifffile.imread(path)
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, labels)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.zeros((2, 2)), InvalidLabelsError, "labels are integers, not float64"),
        (np.full((2, 2), -1), InvalidLabelsError, "the lowest is -1"),
        (
            np.full((2, 2), 2**32),
            LabelOverflowError,
            "id 4294967296 does not fit the 32 bits of labels.tif: write a .zarr",
        ),
    ],
)
def test_what_are_no_labels_is_refused(tmp_path, labels, error, message):
    with pytest.raises(error, match=message):
        write_label_image(tmp_path / "labels.tif", labels)
    assert not (tmp_path / "labels.tif").exists()


def test_a_png_holds_16_bits_and_one_plane(tmp_path):
    from PIL import Image

    labels = np.array([[0, 1], [2, 65_535]], np.uint32)
    write_label_image(tmp_path / "labels.png", labels)
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "labels.png")), labels
    )
    with pytest.raises(LabelOverflowError, match=r"65536 .*write a \.tif, or relabel"):
        write_label_image(tmp_path / "more.png", labels + 1)
    with pytest.raises(InvalidLabelsError, match="one plane"):
        write_label_image(tmp_path / "more.png", labels[np.newaxis])
    assert not (tmp_path / "more.png").exists()


def test_a_volume_of_few_planes_is_no_picture(tmp_path):
    labels = np.arange(4 * 9 * 9, dtype=np.uint16).reshape(4, 9, 9)
    write_label_image(tmp_path / "labels.tif", labels)
    with tifffile.TiffFile(tmp_path / "labels.tif") as tiff:
        assert tiff.pages[0].photometric == tifffile.PHOTOMETRIC.MINISBLACK
        np.testing.assert_array_equal(tiff.asarray(), labels)


def test_other_suffixes_are_refused():
    with pytest.raises(InvalidLabelsError, match=r"not as 'labels\.jpg'"):
        write_label_image(Path("labels.jpg"), np.zeros((2, 2), int))
    with pytest.raises(InvalidImageError, match=r"not as 'picture\.jpg'"):
        write_picture(Path("picture.jpg"), np.zeros((2, 2, 3), np.uint8))


def voc_palette():
    """The colours of PASCAL VOC: bits of the class, three by three from the top."""
    classes = np.arange(256)
    colours = np.zeros((256, 3), int)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((classes >> channel) & 1) << (7 - bit)
        classes = classes >> 3
    return colours.astype(np.uint8)


def save_palette(path, index, palette):
    from PIL import Image

    picture = Image.fromarray(index, "P")
    picture.putpalette(palette.ravel().tolist())
    picture.save(path)


@pytest.fixture
def voc(tmp_path):
    classes = np.zeros((40, 50), np.uint8)
    # cat and train, of which the latter is grey; void around
    classes[4:20, 4:20], classes[5:19, 5:19], classes[25:35, 30:45] = 255, 8, 7
    save_palette(tmp_path / "voc.png", classes, voc_palette())
    return tmp_path / "voc.png", classes


def test_the_indices_of_a_palette_are_labels(voc):
    path, classes = voc
    assert voc_palette()[[7, 8, 255]].tolist() == [
        [128, 128, 128],
        [64, 0, 0],
        [224, 224, 192],
    ]
    with open_label_image(path) as labels:
        np.testing.assert_array_equal(labels, classes)
    found = read_class_image(path)
    np.testing.assert_array_equal(found.classes, classes)
    assert (found.values, found.has_palette) == ((0, 7, 8, 255), True)
    assert read_mask_image(path).classes.sum() == (classes > 0).sum()
    told = r"its indices \(0, 7, 8, 255\) are taken for labels.* 255 is one of them"
    with pytest.warns(PictureWarning, match=told), open_label_planes(path) as planes:
        np.testing.assert_array_equal(planes.read(()), classes)
    with LABEL_FORMATS["png"].read(path, ReadRequest()) as read:
        assert "are taken for labels" in read.notes[0]
        np.testing.assert_array_equal(read.labels, classes)


def test_a_class_that_is_shown_grey_is_a_class(tmp_path):
    train = np.zeros((30, 30), np.uint8)
    train[5:20, 5:20] = 7
    save_palette(tmp_path / "train.png", train, voc_palette())
    with open_label_image(tmp_path / "train.png") as labels:
        np.testing.assert_array_equal(labels, train)


def test_a_palette_is_not_always_one_of_labels(tmp_path):
    from PIL import Image
    from skimage.data import astronaut

    mask = np.zeros((30, 30), np.uint8)
    mask[5:20, 5:20] = 1
    greys = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    save_palette(tmp_path / "grey.png", mask, greys)
    # of programs with a palette of their own, in which black is somewhere
    web = np.vstack([[[255, 0, 0]], greys])
    save_palette(tmp_path / "web.png", mask + np.uint8(1), web)
    for name in ("grey.png", "web.png"):
        with open_label_image(tmp_path / name) as labels:
            np.testing.assert_array_equal(labels, mask * 255)
    Image.fromarray(astronaut()).quantize(256).save(tmp_path / "photo.png")
    with (
        pytest.raises(InvalidLabelsError, match="is a coloured picture"),
        open_label_image(tmp_path / "photo.png"),
    ):
        pass


def test_labels_for_people_are_coloured(tmp_path):
    from PIL import Image

    labels = np.zeros((9, 12), np.uint32)
    labels[1, 2:4], labels[3, 3], labels[5:] = 1, 70_000, 2
    write_colour_labels(tmp_path / "c.png", labels)
    colours = np.asarray(Image.open(tmp_path / "c.png"))
    assert colours.shape == (9, 12, 3)
    assert not colours[labels == 0].any()
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 4
    assert (colours[1, 2] == colours[1, 3]).all()
    with pytest.raises(InvalidLabelsError, match="one plane"):
        write_colour_labels(tmp_path / "v.png", labels[np.newaxis])
    with (
        pytest.raises(InvalidLabelsError, match="coloured picture"),
        open_label_image(tmp_path / "c.png"),
    ):
        pass


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((9, 9), 0.5, np.float32), "real numbers"),
        (np.full((9, 9), -1.0, np.float32), "below 0"),
        (np.full((9, 9), np.nan, np.float32), "real numbers"),
    ],
)
def test_real_numbers_that_are_no_labels(tmp_path, array, message):
    tifffile.imwrite(tmp_path / "l.tif", array)
    with (
        pytest.raises(InvalidLabelsError, match=message),
        open_label_image(tmp_path / "l.tif"),
    ):
        pass
    tifffile.imwrite(tmp_path / "l.tif", np.full((9, 9), 3.0, np.float32))
    with open_label_image(tmp_path / "l.tif") as labels:
        assert labels.dtype == np.uint32
        assert (labels == 3).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_few_columns_of_a_volume_are_no_colours(tmp_path, dtype):
    volume = np.zeros((5, 6, 3), dtype)
    volume[1, 2, 1] = 9
    tifffile.imwrite(tmp_path / "v.tif", volume, photometric="minisblack")
    np.save(tmp_path / "v.npy", volume)
    for name in ("v.tif", "v.npy"):
        with open_label_image(tmp_path / name) as labels:
            np.testing.assert_array_equal(np.asarray(labels[...]), volume)
        with open_label_planes(tmp_path / name) as planes:
            assert planes.shape == (5, 6, 3)


def test_a_picture_of_a_mask_is_told(tmp_path):
    mask = np.zeros((30, 30), np.uint8)
    mask[5:12, 5:12], mask[15:25, 15:25] = 127, 255
    tifffile.imwrite(tmp_path / "m.tif", mask)
    with (
        pytest.warns(PictureWarning, match="napari-samseg instances"),
        open_label_planes(tmp_path / "m.tif"),
    ):
        pass


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path, monkeypatch, name):
    def fail(*_, **__):
        raise OSError("disk full")

    (tmp_path / name).write_text("old")
    monkeypatch.setattr("tifffile.imwrite", fail)
    monkeypatch.setattr("PIL.Image.Image.save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_label_image(tmp_path / name, np.ones((4, 4), np.uint8))
    assert (tmp_path / name).read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
