"""The commands ``napari-samseg models export`` and ``models compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from napari_samseg.cli_options import Overwrite
from napari_samseg.cli_terminal import output, say, show_progress
from napari_samseg.core.amounts import count_things

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from napari_samseg.core.training.compare import ModelComparison
    from napari_samseg.core.training.config import TuneConfig
    from napari_samseg.core.types import Progress

__all__ = ["compare_models", "export_model", "print_tuned"]

# Of a training, by name.
MOST_IMAGES = 6
ExportFormat = Literal["weights", "bioimageio"]


def export_model(
    model: Annotated[
        str,
        typer.Argument(help="A name from `models list`, or a path.", metavar="MODEL"),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="File to write: .pth for segment_anything and micro-sam, "
            ".safetensors, or .zip for a package."
        ),
    ],
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="Weights alone, or a package for bioimage.io, with description, "
            "tests and a picture.",
        ),
    ] = "weights",
    lora: Annotated[
        Path | None,
        typer.Option(help="Adapters to merge, such as best_lora.safetensors."),
    ] = None,
    author: Annotated[
        list[str] | None,
        typer.Option(help="Author of a package; may be repeated."),
    ] = None,
    licence: Annotated[
        str,
        typer.Option(
            help="Licence of a package by its SPDX name, such as CC-BY-4.0; that of "
            "the model it was made from without it, where that is known."
        ),
    ] = "",
    overwrite: Overwrite = False,
) -> None:
    """Write a model as one file that other programs load."""
    from napari_samseg.core.training.export import export_steps
    from napari_samseg.core.training.package import PackageNotes

    notes = PackageNotes(author or (), licence) if form == "bioimageio" else None
    steps = export_steps(model, out, lora=lora, package=notes, overwrite=overwrite)
    family = show_progress(steps)
    say(f"wrote {out}, a model of family {family}")


def compare_models(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Names from `models list`, or paths; gains are over the first.",
            metavar="MODEL...",
        ),
    ],
    config: Annotated[
        Path,
        typer.Option(
            help="Configuration of a training: its images, and its validation set."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for tables, page and pictures.")],
    overwrite: Overwrite = False,
) -> None:
    """Score models on the same objects with the same prompts, and show them."""
    from napari_samseg.core.io.comparison_page import FILES
    from napari_samseg.core.io.output import check_output_file
    from napari_samseg.core.training.config import read_config

    for name in FILES:
        check_output_file(out / name, inputs=(config,), overwrite=overwrite)
    found = show_progress(_compare(models, read_config(config), out))
    table = Table("model", "prompt", "mean IoU", "mean Dice", "gain")
    for row in found.summary():
        table.add_row(
            str(row["model"]),
            str(row["prompt"]),
            f"{row['iou']:.3f} ± {row['iou_error']:.3f}",
            f"{row['dice']:.3f}",
            f"{row['gain']:+.3f} ± {row['gain_error']:.3f}",
        )
    output.print(table)
    say(
        f"on {count_things(len(found.objects), 'object')}; "
        f"wrote {out / 'index.html'} and tables"
    )


def print_tuned(name: str, weights: Path) -> None:
    """Say what a tuned model was made from, and how good it is."""
    from napari_samseg.core.models.summary import summarise_models
    from napari_samseg.core.models.tuned_card import (
        describe_gain,
        describe_step,
        read_card,
    )

    card = read_card(weights)
    objects = card.get("objects") or {}
    tune = (card.get("settings") or {}).get("tune") or {}
    images = [str(image["name"]) for image in card.get("images") or ()]
    more = ", ..." if len(images) > MOST_IMAGES else ""
    summary = summarise_models()[name]
    lines = [("name", name), ("size", summary.facts)]
    if card:
        lines += [
            ("family", str(card.get("family", ""))),
            ("tuned", f"from {card['base']['name']}, {card.get('made', '')}"),
            ("learned", f"{tune.get('train', '')}, {describe_step(card)}"),
            ("images", ", ".join(images[:MOST_IMAGES]) + more),
            ("objects", ", ".join(f"{n} {side}" for side, n in objects.items())),
            ("scores", describe_gain(card) or "nothing was validated"),
        ]
    for label, value in (*lines, ("file", str(weights))):
        say(f"{label:8} {value}")


def _compare(
    models: Sequence[str], config: TuneConfig, out: Path
) -> Generator[Progress, None, ModelComparison]:
    import dataclasses

    from napari_samseg.core.io.comparison_page import write_comparison
    from napari_samseg.core.training.compare import compare_steps
    from napari_samseg.core.training.files import open_training_files

    settings = [dataclasses.replace(config.model, model=name) for name in models]
    with open_training_files(config.files) as images:
        found = yield from compare_steps(settings, images, config.plan)
        write_comparison(out, found, images)
    return found
