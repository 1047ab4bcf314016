from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from napari_samseg.core.errors import (
    CheckpointError,
    MissingFileError,
    SettingsError,
    TrainingError,
)
from napari_samseg.core.settings import LoopSettings
from napari_samseg.core.training.loop import TrainingLoop
from napari_samseg.core.training.schedule import Score, learning_rate_at
from napari_samseg.core.types import Progress, TrainingProgress

if TYPE_CHECKING:
    from pathlib import Path


def batch_at(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(step)
    x = torch.randn(8, 3, generator=random)
    return x, x @ torch.tensor([1.0, -2.0, 0.5])


def squared_error(
    module: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], step: int
) -> tuple[torch.Tensor, dict[str, float]]:
    x, y = batch
    loss = (module(x)[:, 0] - y).square().mean()
    return loss, {"error": float(loss.detach()), "at": float(step)}


def score_weights(module: nn.Module) -> Generator[Progress, None, Score]:
    yield Progress("scoring", 1, 2)
    return Score(float(next(module.parameters()).detach().abs().sum()))


def scoring(
    score: Callable[[], Score],
) -> Callable[[nn.Module], Generator[Progress, None, Score]]:
    def steps(_: nn.Module) -> Generator[Progress, None, Score]:
        yield Progress("scoring")
        return score()

    return steps


def steps_of(
    loop: TrainingLoop[tuple[torch.Tensor, torch.Tensor]],
) -> Iterator[TrainingProgress]:
    return (p for p in loop.run() if isinstance(p, TrainingProgress))


def make_loop(
    checkpoint: Path | None = None, **changes: float | str | bool
) -> TrainingLoop[tuple[torch.Tensor, torch.Tensor]]:
    values: dict[str, float | str | bool] = {
        "steps": 12,
        "learning_rate": 0.05,
        "warmup_steps": 3,
        "checkpoint_every": 4,
        "validate_every": 5,
    }
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1)
    )
    return TrainingLoop(
        module,
        batch_at,
        squared_error,
        LoopSettings(**{**values, **changes}),  # type: ignore[arg-type]
        validate=score_weights,
        checkpoint=checkpoint,
    )


def test_learns_and_reports_every_step() -> None:
    loop = make_loop(steps=200)
    told = list(steps_of(loop))
    assert [p.done for p in told] == list(range(1, 201))
    assert {p.total for p in told} == {200}
    first, last = (sum(p.train_loss for p in part) for part in (told[:20], told[-20:]))
    assert last < 0.5 * first
    assert loop.figures["at"] == 199


def test_validates_now_and_then_and_at_the_end() -> None:
    scored = [p.done for p in steps_of(make_loop()) if p.val_iou is not None]
    assert scored == [5, 10, 12]


def test_resumed_run_is_the_undisturbed_one(tmp_path: Path) -> None:
    whole = make_loop()
    losses = [p.train_loss for p in steps_of(whole)]
    state = tmp_path / "state.pt"
    for stop in (3, 4, 9):  # not at, at, and after a regular checkpoint
        halted = make_loop(state)
        steps = halted.run()
        for progress in steps:
            if isinstance(progress, TrainingProgress) and progress.done == stop:
                break
        steps.close()
        resumed = make_loop(state)
        resumed.resume(state)
        assert resumed.step == stop
        rest = [p.train_loss for p in steps_of(resumed)]
        assert rest == losses[stop:]
        for ours, theirs in (
            (resumed.module.state_dict(), whole.module.state_dict()),
            (resumed.averaged.values, whole.averaged.values),
        ):
            for name, value in theirs.items():
                assert torch.equal(ours[name], value), name
        assert resumed.best == whole.best


def test_stopping_within_a_step_or_a_validation_loses_neither(tmp_path: Path) -> None:
    whole = make_loop(accumulate=3)
    expected = list(steps_of(whole))
    state = tmp_path / "state.pt"
    n_yields = sum(1 for _ in make_loop(accumulate=3).run())
    assert n_yields > 12 * 2 * 3  # others may go first within a batch
    # all places within a step, and within the validation after the fifth
    for stop in range(25, 37):
        halted = make_loop(state, accumulate=3)
        steps = halted.run()
        told = [next(steps) for _ in range(stop)]
        steps.close()
        resumed = make_loop(state, accumulate=3)
        resumed.resume(state)
        rest = list(steps_of(resumed))
        assert [p for p in told if isinstance(p, TrainingProgress)] + rest == expected
        for name, value in whole.module.state_dict().items():
            assert torch.equal(resumed.module.state_dict()[name], value), name
        assert resumed.best == whole.best


