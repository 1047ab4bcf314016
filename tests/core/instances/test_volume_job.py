"""Classes are understood alike in all their parts, and volumes go to disk."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import zarr
from PIL import Image
from scipy import ndimage

from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.instances import class_source
from napari_samseg.core.instances.class_source import (
    ClassSource,
    join_masks,
    open_classes_steps,
)
from napari_samseg.core.instances.file_job import read_classes
from napari_samseg.core.instances.methods import (
    INSTANCE_METHODS,
    METHOD_SETTINGS,
    SEMANTIC_METHODS,
    TIDY_SETTINGS,
    find_instances,
)
from napari_samseg.core.instances.volume_job import volume_instances_steps
from napari_samseg.core.settings import InstanceSettings
from napari_samseg.core.steps import run_steps


@pytest.fixture
def blobs():
    rng = np.random.default_rng(3)
    grid = np.indices((24, 40, 44))
    centres = rng.uniform(0, (24, 40, 44), (14, 3))
    radii = rng.uniform(2, 7, 14)
    near = [
        np.square(grid - c[:, None, None, None]).sum(axis=0) < r**2
        for c, r in zip(centres, radii, strict=True)
    ]
    return np.any(near, axis=0).astype(np.uint8)


def make_out(shape):
    return zarr.create_array(store={}, shape=shape, chunks=(5, 16, 16), dtype="u4")


def solve(volume, settings, **arguments):
    source = ClassSource("the volume", volume)
    return run_steps(volume_instances_steps(source, settings, **arguments))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"min_size": 300},
        {"max_size": 800, "connectivity": 6},
        {"clear_border": True, "min_size": 40},
    ],
)
def test_on_disk_as_in_memory(blobs, values):
    settings = InstanceSettings(**values)
    whole = solve(blobs, settings)
    parts = solve(blobs, settings, make_out=make_out, memory_values=1)
    assert str(parts.found) == str(whole.found) == str(find_instances(blobs, settings))
    assert sorted(parts.sizes) == sorted(whole.sizes)
    labels = np.asarray(parts.found.labels)
    np.testing.assert_array_equal(labels != 0, whole.found.labels != 0)
    ids, counts = np.unique(labels[labels > 0], return_counts=True)
    np.testing.assert_array_equal(ids, np.arange(1, len(parts.sizes) + 1))
    np.testing.assert_array_equal(counts, parts.sizes)


def test_what_does_not_go_block_by_block_says_so(blobs):
    for values, error in (
        ({"method": "membranes"}, InvalidLabelsError),
        ({"fill_holes": True}, SettingsError),
        ({"method": "watershed", "h": 2.0}, SettingsError),
    ):
        with pytest.raises(error, match="part of the volume"):
            solve(blobs, InstanceSettings(**values), make_out=make_out, memory_values=1)


@pytest.mark.parametrize("method", ["components", "watershed"])
@pytest.mark.parametrize("memory_values", [1, 1 << 20])
def test_a_spacing_is_a_size_above_0_for_each_axis(blobs, method, memory_values):
    settings = InstanceSettings(method=method)
    more = {"make_out": make_out, "memory_values": memory_values}
    for spacing in ((1, 1), (0, 1, 1), (np.nan, 1, 1), (-1, 1, 1), (1, 1, 1, 1)):
        with pytest.raises(SettingsError, match="not 3 positive numbers"):
            solve(blobs, settings, spacing=spacing, **more)


def test_every_setting_is_read_by_a_method_or_after_all_of_them():
    read = {name for names in METHOD_SETTINGS.values() for name in names}
    fields = {field.name for field in dataclasses.fields(InstanceSettings)}
    assert set(METHOD_SETTINGS) == {*INSTANCE_METHODS, *SEMANTIC_METHODS}
    assert read | set(TIDY_SETTINGS) | {"method"} == fields


def test_a_plane_without_a_class_is_read_as_the_others_are():
    volume = np.zeros((3, 40, 40), np.uint8)
    volume[0, :20] = 127
    volume[1, :20] = 255
    volume[1, 20, :5] = 130
    source = run_steps(open_classes_steps(volume, "pictures", is_image=True))
    assert [np.unique(source[z]).tolist() for z in range(3)] == [[0, 1], [0, 1, 2], [0]]
    assert (
        "5 pixels had values between those of the classes 0, 127, 255"
        in (source.notes[0])
    )
    # in a Labels layer a value is what somebody gave it
    labels = run_steps(open_classes_steps(volume, "labels"))
    assert np.unique(labels[0]).tolist() == [0, 127]


@pytest.mark.parametrize(
    ("array", "arguments", "message"),
    [
        (np.full((4, 5), 0.5), {}, "apply a threshold first"),
        (np.full((4, 5), -1), {}, "holds negative labels"),
        (np.zeros((4, 5), bool), {}, "is empty"),
        (np.zeros((2, 2, 4, 5), int), {}, "take out one time point"),
        (np.arange(90, dtype="u2").reshape(9, 10), {"is_image": True}, "a photograph"),
        (np.arange(60).reshape(4, 5, 3), {"is_colour": True}, "a coloured picture"),
    ],
)
def test_what_is_no_classes_says_what_to_do(array, arguments, message):
    with pytest.raises(InvalidLabelsError, match=message):
        run_steps(open_classes_steps(array, "layer 'x'", **arguments))


def test_panel_and_command_tell_photographs_alike(shared_data):
    path = shared_data / "oct_dme_fluid/images/img_003.png"
    with Image.open(path) as picture:
        values = np.asarray(picture.convert("L"))
    with pytest.raises(InvalidLabelsError, match="looks like a photograph"):
        run_steps(open_classes_steps(values, "the layer", is_image=True))
    with pytest.raises(InvalidLabelsError, match="looks like a photograph"):
        read_classes(path)
    # lines without two pixels beside each other are labels for both
    lines = np.eye(9, dtype=np.uint16) * 900
    source = run_steps(open_classes_steps(lines, "the layer", is_image=True))
    np.testing.assert_array_equal(source[...], lines)


def test_two_masks_are_one_map():
    axon = np.array([[255, 255, 0, 0]], np.uint8)
    myelin = ClassSource("myelin", np.array([[0, 1, 1, 0]], bool))
    source = run_steps(open_classes_steps(axon, "axon", is_image=True, myelin=myelin))
    assert source[...].tolist() == [[2, 2, 1, 0]]
    np.testing.assert_array_equal(source[...], join_masks(axon, myelin[...]))
    soft = np.zeros((40, 40), np.uint8)
    soft[10:30, 10:30], soft[9, 10:30], soft[30, 10:30] = 255, 60, 200
    source = run_steps(open_classes_steps(soft, "axon", is_image=True, is_mask=True))
    np.testing.assert_array_equal(source[...], soft > 127)
    with pytest.raises(InvalidLabelsError, match="not masks of one image"):
        run_steps(open_classes_steps(axon.T, "axon", myelin=myelin))


def smooth_square(shape):
    """A picture of a mask in every plane, with smooth edges."""
    plane = np.zeros(shape[-2:], float)
    plane[8:30, 8:30] = 255
    plane = ndimage.gaussian_filter(plane, 1)
    return np.broadcast_to(plane, shape).astype(np.uint8)


@pytest.mark.parametrize("shape", [(40, 64, 64), (400, 300)])
def test_a_class_in_no_part_of_the_sample_is_found(monkeypatch, shape):
    picture = smooth_square((40, 64, 64))
    if len(shape) == 2:
        picture = np.pad(picture[0], ((170, 166), (0, 236)))
        picture[5:45, 40:80] = 127
    else:
        picture[1, 40:60, 40:60] = 127
    steps = {"name": "the volume", "is_image": True, "refuses": False}
    whole = run_steps(open_classes_steps(picture, **steps))
    assert np.unique(whole[...]).tolist() == [0, 1, 2]
    monkeypatch.setattr(class_source, "SAMPLE_VALUES", picture.size // 10)
    found = run_steps(open_classes_steps(picture, **steps))
    np.testing.assert_array_equal(found[...], whole[...])
    # and what went to the nearest class is counted in all parts
    assert (found.notes, found.is_sampled) == (whole.notes, False)
    assert " pixels had values between" in found.notes[0]
    # a preview does not wait for all of it, and what follows the preview does
    preview = run_steps(open_classes_steps(picture, samples=True, **steps))
    assert preview.is_sampled
    assert preview[...].max() == 1
