"""The weights inside the wheel do what the model card says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage import data

from napari_samseg.core.contrast import normalise_plane
from napari_samseg.core.demo import DEMO_IMAGES
from napari_samseg.core.errors import CheckpointError
from napari_samseg.core.metrics.prompting import score_prompts
from napari_samseg.core.models import load_model, weights
from napari_samseg.core.models.weights import embedded_path
from napari_samseg.core.predict import Predictor
from napari_samseg.core.prompts.from_labels import sample_box, sample_interior_point
from napari_samseg.core.prompts.object_index import index_objects
from napari_samseg.core.types import PlanePrompts


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(load_model("default", device="cpu", precision="exact"))


def test_weights_fit_the_wheel() -> None:
    assert 1e6 < embedded_path().stat().st_size <= 16e6


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "pointer", "gone"])
def test_damaged_weights_say_how_to_repair_them(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embedded_path().read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    left = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "changed": bytes(changed),
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    }
    file = tmp_path / embedded_path().name
    if damage in left:
        file.write_bytes(left[damage])
    monkeypatch.setattr(weights, "embedded_path", lambda: file)
    with pytest.raises(CheckpointError, match="comes with the plugin is damaged") as e:
        load_model("default", device="cpu")
    assert "pip install --force-reinstall --no-deps napari-samseg" in str(e.value)


@pytest.mark.parametrize("sampler", [sample_box, sample_interior_point])
@pytest.mark.parametrize(("inverted", "least"), [(False, 0.7), (True, 0.6)])
def test_finds_each_coin_it_is_asked_for(
    predictor: Predictor, sampler: object, inverted: bool, least: float
) -> None:
    demo = DEMO_IMAGES["coins"]
    picture = demo.read()
    labels = demo.find_objects(picture)
    objects = index_objects(labels)
    assert len(objects) > 15
    picture = 255 - picture if inverted else picture
    prompts = sampler(objects, np.random.default_rng(0))  # type: ignore[operator]
    prediction = predictor.predict(normalise_plane(picture), prompts)
    for object_id, mask in zip(objects.object_ids, prediction.masks, strict=True):
        true = labels == object_id
        assert (mask & true).sum() / (mask | true).sum() > least


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_gives_the_same_masks(
    predictor: Predictor, precision: str
) -> None:
    demo = DEMO_IMAGES["coins"]
    picture = demo.read()[:200, :260]
    labels = demo.find_objects(picture)
    prompts = sample_box(index_objects(labels), np.random.default_rng(0))
    assert len(prompts) > 5
    plane = normalise_plane(picture)
    exact = predictor.predict(plane, prompts)
    low = Predictor(load_model("default", device="cpu", precision=precision))
    assert low.key(plane).precision == precision
    features = [p.encode(plane).features["image_embed"] for p in (low, predictor)]
    error = np.linalg.norm(features[0] - features[1]) / np.linalg.norm(features[1])
    assert 0 < error < 0.02
    found = low.predict(plane, prompts)
    assert not np.array_equal(found.low_res_masks, exact.low_res_masks)
    shared = (found.masks & exact.masks).sum(axis=(1, 2))
    overlap = shared / (found.masks | exact.masks).sum(axis=(1, 2))
    assert overlap.mean() >= 0.99


def far_from_training(kind: str) -> np.ndarray:
    """Return a picture in which there is nothing that the model knows."""
    if kind == "constant":
        return np.full((300, 400), 9, np.uint8)
    if kind == "noise":
        return np.random.default_rng(0).integers(0, 256, (300, 400), np.uint8)
    return np.asarray(getattr(data, kind)())


@pytest.mark.parametrize("kind", ["page", "astronaut", "constant", "noise"])
def test_knows_that_it_does_not_know(predictor: Predictor, kind: str) -> None:
    """Text, a face, one grey and noise: masks that it does not believe in."""
    plane = normalise_plane(far_from_training(kind))
    rng, n = np.random.default_rng(0), 30
    size = np.array(plane.shape[:2])
    corners = rng.uniform(0, 0.8, (n, 2)) * size
    sides = rng.uniform(10, 60, (n, 2))
    boxes = np.concatenate([corners, np.minimum(corners + sides, size)], axis=1)
    ids, no_points = np.arange(1, n + 1), np.zeros((n, 0, 2))
    by_box = PlanePrompts(ids, no_points, np.zeros((n, 0)), boxes)
    no_boxes = np.full((n, 4), np.nan)
    by_point = PlanePrompts(ids, corners[:, None], np.ones((n, 1)), no_boxes)
    for prompts, most in ((by_box, 0.5), (by_point, 0.4)):
        found = predictor.predict(plane, prompts)
        assert found.masks.shape == (n, *size)
        assert np.isfinite(found.iou_predictions).all()
        assert found.iou_predictions.min() > -0.1
        assert found.iou_predictions.max() < 0.9
        assert found.iou_predictions.mean() < most


def test_beats_the_baselines_on_nuclei_it_has_not_seen(
    predictor: Predictor, shared_data: Path
) -> None:
    """A sample of the test split; the model card has the whole of it."""
    import csv

    from skimage.io import imread

    folder = shared_data / "dsb2018"
    with (folder / "index.csv").open(newline="") as file:
        tests = [row["id"] for row in csv.DictReader(file) if row["split"] == "test"]
    scores = []
    for k, name in enumerate(tests[::8]):
        plane = normalise_plane(imread(folder / "images" / f"{name}.png"))
        labels = imread(folder / "labels" / f"{name}.png")
        scores.append(score_prompts(predictor, plane, labels, seed=k, max_objects=6))
    joined = type(scores[0]).join(scores)
    assert len(joined) > 30
    assert joined.box.mean() > joined.ellipse.mean()
    assert joined.point.mean() > joined.watershed.mean()
