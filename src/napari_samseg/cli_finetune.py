"""The command ``napari-samseg finetune``."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table

from napari_samseg.cli_terminal import (
    STOPPED,
    messages,
    output,
    say,
    show_progress,
    tell,
)
from napari_samseg.core.amounts import count_things, describe_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_samseg.core.training.config import TuneConfig
    from napari_samseg.core.training.outlook import Side, TrainingOutlook
    from napari_samseg.core.training.result import TuneResult
    from napari_samseg.core.types import Progress, TrainingProgress

__all__ = ["finetune"]

T = TypeVar("T")
SCORES = {
    "box": "IoU by a box",
    "point": "IoU by a point",
    "box_dice": "Dice by a box",
    "point_dice": "Dice by a point",
}
MOST_GROUPS = 6
# Between lines that say how far a training is, where no bar does.
LINE_SECONDS = 10.0


def finetune(
    config: Annotated[
        Path,
        typer.Argument(
            help="YAML file: images, labels, out, and any settings that differ from "
            "those of a preset.",
            metavar="CONFIG",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            help="Name of the new model, or a folder such as ./tuned, in place of the "
            "file's."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training that was stopped.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace a model that is there, and a training that is not over.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only check files and settings, count objects, and say what would be "
            "done.",
        ),
    ] = False,
) -> None:
    """Tune a model on your labels, from embeddings that are made once.

    Three lines are enough of a CONFIG: `images: FOLDER`, `labels: FOLDER` with files of
    the same names, and `out: NAME` of the new model.

    Ctrl+C keeps the best weights so far; with --resume, the same command goes on.
    torchrun -m napari_samseg finetune divides the batches of a step among processes.
    """
    from napari_samseg.core.training.config import read_config
    from napari_samseg.core.training.place import training_folder
    from napari_samseg.core.training.unfinished import check_training_folder

    wanted = read_config(config)
    if out is not None:
        wanted = dataclasses.replace(wanted, out=training_folder(out))
    if dry_run:
        check_training_folder(wanted.out, resume=resume, overwrite=overwrite)
        from napari_samseg.core.training.outlook import outlook_steps

        _print_outlook(wanted, show_progress(outlook_steps(wanted)))
        return
    from napari_samseg.core.training.api import finetune_config

    steps = finetune_config(wanted, resume=resume, overwrite=overwrite)
    if os.environ.get("RANK", "0") != "0":  # torchrun's; the first process tells
        _follow_silently(steps)
        return
    with _stop_in_words(wanted.out):
        result = _show_training(steps)
    _print_result(result)


def _print_outlook(config: TuneConfig, found: TrainingOutlook) -> None:
    from napari_samseg.core.training.images import describe_sides

    plan = config.plan
    table = Table("", "planes", "objects", "groups")
    for name, side in (("train on", found.training), ("validate on", found.validation)):
        table.add_row(name, str(side.n_planes), str(side.n_objects), _groups(side))
    output.print(table)
    say(
        f"{count_things(found.n_images, 'image')}, "
        f"{count_things(found.n_planes, 'plane')} with objects"
    )
    counts = found.training.n_objects, found.validation.n_objects
    say(describe_sides(*counts, found.split))
    length = (
        count_things(plan.tune.epochs, "epoch")
        if plan.tune.epochs
        else count_things(plan.loop.steps, "step")
    )
    say(f"train: {plan.tune.train}, {length}, loss {plan.tune.loss}")
    if plan.tune.needs_pixels:
        say("the encoder learns, so that pixels are encoded at every step")
    else:
        say(
            f"each plane is encoded {count_things(found.n_variants, 'time')} at most, "
            "before training"
        )
    download = ", to be downloaded" if found.needs_download else ""
    say(f"model: {config.model.model}{download}")
    say(f"folder: {config.out}")


def _groups(side: Side) -> str:
    # paths of files are told by their ends
    names = [Path(group).name for group in side.groups]
    more = f", ... {len(names)} in all" if len(names) > MOST_GROUPS else ""
    return ", ".join(names[:MOST_GROUPS]) + more


def _show_training(steps: Generator[Progress, None, T]) -> T:
    """Run a training to its end with a bar, and a line for each validation.

    Ctrl+C is taken between batches, so that no step is half done; a second one ends the
    work where it is.
    """
    from napari_samseg.core.types import Remark, TrainingProgress

    def watched() -> Generator[Progress, None, T]:
        pace = _Pace()
        with closing(steps), _interrupts() as interrupted:
            while True:
                try:
                    step = next(steps)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                if isinstance(step, Remark):
                    tell(step.detail)
                elif not isinstance(step, TrainingProgress):
                    pace.note_stage(step)
                else:
                    pace.note_step(step)
                    detail = f"loss {step.train_loss:.3f}"
                    step = dataclasses.replace(step, detail=detail)
                if pace.is_news(step):
                    yield step
                if interrupted.is_set():
                    raise KeyboardInterrupt

    return show_progress(watched())


def _follow_silently(steps: Generator[Progress, None, T]) -> None:
    """Take part in a training of which another process tells."""
    from napari_samseg.core.errors import OtherProcessError
    from napari_samseg.core.steps import run_steps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run_steps(steps)
        except OtherProcessError:
            raise typer.Exit(STOPPED) from None


class _Pace:
    """Says what is being done, and every few seconds how far a training is.

    Where a bar shows that, only the validations are told.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._begun: tuple[float, int] | None = None
        self._told = time.monotonic()

    def is_news(self, step: Progress) -> bool:
        """Tell whether a bar is to show it: not what comes between two batches."""
        from napari_samseg.core.types import Progress

        has_begun = self._begun is not None
        return type(step) is not Progress or step.stage != "training" or not has_begun

    def note_stage(self, step: Progress) -> None:
        """Name a stage once; while training, the steps tell enough."""
        is_new = step.stage != self._stage and self._begun is None
        if is_new and not messages.is_terminal:
            tell(f"{step.stage} ...")
        self._stage = step.stage

    def note_step(self, step: TrainingProgress) -> None:
        """Tell a validation, or a step if it is time."""
        now = time.monotonic()
        begun, first = self._begun = self._begun or (now, step.done)
        is_due = not messages.is_terminal and now - self._told >= LINE_SECONDS
        if step.val_iou is None and not is_due:
            return
        self._told = now
        parts = [f"loss {step.train_loss:.3f}"]
        if step.val_iou is not None:
            dice = "" if step.val_dice is None else f", Dice {step.val_dice:.3f}"
            parts.append(f"validation IoU {step.val_iou:.3f}{dice}")
        if first < step.done < step.total:
            each = (now - begun) / (step.done - first)
            left = describe_seconds(each * (step.total - step.done))
            parts.append(f"about {left} left")
        tell(f"step {step.done} of {step.total}: {', '.join(parts)}")


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Note the first Ctrl+C instead of raising it anywhere."""
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(*_: object) -> None:
        if noted.is_set():
            raise KeyboardInterrupt
        noted.set()
        messages.print("stopping; Ctrl+C again stops at once")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _stop_in_words(folder: Path) -> Iterator[None]:
    """Say after Ctrl+C what there is, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        from napari_samseg.core.training.unfinished import is_unfinished

        if is_unfinished(folder):
            _print_kept(folder)
            tell(
                f"stopped: the weights so far are kept in {folder}; the same command "
                "with --resume goes on"
            )
        else:
            tell(
                "stopped before training: the same command with --resume goes on with "
                f"what was encoded into {folder}"
            )
        raise typer.Exit(STOPPED) from None


