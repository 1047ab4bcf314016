from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from napari_samseg.core.images import open_image
from napari_samseg.core.models import speed
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.settings import AugmentSettings, LoopSettings, TuneSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training import estimate
from napari_samseg.core.training.estimate import TuneEstimate, estimate_steps
from napari_samseg.core.training.images import LabelledImage
from napari_samseg.core.training.presets import TuningPlan
from napari_samseg.core.training.survey import survey_steps
from napari_samseg.core.training.tuning import TuningJob
from napari_samseg.core.types import TrainingProgress

PLAN = TuningPlan(
    tune=TuneSettings(objects=4, corrections=1, validation=0.0),
    loop=LoopSettings(steps=10, accumulate=2, validate_every=100),
    augment=AugmentSettings(variants=3),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "SECONDS_BETWEEN", 0.0)


def look_ahead(
    coin_labels, model: SamModel, plan: TuningPlan, folder: Path
) -> TuneEstimate:
    picture, labels = coin_labels
    images = [LabelledImage("coins", open_image(picture), labels)]
    planes = run_steps(survey_steps(images, plan.tune.min_area))
    return run_steps(estimate_steps(images, planes, model, plan, folder))


def train_slowly(model: SamModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train with 8 objects in a step, each step as if it took 16 s."""
    clock = iter(range(0, 10**6, 16))
    steps = [TrainingProgress("training", n, 10) for n in range(1, 11)]
    with monkeypatch.context() as patch:
        patch.setattr(estimate.time, "monotonic", lambda: float(next(clock)))
        timed = estimate.time_training(iter(steps), model, PLAN.tune, 8)
        assert len(list(timed)) == len(steps)


def test_what_was_measured_is_told_from_guesses(
    coin_labels, model: SamModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guess = look_ahead(coin_labels, model, PLAN, tmp_path)
    assert not guess.is_measured
    assert "a guess" in str(guess)
    assert guess.planes == 1
    assert guess.views == 3  # one tile, three variants
    assert guess.free is not None
    for _ in range(speed.MEASUREMENTS):
        speed.remember_speed(model, 2.0)
    train_slowly(model, monkeypatch)
    known = look_ahead(coin_labels, model, PLAN, tmp_path)
    assert known.is_measured
    assert "a guess" not in str(known)
    assert known.encode_seconds == pytest.approx(3 * 2.0)
    assert known.train_seconds == pytest.approx(20 * 2 * 3.0)
    longer = dataclasses.replace(
        PLAN, tune=dataclasses.replace(PLAN.tune, corrections=3)
    )
    # two batches of three objects in a pass over all six, a second for each mask
    assert look_ahead(coin_labels, model, longer, tmp_path).train_seconds == (
        pytest.approx(20 * 4 * 3.0)
    )


def test_surroundings_alone_are_faster_than_whole_planes(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    whole, close = (
        look_ahead(
            coin_labels,
            model,
            dataclasses.replace(
                PLAN, tune=dataclasses.replace(PLAN.tune, surroundings=share)
            ),
            tmp_path,
        ).train_seconds
        for share in (0.0, 1.0)
    )
    assert close == pytest.approx(whole / 4)


def test_the_disk_that_is_said_is_taken(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    picture, labels = coin_labels
    folder = tmp_path / "out"
    plan = dataclasses.replace(
        PLAN, loop=LoopSettings(steps=2, checkpoint_every=1, warmup_steps=1)
    )
    said = look_ahead(coin_labels, model, plan, folder).nbytes
    images = [LabelledImage("coins", open_image(picture), labels)]
    steps = TuningJob(images, model, folder, plan).run_steps()
    for progress in steps:
        if progress.stage == "training":
            break
    steps.close()
    taken = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert 0.5 * taken < said < 2 * taken


def test_an_encoder_that_learns_is_not_encoded_before(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    speed.remember_speed(model, 2.0)
    plan = dataclasses.replace(PLAN, tune=TuneSettings(train="everything"))
    found = look_ahead(coin_labels, model, plan, tmp_path)
    assert found.encode_seconds == 0
    assert found.train_seconds > 20 * 2.0
    assert found.memory > look_ahead(coin_labels, model, PLAN, tmp_path).memory
