"""Tiles cover a plane, and one of them holds each object whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.geometry import (
    choose_tile,
    grow_box,
    tile_pyramid,
    touches_inner_border,
)

SIZES = st.tuples(st.integers(1, 900), st.integers(1, 900))


def test_a_plane_that_fits_is_one_tile():
    assert tile_pyramid((100, 128), 128) == ((0, 0, 100, 128),)


def test_scales_double_up_to_the_whole_plane():
    tiles = tile_pyramid((600, 300), 128)
    sides = sorted({max(y1 - y0, x1 - x0) for y0, x0, y1, x1 in tiles})
    assert sides == [128, 256, 512, 600]
    assert tiles[-1] == (0, 0, 600, 300)


@given(SIZES, st.integers(16, 300), st.floats(0, 0.5))
def test_each_scale_covers_the_plane(size, tile, overlap):
    tiles = tile_pyramid(size, tile, overlap)
    cover = np.zeros(size, bool)
    for y0, x0, y1, x1 in tiles:
        assert 0 <= y0 < y1 <= size[0]
        assert 0 <= x0 < x1 <= size[1]
        if max(y1 - y0, x1 - x0) <= tile:
            cover[y0:y1, x0:x1] = True
    if max(size) >= tile:
        assert cover.all()


@given(SIZES, st.integers(16, 300), st.data())
def test_what_is_no_larger_than_the_overlap_lies_in_a_fine_tile(size, tile, data):
    tiles = tile_pyramid(size, tile, 0.25)
    side = int(tile * 0.25) - 1
    height, width = min(side, size[0]), min(side, size[1])
    y = data.draw(st.integers(0, size[0] - height))
    x = data.draw(st.integers(0, size[1] - width))
    assert any(
        y0 <= y and x0 <= x and y + height <= y1 and x + width <= x1
        for y0, x0, y1, x1 in tiles
        if max(y1 - y0, x1 - x0) <= tile
    )


@given(SIZES, st.integers(16, 300), st.data())
def test_the_chosen_tile_holds_the_object(size, tile, data):
    tiles = tile_pyramid(size, tile, 0.25)
    ys = sorted(data.draw(st.tuples(*[st.integers(0, size[0])] * 2)))
    xs = sorted(data.draw(st.tuples(*[st.integers(0, size[1])] * 2)))
    extent = np.array([ys[0], xs[0], ys[1], xs[1]], float)
    y0, x0, y1, x1 = tiles[choose_tile(tiles, extent, size)]
    assert y0 <= extent[0]
    assert x0 <= extent[1]
    assert y1 >= extent[2]
    assert x1 >= extent[3]


@given(st.integers(16, 300), st.data())
def test_rows_and_columns_are_treated_alike(tile, data):
    tiles = tile_pyramid((700, 700), tile, 0.25)
    y, x = data.draw(st.tuples(*[st.integers(0, 600)] * 2))
    height, width = data.draw(st.tuples(*[st.integers(1, 100)] * 2))
    extent = np.array([y, x, y + height, x + width], float)
    y0, _, y1, _ = tiles[choose_tile(tiles, extent, (700, 700))]
    turned = tiles[choose_tile(tiles, extent[[1, 0, 3, 2]], (700, 700))]
    assert y1 - y0 == turned[2] - turned[0]


def test_a_point_goes_to_the_tile_it_is_most_central_in():
    tiles = tile_pyramid((96, 400), 100)
    for x in range(400):
        extent = np.array([40, x, 41, x + 1], float)
        chosen = tiles[choose_tile(tiles, extent, (96, 400))]
        assert chosen[3] - chosen[1] == 100
        assert chosen[1] == 0 or x - chosen[1] >= 10
        assert chosen[3] == 400 or chosen[3] - x >= 10


def test_a_large_object_goes_to_a_large_tile():
    tiles = tile_pyramid((600, 600), 128)
    extent = np.array([100, 100, 320, 320], float)
    y0, x0, y1, x1 = tiles[choose_tile(tiles, extent, (600, 600))]
    assert (y1 - y0, x1 - x0) == (512, 512)
    everything = np.array([0, 0, 600, 600], float)
    assert choose_tile(tiles, everything, (600, 600)) == len(tiles) - 1


def test_only_borders_inside_the_plane_count():
    tile = (0, 64, 100, 164)
    assert not touches_inner_border((0, 80, 100, 150), tile, (100, 200))
    assert touches_inner_border((10, 64, 20, 80), tile, (100, 200))
    assert touches_inner_border((10, 80, 20, 163), tile, (100, 200))
    assert touches_inner_border((10, 80, 99, 90), tile, (120, 200))


def test_boxes_grow():
    a, b = np.array([1.0, 5, 3, 9]), np.array([2.0, 4, 8, 6])
    assert grow_box(a, b).tolist() == [1, 4, 8, 9]


@pytest.mark.parametrize(("tile", "overlap"), [(8, 0.25), (64, 0.7), (64, -0.1)])
def test_wrong_tilings_are_refused(tile, overlap):
    with pytest.raises(SettingsError):
        tile_pyramid((100, 100), tile, overlap)
