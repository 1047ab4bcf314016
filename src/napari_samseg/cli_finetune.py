"""The command ``napari-samseg finetune``."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

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

if TYPE_CHECKING:
    from napari_samseg.core.training.config import TuneConfig
    from napari_samseg.core.training.outlook import Side, TrainingOutlook
    from napari_samseg.core.training.result import TuneResult
    from napari_samseg.core.types import Progress

__all__ = ["finetune"]

T = TypeVar("T")
SPLITS = {
    "none": "nothing is validated: the last weights count as the best",
    "groups": "no group (patient, animal, file) is on both sides",
    "planes": "the last planes are validated on, after a gap",
    "objects": "one image: the objects at one end of it are validated on",
}
SCORES = {
    "box": "IoU by a box",
    "point": "IoU by a point",
    "box_dice": "Dice by a box",
    "point_dice": "Dice by a point",
}
MOST_GROUPS = 6


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

    Ctrl+C keeps the best weights so far; with --resume, the same command goes on.
    torchrun -m napari_samseg finetune divides the batches of a step among processes.
    """
    from napari_samseg.core.training.config import read_config
    from napari_samseg.core.training.place import training_folder

    wanted = read_config(config)
    if out is not None:
        wanted = dataclasses.replace(wanted, out=training_folder(out))
    if dry_run:
        from napari_samseg.core.training.outlook import outlook_steps

        _print_outlook(wanted, show_progress(outlook_steps(wanted)))
        return
    from napari_samseg.core.training.api import finetune_config
    from napari_samseg.core.training.distributed import is_follower

    if is_follower():
        _follow_silently(finetune_config(wanted, resume=resume))
        return
    with _stop_in_words(wanted.out):
        result = _show_training(finetune_config(wanted, resume=resume))
    _print_result(result)


def _print_outlook(config: TuneConfig, found: TrainingOutlook) -> None:
    plan = config.plan
    table = Table("", "planes", "objects", "groups")
    for name, side in (("train on", found.training), ("validate on", found.validation)):
        table.add_row(name, str(side.n_planes), str(side.n_objects), _groups(side))
    output.print(table)
    say(f"{found.n_images} images, {found.n_planes} planes with objects")
    say(f"split: {SPLITS[found.split]}")
    length = (
        f"{plan.tune.epochs} epochs" if plan.tune.epochs else f"{plan.loop.steps} steps"
    )
    say(f"train: {plan.tune.train}, {length}, loss {plan.tune.loss}")
    if plan.tune.needs_pixels:
        say("the encoder learns, so that pixels are encoded at every step")
    else:
        say(f"each plane is encoded {found.n_variants} times at most, before training")
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

    Ctrl+C is taken at the end of a step, so that none is half done; a second one ends
    the work where it is.
    """
    from napari_samseg.core.types import TrainingProgress

    def watched() -> Generator[Progress, None, T]:
        with closing(steps), _interrupts() as interrupted:
            while True:
                try:
                    step = next(steps)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                if isinstance(step, TrainingProgress):
                    if step.val_iou is not None:
                        tell(_validation_line(step))
                    detail = f"loss {step.train_loss:.3f}"
                    step = dataclasses.replace(step, detail=detail)
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


def _validation_line(step: Any) -> str:
    dice = "" if step.val_dice is None else f", Dice {step.val_dice:.3f}"
    return (
        f"step {step.done} of {step.total}: loss {step.train_loss:.3f}, validation "
        f"IoU {step.val_iou:.3f}{dice}"
    )


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
        messages.print("stopping after this step; Ctrl+C again stops at once")

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
            tell(
                f"stopped: the weights so far are kept in {folder}; the same command "
                "with --resume goes on"
            )
        else:
            tell(
                "stopped before training: the same command goes on with what was "
                f"encoded into {folder}"
            )
        raise typer.Exit(STOPPED) from None


def _print_result(result: TuneResult) -> None:
    before, after = result.before, result.after
    if before is not None and after is not None:
        table = Table("score", "before", "after", "change")
        for name, title in SCORES.items():
            old, new = getattr(before, name), getattr(after, name)
            if not math.isnan(new):
                table.add_row(title, f"{old:.3f}", f"{new:.3f}", f"{new - old:+.3f}")
        output.print(table)
        say(f"on {before.n_objects} objects; {SPLITS[result.split]}")
        if after.score <= before.score:
            say("it is no better than before: label more objects, or train longer")
    else:
        say(SPLITS["none"])
    say(f"best: {result.best}")
