"""The training loop: a generator that anyone may iterate, stop and resume.

Everything random in a step follows from the seed and the number of the step, so a
resumed run is the undisturbed run, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import nn

from napari_samseg.core.errors import CheckpointError, TrainingError
from napari_samseg.core.memory import is_memory_error, warn_fallback
from napari_samseg.core.settings import LoopSettings
from napari_samseg.core.training.checkpoint import (
    read_training_state,
    write_training_state,
)
from napari_samseg.core.training.distributed import ALONE, Ranks
from napari_samseg.core.types import TrainingProgress

__all__ = ["LossAt", "Score", "TrainingLoop", "learning_rate_at"]

Batch = TypeVar("Batch")
Split = Callable[[Batch, int], Sequence[tuple[float, Batch]]]
LossAt = Callable[[nn.Module, Batch, int], tuple[torch.Tensor, Mapping[str, float]]]

# The plateau schedule: by how much a score must rise to count (as a share), after how
# many validations without that the rate falls, to what share, and for how many it then
# rests: the settings of MSSegSAM.
RISE, STALE, FALL, REST, LEAST_RATE = 1e-3, 3, 0.1, 3, 1e-7


def learning_rate_at(step: int, settings: LoopSettings) -> float:
    """Linear warm-up, then constant, or a half cosine down to `final_rate`.

    What the plateau schedule takes off comes on top.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule != "cosine":
        return settings.learning_rate
    span = max(settings.steps - settings.warmup_steps, 1)
    done = min((step - settings.warmup_steps) / span, 1.0)
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    share = settings.final_rate + (1 - settings.final_rate) * cosine
    return settings.learning_rate * share


class Score(NamedTuple):
    """What a validation says: higher is better; and its standard error."""

    value: float
    error: float = 0.0


@dataclass(slots=True)
class _Scores:
    """What validations have said so far."""

    best: float = -math.inf
    best_step: int = 0
    stale: int = 0  # validations in a row that were no better
    bad: int = 0  # those since the rate fell and rested
    rest: int = 0
    factor: float = 1.0  # of the learning rate

    def note(self, scored: Score, step: int, settings: LoopSettings) -> bool:
        """Take in a score; return whether its weights are to be kept.

        Those are the last ones whose score cannot be told from the highest: of few
        objects, the highest score is mostly luck, and learning longer is better
        (Breiman's rule of one standard error, turned to the side of more steps).
        """
        score = scored.value
        is_kept = score > self.best - scored.error
        is_better = self.best == -math.inf or score - self.best > RISE * abs(self.best)
        self.stale = 0 if is_better else self.stale + 1
        self.bad = 0 if is_better else self.bad + 1
        if score > self.best:
            self.best = score
        if is_kept:
            self.best_step = step
        if settings.schedule == "plateau":
            self._fall(settings)
        return is_kept

    def _fall(self, settings: LoopSettings) -> None:
        if self.rest:
            self.rest -= 1
            self.bad = 0
        elif self.bad > STALE:
            least = LEAST_RATE / max(settings.learning_rate, LEAST_RATE)
            self.factor = max(self.factor * FALL, least)
            self.bad, self.rest = 0, REST


class _Ahead(Generic[Batch]):
    """Makes batches in a thread while the model learns from the one before."""

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        batch_at: Callable[[int], Batch],
        settings: LoopSettings,
        step: int,
        ranks: Ranks,
    ) -> None:
        self._executor, self._batch_at, self._ranks = executor, batch_at, ranks
        self._per_step = settings.accumulate
        end = settings.steps * settings.accumulate
        self._rest = iter(ranks.numbers(step * settings.accumulate, end))
        self._next = self._submit()

    def _submit(self) -> Future[Batch] | None:
        number = next(self._rest, None)
        if number is None:
            return None
        return self._executor.submit(self._batch_at, number)

    def of_step(self, step: int) -> list[tuple[int, Batch]]:
        """Return the batches of a step, with their numbers; steps come in order."""
        start = step * self._per_step
        numbers = self._ranks.numbers(start, start + self._per_step)
        return [(number, self._take()) for number in numbers]

    def _take(self) -> Batch:
        assert self._next is not None  # there are as many as steps ask for
        batch = self._next.result()
        self._next = self._submit()
        return batch


def _make_optimizer(module: nn.Module, settings: LoopSettings) -> torch.optim.Optimizer:
    learning = [p for p in module.parameters() if p.requires_grad]
    # biases and norms are not drawn to 0
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learning if p.ndim > 1]},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
    }
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
    }
    return kinds[settings.optimizer](groups, **options)


