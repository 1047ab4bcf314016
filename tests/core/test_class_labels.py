from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr
from skimage import data, measure

from napari_samseg.core import class_labels
from napari_samseg.core.class_labels import semantic_labels
from napari_samseg.core.errors import InvalidLabelsError


@pytest.fixture(scope="module")
def objects():
    """Coins in two planes, (2, 303, 384) uint32."""
    plane = measure.label(data.coins() > 120).astype(np.uint32)
    return np.stack([plane, plane[::-1]])


def test_each_object_gets_its_class_and_others_none(objects):
    classes = {1: 2, 5: 1, 10**6: 7}
    made = semantic_labels(objects, classes)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made == 2, objects == 1)
    np.testing.assert_array_equal(made == 1, objects == 5)
    assert set(np.unique(made)) == {0, 1, 2}
    assert not semantic_labels(objects, {}).any()
    assert semantic_labels(objects, {1: 300}).max() == 300


@pytest.mark.parametrize("kind", ["zarr", "dask"])
def test_large_labels_are_read_when_looked_at(objects, kind, monkeypatch):
    monkeypatch.setattr(class_labels, "AT_ONCE_BYTES", 0)
    chunks = (1, 100, 100)
    if kind == "zarr":
        source = zarr.array(objects, chunks=chunks)
    else:
        source = da.from_array(objects, chunks=chunks)
    classes = {1: 2, 5: 1}
    made = semantic_labels(source, classes)
    assert made.chunksize == chunks
    np.testing.assert_array_equal(made.compute(), semantic_labels(objects, classes))


def test_labels_must_be_integers():
    with pytest.raises(InvalidLabelsError, match="float64"):
        semantic_labels(np.zeros((4, 4)), {1: 1})
