"""Segmenting in one call."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from skimage import data

import napari_samseg as samseg
from napari_samseg.core import tiled
from napari_samseg.core.errors import (
    InvalidImageError,
    InvalidPromptError,
    UnknownNameError,
)
from napari_samseg.core.images import open_image
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.prompts.stray_points import PromptWarning
from napari_samseg.core.settings import TileSettings

# the package offers the function under the name of its module
segment_module = importlib.import_module("napari_samseg.core.segment")


@pytest.fixture
def model(tiny_sam) -> SamModel:
    return SamModel(tiny_sam, name="tiny sam", family="sam")


@pytest.fixture
def coins() -> np.ndarray:
    return data.coins()[:96, :128]


def test_rows_of_points_are_objects(model, coins) -> None:
    prediction = samseg.segment(coins, points=[(20, 30), (60, 90)], model=model)
    assert prediction.masks.shape == (2, 96, 128)
    assert prediction.masks.dtype == bool
    assert prediction.iou_predictions.shape == (2,)
    assert prediction.object_ids.tolist() == [1, 2]


def test_points_and_boxes_pair_by_row_or_make_one_object(model, coins) -> None:
    prompts = {
        "points": [(20, 30), (60, 90)],
        "boxes": [(5, 5, 40, 60), (50, 60, 90, 120)],
    }
    assert len(samseg.segment(coins, **prompts, model=model)) == 2
    assert len(samseg.segment(coins, **prompts, model=model, combine=True)) == 1


def test_a_point_outside_its_box_is_warned_of(model, coins) -> None:
    with pytest.warns(PromptWarning, match="object 1 has a point outside the box"):
        samseg.segment(coins, points=[(80, 80)], boxes=[(5, 5, 40, 60)], model=model)


def test_a_plane_of_a_volume_is_the_plane_alone(model, coins) -> None:
    volume = np.stack([coins[::-1], coins, coins.T.reshape(coins.shape)])
    alone = samseg.segment(coins, boxes=[(5, 5, 40, 60)], model=model)
    inside = samseg.segment(volume, boxes=[(5, 5, 40, 60)], model=model, plane=1)
    np.testing.assert_array_equal(alone.masks, inside.masks)


def test_the_same_plane_is_encoded_once(model, coins, monkeypatch) -> None:
    encoded = []
    steps = SamModel.encode_batch_steps

    def counting(self, planes):
        encoded.extend(planes)
        return steps(self, planes)

    monkeypatch.setattr(SamModel, "encode_batch_steps", counting)
    whole = TileSettings("whole")
    for y in (20, 40, 60):
        samseg.segment(coins, points=[(y, 30)], model=model, tiles=whole)
    assert len(encoded) == 1
    samseg.segment(coins[::-1], points=[(20, 30)], model=model, tiles=whole)
    assert len(encoded) == 2


def test_channels_are_named_through_open_image(model, coins) -> None:
    source = open_image(np.stack([coins, 255 - coins]), channel_axis=0)
    settings = samseg.ImageSettings(channels=(1,))
    first = samseg.segment(source, points=[(20, 30)], model=model, settings=settings)
    direct = samseg.segment(255 - coins, points=[(20, 30)], model=model)
    np.testing.assert_array_equal(first.masks, direct.masks)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, InvalidPromptError, "empty"),
        ({"points": [(500, 3)]}, InvalidPromptError, "500"),
        ({"points": [(5, 3)], "point_labels": [0]}, InvalidPromptError, "background"),
        ({"points": [(5, 3)], "plane": 1}, InvalidImageError, "leave plane out"),
    ],
)
def test_bad_input_is_named(model, coins, options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        samseg.segment(coins, model=model, **options)


def test_a_volume_needs_a_plane(model, coins) -> None:
    with pytest.raises(InvalidImageError, match="plane=an index"):
        samseg.segment(np.stack([coins] * 2), points=[(5, 5)], model=model)


def test_an_unknown_model_is_named_with_what_there_is(coins) -> None:
    with pytest.raises(UnknownNameError, match="vit_b"):
        samseg.segment(coins, points=[(5, 5)], model="vit_xxl")


def test_a_large_plane_averaged_down_gives_the_same_masks(monkeypatch) -> None:
    # 2050 pixels wide for an encoder that sees 512; not a multiple of it
    large = np.kron(data.coins(), np.ones((6, 6), np.uint8))[:1820, :2050]
    boxes = 6 * np.array([(104, 25, 146, 67), (102, 82, 140, 120)])
    tiles = TileSettings("whole")
    whole = samseg.segment(large, boxes=boxes, device="cpu", tiles=tiles)
    encoded = []
    steps = SamModel.encode_batch_steps

    def note(self, planes):
        encoded.extend(plane.shape for plane in planes)
        return steps(self, planes)

    monkeypatch.setattr(tiled, "MODEL_PIXELS", 1 << 20)
    monkeypatch.setattr(SamModel, "encode_batch_steps", note)
    # the embedding of the first call is still known
    segment_module._loaded.cache_clear()
    averaged = samseg.segment(large, boxes=boxes, device="cpu", tiles=tiles)
    assert encoded == [(964, 1087, 3)]
    assert averaged.plane_size == whole.plane_size == large.shape
    for one, other in zip(whole.masks, averaged.masks, strict=True):
        assert one.any()
        assert (one & other).sum() / (one | other).sum() > 0.98
