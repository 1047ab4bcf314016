"""Every method by name, on what it is meant for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from skimage.io import imread

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.instances.methods import INSTANCE_METHODS, find_instances
from napari_samseg.core.settings import InstanceSettings, describe


def classes_of(method: str) -> np.ndarray:
    """Two objects, drawn as each method wants them."""
    classes = np.zeros((40, 70), np.uint8)
    if method in ("membranes", "contours"):
        classes[5:35, 5] = classes[5:35, 34] = classes[5:35, 65] = 1
        classes[5, 5:66] = classes[34, 5:66] = 1
        if method == "membranes":
            classes[classes == 0] = 0
            classes[:5] = classes[35:] = classes[:, :5] = classes[:, 66:] = 1
        return classes
    if method == "axon-myelin":
        classes[5:35, 5:65] = 1
        classes[15:25, 12:25] = classes[15:25, 45:58] = 2
        return classes
    yx = np.indices(classes.shape)
    for x in (20, 46):
        classes[np.hypot(yx[0] - 20, yx[1] - x) < 15] = 1
    if method == "components":
        classes[:, 33] = 0
    return classes


@pytest.mark.parametrize("method", INSTANCE_METHODS)
def test_each_method_finds_two_objects(method):
    found = find_instances(classes_of(method), InstanceSettings(method))
    assert found.n_objects == 2
    assert found.labels.dtype == np.uint32
    assert sorted(np.unique(found.labels)) == [0, 1, 2]
    assert str(found) == "2 objects"


def test_the_choices_of_the_setting_are_the_methods():
    info = next(i for i in describe(InstanceSettings) if i.name == "method")
    assert info.choices == tuple(INSTANCE_METHODS)


def test_what_is_removed_is_counted():
    classes = np.zeros((30, 30), np.uint8)
    classes[0, :9] = classes[5, 5] = 1
    classes[10:20, 10:20] = 1
    classes[12, 12] = 0
    settings = InstanceSettings(min_size=2, clear_border=True, fill_holes=True)
    found = find_instances(classes, settings)
    assert (found.n_objects, found.n_too_small, found.n_at_border) == (1, 1, 1)
    assert found.labels[12, 12] == 1
    assert str(found) == "1 objects, 1 too small removed, 1 at the border removed"
    large = dataclasses.replace(settings, max_size=50)
    assert find_instances(classes, large).n_too_large == 1


def test_ids_stay_with_their_objects():
    classes = classes_of("components")
    before = find_instances(classes).labels * 7
    classes[2, 2] = 1
    after = find_instances(classes, before=before)
    assert sorted(np.unique(after.labels)) == [0, 7, 14, 15]


def test_the_golden_fixture_by_name(shared_data):
    folder = shared_data / "axon_sem/extras"
    golden, axons, myelin = (
        imread(folder / f"sub-rat8_sample-V915_ads-{name}.png")
        for name in ("instance-map", "pred-axon", "pred-myelin")
    )
    classes = np.where(axons > 127, 2, np.where(myelin > 127, 1, 0)).astype(np.uint8)
    found = find_instances(classes, InstanceSettings("axon-myelin"))
    np.testing.assert_array_equal(found.labels, golden)
    assert str(found) == "298 objects, 537 pixels belong to none"


def test_sizes_must_agree():
    with pytest.raises(SettingsError, match="below the smallest"):
        InstanceSettings(min_size=9, max_size=3)
