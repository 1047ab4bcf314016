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
from napari_samseg.core.instances.blockwise import label_blockwise, split_blockwise
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


def adapted_rand_error(found, expected) -> float:
    from skimage.metrics import adapted_rand_error as error

    return error(expected.astype(np.int64), found.astype(np.int64))[0]


def touching_balls() -> np.ndarray:
    rng = np.random.default_rng(3)
    centres = rng.integers(0, (48, 96, 96), (90, 3))
    zyx = np.indices((48, 96, 96))
    volume = np.zeros(zyx.shape[1:], bool)
    for centre in centres:
        volume |= np.square(zyx - centre[:, None, None, None]).sum(axis=0) < 81
    return volume


def test_a_watershed_is_that_of_the_whole_without_seams():
    volume = touching_balls()
    expected = split_touching(volume, min_distance=6)
    out = np.zeros(volume.shape, np.uint32)
    report = run_steps(
        split_blockwise(volume, out, min_distance=6, halo=24, block=(24, 40, 40))
    )
    np.testing.assert_array_equal(out > 0, volume)
    assert adapted_rand_error(out, expected) < 0.01
    assert report.n_objects == expected.max()
    for axis, at in ((0, 24), (1, 40), (1, 80), (2, 40), (2, 80)):
        below, above = (out.take(i, axis) for i in (at - 1, at))
        both = (below > 0) & (above > 0)
        here = (below != above)[both].mean()
        inside = expected.take(at - 1, axis) != expected.take(at, axis)
        assert here <= inside[both].mean() + 0.02


def test_foreground_beyond_the_halo_is_reached_all_the_same():
    bar = np.zeros((12, 130), bool)
    bar[4:9, 3:120] = True
    out = np.zeros(bar.shape, np.uint16)
    run_steps(split_blockwise(bar, out, min_distance=60, halo=4, block=(12, 20)))
    np.testing.assert_array_equal(out > 0, bar)


def test_small_objects_beside_large_ones_are_not_lost():
    """Their only peak is too close to the higher one of another object."""
    mask = np.zeros((60, 120), bool)
    mask[10:40, 10:40] = mask[20:27, 41:46] = mask[3:8, 80:85] = True
    expected = split_touching(mask, min_distance=25)
    out = np.zeros(mask.shape, np.uint8)
    report = run_steps(split_blockwise(mask, out, min_distance=25, block=(20, 44)))
    assert report.n_objects == expected.max() == 3
    assert report.n_foreground == mask.sum()
    pairs = np.unique(np.stack([out.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == 4


def test_ids_must_fit_and_shapes_agree():
    board = (np.indices((20, 30)).sum(axis=0) % 2).astype(np.uint8)
    with pytest.raises(LabelOverflowError, match="more than 255"):
        run_steps(label_blockwise(board, np.zeros((20, 30), np.uint8), connectivity=4))
    with pytest.raises(InvalidLabelsError, match="do not fit"):
        run_steps(label_blockwise(board, np.zeros((20, 31), np.uint8)))
