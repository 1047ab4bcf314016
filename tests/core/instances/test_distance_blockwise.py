"""Distances in blocks equal those of the whole, also deep inside large objects."""

from __future__ import annotations

import time

import numpy as np
import pytest

from napari_samseg.core.instances.distance_blockwise import distance_blockwise
from napari_samseg.core.instances.watershed import distance_inside
from napari_samseg.core.steps import run_steps


def disc(side):
    y, x = np.ogrid[:side, :side]
    middle = (side - 1) / 2
    is_inside = (y - middle) ** 2 + (x - middle) ** 2 < (0.48 * side) ** 2
    return is_inside.astype(np.uint32)


def ragged(shape, period, seed):
    """Large objects with bays and holes, some of which touch others."""
    rng = np.random.default_rng(seed)
    waves = sum(
        np.sin(2 * np.pi * grid / period + rng.uniform(0, 6))
        for grid in np.meshgrid(*map(np.arange, shape), indexing="ij", sparse=True)
    )
    parts = (waves > -0.5).astype(np.uint32)
    parts[..., shape[-1] // 2 :] *= 2
    parts[tuple(rng.integers(0, n, 12) for n in shape)] = 0
    return parts


@pytest.mark.parametrize(
    ("parts", "spacing"),
    [
        (disc(700), None),
        (disc(400), (0.3, 7.1)),
        (ragged((500, 301), 400, 0), None),
        (ragged((500, 301), 400, 1), (2.5, 1.0)),
        (ragged((110, 45, 60), 200, 2), None),
        (ragged((110, 45, 60), 200, 3), (1.0, 3.7, 0.2)),
        # no border along some lines, and none along one axis
        (np.repeat([[1], [1], [0]], [150, 90, 2], axis=0).repeat(40, 1), None),
        (np.array([[1] * 300 + [2] * 500], np.uint32), (3.0, 0.7)),
    ],
)
def test_distances_in_large_objects_are_those_of_the_whole(parts, spacing):
    found = np.zeros(parts.shape, np.float32)
    run_steps(distance_blockwise(parts, found, (64,) * parts.ndim, spacing))
    expected = distance_inside(parts, spacing)
    # the last bits of 32 where spacings are no whole numbers, which edt adds up
    np.testing.assert_allclose(found, expected, rtol=1e-6 if spacing else 0)


def test_a_pixel_of_a_large_object_takes_no_longer():
    # the near border is that along the line, and all others are far away
    parts = np.zeros((5, 50_000), np.uint32)
    parts[1:4, 1:-1] = 1
    found = np.zeros(parts.shape, np.float32)
    start = time.thread_time()
    run_steps(distance_blockwise(parts, found, (128, 128), (1e6, 1.0)))
    # some seconds when each pixel on the way is tried
    assert time.thread_time() - start < 1
    from_end = np.arange(parts.shape[1])
    expected = np.minimum(from_end, from_end[::-1])
    np.testing.assert_allclose(found[2], expected, rtol=1e-6)
