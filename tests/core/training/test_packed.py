from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_samseg.core.prompts.object_index import index_objects
from napari_samseg.core.training.packed import ObjectWriter


@given(arrays(np.uint8, (7, 11), elements=st.integers(0, 3)))
@settings(max_examples=30, deadline=None)
def test_masks_come_back_as_they_were(tmp_path_factory, labels: np.ndarray) -> None:
    path = Path(tmp_path_factory.mktemp("packed")) / "objects.bin"
    objects = index_objects(labels)
    with ObjectWriter(path) as writer:
        writer.add(objects, {})
        writer.add(objects, {})
    packed = writer.read()
    assert len(packed) == 2 * len(objects)
    again = packed.index(np.arange(len(objects), len(packed)), labels.shape)
    assert np.array_equal(again.pixels, objects.pixels)
    assert np.array_equal(again.areas, objects.areas)
    assert np.array_equal(again.boxes_yx, objects.boxes_yx)
    assert np.array_equal(again.labels > 0, labels > 0)
    for row, object_id in enumerate(objects.object_ids):
        y0, x0, y1, x1 = objects.boxes_yx[row]
        assert np.array_equal(packed.crop(row), labels[y0:y1, x0:x1] == object_id)
