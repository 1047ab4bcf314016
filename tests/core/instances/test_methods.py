"""Every method by name, on what it is meant for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from skimage.io import imread

from napari_samseg.core.errors import InvalidPromptError, SettingsError
from napari_samseg.core.instances.membranes import boundaries_of
from napari_samseg.core.instances.methods import (
    INSTANCE_METHODS,
    SEMANTIC_METHODS,
    find_instances,
)
from napari_samseg.core.instances.seed_points import Seeds
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
    points = Seeds(np.array([(20.0, 20), (20, 46)]), np.array([1, 2]))
    seeds = points if method == "points" else None
    found = find_instances(classes_of(method), InstanceSettings(method), seeds=seeds)
    assert found.n_objects == 2
    assert found.labels.dtype == np.uint32
    assert sorted(np.unique(found.labels)) == [0, 1, 2]
    assert str(found) == "2 objects"


def test_the_choices_of_the_setting_are_the_methods():
    info = next(i for i in describe(InstanceSettings) if i.name == "method")
    assert info.choices == (*INSTANCE_METHODS, *SEMANTIC_METHODS)


def test_back_to_maps_of_one_class():
    labels = classes_of("components").astype(np.uint8)
    labels[:, 33:] *= 2
    found = find_instances(labels, InstanceSettings("mask", min_size=10**6))
    np.testing.assert_array_equal(found.labels, labels > 0)
    assert str(found) == f"{np.count_nonzero(labels)} pixels of 2 objects"
    inner, outer, wide = (
        find_instances(
            labels, InstanceSettings("boundaries", inward=inward, outward=outward)
        ).labels
        for inward, outward in ((1, 0), (0, 1), (3, 2))
    )
    np.testing.assert_array_equal(inner, boundaries_of(labels, "inner"))
    assert not (outer[labels > 0]).any()
    np.testing.assert_array_equal(
        outer > 0, boundaries_of(labels > 0, "outer") & (labels == 0)
    )
    assert (wide >= inner).all()
    assert wide.sum() > 2 * inner.sum()
    assert set(np.unique(wide)) == {0, 1}
    with pytest.raises(SettingsError, match="of no width"):
        find_instances(labels, InstanceSettings("boundaries", inward=0))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (None, "give a file with --seeds"),
        ([(20.0, 20.0), (20.0, 900.0)], "1 of 2 points outside"),
        ([(0.0, 20.0, 20.0)], "with 3 coordinates do not lie"),
        ([(0.0, 0.0), (0.0, 1.0)], "of 2 points none lies on an object"),
    ],
)
def test_seeds_that_do_not_fit_say_so(points, message):
    seeds = None if points is None else Seeds(np.array(points), np.ones(len(points)))
    with pytest.raises(InvalidPromptError, match=message):
        find_instances(classes_of("points"), InstanceSettings("points"), seeds=seeds)


def test_classes_that_may_be_axons_and_myelin_are_told():
    classes = np.zeros((20, 20), np.uint8)
    classes[2:12, 2:12], classes[4:9, 4:9] = 1, 2
    (note,) = find_instances(classes).notes
    assert note.startswith("components of the classes 1 and 2 are objects each for it")
    assert "the method axon-myelin makes one object" in note
    for others in (classes != 0, classes == 2, classes + 1, classes * 2):
        assert find_instances(others).notes == ()
    by_myelin = find_instances(classes, InstanceSettings(method="axon-myelin"))
    assert (by_myelin.n_objects, by_myelin.notes) == (1, ())


def test_points_of_one_object_grow_together():
    classes = classes_of("watershed")
    points = np.array([(20.0, 20), (20, 46), (20, 33)])
    apart = find_instances(
        classes, InstanceSettings("points"), seeds=Seeds(points, np.array([1, 2, 1]))
    )
    assert apart.n_objects == 2
    assert apart.labels[20, 33] == apart.labels[20, 20] != apart.labels[20, 46]
    few = find_instances(
        classes_of("components"),
        InstanceSettings("points"),
        seeds=Seeds(points[:1], np.array([9])),
    )
    assert few.n_unassigned > 400
    assert "pixels belong to none" in str(few)


def test_what_is_removed_is_counted():
    classes = np.zeros((30, 30), np.uint8)
    classes[0, :9] = classes[5, 5] = 1
    classes[10:20, 10:20] = 1
    classes[12, 12] = 0
    settings = InstanceSettings(min_size=2, clear_border=True, fill_holes=True)
    found = find_instances(classes, settings)
    assert (found.n_objects, found.n_too_small, found.n_at_border) == (1, 1, 1)
    assert found.labels[12, 12] == 1
    assert str(found) == (
        "1 object, 1 too small removed, 1 at the border removed, 10 pixels removed "
        "with them"
    )
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
