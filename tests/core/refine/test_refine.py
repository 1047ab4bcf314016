"""Rough labels of real images through the embedded model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from rough_labels import erode, mean_iou, shift
from skimage import io

import napari_samseg as samseg
from napari_samseg.core.embed.stack import Stack
from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.images import open_image
from napari_samseg.core.models import load_model
from napari_samseg.core.predict import Predictor
from napari_samseg.core.refine.painting import (
    FoundMasks,
    measure_agreement,
    paint_parts,
)
from napari_samseg.core.refine.plane import index_parts
from napari_samseg.core.refine.scores import (
    KEPT,
    REFINED,
    ObjectScore,
    RefineCounts,
)
from napari_samseg.core.refine.volume import PlaneRefined, RefineTask, refine_planes
from napari_samseg.core.settings import ImageSettings, PromptSettings, RefineSettings

NUCLEI = "06350c7cc618be442c15706db7a68e91f313758d224de4608f9b960106d4f9ca.png"


@pytest.fixture(scope="module")
def model():
    return load_model("default", device="cpu", precision="exact")


@pytest.fixture(scope="module")
def nuclei(shared_data):
    """An image that the model was not trained on, and its true labels."""
    folder = shared_data / "dsb2018"
    image = io.imread(folder / "images" / NUCLEI)
    return image, io.imread(folder / "labels" / NUCLEI).astype(np.uint16)


@pytest.fixture(scope="module")
def bodies(shared_data):
    """Three sections beyond those that the model was trained on."""
    folder = shared_data / "em_fib25_neuroproof"
    raw, true = (
        tifffile.imread(folder / name, key=[220, 221, 222])[:, :140, :140]
        for name in ("raw.tif", "gt_bodies.tif")
    )
    return raw, true


@pytest.mark.parametrize(
    ("spoil", "chosen", "prompts", "gain"),
    [
        (lambda t: erode(t, 2), RefineSettings(margin=2), PromptSettings(), 0.2),
        (lambda t: erode(t, 2), RefineSettings(), PromptSettings(), 0.1),
        (lambda t: shift(t, 3, 3), RefineSettings(), PromptSettings(), 0.15),
        (
            lambda t: shift(t, 3, 3),
            RefineSettings(),
            PromptSettings(box="none", point="interior"),
            0.2,
        ),
    ],
    ids=["eroded, margin", "eroded", "shifted", "shifted, points"],
)
def test_nuclei_get_better(nuclei, model, spoil, chosen, prompts, gain):
    image, true = nuclei
    rough = spoil(true)
    found = samseg.refine(image, rough, model=model, settings=chosen, prompts=prompts)
    ids = np.unique(rough)[1:]
    assert found.labels.dtype == rough.dtype
    np.testing.assert_array_equal(np.unique(found.labels)[1:], ids)
    before, after = (mean_iou(a, true, ids) for a in (rough, found.labels))
    assert after > before + gain, (before, after)
    counts, scores = found.counts, found.scores
    assert counts.n_refined == sum(s.kept < s.parts for s in scores)
    assert counts.n_refined + sum(counts.kept.values()) == len(scores)
    doubts = [score.doubt for score in found.scores]
    assert doubts == sorted(doubts, reverse=True)


def test_an_object_in_several_parts_is_counted_once():
    numbers = {"predicted_iou": 0.9, "agreement": 0.5, "visible": 1.0, "doubt": 0.5}
    numbers |= {"area_before": 90, "area_after": 80, "box_yx": (0, 0, 9, 9)}
    scores = [
        ObjectScore(i, (), status, parts, kept, **numbers)
        for i, (status, parts, kept) in enumerate(
            [(REFINED, 2, 0), ("disagrees", 40, 3), ("empty", 2, 2)], start=1
        )
    ]
    counts = RefineCounts()
    counts.add(scores, 0, 500)
    assert str(counts) == (
        "3 objects, 2 refined, 1 of them in part (3 of 40 parts kept old pixels), "
        "1 kept old pixels (the model found nothing), 500 pixels changed"
    )
    said = [score.words for score in scores]
    assert said == [
        "refined",
        "3 of 40 parts kept old pixels: the mask is a different object",
        "the model found nothing",
    ]


def test_sections_get_better_and_others_stay(bodies, model):
    raw, true = bodies
    rough = np.stack([erode(plane, 2) for plane in true])
    found = samseg.refine(
        raw, rough, model=model, settings=RefineSettings(margin=2), planes=(0, 2)
    )
    np.testing.assert_array_equal(found.labels[2], rough[2])
    for z in range(2):
        ids, areas = np.unique(true[z], return_counts=True)
        ids = ids[(areas > 100) & (ids > 0)]
        before, after = (mean_iou(a[z], true[z], ids) for a in (rough, found.labels))
        assert after > before + 0.05, (z, before, after)
        np.testing.assert_array_equal(np.unique(found.labels[z]), np.unique(rough[z]))
    assert {score.plane for score in found.scores} == {(0,), (1,)}
    assert found.counts.n_planes == 2
    assert "masks in 2 planes" in str(found.counts)


def test_doubt_is_higher_where_labels_are_wrong(nuclei, model):
    """Labels of nothing at all come first in the queue."""
    image, true = nuclei
    rough = true.copy()
    rough[true == 0] = 0
    empty = np.flatnonzero((true == 0).all(axis=1))
    y = int(empty[len(empty) // 2])
    fakes = [(900, np.s_[y - 3 : y + 4, 20:60]), (901, np.s_[y - 3 : y + 4, 150:190])]
    for object_id, place in fakes:
        free = rough[place] == 0
        rough[place][free] = object_id
    found = samseg.refine(image, rough, model=model)
    ranks = [score.object_id for score in found.scores]
    assert max(ranks.index(900), ranks.index(901)) < len(ranks) / 3


def test_a_plane_is_handed_out_as_soon_as_it_is_finished(bodies, model):
    raw, true = bodies
    read = []

    def read_labels(plane):
        read.append(plane)
        return true[plane]

    task = RefineTask(
        Stack(open_image(raw), "raw", ImageSettings()),
        read_labels,
        ((0,), (1,), (2,)),
        PromptSettings(min_area=200),
    )
    steps = refine_planes(task, Predictor(model))
    done = next(step for step in steps if isinstance(step, PlaneRefined))
    steps.close()
    assert read == [(0,)], "labels are read when their plane is due"
    assert done.refined.plane == (0,)
    assert done.refined.n_small > 0
    assert (done.done, done.total) == (100, 300)


def test_empty_planes_cost_nothing(model):
    class Unreadable(np.ndarray):
        def __getitem__(self, key):
            raise AssertionError("the image was read")

    image = np.zeros((2, 8, 8), np.uint8).view(Unreadable)
    found = samseg.refine(image, np.zeros((2, 8, 8), np.uint8), model=model)
    assert not found.labels.any()
    assert found.counts.n_prompted == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((9, 8), int), "do not belong together"),
        (np.full((8, 8), 0.5), "integers"),
        (np.full((8, 8), -1), "negative"),
    ],
)
def test_labels_that_are_none(labels, message, model):
    with pytest.raises(InvalidLabelsError, match=message):
        samseg.refine(np.zeros((8, 8), np.uint8), labels, model=model)


def test_settings_out_of_bounds():
    with pytest.raises(SettingsError, match="Where masks overlap"):
        RefineSettings(overlap="larger")
    with pytest.raises(SettingsError, match="Least agreement"):
        RefineSettings(agreement=1.5)


# -- which object gets a pixel ---------------------------------------------------------


def masks_of(shape, *boxes, ious):
    crops = [np.ones((y1 - y0, x1 - x0), bool) for y0, x0, y1, x1 in boxes]
    return FoundMasks(crops, np.array(boxes, np.int64), np.array(ious, np.float32))


@pytest.fixture
def three():
    """A large object, a small one beside it, and one that keeps its pixels."""
    labels = np.zeros((6, 12), np.uint16)
    labels[1:5, 0:5] = 7
    labels[2:4, 6:8] = 3
    labels[0, 10:] = 9
    parts = index_parts(labels, labels.shape)
    by_id = {parts.owners[p]: p for p in parts.index.object_ids}
    boxes = {7: (1, 0, 5, 7), 3: (2, 4, 4, 8), 9: (3, 9, 5, 12)}
    ious = {7: 0.9, 3: 0.8, 9: 0.99}
    ids = [int(parts.owners[p]) for p in parts.index.object_ids]
    masks = masks_of(
        labels.shape, *(boxes[i] for i in ids), ious=[ious[i] for i in ids]
    )
    is_refined = np.array([i != 9 for i in ids])
    return labels, parts, masks, is_refined, by_id


@pytest.mark.parametrize(
    ("overlap", "row"),
    [
        ("higher-iou", [7, 7, 7, 7, 7, 7, 7, 3, 0, 0, 0, 0]),
        ("smaller", [7, 7, 7, 7, 3, 3, 3, 3, 0, 0, 0, 0]),
        ("keep", [7, 7, 7, 7, 7, 7, 3, 3, 0, 0, 0, 0]),
    ],
)
def test_overlap_rules(three, overlap, row):
    labels, parts, masks, is_refined, _ = three
    painted = paint_parts(masks, parts.index, is_refined, parts.owners, overlap)
    found = parts.owners[painted]
    np.testing.assert_array_equal(found[2], row)
    np.testing.assert_array_equal(found == 9, labels == 9)


@settings(max_examples=60)
@given(st.data())
def test_no_id_is_lost_and_none_is_new(data):
    """Whatever a model answers, each object of before is there afterwards."""
    from napari_samseg.core.refine import plane as module

    size = (10, 12)
    values = data.draw(
        st.lists(st.integers(0, 4), min_size=size[0] * size[1], max_size=120)
    )
    labels = np.array(values[: size[0] * size[1]], np.uint8).reshape(size)
    parts = index_parts(labels, size)
    n = len(parts.index)
    if not n:
        return
    corner = st.tuples(st.integers(0, 9), st.integers(0, 11))
    boxes = []
    for _ in range(n):
        (a, b), (c, d) = data.draw(corner), data.draw(corner)
        boxes.append((min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1))
    ious = data.draw(st.lists(st.floats(0, 1, width=32), min_size=n, max_size=n))
    masks = masks_of(size, *boxes, ious=ious)
    chosen = RefineSettings(
        data.draw(st.sampled_from(["higher-iou", "smaller", "keep"])),
        data.draw(st.sampled_from([0.0, 0.2, 0.6])),
    )
    agreement = measure_agreement(masks, parts.index)
    reasons = np.full(n, REFINED, object)
    reasons[agreement < chosen.agreement] = "disagrees"
    painted, visible = module._settle(masks, parts, reasons, chosen)
    found = parts.owners[painted]
    np.testing.assert_array_equal(
        np.unique(found[found > 0]), np.unique(labels[labels > 0])
    )
    for i in np.flatnonzero(reasons != REFINED):
        assert reasons[i] in KEPT
        mine = parts.index.labels == parts.index.object_ids[i]
        np.testing.assert_array_equal(painted[mine], parts.index.object_ids[i])
    assert ((visible >= 0) & (visible <= 1)).all()


def test_parts_that_lie_apart_are_prompted_apart(nuclei, model):
    """Two nuclei of one id stay two nuclei."""
    image, true = nuclei
    ids, areas = np.unique(true[true > 0], return_counts=True)
    first, second = ids[np.argsort(-areas)[:2]]
    rough = np.where(np.isin(true, [first, second]), 5, 0).astype(np.uint16)
    found = samseg.refine(image, rough, model=model)
    (score,) = found.scores
    assert (score.parts, score.status) == (2, REFINED)
    both = np.isin(true, [first, second])
    assert (found.labels[both] == 5).mean() > 0.8
    assert score.doubt == pytest.approx(
        1 - score.predicted_iou * score.agreement * score.visible, abs=0.05
    )
    assert dataclasses.asdict(score)["area_before"] == both.sum()
