"""The command ``napari-samseg evaluate``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from napari_samseg.cli_options import Overwrite, read_integers, read_numbers
from napari_samseg.cli_terminal import messages, output, say, show_progress

if TYPE_CHECKING:
    from napari_samseg.core.metrics.evaluation import Evaluation

__all__ = ["evaluate"]

# Of average precision, in the table on the terminal.
SHOWN_THRESHOLDS = (0.5, 0.75)


def evaluate(
    predicted: Annotated[
        Path,
        typer.Argument(
            help="Labels to score: a file, or a folder of them.", metavar="PREDICTED"
        ),
    ],
    true: Annotated[
        Path,
        typer.Argument(
            help="True labels: a file, or a folder with files of the same names.",
            metavar="TRUE",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for tables, page and pictures; without it, scores are shown "
            "here alone."
        ),
    ] = None,
    classes: Annotated[
        str,
        typer.Option(
            help="The labels are classes, such as 1,2, or all of them but 0: all. "
            "Without this they are instances."
        ),
    ] = "",
    images: Annotated[
        Path | None,
        typer.Option(help="The image, or a folder of them, to draw on."),
    ] = None,
    spacing: Annotated[
        str,
        typer.Option(
            help="Size of a pixel along each axis, such as 2,0.5,0.5: the unit of "
            "distances. One pixel if left out."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Of the intervals.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Compare labels with true ones: overlap, objects, distances, and how sure."""
    from napari_samseg.core.evaluate_file import EvaluateJob, evaluate_file

    wanted = None
    if classes:
        is_all = classes.strip() == "all"
        wanted = () if is_all else read_integers(classes, "--classes")
    job = EvaluateJob(
        found=predicted,
        true=true,
        out=out,
        classes=wanted,
        images=images,
        spacing=read_numbers(spacing, "--spacing"),
        seed=seed,
        overwrite=overwrite,
    )
    result = show_progress(evaluate_file(job))
    for note in result.notes:
        messages.print(f"note: {note}", markup=False, soft_wrap=True)
    _print(result.evaluation)
    if out is not None:
        say(f"wrote {out / 'index.html'} and the tables beside it")


def _print(evaluation: Evaluation) -> None:
    from napari_samseg.core.metrics.evaluation import AP_SCORES

    table = Table("class", "score", "mean", "95 %", "samples")
    for class_name in evaluation.classes:
        for score, interval in evaluation.intervals(class_name).items():
            if AP_SCORES.get(score, 0.5) not in SHOWN_THRESHOLDS:
                continue  # they are in the files
            bounds = f"{interval.low:.3f} to {interval.high:.3f}"
            table.add_row(
                class_name,
                score,
                "" if math.isnan(interval.mean) else f"{interval.mean:.3f}",
                bounds if interval.n > 1 else "",
                str(interval.n),
            )
    output.print(table)
    chosen = evaluation.extremes
    for title, names in (("best", chosen.best), ("worst", chosen.worst)):
        if names:
            say(f"{title}: {', '.join(names)}")
