"""The training loop: a generator that anyone may iterate, stop and resume.

Everything random in a step follows from the seed and the number of the step, so a
resumed run is the undisturbed run, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from napari_samseg.core.errors import CheckpointError, TrainingError
from napari_samseg.core.memory import is_memory_error, warn_fallback
from napari_samseg.core.settings import LoopSettings
from napari_samseg.core.training.ahead import BatchesAhead
from napari_samseg.core.training.averaging import AveragedWeights
from napari_samseg.core.training.checkpoint import (
    read_training_state,
    write_training_state,
)
from napari_samseg.core.training.distributed import ALONE, Ranks, Weighed
from napari_samseg.core.training.schedule import (
    Score,
    ScoreBoard,
    learning_rate_at,
)
from napari_samseg.core.types import Progress, TrainingProgress

__all__ = ["LossAt", "TrainingLoop"]

Batch = TypeVar("Batch")
T = TypeVar("T")
Steps = Generator[Progress, None, T]
Split = Callable[[Batch, int], Sequence[tuple[float, Batch]]]
LossAt = Callable[[nn.Module, Batch, int], tuple[torch.Tensor, Mapping[str, float]]]


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
        ``validate(module)`` is a generator of `Progress` that returns a `Score` (IoU)
        of the averaged weights, which are in the module meanwhile.
    on_best : callable, optional
        ``on_best(module, score)``, with the averaged weights in the module, each time
        that a score is the highest so far, or cannot be told from it, and higher than
        that of `begin_at`.
    split : callable, optional
        ``split(batch, n)`` divides a batch into about n parts, with their shares of
        its loss; used once memory runs out.
    weigh : callable, optional
        ``weigh(batch)`` is its weight among batches, 1 on average.
    checkpoint : Path, optional
        Where the state goes; without it, nothing is written.
    ranks : Ranks, optional
        Other processes that this one shares the batches of each step with. What the
        first one's validations say counts; buffers are not summed.

    Attributes
    ----------
    averaged : AveragedWeights
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
        validate: Callable[[nn.Module], Steps[Score]] | None = None,
        on_best: Callable[[nn.Module, float], object] | None = None,
        split: Split[Batch] | None = None,
        weigh: Callable[[Batch], float] = lambda _: 1.0,
        checkpoint: Path | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.module = module
        self.settings = settings
        self.step = 0
        self.figures: dict[str, float] = {}
        self.rate = 0.0
        self.averaged = AveragedWeights(module, settings.ema_decay)
        self._batch_at = batch_at
        self._compute_loss = compute_loss
        self._validate = validate
        self._on_best = on_best
        self._split = split
        self._weigh = weigh
        self._n_parts = 1
        self._checkpoint = checkpoint
        self._ranks = ranks
        self._scores = ScoreBoard()
        # loss of a step that is made, and whose validation is not over
        self._unscored: float | None = None
        self._optimizer = _make_optimizer(module, settings)

    @property
    def best(self) -> tuple[float, int]:
        """The highest score, -inf without any; and the step of the weights to keep.

        Of the validations after the first step; 0 is the step of the weights that were
        there before.
        """
        return self._scores.best, self._scores.best_step

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return next(self.module.parameters()).device

    def begin_at(self, score: float) -> None:
        """Take in the score of the weights that are there before the first step."""
        self._scores.start = score

    def run(self) -> Generator[Progress]:
        """Train up to `settings.steps`; yields `TrainingProgress` after every step.

        In between, it yields `Progress` at each batch and in validations. Closing the
        generator drops the step that is under way, and writes the state before it. Of
        a validation that is under way, the state says that it is to be made again.

        Raises
        ------
        TrainingError
            If a loss is no number, or another process has ended: the step is not
            made, and the state before it is written.
        """
        with ThreadPoolExecutor(1, "samseg-batches") as ahead:
            batches = BatchesAhead(
                ahead, self._batch_at, self.settings, self.step, self._ranks
            )
            try:
                yield from self._run_steps(batches)
            except (GeneratorExit, TrainingError):
                # weights change between two yields, never across one
                self.save()
                raise

    def _run_steps(self, batches: BatchesAhead[Batch]) -> Generator[Progress]:
        settings = self.settings
        while self._unscored is not None or (
            self.step < settings.steps and not self._is_stale()
        ):
            if self._unscored is None:
                loss = yield from self._train_steps(batches)
                self.step += 1
                self._unscored = loss
            score = yield from self._score_steps()
            loss, self._unscored = self._unscored, None
            last = self.step == settings.steps or self._is_stale()
            if last or self.step % settings.checkpoint_every == 0:
                self.save()
            yield TrainingProgress(
                "training", self.step, settings.steps, train_loss=loss, val_iou=score
            )

    def _is_stale(self) -> bool:
        patience = self.settings.patience
        return bool(patience) and self._scores.stale >= patience

    def _train_steps(
        self, batches: BatchesAhead[Batch]
    ) -> Generator[Progress, None, float]:
        """Make one step, and return its loss."""
        settings = self.settings
        rate = learning_rate_at(self.step, settings) * self._scores.factor
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with self._old_buffers_on_error():
            sums = yield from self._backward_steps(batches.of_step(self.step))
        learning = [p for g in self._optimizer.param_groups for p in g["params"]]
        figures = self._ranks.add_up(sums, learning)
        norm = nn.utils.clip_grad_norm_(learning, settings.clip_norm or math.inf)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"the gradient of step {self.step + 1} is no number: take a lower "
                "learning rate. What was learned before is kept"
            )
        self._optimizer.step()
        self.averaged.update(self.step)
        self.rate = rate
        total = figures.pop("loss")
        self.figures = figures
        return total

    @contextmanager
    def _old_buffers_on_error(self) -> Iterator[None]:
        """Undo what layers like batch norm have noted, if a step is dropped."""
        buffers = [(buffer, buffer.clone()) for buffer in self.module.buffers()]
        try:
            yield
        except BaseException:
            for buffer, old in buffers:
                buffer.copy_(old)
            raise

    def _backward_steps(
        self, drawn: Sequence[tuple[int, Batch]]
    ) -> Generator[Progress, None, dict[str, Weighed]]:
        """Sum gradients and figures of batches; in parts, once memory has run out."""
        # others may go first there: a batch can take seconds
        between = Progress("training", self.step, self.settings.steps)
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            sums: dict[str, Weighed] = {}
            try:
                for number, batch in drawn:
                    whole = self._weigh(batch) / self.settings.accumulate
                    for share, part in self._parts(batch):
                        loss, figures = self._forward(part, number)
                        yield between
                        (loss * share * whole).backward()
                        yield between
                        for name, value in figures.items():
                            figure = Weighed(value * share * whole, share * whole)
                            sums[name] = sums.get(name, Weighed()) + figure
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

    def _forward(
        self, batch: Batch, number: int
    ) -> tuple[torch.Tensor, Mapping[str, float]]:
        """Return the loss of a batch, and with it the figures."""
        settings, device = self.settings, self.device
        is_mixed = (
            settings.mixed_precision
            and device.type == "cuda"
            and torch.cuda.is_bf16_supported(including_emulation=False)
        )
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
        return loss, {**figures, "loss": float(loss.detach())}

    def _score_steps(self) -> Generator[Progress, None, float | None]:
        due = self.step % self.settings.validate_every == 0
        if not (due or self.step == self.settings.steps):
            return None
        score = yield from self._validate_steps()
        self._scores = self._ranks.from_first(self._scores)
        return score

    def _validate_steps(self) -> Generator[Progress, None, float | None]:
        if self._validate is None:
            return None
        with self.averaged.in_module() as module:
            score = yield from self._validate(module)
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
            "module": {n: t.detach() for n, t in self.averaged.learning().items()},
            "averaged": self.averaged.values,
            "optimizer": self._optimizer.state_dict(),
            "scores": {name: getattr(scores, name) for name in scores.__slots__},
            "unscored": self._unscored,
            "figures": self.figures,
            "rate": self.rate,
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
        _check_state(state, self.averaged.learning(), checkpoint)
        try:
            self.averaged.put(state["module"])
            self.averaged.values = dict(state["averaged"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._scores = ScoreBoard(**state["scores"])
            self.step = int(state["step"])
            self._unscored = state["unscored"]
            self.figures, self.rate = dict(state["figures"]), float(state["rate"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint} is damaged, or of another version ({error!r}): start "
                "the training anew"
            ) from error
