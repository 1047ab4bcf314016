"""Points of a layer become seeds, and its scale the size of pixels."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Labels, Points

from napari_samseg.adapters.instance_layers import (
    relative_spacing,
    seeds_of,
)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        ([3.0, 1.0, np.nan, np.nan, 3.0], [1, 2, 3, 4, 1]),
        (["a", None, "b", np.nan, "a"], [1, 2, 3, 4, 1]),
        (["a", 2, "", "", 2], [1, 2, 3, 4, 2]),
    ],
)
def test_points_without_a_name_are_objects_by_themselves(names, ids):
    places = np.arange(10).reshape(5, 2)
    points = Points(places, features={"object": np.array(names, object)})
    found = seeds_of(points, Labels(np.zeros((20, 20), int)))
    np.testing.assert_array_equal(found.points, places)
    assert found.ids.tolist() == ids


def test_many_points_lie_where_napari_draws_them():
    places = np.random.default_rng(0).uniform(0, 20, (30_000, 3))
    points = Points(places, scale=(3, 2, 1), rotate=30, translate=(1, 2, 3))
    place = {"scale": (4, 1, 1), "shear": (0, 0, 0.5), "affine": np.diag([1, 2, 2, 1])}
    source = Labels(np.zeros((20, 20, 20), int), **place)
    found = seeds_of(points, source).points
    for i in (0, 7, 29_999):
        expected = source.world_to_data(points.data_to_world(places[i]))
        np.testing.assert_allclose(found[i], expected)


@pytest.mark.parametrize(
    ("scale", "units", "spacing"),
    [
        ((50, 0.5, 0.5), ("nm", "um", "um"), (1, 10, 10)),
        ((2, 0.5, 0.5), ("um", "um", "um"), (4, 1, 1)),
        ((2, 0.5, 0.5), None, (4, 1, 1)),
        ((5, 0.5, 0.5), ("second", "um", "um"), None),
        ((3, 0.5, 0.5), ("pixel", "um", "um"), None),
    ],
)
def test_sections_are_as_thick_as_in_a_file(scale, units, spacing):
    layer = Labels(np.zeros((2, 4, 4), int), scale=scale, units=units)
    found = relative_spacing(layer)
    assert found == (None if spacing is None else pytest.approx(spacing))
