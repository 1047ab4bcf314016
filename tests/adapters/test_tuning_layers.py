"""Outlines before and after a training, in layers of a viewer."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_samseg.adapters.tuning_layers import (
    AFTER,
    BEFORE,
    BeforeAfter,
    LabelPlace,
)
from napari_samseg.core.training.preview import PreviewPlane

SHAPE = (3, 20, 30)
TURNED = {"scale": (4, 2, 2), "rotate": 30, "translate": (0, 5, 7)}


def add_layers(viewer, **options):
    image = viewer.add_image(np.zeros(SHAPE), name="image", **options)
    labels = viewer.add_labels(np.zeros(SHAPE, int), name="labels", **options)
    return image, labels


def masks_of(viewer, layers, tmp_path, title="run"):
    place = LabelPlace.of(*layers)
    return BeforeAfter(viewer, title, {"image": place}, tmp_path)


def found(value, plane=(1,)):
    painted = np.full((4, 5), value, np.uint32)
    return [PreviewPlane("image", plane, (2, 3, 6, 8), painted)]


def paint(layer):
    layer.data_setitem((np.array([1]), np.array([0]), np.array([0])), 9)


def rename(layer):
    layer.name = "mine"


def replace(layer):
    layer.data = layer.data + 1


def test_a_run_goes_on_in_its_layers(tmp_path):
    viewer = ViewerModel()
    layers = add_layers(viewer)
    first = masks_of(viewer, layers, tmp_path)
    first.show(BEFORE, found(1))
    first.show(AFTER, found(2))
    again = masks_of(viewer, layers, tmp_path)
    again.show(AFTER, found(3))
    assert again.layers(AFTER) == first.layers(AFTER)
    assert len(viewer.layers) == 4
    assert (first.layers(AFTER)[0].data[1, 2:6, 3:8] == 3).all()
    masks_of(viewer, layers, tmp_path, "other run").show(AFTER, found(4))
    assert len(viewer.layers) == 5


@pytest.mark.parametrize("change", [paint, rename, replace])
def test_what_somebody_made_is_left_alone(change, tmp_path):
    viewer = ViewerModel()
    layers = add_layers(viewer)
    masks = masks_of(viewer, layers, tmp_path)
    masks.show(AFTER, found(2))
    (theirs,) = masks.layers(AFTER)
    change(theirs)
    kept = np.array(theirs.data)
    for later in (masks, masks_of(viewer, layers, tmp_path)):
        later.show(AFTER, found(3))
        (new,) = later.layers(AFTER)
        assert new is not theirs
    np.testing.assert_array_equal(theirs.data, kept)
    assert len(viewer.layers) == 4


def test_a_layer_that_was_removed_does_not_come_back(tmp_path):
    viewer = ViewerModel()
    masks = masks_of(viewer, add_layers(viewer), tmp_path)
    masks.show(AFTER, found(2))
    viewer.layers.remove(masks.layers(AFTER)[0])
    masks.show(AFTER, found(3))
    assert not masks.layers(AFTER)


@pytest.mark.parametrize("affine", [None, np.diag([1.0, 3.0, 0.5, 1.0])])
def test_side_by_side(affine, tmp_path):
    """On the copy, the masks lie where they lie on the image."""
    viewer = ViewerModel()
    image, labels = add_layers(viewer, affine=affine, **TURNED)
    masks = masks_of(viewer, (image, labels), tmp_path)
    masks.show(BEFORE, found(1))
    masks.show(AFTER, found(2))
    active = viewer.layers.selection.active
    masks.show_only(BEFORE, AFTER, is_apart=True)
    masks.show_only(BEFORE, AFTER, is_apart=True)
    (twin,), (after,), (before,) = (
        masks.twins,
        masks.layers(AFTER),
        masks.layers(BEFORE),
    )
    assert viewer.layers.selection.active is active
    assert twin.data is image.data
    for point in ((0, 0, 0), (2, 19, 29)):
        there = after.data_to_world(point)
        np.testing.assert_allclose(there, twin.data_to_world(point))
        # beside it, along a row of the image
        beside = image.world_to_data(there) - point
        np.testing.assert_allclose(beside, (0, 0, 30 * 1.04), atol=1e-9)
    np.testing.assert_allclose(
        before.data_to_world((1, 2, 3)), image.data_to_world((1, 2, 3))
    )
    masks.show_only(BEFORE)
    assert masks.twins == []
    assert not after.visible
    np.testing.assert_allclose(
        after.data_to_world((1, 2, 3)), image.data_to_world((1, 2, 3))
    )


def test_side_by_side_of_colours_and_levels(tmp_path):
    viewer = ViewerModel()
    pixels = np.zeros((40, 60, 3), np.uint8)
    image = viewer.add_image([pixels, pixels[::2, ::2]], multiscale=True, rgb=True)
    labels = viewer.add_labels(np.zeros((40, 60), int))
    masks = BeforeAfter(
        viewer, "run", {"image": LabelPlace.of(image, labels)}, tmp_path
    )
    masks.show(AFTER, found(2, plane=()))
    masks.show_only(AFTER, is_apart=True)
    (twin,) = masks.twins
    assert twin.rgb
    assert twin.multiscale
    viewer.layers.remove(image)
    masks.show_only(AFTER)
    assert twin not in viewer.layers