def _check_state(
    state: Mapping[str, Any], learning: Mapping[str, torch.Tensor], path: Path
) -> None:
    """Refuse a state that does not fit what learns here."""
    kept = state.get("module", {})
    if set(kept) != set(learning) or any(
        kept[name].shape != tensor.shape for name, tensor in learning.items()
    ):
        raise CheckpointError(
            f"{path} is the state of a training of something else: choose another "
            "folder, or train the same model with the same settings"
        )


class TrainingLoop(Generic[Batch]):
    """Train a module on batches that are functions of the step.

    Parameters
    ----------
    module : torch.nn.Module
        Trained where it stands; parameters with ``requires_grad`` learn.
    batch_at : callable
        ``batch_at(number)`` makes a batch, always the same one; called in one thread
        ahead of the training. There are `settings.accumulate` batches in each step.
    compute_loss : callable
        ``compute_loss(module, batch, number)`` gives a scalar loss and named figures
        for the log.
    settings : LoopSettings
    validate : callable, optional
        ``validate(module)`` gives a `Score` (IoU) of the averaged weights, which are
        in the module meanwhile.
    on_best : callable, optional
        ``on_best(module, score)``, with the averaged weights in the module, each time
        that a score is the highest so far, or within a standard error of it.
    split : callable, optional
        ``split(batch, n)`` divides a batch into about n parts, with their shares of
        its loss; used once memory runs out.
    checkpoint : Path, optional
        Where the state goes; without it, nothing is written.
    ranks : Ranks, optional
        Other processes that this one shares the batches of each step with. What the
        first one's validations say counts; buffers are not summed.

    Attributes
    ----------
    averaged : dict of str to tensor
        Running means of what learns, and of the buffers.
    figures : dict of str to float
        Of the last step.
    rate : float
        Learning rate of the last step.
    """

    def __init__(
        self,
        module: nn.Module,
        batch_at: Callable[[int], Batch],
        compute_loss: LossAt[Batch],
        settings: LoopSettings,
        *,
        validate: Callable[[nn.Module], Score] | None = None,
        on_best: Callable[[nn.Module, float], object] | None = None,
        split: Split[Batch] | None = None,
        checkpoint: Path | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.module = module
        self.settings = settings
        self.step = 0
        self.figures: dict[str, float] = {}
        self.rate = 0.0
        self.averaged = {n: t.detach().clone() for n, t in self._learning().items()}
        self._batch_at = batch_at
        self._compute_loss = compute_loss
        self._validate = validate
        self._on_best = on_best
        self._split = split
        self._n_parts = 1
        self._checkpoint = checkpoint
        self._ranks = ranks
        self._scores = _Scores()
        self._optimizer = _make_optimizer(module, settings)

    @property
    def best(self) -> tuple[float, int]:
        """The highest score, -inf without any; and the step of the weights to keep."""
        return self._scores.best, self._scores.best_step

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return next(self.module.parameters()).device

    def run(self) -> Generator[TrainingProgress]:
        """Train up to `settings.steps`, yielding after every step.

        Closing the generator writes the state of the last finished step.

        Raises
        ------
        TrainingError
            If a loss is no number, or another process has ended: the step is not
            made, and the state before it is written.
        """
        saved = self.step
        with ThreadPoolExecutor(1, "samseg-batches") as ahead:
            batches = _Ahead(
                ahead, self._batch_at, self.settings, self.step, self._ranks
            )
            while self.step < self.settings.steps and not self._is_stale():
                try:
                    loss = self._train(batches)
                except TrainingError:
                    self.save()
                    raise
                self.step += 1
                progress = TrainingProgress(
                    "training",
                    self.step,
                    self.settings.steps,
                    train_loss=loss,
                    val_iou=self._score(),
                )
                last = self.step == self.settings.steps or self._is_stale()
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

    def _is_stale(self) -> bool:
        patience = self.settings.patience
        return bool(patience) and self._scores.stale >= patience

    def _train(self, batches: _Ahead[Batch]) -> float:
        """Make one step, and return its loss."""
        settings = self.settings
        rate = learning_rate_at(self.step, settings) * self._scores.factor
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        sums = self._backward_all(batches.of_step(self.step))
        learning = [p for g in self._optimizer.param_groups for p in g["params"]]
        sums = self._ranks.add_up(sums, learning)
        norm = nn.utils.clip_grad_norm_(learning, settings.clip_norm or math.inf)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"the gradient of step {self.step + 1} is no number: take a lower "
                "learning rate. What was learned before is kept"
            )
        self._optimizer.step()
        self._average()
        self.rate = rate
        total = sums.pop("loss")
        self.figures = sums
        return total

    def _backward_all(self, drawn: Sequence[tuple[int, Batch]]) -> dict[str, float]:
        """Sum gradients and figures of batches; in parts, once memory has run out."""
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            sums = {"loss": 0.0}
            try:
                for number, batch in drawn:
                    for share, part in self._parts(batch):
                        weight = share / self.settings.accumulate
                        figures = self._backward(part, number, weight)
                        for name, value in figures.items():
                            sums[name] = sums.get(name, 0.0) + value * weight
            except (MemoryError, RuntimeError) as error:
                if not is_memory_error(error) or not self._shrink(drawn):
                    raise
                continue
            return sums

    def _parts(self, batch: Batch) -> Sequence[tuple[float, Batch]]:
        if self._split is None or self._n_parts == 1:
            return [(1.0, batch)]
        return self._split(batch, self._n_parts)

    def _shrink(self, drawn: Sequence[tuple[int, Batch]]) -> bool:
        """Divide batches into twice as many parts, if that is possible."""
        if self._split is None:
            return False
        largest = max(len(self._split(batch, 1 << 20)) for _, batch in drawn)
        if self._n_parts >= largest:
            return False
        self._n_parts = min(2 * self._n_parts, largest)
        warn_fallback(self.device, f"training on batches in {self._n_parts} parts")
        return True

    def _backward(
        self, batch: Batch, number: int, weight: float
    ) -> Mapping[str, float]:
        """Add the gradient of a batch, times its weight; return loss and figures."""
        settings, device = self.settings, self.device
        is_mixed = settings.mixed_precision and device.type == "cuda"
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            # dropout and the like: seeded by batch, so that a resumed run draws the
            # same
            torch.manual_seed(settings.seed * 1_000_003 + number)
            with torch.autocast(device.type, torch.bfloat16, enabled=is_mixed):
                loss, figures = self._compute_loss(self.module, batch, number)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss of batch {number} (step {self.step + 1}) is {loss:g}: "
                    f"{getattr(batch, 'description', 'look at its data')}. What was "
                    "learned before is kept"
                )
            (loss * weight).backward()
        return {**figures, "loss": float(loss.detach())}

    def _learning(self) -> dict[str, torch.Tensor]:
        """Return what training changes: parameters that learn, and buffers."""
        state = self.module.state_dict(keep_vars=True)
        return {
            name: tensor
            for name, tensor in state.items()
            if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
        }

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights; early steps count more, so the start fades."""
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        for name, now in self._learning().items():
            mean = self.averaged[name]
            if mean.dtype.is_floating_point and self.settings.ema_decay:
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)

    @contextmanager
    def averaged_weights(self) -> Iterator[nn.Module]:
        """Put the averaged weights into the module, until the ``with`` block ends."""
        learning = self._learning()
        now = {name: tensor.detach().clone() for name, tensor in learning.items()}
        try:
            self._put(self.averaged)
            yield self.module
        finally:
            self._put(now)

    @torch.no_grad()
    def _put(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in self._learning().items():
            tensor.copy_(values[name])

    def _score(self) -> float | None:
        due = self.step % self.settings.validate_every == 0
        if not (due or self.step == self.settings.steps):
            return None
        score = self._validate_now()
        self._scores = self._ranks.from_first(self._scores)
        return score

    def _validate_now(self) -> float | None:
        if self._validate is None:
            return None
        with self.averaged_weights() as module:
            score = self._validate(module)
            is_kept = self._scores.note(score, self.step, self.settings)
            if is_kept and self._on_best is not None:
                self._on_best(module, score.value)
        return score.value

    def save(self) -> None:
        """Write the state, if a checkpoint was named."""
        if self._checkpoint is None:
            return
        scores = self._scores
        state: dict[str, Any] = {
            "step": self.step,
            "module": {n: t.detach() for n, t in self._learning().items()},
            "averaged": self.averaged,
            "optimizer": self._optimizer.state_dict(),
            "scores": {name: getattr(scores, name) for name in scores.__slots__},
        }
        write_training_state(self._checkpoint, state)

    def resume(self, checkpoint: Path) -> None:
        """Take up a run where its state was written.

        Raises
        ------
        MissingFileError, CheckpointError
            If there is no readable state, or it is of another module.
        """
        state = read_training_state(checkpoint, self.device)
        _check_state(state, self._learning(), checkpoint)
        self._put(state["module"])
        self.averaged = dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scores = _Scores(**state["scores"])
        self.step = int(state["step"])