def test_average_follows_the_weights() -> None:
    loop = make_loop(ema_decay=0.0)
    list(loop.run())
    for name, value in loop.module.state_dict().items():
        assert torch.equal(loop.averaged.values[name], value)
    slow = make_loop(ema_decay=0.9)
    list(slow.run())
    weight = "3.weight"
    gap = slow.module.state_dict()[weight] - slow.averaged.values[weight]
    assert gap.abs().max() > 0


def test_frozen_parameters_stay() -> None:
    loop = make_loop()
    frozen = make_loop().module
    frozen[0].requires_grad_(False)  # type: ignore[index]
    before = {k: v.clone() for k, v in frozen.state_dict().items()}
    tuned = TrainingLoop(frozen, batch_at, squared_error, loop.settings)
    list(tuned.run())
    assert torch.equal(frozen.state_dict()["0.weight"], before["0.weight"])
    assert not torch.equal(frozen.state_dict()["3.weight"], before["3.weight"])


def test_error_in_a_batch_reaches_the_caller_and_keeps_the_last_state(
    tmp_path: Path,
) -> None:
    def broken(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if step == 6:
            raise ValueError("batch 6 cannot be read")
        return batch_at(step)

    state = tmp_path / "state.pt"
    loop = make_loop(state)
    loop = TrainingLoop(
        loop.module, broken, squared_error, loop.settings, checkpoint=state
    )
    with pytest.raises(ValueError, match="batch 6"):
        list(loop.run())
    resumed = make_loop(state)
    resumed.resume(state)
    assert resumed.step == 4


def test_learning_rate_rises_and_falls() -> None:
    settings = LoopSettings(
        steps=110, warmup_steps=10, learning_rate=1.0, final_rate=0.1
    )
    rates = [learning_rate_at(step, settings) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert rates[110] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no training state"):
        make_loop().resume(tmp_path / "state.pt")


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"learning_rate": float("nan")}, {"ema_decay": 1.0}]
)
def test_settings_out_of_bounds(change: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        LoopSettings(**change)  # type: ignore[arg-type]


def test_the_best_weights_are_handed_out_and_training_goes_on_from_its_own() -> None:
    scores = iter([0.3, 0.6, 0.5])
    loop = make_loop(steps=15)
    kept: list[tuple[float, dict[str, torch.Tensor]]] = []

    def keep(module: nn.Module, score: float) -> None:
        state = {n: t.clone() for n, t in module.state_dict().items()}
        kept.append((score, state))
        assert all(torch.equal(t, loop.averaged.values[n]) for n, t in state.items())

    loop._validate = scoring(lambda: Score(next(scores)))
    loop._on_best = keep
    list(loop.run())
    assert [score for score, _ in kept] == [0.3, 0.6]
    assert loop.best == (0.6, 10)
    plain = make_loop(steps=15)
    list(plain.run())
    for name, value in plain.module.state_dict().items():
        assert torch.equal(loop.module.state_dict()[name], value)


def test_patience_ends_a_run_that_gets_no_better() -> None:
    loop = make_loop(steps=100, patience=2)
    loop._validate = scoring(lambda: Score(0.5))
    assert [p.done for p in steps_of(loop)][-1] == 15  # the first score, and two more


def test_a_plateau_lowers_the_rate_and_then_waits() -> None:
    loop = make_loop(steps=75, schedule="plateau", validate_every=5, learning_rate=0.1)
    loop._validate = scoring(lambda: Score(0.5))
    rates = [round(loop.rate, 6) for p in steps_of(loop) if p.done % 5 == 1]
    # four scores in a row that were no better than the first, then a rest of three
    assert rates == [0.033333, *[0.1] * 4, *[0.01] * 7, *[0.001] * 3]


def test_accumulated_batches_are_one_large_batch() -> None:
    def large(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [batch_at(2 * step), batch_at(2 * step + 1)]
        return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    def linear(batches, **changes: float) -> nn.Module:  # type: ignore[no-untyped-def]
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 1))
        settings = LoopSettings(steps=10, learning_rate=0.1, **changes)  # type: ignore[arg-type]
        list(TrainingLoop(module, batches, squared_error, settings).run())
        return module

    one, other = linear(large), linear(batch_at, accumulate=2)
    torch.testing.assert_close(one[0].weight, other[0].weight)  # type: ignore[index]


