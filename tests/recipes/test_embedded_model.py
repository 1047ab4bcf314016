"""The recipe of the embedded model, end to end on drawn images and a small shape."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from small_models import small_config

from napari_samseg.core.models import load_model
from napari_samseg.core.settings import LoopSettings, TileSettings
from napari_samseg.core.training.loop import TrainingLoop
from napari_samseg.core.types import TrainingProgress

RECIPE = Path(__file__).parents[2] / "recipes" / "embedded_model"
CONFIG = small_config(input_size=512)


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import a file of the recipe; they import each other by their names alone."""
    monkeypatch.syspath_prepend(str(RECIPE))
    names = {path.stem for path in RECIPE.glob("*.py")}
    yield importlib.import_module
    for name in names & set(sys.modules):
        del sys.modules[name]


@pytest.mark.parametrize("seed", range(5))
def test_a_drawn_image_follows_from_its_seed(
    recipe: Callable[[str], ModuleType], seed: int
) -> None:
    generate = recipe("generate").generate_image
    image, labels, kind = generate(seed, 96)
    again, _, _ = generate(seed, 96)
    np.testing.assert_array_equal(image, again)
    assert image.dtype == np.uint8
    assert image.shape[:2] == (96, 96)
    assert image.std() > 1
    assert len(labels) == (2 if kind == "rings" else 1)
    for one in labels:
        assert one.shape == (96, 96)
        assert len(np.unique(one)) > 2
    if kind == "rings":
        inner, whole = labels
        np.testing.assert_array_equal(whole[inner > 0], inner[inner > 0])


def test_pack_comes_back(recipe: Callable[[str], ModuleType], tmp_path: Path) -> None:
    pack = recipe("pack")
    images = list(pack.read_generated(3, 64))
    pack.write_pack(tmp_path / "pack.npz", iter(images))
    for one, other in zip(pack.read_pack(tmp_path / "pack.npz"), images, strict=True):
        assert (one.name, one.source, one.split) == (
            other.name,
            other.source,
            other.split,
        )
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.labels[-1], other.labels[-1])


def test_crops_and_their_prompts_agree(recipe: Callable[[str], ModuleType]) -> None:
    pack, crops = recipe("pack"), recipe("crops")
    source = crops.CropSource(list(pack.read_generated(5, 128)), seed=1)
    plan = crops.CropPlan(96, 4, 3)
    for step in range(6):
        batch = source.batch_at(step, plan)
        again = source.batch_at(step, plan)
        assert torch.equal(batch.pixels, again.pixels)
        assert torch.equal(batch.boxes_xyxy, again.boxes_xyxy)
        assert batch.pixels.shape == (4, 3, 96, 96)
        assert set(batch.image_index.tolist()) <= set(range(4))
        assert (batch.boxes_xyxy[:, 2:] > batch.boxes_xyxy[:, :2] - 4).all()
        for i in range(len(batch.image_index)):
            window = batch.targets.windows_xyxy[i].numpy() * 96
            x, y = batch.points_xy[i, 0].numpy()
            # the first point is on the object: the target has it near that place
            column, row = (
                int(np.clip(48 * (v - low) / (high - low), 0, 47))
                for v, low, high in ((x, *window[[0, 2]]), (y, *window[[1, 3]]))
            )
            mask = batch.targets.masks[i].numpy()
            reach = 6
            near = mask[
                max(row - reach, 0) : row + reach + 1,
                max(column - reach, 0) : column + reach + 1,
            ]
            assert near.any()


def test_dense_targets_point_at_the_centre(
    recipe: Callable[[str], ModuleType],
) -> None:
    labels = torch.zeros(2, 12, 12, dtype=torch.int64)
    labels[0, 2:7, 3:8] = 4
    labels[1, 6:9, 6:9] = 4
    inside, boundary, dy, dx = recipe("objective").dense_targets(labels).unbind(1)
    assert torch.equal(inside, (labels > 0).float())
    assert boundary[0, 4, 5] == 0
    assert boundary[0, 2, 3] == boundary[0, 1, 5] == 1
    # a square of 25 pixels, whose unit is 5
    assert dy[0, 2, 5].item() == pytest.approx(2 / 5)
    assert dx[0, 4, 7].item() == pytest.approx(-2 / 5)
    assert dy[1, 7, 7] == dx[1, 7, 7] == 0
    assert dy[0, 0, 0] == 0


def test_trained_exported_and_loaded(
    recipe: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    pack, crops = recipe("pack"), recipe("crops")
    objective, export = recipe("objective"), recipe("export")
    import dataclasses

    source = crops.CropSource(list(pack.read_generated(5, 128)), seed=0)
    steps = 30
    settings = LoopSettings(
        steps=steps, learning_rate=4e-3, warmup_steps=3, ema_decay=0.5
    )
    torch.manual_seed(0)
    state = tmp_path / "state.pt"
    loop = TrainingLoop(
        objective.TrainedModel(dataclasses.replace(CONFIG, batch_norm=True)),
        lambda step: source.batch_at(step, crops.CropPlan(64, 4, 3)),
        objective.Objective(steps),
        settings,
        checkpoint=state,
    )
    figures: dict[str, list[float]] = {}
    for progress in loop.run():
        if not isinstance(progress, TrainingProgress):
            continue
        for name, value in loop.figures.items():
            figures.setdefault(name, []).append(value)
    assert {"dense", "box", "point", "mixed"} == set(figures)
    assert np.mean(figures["dense"][-5:]) < 0.9 * np.mean(figures["dense"][:3])

    out = tmp_path / "model.safetensors"
    assert export.export(state, out, CONFIG) == out.stat().st_size
    model = load_model(out, device="cpu", precision="exact")
    assert model.family == "tiny"
    assert model.embedding_shape == (32, 64, 64)
    from napari_samseg.core.models.tiny import fold_batch_norm

    with loop.averaged.in_module() as module:
        trained = fold_batch_norm(module.sam)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = trained.image_encoder(image)
        found = model.sam.image_encoder(image)
    # half precision on disk
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


def test_scores_of_a_set_are_printed_as_a_row(
    recipe: Callable[[str], ModuleType], shared_data: Path
) -> None:
    from napari_samseg.core.predict import Predictor

    evaluate, test_sets = recipe("evaluate"), recipe("test_sets")
    whole = test_sets.TEST_SETS["laptrack"]

    def first_plane(data: Path) -> Iterator[object]:
        yield next(iter(whole.read(data)))

    small = test_sets.TestSet(whole.title, whole.seen, first_plane)
    predictor = Predictor(load_model("default"))
    scores = evaluate.score_set(
        predictor, small, shared_data, max_objects=4, tiles=TileSettings("whole")
    )
    row = evaluate.table_row(small.title, scores)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["track_laptrack: nuclei", "4"]
    assert float(cells[2]) == pytest.approx(scores.box.mean(), abs=5e-4)
    assert len(cells) == evaluate.HEADER.splitlines()[0].count("|") - 1
