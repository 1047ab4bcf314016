"""What each of two processes runs that train together: see test_distributed."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_coins import labelled_coins, tiny_model

from napari_samseg.core.errors import SamSegError
from napari_samseg.core.memory import MemoryFallbackWarning
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.settings import (
    AugmentSettings,
    LoopSettings,
    LoraSettings,
    TuneSettings,
)
from napari_samseg.core.training import api
from napari_samseg.core.training.batches import ObjectBatch, TuneLoss
from napari_samseg.core.training.distributed import is_follower
from napari_samseg.core.training.presets import TuningPlan
from napari_samseg.core.training.validation import Validation
from napari_samseg.core.types import Progress, TrainingProgress

# box and point prompts have weights of their own: in some steps they get no gradient
PLAN = TuningPlan(
    tune=TuneSettings(train="lora+decoder", objects=2, corrections=0, min_area=200),
    loop=LoopSettings(
        steps=6,
        accumulate=3,
        learning_rate=5e-3,
        warmup_steps=2,
        schedule="plateau",
        validate_every=3,
        checkpoint_every=2,
        ema_decay=0.5,
    ),
    augment=AugmentSettings(variants=1),
    lora=LoraSettings(dropout=0.2),
)


class Stop(Exception):
    """What a person's own function raises."""


def tune(plan: TuningPlan, **options: Any) -> Any:
    """Train a tiny model on a corner of scikit-image's coins."""
    picture, labels = labelled_coins()
    return api.finetune(
        picture, labels.astype(np.uint16), model=tiny_model(), preset=plan, **options
    )


def whole(folder: Path) -> str:
    result = tune(PLAN, out=folder / "whole")
    return str(result.best)


def resumed(folder: Path) -> str:
    told: list[int] = []

    def stop(progress: Progress) -> None:
        told.append(progress.done)
        if isinstance(progress, TrainingProgress) and progress.done == 3:
            raise Stop

    try:
        tune(PLAN, out=folder / "resumed", on_progress=stop)
    except (Stop, SamSegError) as error:
        halted = f"{type(error).__name__}: {error}"
    assert bool(told) != is_follower()
    tune(PLAN, out=folder / "resumed", resume=True)
    return halted


def no_number(folder: Path) -> str:
    plain = TuneLoss.__call__

    def spoiled(
        self: TuneLoss, module: torch.nn.Module, batch: ObjectBatch, number: int
    ) -> Any:
        loss, figures = plain(self, module, batch, number)
        return loss * (float("nan") if number == 7 else 1.0), figures

    TuneLoss.__call__ = spoiled  # type: ignore[method-assign]
    try:
        tune(PLAN, out=folder / "nan")
    finally:
        TuneLoss.__call__ = plain  # type: ignore[method-assign]
    return "not reached"


def no_memory(folder: Path) -> str:
    """The batches of one process need more parts than those of the other."""
    plain = TuneLoss.__call__

    def tight(
        self: TuneLoss, module: torch.nn.Module, batch: ObjectBatch, number: int
    ) -> Any:
        if len(batch) > 1 and is_follower():
            raise MemoryError("out of memory")
        return plain(self, module, batch, number)

    TuneLoss.__call__ = tight  # type: ignore[method-assign]
    try:
        result = tune(PLAN, out=folder / "parts")
    finally:
        TuneLoss.__call__ = plain  # type: ignore[method-assign]
    return str(result.best)


def early(folder: Path) -> str:
    plan = replace(PLAN, loop=replace(PLAN.loop, patience=1, validate_every=1))
    plain, first = Validation.__call__, []

    def same(self: Validation, model: SamModel) -> Any:
        assert not is_follower()
        first.append(plain(self, model))
        return first[0]

    Validation.__call__ = same  # type: ignore[method-assign]
    try:
        result = tune(plan, out=folder / "early")
    finally:
        Validation.__call__ = plain  # type: ignore[method-assign]
    return str([row["step"] for row in result.history])


def too_few(folder: Path) -> str:
    plan = replace(PLAN, loop=replace(PLAN.loop, accumulate=1))
    tune(plan, out=folder / "few")
    return "not reached"


def unwritable(folder: Path) -> str:
    (folder / "file").touch()
    tune(PLAN, out=folder / "file" / "below")
    return "not reached"


SCENES: tuple[Callable[[Path], str], ...] = (
    whole,
    resumed,
    no_number,
    no_memory,
    early,
    too_few,
    unwritable,
)


def play(folder: Path) -> dict[str, str]:
    """Run all scenes, and return what each of them told."""
    told = {}
    for scene in SCENES:
        try:
            told[scene.__name__] = scene(folder)
        except (SamSegError, OSError) as error:
            told[scene.__name__] = f"{type(error).__name__}: {error}"
    return told


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=MemoryFallbackWarning)
    place = Path(sys.argv[1])
    (place / "told.json").write_text(json.dumps(play(place)))
