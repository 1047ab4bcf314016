"""Prompts become layers that a person can edit, and come back."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Layer, Points, Shapes

from napari_samseg.adapters.prompt_book import PromptBook
from napari_samseg.adapters.prompt_data import layers_to_prompts, prompts_to_layers
from napari_samseg.core.errors import InvalidPromptError, LayerError
from napari_samseg.core.prompts.from_labels import sample_planes
from napari_samseg.core.settings import PromptSettings


@pytest.fixture
def volume(shared_data):
    path = shared_data / "em_fib25_neuroproof/gt_bodies.tif"
    return tifffile.imread(path, key=[0, 100])[:, :150, :150]


def make_layers(planes, **arguments):
    found = {}
    for data, options, kind in prompts_to_layers(planes, **arguments):
        found[kind] = Layer.create(data, options, kind)
    return found


def check_same(given, found):
    assert [p for p, prompts in given.items() if len(prompts)] == list(found)
    for plane, prompts in found.items():
        before = given[plane]
        np.testing.assert_array_equal(before.object_ids, prompts.object_ids)
        np.testing.assert_array_equal(before.points_yx, prompts.points_yx)
        np.testing.assert_array_equal(before.point_labels, prompts.point_labels)
        np.testing.assert_array_equal(before.boxes_yx, prompts.boxes_yx)


@pytest.mark.parametrize(
    "asked",
    [
        {"box": "jittered-box"},
        {"box": "none", "point": "random", "n_points": 3},
        {"point": "interior", "n_negatives": 2},
    ],
)
def test_layers_say_what_the_prompts_say(volume, asked):
    given = dict(sample_planes(volume, PromptSettings(**asked)))
    layers = make_layers(given, scale=(8, 8, 8))
    check_same(given, layers_to_prompts(layers.get("points"), layers.get("shapes")))
    for layer in layers.values():
        assert layer.ndim == 3
        assert tuple(layer.scale) == (8, 8, 8)
        assert set(layer.features["object"]) <= set(np.unique(volume))


def test_points_and_boxes_of_a_plane_lie_on_their_objects():
    labels = np.zeros((20, 30), int)
    labels[3:8, 4:14] = 7
    given = dict(sample_planes(labels, PromptSettings(point="interior", n_negatives=1)))
    layers = make_layers(given, name="nuclei")
    assert layers["shapes"].name == "nuclei - boxes"
    rectangle = layers["shapes"].data[0]
    assert rectangle.min(axis=0).tolist() == [2.5, 3.5]
    assert rectangle.max(axis=0).tolist() == [7.5, 13.5]
    points = layers["points"]
    assert points.features["label"].tolist() == [1, 0]
    on, off = (labels[tuple(p.astype(int))] for p in points.data)
    assert (on, off) == (7, 0)
    assert not np.array_equal(points.face_color[0], points.face_color[1])


def test_no_prompt_gives_no_layer():
    empty = dict(sample_planes(np.zeros((2, 9, 9), int), PromptSettings()))
    assert prompts_to_layers(empty) == []
    assert prompts_to_layers({}) == []
    assert layers_to_prompts() == {}
    assert layers_to_prompts(Points(ndim=3), Shapes(ndim=3)) == {}


def test_what_a_person_adds_becomes_objects_of_their_own():
    boxes = Shapes(
        [[[2, 1, 1], [2, 1, 5], [2, 9, 5], [2, 9, 1]]],
        features={"object": np.array([40])},
    )
    boxes.add_rectangles([[0, 3, 3], [0, 3, 8], [0, 8, 8], [0, 8, 3]])
    boxes.features = {"object": [40, np.nan]}
    boxes.add_ellipses([[0, 10, 10], [0, 10, 20], [0, 14, 20], [0, 14, 10]])
    boxes.features = {"object": [40, np.nan, 0]}
    points = Points([[2.4, 3, 3], [2, 6, 6]], features={"object": [40, 90]})
    found = layers_to_prompts(points, boxes)
    assert list(found) == [(0,), (2,)]
    assert found[0,].object_ids.tolist() == [91, 92]
    assert found[0,].boxes_yx[0].tolist() == [3.5, 3.5, 8.5, 8.5]
    assert found[2,].object_ids.tolist() == [40, 90]
    assert found[2,].points_yx[0, 0].tolist() == [3, 3]
    assert found[2,].has_box.tolist() == [True, False]


def square(y, x, z=0):
    return [[z, y, x], [z, y, x + 4], [z, y + 4, x + 4], [z, y + 4, x]]


@pytest.mark.parametrize(
    ("points", "shapes", "message"),
    [
        (None, ([square(1, 1), square(9, 9)], {}, [3, 3]), "object 3 has two boxes"),
        (None, ([[[0, 1, 1], [0, 5, 5]]], {"shape_type": "line"}, [1]), "is a line"),
        (None, ([[[0, 1, 1], [1, 5, 5], [0, 9, 1]]], {"shape_type": "polygon"}, [1]),
         "several planes"),
        (([[0, 1, 1]], [1], [5]), None, "the label 5"),
        (([[0, 1, 1]], [1], [0]), None, "only background points"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(points, shapes, message):
    layers = [None, None]
    if points is not None:
        data, ids, labels = points
        layers[0] = Points(data, features={"object": ids, "label": labels})
    if shapes is not None:
        data, options, ids = shapes
        layers[1] = Shapes(data, features={"object": ids}, **options)
    with pytest.raises((LayerError, InvalidPromptError), match=message):
        layers_to_prompts(*layers)


def test_many_boxes_come_back_soon():
    ids = np.arange(1, 901).reshape(30, 30).repeat(5, 0).repeat(5, 1)
    given = dict(sample_planes(ids, PromptSettings(point="random")))
    layers = make_layers(given)
    start = time.perf_counter()
    check_same(given, layers_to_prompts(layers["points"], layers["shapes"]))
    assert time.perf_counter() - start < 2


def test_a_drawn_box_takes_no_id_of_another_plane(monkeypatch):
    monkeypatch.setattr("napari_samseg.adapters.prompt_book.SHOWN_PROMPTS", 3)
    labels = np.zeros((2, 30, 30), np.uint16)
    labels[0, :3, :3], labels[0, 9:12, :3] = 1, 2
    labels[1, :3, :3], labels[1, 9:12, :3] = 3, 4
    viewer = ViewerModel()
    book = PromptBook(viewer, viewer.add_labels(labels))
    book.show(dict(sample_planes(labels, PromptSettings())), (0,))
    assert book.is_paged
    (boxes,) = (layer for layer in viewer.layers if isinstance(layer, Shapes))
    boxes.add_rectangles([[0, 20, 20], [0, 20, 25], [0, 25, 25], [0, 25, 20]])
    assert book.read()[(0,)].object_ids.tolist() == [1, 2, 5]
    # an object without a prompt has its id as well
    viewer.layers["labels"].data[1, 20, 20] = 90
    assert book.read()[(0,)].object_ids.tolist() == [1, 2, 91]
