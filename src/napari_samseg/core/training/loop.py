"""The training loop: a generator that anyone may iterate, stop and resume.

Everything random in a step follows from the seed and the number of the step, so a
resumed run is the undisturbed run, bit for bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from napari_samseg.core.settings import check, setting
from napari_samseg.core.training.checkpoint import (
    read_training_state,
    write_training_state,
)
from napari_samseg.core.types import TrainingProgress

__all__ = ["LoopSettings", "TrainingLoop", "learning_rate_at"]

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How long and how fast to train; every field says what it does."""

    steps: int = setting(
        1000, "Steps", "Number of optimiser steps.", minimum=1, maximum=10_000_000
    )
    learning_rate: float = setting(
        1e-3, "Learning rate", "Highest rate, after warm-up.", minimum=0.0, maximum=1.0
    )
    final_rate: float = setting(
        0.02,
        "Final rate",
        "Rate at the end of the cosine, as a share of the highest.",
        minimum=0.0,
        maximum=1.0,
    )
    warmup_steps: int = setting(
        100, "Warm-up", "Steps of linear rise of the rate.", minimum=0
    )
    weight_decay: float = setting(
        0.02, "Weight decay", "AdamW's decay of weight matrices.", minimum=0.0
    )
    clip_norm: float = setting(
        1.0,
        "Gradient clip",
        "Largest norm of the gradient; 0 is no limit.",
        minimum=0.0,
    )
    ema_decay: float = setting(
        0.998,
        "EMA decay",
        "Decay of the running mean of the weights; 0 keeps the last.",
        minimum=0.0,
        maximum=0.999999,
    )
    checkpoint_every: int = setting(
        100, "Checkpoint every", "Steps between states on disk.", minimum=1
    )
    validate_every: int = setting(
        250, "Validate every", "Steps between validations.", minimum=1
    )
    seed: int = setting(0, "Seed", "Seed of everything random.", minimum=0)

    def __post_init__(self) -> None:
        check(self)


def learning_rate_at(step: int, settings: LoopSettings) -> float:
    """Linear warm-up, then a half cosine down to `final_rate` of the highest."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    span = max(settings.steps - settings.warmup_steps, 1)
    done = min((step - settings.warmup_steps) / span, 1.0)
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    share = settings.final_rate + (1 - settings.final_rate) * cosine
    return settings.learning_rate * share


class TrainingLoop(Generic[Batch]):
    """Train a module on batches that are functions of the step.

    Parameters
    ----------
    module : torch.nn.Module
        Trained where it stands; parameters with ``requires_grad`` learn.
    batch_at : callable
        ``batch_at(step)`` makes the batch of a step, always the same one; called in
        one thread ahead of the training.
    compute_loss : callable
        ``compute_loss(module, batch, step)`` gives a scalar loss and named figures
        for the log.
    settings : LoopSettings
    validate : callable, optional
        ``validate(module)`` gives a score (IoU) of the averaged weights.
    checkpoint : Path, optional
        Where the state goes; without it, nothing is written.
    """

    def __init__(
        self,
        module: nn.Module,
        batch_at: Callable[[int], Batch],
        compute_loss: Callable[
            [nn.Module, Batch, int], tuple[torch.Tensor, Mapping[str, float]]
        ],
        settings: LoopSettings,
        *,
        validate: Callable[[nn.Module], float] | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        self.module = module
        self.averaged = copy.deepcopy(module).requires_grad_(False)
        self.settings = settings
        self.step = 0
        self.figures: dict[str, float] = {}
        self._batch_at = batch_at
        self._compute_loss = compute_loss
        self._validate = validate
        self._checkpoint = checkpoint
        learning = [p for p in module.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in learning if p.ndim > 1]},
            {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def run(self) -> Generator[TrainingProgress]:
        """Train up to `settings.steps`, yielding after every step.

        Closing the generator writes the state of the last finished step.
        """
        saved = self.step
        with ThreadPoolExecutor(1, "samseg-batches") as ahead:
            future = ahead.submit(self._batch_at, self.step)
            while self.step < self.settings.steps:
                batch = future.result()
                if self.step + 1 < self.settings.steps:
                    future = ahead.submit(self._batch_at, self.step + 1)
                loss = self._train_on(batch)
                self.step += 1
                progress = TrainingProgress(
                    "training",
                    self.step,
                    self.settings.steps,
                    train_loss=loss,
                    val_iou=self._score(),
                )
                last = self.step == self.settings.steps
                if last or self.step % self.settings.checkpoint_every == 0:
                    self.save()
                    saved = self.step
                try:
                    yield progress
                except GeneratorExit:
                    # only here is no step half done
                    if saved != self.step:
                        self.save()
                    raise

    def _train_on(self, batch: Batch) -> float:
        settings = self.settings
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, settings)
        self._optimizer.zero_grad(set_to_none=True)
        with torch.random.fork_rng():
            # dropout and the like: seeded by step, so that a resumed run draws the same
            torch.manual_seed(settings.seed * 1_000_003 + self.step)
            loss, figures = self._compute_loss(self.module, batch, self.step)
            loss.backward()
        if settings.clip_norm:
            nn.utils.clip_grad_norm_(
                [p for g in self._optimizer.param_groups for p in g["params"]],
                settings.clip_norm,
            )
        self._optimizer.step()
        self._average()
        self.figures = dict(figures)
        return float(loss.detach())

    def _average(self) -> None:
        """Move the averaged weights; early steps count more, so the start fades."""
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        current = self.module.state_dict()
        for name, mean in self.averaged.state_dict().items():
            if mean.dtype.is_floating_point and self.settings.ema_decay:
                mean.lerp_(current[name], 1 - decay)
            else:
                mean.copy_(current[name])

    def _score(self) -> float | None:
        due = self.step % self.settings.validate_every == 0
        if self._validate is None or not (due or self.step == self.settings.steps):
            return None
        return self._validate(self.averaged)

    def save(self) -> None:
        """Write the state, if a checkpoint was named."""
        if self._checkpoint is None:
            return
        state: dict[str, Any] = {
            "step": self.step,
            "module": self.module.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        write_training_state(self._checkpoint, state)

    def resume(self, checkpoint: Path, device: torch.device | str = "cpu") -> None:
        """Take up a run where its state was written.

        Raises
        ------
        MissingFileError, CheckpointError
            If there is no readable state.
        """
        state = read_training_state(checkpoint, device)
        self.module.load_state_dict(state["module"])
        self.averaged.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
