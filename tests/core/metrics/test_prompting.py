from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from small_models import build_small

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.metrics.prompting import (
    PromptScores,
    ellipse_in_box,
    score_prompts,
    watershed_components,
)
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.models.tiny import prompt_prior
from napari_samseg.core.predict import Predictor
from napari_samseg.core.settings import TileSettings

if TYPE_CHECKING:
    from napari_samseg.core.types import FloatArray


def two_discs() -> tuple[FloatArray, np.ndarray]:
    """A plane with two bright discs that touch, and a small object."""
    yy, xx = np.mgrid[:60, :60]
    labels = np.zeros((60, 60), np.int32)
    labels[np.hypot(yy - 30, xx - 15) < 13] = 3
    labels[np.hypot(yy - 30, xx - 41) < 13.5] = 8
    labels[2:4, 2:5] = 9
    grey = np.where(labels > 0, 200, 30).astype(np.float32)
    return np.repeat(grey[..., None], 3, axis=2), labels


@pytest.fixture
def predictor() -> Predictor:
    sam = build_small()
    return Predictor(SamModel(sam, name="test", family="tiny", prior=prompt_prior))


def test_scores_of_objects_large_enough(predictor: Predictor) -> None:
    plane, labels = two_discs()
    scores = score_prompts(predictor, plane, labels, seed=4)
    assert scores.object_ids.tolist() == [3, 8]
    assert scores.areas.tolist() == [(labels == 3).sum(), (labels == 8).sum()]
    for field in dataclasses.fields(scores)[2:]:
        values = getattr(scores, field.name)
        assert values.shape == (2,)
        assert np.isfinite(values).all()
    # the baselines know these objects: discs in boxes, bright on dark
    assert (scores.ellipse > 0.75).all()
    assert (scores.watershed > 0.9).all()


def test_iou_is_that_of_the_full_masks(predictor: Predictor) -> None:
    from napari_samseg.core.metrics.overlap import mask_iou
    from napari_samseg.core.prompts.from_labels import sample_jittered_box
    from napari_samseg.core.prompts.object_index import index_objects

    plane, labels = two_discs()
    scores = score_prompts(predictor, plane, labels, seed=4)
    objects = index_objects(labels, min_area=30)
    boxes = sample_jittered_box(objects, np.random.default_rng(4))
    masks = predictor.predict(plane, boxes).masks
    expected = [mask_iou(m, labels == i) for m, i in zip(masks, (3, 8), strict=True)]
    assert scores.box == pytest.approx(expected)


def test_same_seed_same_scores(predictor: Predictor) -> None:
    plane, labels = two_discs()
    one, two = (score_prompts(predictor, plane, labels, seed=(1, 2)) for _ in range(2))
    other = score_prompts(predictor, plane, labels, seed=(1, 3))
    np.testing.assert_array_equal(one.ellipse, two.ellipse)
    assert (one.ellipse != other.ellipse).any()


def test_limits_the_objects_and_joins_planes(predictor: Predictor) -> None:
    plane, labels = two_discs()
    one = score_prompts(predictor, plane, labels, max_objects=1)
    none = score_prompts(predictor, plane, np.zeros_like(labels))
    assert (len(one), len(none)) == (1, 0)
    joined = PromptScores.join([one, none, one])
    assert joined.object_ids.tolist() == one.object_ids.tolist() * 2


def test_planes_may_be_seen_in_tiles(predictor: Predictor) -> None:
    plane, labels = two_discs()
    plane = np.pad(plane, ((0, 120), (0, 120), (0, 0)))
    labels = np.pad(labels, (0, 120))
    whole = score_prompts(predictor, plane, labels)
    assert len(predictor.cache) == 1
    tiled = score_prompts(predictor, plane, labels, tiles=TileSettings(tile=64))
    assert len(predictor.cache) > 2
    assert np.array_equal(tiled.ellipse, whole.ellipse), "prompts are the same"


def test_labels_of_another_size_are_refused(predictor: Predictor) -> None:
    plane, labels = two_discs()
    with pytest.raises(InvalidLabelsError, match=r"\(59, 60\)"):
        score_prompts(predictor, plane, labels[1:])


def test_ellipse_touches_the_sides_of_its_box() -> None:
    mask = ellipse_in_box(np.array([10.0, 20.0, 30.0, 60.0]), (50, 80))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (10, 29, 20, 59)
    assert mask.sum() == pytest.approx(np.pi * 10 * 20, rel=0.01)


@pytest.mark.parametrize("invert", [False, True])
def test_watershed_separates_touching_discs_of_either_polarity(invert: bool) -> None:
    plane, _ = two_discs()
    components = watershed_components(255 - plane if invert else plane)
    left, right = components[30, 15], components[30, 41]
    assert left != right
    assert components[0, 30] not in (left, right)


def test_watershed_of_a_constant_plane_is_one_component() -> None:
    components = watershed_components(np.full((20, 20, 3), 7, np.float32))
    assert len(np.unique(components)) == 1
