from __future__ import annotations

import numpy as np
import pytest

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training.survey import snapshot_steps


def test_a_snapshot_stays_as_it_was() -> None:
    labels = np.zeros((3, 2, 20, 30), np.uint16)
    labels[1, 0, 2:8, 3:9] = 7
    labels[2, 1, 10:18, 3:9] = 300
    was = labels.copy()
    snapshot = run_steps(snapshot_steps(labels))
    labels[:] = 5
    assert snapshot.shape == was.shape
    assert snapshot.dtype == was.dtype
    assert len(snapshot.planes) == 2
    for plane in np.ndindex(3, 2):
        np.testing.assert_array_equal(snapshot[plane], was[plane])
    flat = run_steps(snapshot_steps(was[1, 0]))
    np.testing.assert_array_equal(flat[()], was[1, 0])


def test_only_some_labels_are_taken() -> None:
    labels = np.array([[0, 1, 2], [3, 3, 2]], np.uint8)
    chosen = run_steps(snapshot_steps(labels, (1, 3)))
    np.testing.assert_array_equal(chosen[()], [[0, 1, 0], [3, 3, 0]])
    with pytest.raises(InvalidLabelsError, match="no planes"):
        run_steps(snapshot_steps(labels[0]))
