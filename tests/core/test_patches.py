"""What is cut comes back, whatever the size, the stride and the remainder."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from skimage.io import imread

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.patches import PatchGrid, cut_patches, stitch_patches


@st.composite
def grids(draw):
    n = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 12)) for _ in range(n))
    size = tuple(draw(st.integers(1, 14)) for _ in range(n))
    return PatchGrid(shape, size, tuple(draw(st.integers(1, s)) for s in size))


@given(grids(), st.sampled_from([np.float32, np.uint16, bool, np.uint8]), st.data())
def test_cut_and_stitched(grid, dtype, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    array = (rng.random(grid.shape) * 200).astype(dtype)
    patches = list(cut_patches(array, grid, fill="symmetric"))
    assert all(patch.shape == grid.size for _, patch in patches)
    names = [grid.name(start) for start, _ in patches]
    assert len(set(names)) == len(names) == len(grid)
    assert names == sorted(names)
    rng.shuffle(patches)
    for overlap in ("first", "mean"):
        back = stitch_patches(iter(patches), grid, overlap=overlap)
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)


def test_a_real_picture_in_patches_that_do_not_fit(shared_data):
    """128 px with stride 20, as a reference project cuts; and without overlap."""
    picture = imread(next(iter(sorted((shared_data / "he_monuseg/images").iterdir()))))
    for stride in (128, 100):
        grid = PatchGrid(picture.shape, (128, 128, 3), (stride, stride, 3))
        assert len(grid) == len({start[:2] for start in grid.starts})
        back = stitch_patches(cut_patches(picture, grid), grid)
        np.testing.assert_array_equal(back, picture)


def test_lazy_arrays_are_read_patch_by_patch(tmp_path):
    array = np.arange(7 * 30 * 31, dtype=np.uint32).reshape(7, 30, 31)
    grid = PatchGrid(array.shape, (1, 16, 16), (1, 16, 16))
    lazy = da.from_array(array, chunks=(1, 16, 16))
    out = zarr.create_array(
        tmp_path / "out.zarr", shape=array.shape, dtype="u4", chunks=(1, 16, 16)
    )
    assert stitch_patches(cut_patches(lazy, grid), grid, out=out) is out
    np.testing.assert_array_equal(out[:], array)


def test_patches_that_are_not_those_of_the_grid():
    grid = PatchGrid((5, 5), (3, 3), (2, 2))
    patches = list(cut_patches(np.ones((5, 5)), grid))
    with pytest.raises(SettingsError, match=r"1 patch of 4 missing.*\(2, 2\)"):
        stitch_patches(patches[:-1], grid)
    with pytest.raises(SettingsError, match="came twice"):
        stitch_patches([*patches, patches[0]], grid)
    with pytest.raises(SettingsError, match=r"\(0, 0\) has shape \(2, 3\)"):
        stitch_patches([((0, 0), np.ones((2, 3)))], grid)
    with pytest.raises(SettingsError, match="array has shape"):
        next(cut_patches(np.ones((4, 5)), grid))
    with pytest.raises(SettingsError, match="'first' or 'mean'"):
        stitch_patches(patches, grid, overlap="last")
    with pytest.raises(SettingsError, match="in memory"):
        stitch_patches(patches, grid, overlap="mean", out=np.zeros((5, 5)))


@pytest.mark.parametrize(
    ("size", "stride", "message"),
    [
        ((3,), (3, 3), "a number for each axis"),
        ((3, 0), (3, 1), "1 or more"),
        ((3, 3), (3, 4), "leave gaps"),
    ],
)
def test_grids_that_are_none(size, stride, message):
    with pytest.raises(SettingsError, match=message):
        PatchGrid((9, 9), size, stride)
