from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.draw import polygon2mask

from napari_samseg.core.prompts.polygon import encloses_pixel, fill_polygon

SIZE = (23, 31)


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 9), st.just(2)),
        elements=st.floats(-9, 40),
    )
)
def test_pixels_are_those_of_skimage(vertices):
    # off the pixel centres, on which the two differ at the outline
    nth = np.arange(len(vertices))[:, np.newaxis]
    vertices = np.round(vertices) + [0.137, 0.291] + nth * [0.0011, 0.0017]
    mask = fill_polygon(vertices, SIZE)
    np.testing.assert_array_equal(mask, polygon2mask(SIZE, vertices))
    assert encloses_pixel(vertices, SIZE) == mask.any()


def test_neighbours_share_no_pixel_and_leave_no_gap():
    left = np.array([[2.0, 2], [2, 9], [12, 9], [12, 2]])
    right = left + np.array([0, 7])
    both = fill_polygon(left, SIZE).astype(int) + fill_polygon(right, SIZE)
    expected = np.zeros(SIZE, int)
    expected[2:12, 2:16] = 1
    np.testing.assert_array_equal(both, expected)


@pytest.mark.parametrize(
    "vertices",
    [
        [[5.2, 5.2], [5.2, 5.8], [5.8, 5.8]],
        [[3.0, 3.0], [9.0, 9.0]],
        [[4.0, 4.0]],
        [[-9.0, -9.0], [-9.0, 50.0], [-2.0, 50.0]],
        [[1.0, 31.5], [9.0, 31.5], [9.0, 40.0]],
    ],
)
def test_no_pixel_inside(vertices):
    assert not encloses_pixel(np.array(vertices), SIZE)
    assert not fill_polygon(np.array(vertices), SIZE).any()