def _print_kept(folder: Path) -> None:
    """Show how good the best weights are of a training that was stopped."""
    from napari_samseg.core.models.tuned_card import card_scores, read_card
    from napari_samseg.core.models.weights import TUNED_FILE

    card = read_card(folder / TUNED_FILE)
    before, after = card_scores(card)
    if not before or not after:
        return
    _print_scores(before, after, card.get("errors") or {})
    if card["step"]:
        say(f"best so far: the weights of step {card['step']}")
    else:
        say("no step was better so far: best are the weights it was started from")


def _print_scores(
    before: Mapping[str, float],
    after: Mapping[str, float],
    errors: Mapping[str, Mapping[str, float]],
) -> None:
    def shown(value: float, side: str, name: str, sign: str = "") -> str:
        error = (errors.get(side) or {}).get(name)
        more = "" if error is None else f" \u00b1 {error:.3f}"
        return f"{value:{sign}.3f}{more}"

    table = Table("score", "before", "after", "change")
    for name, title in SCORES.items():
        if name in before and name in after:
            old, new = before[name], after[name]
            table.add_row(
                title,
                shown(old, "before", name),
                shown(new, "after", name),
                shown(new - old, "change", name, "+"),
            )
    output.print(table)


def _print_result(result: TuneResult) -> None:
    from napari_samseg.core.models.tuned_card import read_card
    from napari_samseg.core.training.images import SPLITS
    from napari_samseg.core.training.result import mean_iou

    before, after = result.before, result.after
    if before is None or after is None:
        say(SPLITS["none"])
    else:
        is_kept = result.step > 0
        errors = read_card(result.best).get("errors") or {}
        if not is_kept:  # those of what was learned are not kept
            errors = {"before": errors.get("before") or {}}
        learned = after.as_dict() if is_kept else result.learned
        _print_scores(before.as_dict(), learned, errors)
        say(f"on {count_things(before.n_objects, 'object')}; {SPLITS[result.split]}")
        if not is_kept:
            reached = mean_iou(result.learned)
            say(
                f"no step made it better: mean IoU {before.score:.3f} before, "
                f"{reached:.3f} after at best. So {result.best.name} holds the weights "
                "that it was started from: label more objects, or train longer or at "
                "a lower learning rate"
            )
    say(f"best: {result.best}")
