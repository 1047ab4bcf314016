"""Block by block comes out what comes out at once."""

from __future__ import annotations

import dask.array
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from napari_samseg.core.errors import InvalidLabelsError, LabelOverflowError
from napari_samseg.core.instances import blockwise, blockwise_watershed
from napari_samseg.core.instances.blockwise import label_blockwise
from napari_samseg.core.instances.blockwise_watershed import split_blockwise
from napari_samseg.core.instances.components import label_components
from napari_samseg.core.instances.watershed import split_touching
from napari_samseg.core.steps import run_steps

CLASSES = arrays(
    np.uint8,
    array_shapes(min_dims=2, max_dims=3, max_side=11),
    elements=st.integers(0, 2),
)


def assert_same_objects(found, expected):
    pairs = set(zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len({a for a, _ in pairs}) == len(pairs) == len({b for _, b in pairs})
    np.testing.assert_array_equal(found == 0, expected == 0)


@settings(max_examples=80)
@given(classes=CLASSES, data=st.data())
def test_components_are_those_of_the_whole(classes, data):
    axes = data.draw(st.integers(1, classes.ndim))
    block = data.draw(st.tuples(*[st.integers(1, 6)] * classes.ndim))
    out = np.zeros(classes.shape, np.uint32)
    report = run_steps(label_blockwise(classes, out, connectivity=axes, block=block))
    expected = label_components(classes, axes)
    assert_same_objects(out, expected)
    assert report.n_objects == expected.max()
    assert report.n_foreground == (classes > 0).sum()
    ids = np.unique(out[out > 0])
    assert ids.tolist() == list(range(1, len(ids) + 1))


def test_a_real_volume_from_dask_into_zarr(shared_data):
    import tifffile

    folder = shared_data / "em_gala_mini"
    path = next(p for p in sorted(folder.rglob("*")) if "gt" in p.name.lower())
    volume = np.asarray(tifffile.imread(path))
    data = dask.array.from_array(volume, chunks=(20, 40, 50))
    out = zarr.create_array({}, shape=volume.shape, chunks=(16, 32, 32), dtype="uint32")
    report = run_steps(label_blockwise(data, out, connectivity=6, block=(16, 64, 64)))
    expected = label_components(volume, 6)
    assert_same_objects(out[:], expected)
    assert report.n_objects == expected.max()


class Counted:
    """Counts the values that are read."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.n_read = self.most = 0

    def __getitem__(self, key):
        found = self.values[key]
        self.n_read += found.size
        self.most = max(self.most, found.size)
        return found


def wavy_fibres(yy, xx):
    middle = yy % 40 - 20 - 6 * np.sin(xx / 30)
    return np.abs(middle) < 9 + 3 * np.sin(xx / 12 + yy // 40)


def blobs(yy, xx):
    rng = np.random.default_rng(0)
    mask = np.zeros(yy.shape, bool)
    for y, x, radius in rng.integers((0, 0, 5), (*yy.shape, 13), (45, 3)):
        mask |= (yy - y) ** 2 + (xx - x) ** 2 < radius**2
    return mask


PLANES = {
    "blobs": blobs,
    "wavy fibres": wavy_fibres,
    # as high all along: ties everywhere
    "straight fibres": lambda yy, xx: yy % 30 > 5,
    "oblique fibres": lambda yy, xx: (yy + xx // 3) % 30 > 5,
    "one disc": lambda yy, xx: (yy - 65) ** 2 + (xx - 85) ** 2 < 60**2,
    "all but one pixel": lambda yy, xx: (yy != 3) | (xx != 5),
    "classes that touch": lambda yy, xx: 1 + (yy // 9 % 2) + (xx > 70),
    "nothing": lambda yy, xx: yy < 0,
}


@pytest.mark.parametrize("block", [(64, 64), (37, 167)])
@pytest.mark.parametrize("shape", PLANES)
def test_a_watershed_is_that_of_the_whole(shape, block):
    mask = PLANES[shape](*np.indices((130, 170))).astype(np.uint8)
    expected = split_touching(mask, min_distance=8)
    counted, out = Counted(mask), np.zeros(mask.shape, np.uint16)
    report = run_steps(split_blockwise(counted, out, min_distance=8, block=block))
    np.testing.assert_array_equal(out, expected)
    assert report.n_objects == expected.max()
    assert report.n_foreground == np.count_nonzero(mask)
    assert counted.n_read <= 1.1 * mask.size
    assert counted.most == np.prod(block)


def touching_balls() -> np.ndarray:
    rng = np.random.default_rng(3)
    centres = rng.integers(0, (40, 66, 67), (35, 3))
    zyx = np.indices((40, 66, 67))
    volume = np.zeros(zyx.shape[1:], bool)
    for centre in centres:
        volume |= np.square(zyx - centre[:, None, None, None]).sum(axis=0) < 81
    return volume


@pytest.mark.parametrize("spacing", [None, (3.27, 1.0, 1.0)])
def test_balls_that_touch_have_no_seams(spacing):
    """The last blocks are 2 or 3 pixels wide, as no plane and no picture is."""
    volume = touching_balls()
    expected = split_touching(volume, min_distance=6, spacing=spacing)
    out = np.zeros(volume.shape, np.uint32)
    steps = split_blockwise(
        volume, out, min_distance=6, spacing=spacing, block=(20, 32, 32)
    )
    run_steps(steps)
    assert expected.max() > 20
    np.testing.assert_array_equal(out, expected)


def test_chunks_that_are_planes_make_blocks_that_are_none(monkeypatch):
    """As napari's arrays on disk have: a plane's margin would be more than itself."""
    monkeypatch.setattr(blockwise, "BLOCK_VALUES", 30_000)
    volume = touching_balls()[:, :48, :40]
    out = zarr.create_array({}, shape=volume.shape, chunks=(1, 24, 40), dtype="uint32")
    assert blockwise.thick_block_shape(out, (2, 48, 40)) == (30, 24, 40)
    run_steps(split_blockwise(volume, out, min_distance=6))
    np.testing.assert_array_equal(out[:], split_touching(volume, min_distance=6))


def test_one_huge_component_is_read_as_often_as_any():
    mask = Counted(np.ones((1000, 1000), np.uint8))
    out = np.zeros(mask.shape, np.uint8)
    report = run_steps(split_blockwise(mask, out, min_distance=8, block=(256, 256)))
    assert (report.n_objects, report.n_foreground) == (1, 1_000_000)
    assert (out == 1).all()
    assert mask.n_read <= 1.1 * out.size
    assert mask.most == 256 * 256


def test_ways_over_many_blocks_lead_to_their_top():
    """Seeds far apart: most blocks have none."""
    bar = np.zeros((12, 130), bool)
    bar[4:9, 3:120] = True
    bar[2:11, 60:64] = False
    bar[6, 60:64] = True
    expected = split_touching(bar, min_distance=30, smoothing=0)
    out = np.zeros(bar.shape, np.uint16)
    run_steps(split_blockwise(bar, out, min_distance=30, smoothing=0, block=(12, 10)))
    assert expected.max() > 2
    np.testing.assert_array_equal(out, expected)


def test_small_objects_beside_large_ones_are_not_lost():
    """Their only peak is too close to the higher one of another object."""
    mask = np.zeros((60, 120), bool)
    mask[10:40, 10:40] = mask[20:27, 41:46] = mask[3:8, 80:85] = True
    expected = split_touching(mask, min_distance=25)
    out = np.zeros(mask.shape, np.uint8)
    report = run_steps(split_blockwise(mask, out, min_distance=25, block=(20, 44)))
    assert report.n_objects == expected.max() == 3
    np.testing.assert_array_equal(out, expected)


def test_specks_beside_large_objects_have_the_same_ids():
    """What counts is not in which order blocks have numbered their components."""
    mask = np.zeros((32, 96), np.uint8)
    mask[4:28, :24] = mask[4:28, 40:64] = 1
    # the first in the plane is in the second block
    mask[2, 52] = mask[29, 10] = 1
    expected = split_touching(mask, min_distance=25)
    out = np.zeros(mask.shape, np.uint32)
    run_steps(split_blockwise(mask, out, min_distance=25, block=(32, 32)))
    assert expected[2, 52] == 3
    np.testing.assert_array_equal(out, expected)


def test_more_numbers_than_a_narrow_type_counts(monkeypatch):
    yy, xx = np.indices((160, 260))
    # discs that touch, and beside them as many squares that do not
    mask = (yy % 8 - 4) ** 2 + (xx % 8 - 4) ** 2 < 21
    mask[:, 160:] = ((yy % 5 > 1) & (xx % 5 > 1))[:, 160:]
    expected = split_touching(mask)
    n_parts = label_components(mask).max()
    assert n_parts > 255
    assert expected.max() - n_parts > 255
    monkeypatch.setattr(blockwise_watershed, "NARROW", np.uint8)
    out = np.zeros(mask.shape, np.uint32)
    run_steps(split_blockwise(mask, out, block=(64, 64)))
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1595, 1595, 1595), np.uint32),
        ((1605, 1605, 1605), np.uint64),
        ((64_000, 64_000), np.uint32),
        ((1 << 16, 1 << 16), np.uint64),
    ],
)
def test_numbers_are_as_wide_as_blocks_may_need(shape, dtype):
    size = (128,) * len(shape)
    assert blockwise_watershed._number_dtype(shape, size) is dtype


def test_nothing_is_left_on_disk(tmp_path):
    mask = blobs(*np.indices((60, 60)))
    steps = split_blockwise(mask, np.zeros((60, 60), np.uint8), scratch=tmp_path)
    next(steps)
    assert list(tmp_path.iterdir())
    steps.close()
    assert not list(tmp_path.iterdir())


def test_ids_must_fit_and_shapes_agree():
    board = (np.indices((20, 30)).sum(axis=0) % 2).astype(np.uint8)
    with pytest.raises(LabelOverflowError, match="more than 255"):
        run_steps(label_blockwise(board, np.zeros((20, 30), np.uint8), connectivity=4))
    with pytest.raises(InvalidLabelsError, match="do not fit"):
        run_steps(label_blockwise(board, np.zeros((20, 31), np.uint8)))
