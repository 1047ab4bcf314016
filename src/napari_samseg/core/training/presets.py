"""Whole sets of training settings that go together, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from napari_samseg.core.errors import UnknownNameError
from napari_samseg.core.settings import (
    AugmentSettings,
    LoopSettings,
    LoraSettings,
    TileSettings,
    TuneSettings,
)

__all__ = ["PLAN_PARTS", "PRESETS", "TuningPlan", "find_preset"]

# The groups of settings in a plan, as files name them.
PLAN_PARTS: Mapping[str, type] = MappingProxyType(
    {
        "tune": TuneSettings,
        "loop": LoopSettings,
        "augment": AugmentSettings,
        "lora": LoraSettings,
        "tiles": TileSettings,
    }
)


@dataclass(frozen=True, slots=True)
class TuningPlan:
    """All settings of a training.

    Attributes
    ----------
    title : str
        One line for a list.
    tune, loop, augment, lora, tiles
        See `napari_samseg.core.settings`.
    """

    title: str = ""
    tune: TuneSettings = field(default_factory=TuneSettings)
    loop: LoopSettings = field(default_factory=LoopSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    tiles: TileSettings = field(default_factory=TileSettings)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return all settings, by group."""
        return {part: asdict(getattr(self, part)) for part in PLAN_PARTS}

    def count_steps(self, per_epoch: int) -> int:
        """Return how many steps the training has.

        Parameters
        ----------
        per_epoch : int
            Batches in one pass over all objects.
        """
        if not self.tune.epochs:
            return self.loop.steps
        return max(1, self.tune.epochs * per_epoch // self.loop.accumulate)


# What a person may expect of other images of the kind, of the same instrument.
VARIED = AugmentSettings(
    variants=12,
    contrast=0.2,
    gamma=0.4,
    colour=0.5,
    noise=8.0,
    blur=1.0,
    scale=0.2,
)

PRESETS: Mapping[str, TuningPlan] = {
    "quick": TuningPlan(
        "Quick: the mask decoder, minutes on a processor",
        TuneSettings(surroundings=1.0, box=0.5),
        LoopSettings(
            steps=250,
            learning_rate=2e-4,
            warmup_steps=10,
            accumulate=2,
            ema_decay=0.98,
            validate_every=50,
            checkpoint_every=50,
        ),
        replace(VARIED, feature_dropout=0.1),
    ),
    "whole": TuningPlan(
        "Whole: the encoder too, for kinds of image that a small model never saw",
        TuneSettings(train="everything", surroundings=1.0, box=0.5),
        LoopSettings(
            steps=450,
            learning_rate=2e-4,
            warmup_steps=10,
            accumulate=2,
            ema_decay=0.98,
            mixed_precision=True,
            validate_every=50,
            checkpoint_every=50,
        ),
        VARIED,
    ),
    "thorough": TuningPlan(
        "Thorough: decoder and prompt encoder on many variants, an hour or more",
        TuneSettings(train="decoder+prompts", corrections=2),
        LoopSettings(
            steps=2000,
            learning_rate=3e-4,
            warmup_steps=50,
            accumulate=4,
            ema_decay=0.995,
            validate_every=100,
            patience=8,
        ),
        replace(VARIED, variants=16, rotation=45, elastic=4),
    ),
    "lora": TuningPlan(
        "LoRA: small matrices in encoder and decoder, on a GPU",
        TuneSettings(train="lora", corrections=1),
        LoopSettings(
            steps=2000,
            learning_rate=4e-5,
            schedule="plateau",
            weight_decay=1e-4,
            warmup_steps=250,
            accumulate=4,
            mixed_precision=True,
            validate_every=100,
            patience=10,
        ),
        VARIED,
    ),
}


def find_preset(name: str) -> TuningPlan:
    """Return the settings called `name`.

    Raises
    ------
    UnknownNameError
        If there are none.
    """
    if name not in PRESETS:
        raise UnknownNameError(
            f"there is no preset {name!r}: choose one of {', '.join(PRESETS)}"
        )
    return PRESETS[name]
