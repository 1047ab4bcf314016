from __future__ import annotations

from pathlib import Path

import numpy as np
from napari.components import ViewerModel

from napari_samseg.adapters.demo_viewer import add_demo_layers
from napari_samseg.core.demo import DemoReport, DemoResult


def test_each_image_lies_below_its_labels_and_the_first_is_seen():
    rng = np.random.default_rng(0)
    results = tuple(
        DemoResult(
            name,
            rng.integers(0, 255, shape, dtype=np.uint8),
            rng.integers(0, 3, shape[:2]).astype(np.uint16),
            (),
            {},
            Path(f"{name}_labels.tif"),
            Path(f"{name}_overlay.png"),
        )
        for name, shape in (("grey", (8, 9)), ("colour", (8, 9, 3)))
    )
    viewer = ViewerModel()
    add_demo_layers(viewer, DemoReport("small", "cpu", 0.0, results))
    assert [layer.name for layer in viewer.layers] == [
        "grey",
        "grey labels",
        "colour",
        "colour labels",
    ]
    assert [layer.visible for layer in viewer.layers] == [True, True, False, False]
    assert viewer.layers["colour"].rgb
    np.testing.assert_array_equal(viewer.layers["grey labels"].data, results[0].labels)
