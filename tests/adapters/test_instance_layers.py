"""Points of a layer become seeds of objects."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Labels, Points

from napari_samseg.adapters.instance_layers import seeds_of


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
