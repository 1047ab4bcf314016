"""Semantic labels come out of files as they were meant."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.io.class_image import (
    is_picture,
    picture_classes,
    read_class_image,
    read_mask_image,
)


def picture() -> np.ndarray:
    values = np.zeros((60, 80), np.uint8)
    values[10:50, 10:70] = 127
    values[20:40, 20:60] = 255
    return values


def test_levels_of_a_picture_become_classes(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "m.png")
    found = read_class_image(tmp_path / "m.png")
    assert found.values == (0, 127, 255)
    assert np.unique(found.classes).tolist() == [0, 1, 2]
    assert found.n_snapped == 0


def test_smoothed_edges_go_to_the_nearest_class(tmp_path):
    values = picture()
    values[20, 20:30], values[10, 10:15] = 233, 130
    rgb = np.repeat(values[..., np.newaxis], 3, axis=2)
    Image.fromarray(rgb).save(tmp_path / "m.png")
    found = read_class_image(tmp_path / "m.png")
    assert found.values == (0, 127, 255)
    assert found.n_snapped == 15
    assert (found.classes[20, 20:30] == 2).all()
    assert (found.classes[10, 10:15] == 1).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32])
def test_labels_stay_as_they_are(tmp_path, dtype):
    labels = np.zeros((40, 50), dtype)
    labels[5:20, 5:20], labels[22:30, 22:40] = 1, 250
    tifffile.imwrite(tmp_path / "l.tif", labels)
    found = read_class_image(tmp_path / "l.tif")
    np.testing.assert_array_equal(found.classes, labels)


def test_many_ids_are_no_picture(tmp_path):
    labels = np.arange(256, dtype=np.uint8).repeat(40).reshape(128, 80)
    tifffile.imwrite(tmp_path / "l.tif", labels)
    np.testing.assert_array_equal(read_class_image(tmp_path / "l.tif").classes, labels)


def test_a_volume_of_classes(tmp_path):
    volume = np.zeros((4, 30, 30), np.uint8)
    volume[1:3, 5:10, 5:10] = 255
    tifffile.imwrite(tmp_path / "v.tif", volume, photometric="minisblack")
    found = read_class_image(tmp_path / "v.tif")
    assert found.classes.shape == (4, 30, 30)
    assert found.classes.max() == 1


def test_colours_and_probabilities_are_refused(tmp_path):
    rgb = np.zeros((30, 30, 3), np.uint8)
    rgb[5:9, 5:9] = 255, 0, 0
    Image.fromarray(rgb).save(tmp_path / "c.png")
    with pytest.raises(InvalidLabelsError, match=r"c\.png is a coloured picture"):
        read_class_image(tmp_path / "c.png")
    tifffile.imwrite(tmp_path / "p.tif", np.full((9, 9), 0.4, np.float32))
    with pytest.raises(InvalidLabelsError, match="apply a threshold"):
        read_class_image(tmp_path / "p.tif")


def test_edges_of_a_few_small_objects_are_no_classes():
    picture = np.zeros((1000, 1000), np.uint8)
    picture[100:130, 100:130] = 255
    picture[99, 100:130] = np.arange(10, 250, 8)
    found = picture_classes(picture)
    assert found.values == (0, 255)
    assert found.n_snapped == 30
    assert found.classes.sum() == 900 + (picture[99] > 127).sum()
    # of which some are rarer than others
    picture[200:230, 200:205], picture[99] = 127, 0
    assert picture_classes(picture).values == (0, 127, 255)


def discs() -> np.ndarray:
    rows, columns = np.mgrid[:256, :256]
    values = np.zeros((256, 256))
    for row, column in ((60, 60), (60, 190), (190, 60), (190, 190)):
        distance = np.hypot(rows - row, columns - column)
        values[distance < 40], values[distance < 22] = 127, 255
    return values


@pytest.mark.parametrize("how", [0.5, 0.7, 1.0, "halved", "jpeg"])
def test_soft_edges_are_snapped_however_many(tmp_path, how):
    sharp = Image.fromarray(discs().astype(np.uint8))
    path = tmp_path / "m.png"
    if how == "jpeg":
        path = tmp_path / "m.jpg"
        sharp.save(path, quality=95)
    elif how == "halved":
        sharp.resize((128, 128), Image.Resampling.BILINEAR).save(path)
    else:
        soft = np.rint(ndimage.gaussian_filter(discs(), how)).astype(np.uint8)
        Image.fromarray(soft).save(path)
    found = read_class_image(path)
    assert found.values == (0, 127, 255)
    assert [ndimage.label(found.classes == k)[1] for k in (0, 2)] == [1, 4]


def test_a_rare_class_is_one():
    picture = np.zeros((500, 500), np.uint8)
    picture[100:400] = 127
    picture[200:230, 200:230] = 255
    assert picture_classes(picture).values == (0, 127, 255)


@pytest.mark.parametrize("radius", [1, 3, 12])
def test_small_and_large_ids_stay(radius):
    rng = np.random.default_rng(0)
    labels, (rows, columns) = np.zeros((300, 300), np.uint8), np.mgrid[:300, :300]
    for i in range(6, 256):
        row, column = rng.integers(0, 300, 2)
        size = rng.uniform(1, radius + 0.1)
        labels[np.hypot(rows - row, columns - column) < size] = i
    assert not is_picture(labels)


def test_photographs_are_no_masks():
    rng = np.random.default_rng(0)
    noise = rng.normal(120, 40, (200, 200)).clip(0, 255).astype(np.uint8)
    assert not is_picture(noise)


def test_real_photographs_with_black_and_white_places_are_no_masks(shared_data):
    for path in sorted((shared_data / "oct_dme_fluid/images").glob("img_00*.png")):
        with Image.open(path) as picture:
            assert not is_picture(np.asarray(picture.convert("L")))


def test_a_mask_of_one_class_is_cut_at_half(tmp_path):
    sharp = (discs() == 255) * 255.0
    soft = np.rint(ndimage.gaussian_filter(sharp, 1)).astype(np.uint8)
    Image.fromarray(soft).save(tmp_path / "m.png")
    found = read_mask_image(tmp_path / "m.png")
    assert abs(int(found.classes.sum()) / (sharp > 0).sum() - 1) < 0.01
    assert found.n_snapped > 0
    # ids stay objects, however low
    ids = np.zeros((60, 60), np.uint8)
    ids[5:20, 5:20], ids[30:50, 30:50], ids[5:9, 40:50] = 3, 250, 17
    Image.fromarray(ids).save(tmp_path / "i.png")
    np.testing.assert_array_equal(read_mask_image(tmp_path / "i.png").classes, ids > 0)
