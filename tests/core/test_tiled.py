"""Prompts in a plane larger than the model's input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from skimage.data import coins as coins_image
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops
from skimage.morphology import closing, disk

from napari_samseg.core.cache.memory import MemoryCache
from napari_samseg.core.images import open_image
from napari_samseg.core.models import load_model
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.planes import measure_plane
from napari_samseg.core.predict import Predictor
from napari_samseg.core.prompts.from_arrays import pair_prompts
from napari_samseg.core.prompts.from_geometry import gather_prompts, label_gesture
from napari_samseg.core.settings import TileSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.tiled import TiledPlane, plan_tiles

# Pixels are repeated so often, which makes the plane larger than the model's input.
ENLARGED = 3


@pytest.fixture(scope="module")
def predictor():
    return Predictor(load_model("default"))


@pytest.fixture(scope="module")
def coins():
    return np.kron(coins_image(), np.ones((ENLARGED, ENLARGED), np.uint8))


@pytest.fixture(scope="module")
def objects(coins):
    image = coins_image()
    bright = closing(image > threshold_otsu(image), disk(2))
    labels = label(ndimage.binary_fill_holes(bright))
    grown = np.kron(labels, np.ones((ENLARGED, ENLARGED), int))
    return grown, [
        # the unevenly lit corner is no coin
        p
        for p in regionprops(grown)
        if 600 < p.area / ENLARGED**2 < 6000
    ]


def tile_plane(predictor, image, tile: int = 0) -> TiledPlane:
    plane = measure_plane(open_image(image))
    tiles = plan_tiles(plane.size, predictor.model.input_size, TileSettings(tile=tile))
    return TiledPlane(predictor, plane, tiles)


def iou(a, b) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("kind", ["points", "boxes"])
def test_objects_in_tiles_are_found_whole(predictor, coins, objects, kind):
    labels, props = objects
    tiled = tile_plane(predictor, coins)
    assert len(tiled.tiles) > 4
    where = {
        "points": {"points_yx": [p.centroid for p in props]},
        "boxes": {"boxes_yx": [p.bbox for p in props]},
    }[kind]
    prompts = pair_prompts(plane_size=tiled.plane.size, **where)
    found = run_steps(tiled.predict_steps(prompts))
    scores = [
        iou(mask, labels == p.label) for mask, p in zip(found.masks, props, strict=True)
    ]
    assert np.mean(scores) > 0.93
    assert min(scores) > 0.75
    np.testing.assert_array_equal(found.object_ids, prompts.object_ids)


def test_a_mask_does_not_depend_on_where_tiles_end(predictor, coins, objects):
    # the same picture, moved by a third of a tile: what was in the middle of a tile
    # is now at its border
    _, props = objects
    centres = np.array([p.centroid for p in props])
    tiled = tile_plane(predictor, coins)
    here = run_steps(
        tiled.predict_steps(pair_prompts(centres, plane_size=tiled.plane.size))
    )
    moved = np.pad(coins, ((170, 0), (90, 0)), mode="symmetric")
    # the contrast of the whole plane, with what was added, is another one
    shifted = tile_plane(predictor, moved)
    limits = tiled.plane.limits
    shifted = dataclasses.replace(
        shifted, plane=dataclasses.replace(shifted.plane, limits=limits)
    )
    there = run_steps(
        shifted.predict_steps(
            pair_prompts(centres + np.array([170, 90]), plane_size=shifted.plane.size)
        )
    )
    agreement = [
        iou(a, b[170:, 90:]) for a, b in zip(here.masks, there.masks, strict=True)
    ]
    assert min(agreement) > 0.85
    assert np.mean(agreement) > 0.95


@pytest.mark.parametrize("kind", ["points", "boxes"])
def test_an_object_larger_than_a_tile_is_one_object(predictor, coins, objects, kind):
    labels, props = objects
    large = max(props, key=lambda p: p.area)
    tiled = tile_plane(predictor, coins, tile=112)
    y0, x0, y1, x1 = large.bbox
    assert min(y1 - y0, x1 - x0) > 112
    where = {
        # in the middle, and where several tiles meet
        "points": {"points_yx": [large.centroid, (y0 + 60, large.centroid[1] + 9)]},
        "boxes": {"boxes_yx": [large.bbox]},
    }[kind]
    found = run_steps(
        tiled.predict_steps(pair_prompts(plane_size=coins.shape, **where))
    )
    for mask, frame in zip(found.masks, found.frames_yx, strict=True):
        assert iou(mask, labels == large.label) > 0.9
        assert max(frame[2:] - frame[:2]) > 112


def test_a_label_as_mask_prompt_finds_its_object(predictor, coins, objects):
    labels, props = objects
    tiled = tile_plane(predictor, coins)
    gestures = {p.label: [label_gesture(labels, p.centroid)] for p in props[:4]}
    prompts = gather_prompts(gestures, labels.shape, tiled.mask_side)
    found = run_steps(tiled.predict_steps(prompts))
    for mask, p in zip(found.masks, props, strict=False):
        assert iou(mask, labels == p.label) > 0.85


def test_only_tiles_that_are_needed_are_encoded(predictor, coins, monkeypatch):
    tiled = tile_plane(predictor, coins[::-1])
    encoded = []
    steps = SamModel.encode_batch_steps

    def counting(self, planes):
        encoded.extend(plane.shape for plane in planes)
        return steps(self, planes)

    monkeypatch.setattr(SamModel, "encode_batch_steps", counting)
    prompts = pair_prompts(boxes_yx=[(10, 10, 60, 60)], plane_size=tiled.plane.size)
    run_steps(tiled.predict_steps(prompts))
    assert len(encoded) == len(tiled.encoded) == 1
    run_steps(tile_plane(predictor, coins[::-1]).predict_steps(prompts))
    assert len(encoded) == 1


def test_what_is_not_encoded_is_seen_in_the_whole_plane(predictor, coins):
    tiled = tile_plane(predictor, coins)
    run_steps(tiled.embedding_steps(tiled.whole))
    ready = tiled.without_encoding()
    assert ready.tiles == (tiled.tiles[-1],)
    run_steps(tiled.embedding_steps(3))
    assert tiled.without_encoding().tiles == (tiled.tiles[3], tiled.tiles[-1])


def test_the_whole_plane_is_encoded_once_without_a_cache(coins, monkeypatch):
    predictor = Predictor(load_model("default"), MemoryCache(0))
    tiled = tile_plane(predictor, coins)
    run_steps(tiled.embedding_steps(tiled.whole))
    run_steps(tiled.embedding_steps(3))
    # what the cache has dropped is not encoded for a look
    monkeypatch.setattr(SamModel, "encode_batch_steps", None)
    ready = tiled.without_encoding()
    assert ready.tiles == (tiled.tiles[-1],)
    prompts = pair_prompts([(300, 300)], plane_size=tiled.plane.size)
    assert len(run_steps(ready.predict_steps(prompts))) == 1


def test_a_prediction_without_a_score_is_a_prediction(predictor, coins, monkeypatch):
    tiled = tile_plane(predictor, coins)
    decode = SamModel.decode

    def without_score(self, embedding, prompts, **options):
        decoded = decode(self, embedding, prompts, **options)
        decoded.iou_predictions[prompts.object_ids == 2] = np.nan
        return decoded

    monkeypatch.setattr(SamModel, "decode", without_score)
    points = [(300, 300), (500, 500)]
    found = run_steps(
        tiled.predict_steps(pair_prompts(points, plane_size=tiled.plane.size))
    )
    assert found.object_ids.tolist() == [1, 2]


def test_the_remaining_tiles_are_encoded_from_the_middle(predictor, coins):
    tiled = tile_plane(predictor, coins)
    run_steps(tiled.embedding_steps(tiled.whole))
    progress = list(tiled.remaining_steps(3))
    assert len(tiled.encoded) == 3
    y0, x0, y1, x1 = tiled.tiles[min(tiled.encoded)]
    assert y0 < 455 < y1
    assert x0 < 576 < x1
    assert progress[-1].total == 3


def test_whole_planes_when_asked_for(coins):
    assert plan_tiles(coins.shape, 512, TileSettings("whole")) == (
        (0, 0, *coins.shape),
    )