def test_figures_are_means_over_the_batches_that_have_them() -> None:
    def by_turns(
        module: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], number: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        loss, _ = squared_error(module, batch, number)
        return loss, {"box" if number % 2 else "point": 0.8}

    plain = make_loop(accumulate=4, steps=2)
    loop = TrainingLoop(plain.module, batch_at, by_turns, plain.settings)
    list(loop.run())
    assert loop.figures == {"box": pytest.approx(0.8), "point": pytest.approx(0.8)}


def test_batches_have_their_weights() -> None:
    def step(batches, **how) -> torch.Tensor:  # type: ignore[no-untyped-def]
        torch.manual_seed(0)
        settings = LoopSettings(steps=1, learning_rate=0.1, accumulate=2, clip_norm=0)
        loop = TrainingLoop(nn.Linear(3, 1), batches, squared_error, settings, **how)
        list(loop.run())
        assert loop.module.weight.grad is not None
        return loop.module.weight.grad

    def uneven(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = batch_at(0)
        rows = slice(0, 6) if number == 0 else slice(6, 8)
        return x[rows], y[rows]

    # two batches of 6 and 2 are as one of 8
    found = step(uneven, weigh=lambda batch: len(batch[0]) / 4)
    torch.testing.assert_close(found, step(lambda _: batch_at(0)))


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good(tmp_path: Path) -> None:
    def spoiled(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = batch_at(step)
        return x, y * float("nan") if step == 6 else y

    state = tmp_path / "state.pt"
    good = make_loop()
    loop = TrainingLoop(
        good.module, spoiled, squared_error, good.settings, checkpoint=state
    )
    with pytest.raises(TrainingError, match=r"loss of batch 6 \(step 7\) is nan"):
        list(loop.run())
    resumed = make_loop(state)
    resumed.resume(state)
    assert resumed.step == 6
    assert all(t.isfinite().all() for t in resumed.module.state_dict().values())


def test_the_state_of_another_module_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    list(make_loop(state).run())
    other = TrainingLoop(nn.Linear(3, 1), batch_at, squared_error, LoopSettings())
    with pytest.raises(CheckpointError, match="training of something else"):
        other.resume(state)
    for missing in ("scores", "unscored", "optimizer"):
        kept = torch.load(state, weights_only=True)
        del kept[missing]
        torch.save(kept, tmp_path / "cut.pt")
        with pytest.raises(CheckpointError, match="damaged"):
            make_loop().resume(tmp_path / "cut.pt")


def test_of_scores_that_cannot_be_told_apart_the_later_weights_are_kept() -> None:
    def kept(*each: tuple[float, ...]) -> list[int]:
        scores = [Score(sum(values) / len(values), values) for values in each]
        loop = make_loop(steps=5 * len(scores))
        found: list[int] = []
        told = iter(scores)
        loop._validate = scoring(lambda: next(told))
        loop._on_best = lambda module, score: found.append(loop.step)
        list(loop.run())
        assert loop.best == (max(score.value for score in scores), found[-1])
        return found

    hard = (0.1, 0.5, 0.9)
    # objects that differ a lot, and each of them a little worse each time
    worse = tuple(value - 0.03 for value in hard)
    assert kept(hard, worse, tuple(value - 0.06 for value in hard)) == [5]
    # one better and one worse: chance
    assert kept(hard, (0.2, 0.5, 0.78), worse) == [5, 10]
    # of one object, only what is higher
    assert kept((0.9,), (0.89,), (0.91,), (0.0,)) == [5, 15]
