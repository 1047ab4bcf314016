"""The command ``napari-samseg``: a thin layer over the core.

Options that stand for a setting take their help and their bounds from it. Nothing
heavy is imported before a command needs it, so that ``--help`` is there at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from napari_samseg.cli_bids import bids
from napari_samseg.cli_cache import cache_app
from napari_samseg.cli_convert import HELP as CONVERT_HELP
from napari_samseg.cli_convert import convert
from napari_samseg.cli_embed import embed
from napari_samseg.cli_evaluate import evaluate
from napari_samseg.cli_finetune import finetune
from napari_samseg.cli_instances import instances
from napari_samseg.cli_measure import measure
from napari_samseg.cli_models import compare_models, export_model, print_tuned
from napari_samseg.cli_mri import prepare_mri
from napari_samseg.cli_options import (
    ModelOptions,
    Overlap,
    ReadingOptions,
    TileOptions,
    grouped,
    read_integers,
)
from napari_samseg.cli_patches import patches_app
from napari_samseg.cli_prompts import prompts as prompts_command
from napari_samseg.cli_refine import refine
from napari_samseg.cli_terminal import (
    messages,
    output,
    plain_warnings,
    say,
    show_progress,
)
from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import SamSegError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_samseg.core.demo import DemoReport, DemoResult
    from napari_samseg.core.types import MaskPrediction

__all__ = ["app"]

# Objects of which all are listed; of more, so many.
MOST_SHOWN = 5


class _PlainErrors(TyperGroup):
    """Shows what is meant for a person as one line: errors, status 2, and warnings."""

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            with plain_warnings():
                return super().invoke(ctx)
        except SamSegError as error:
            _fail(str(error), error)
        except OSError as error:
            # no permission, a full disk: what the system says names the file
            place = "" if error.filename is None else f"{error.filename}: "
            _fail(f"{place}{error.strerror or error}", error)


def _fail(message: str, error: Exception) -> NoReturn:
    messages.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    raise typer.Exit(2) from error


app = typer.Typer(
    name="napari-samseg",
    cls=_PlainErrors,
    no_args_is_help=True,
    add_completion=False,
    # in its tables, the widest of all options leaves half a line to what is said
    rich_markup_mode=None,
    help="Segment Anything for microscopy, EM and medical images.",
)
models_app = typer.Typer(
    no_args_is_help=True, help="List, download and compare models, and export them."
)
app.add_typer(models_app, name="models")
models_app.command("export")(export_model)
models_app.command("compare")(compare_models)
app.command()(grouped(embed))
app.command()(instances)
app.command()(measure)
app.command()(prompts_command)
app.command()(grouped(refine))
app.command()(evaluate)
app.command()(finetune)
app.command()(bids)
app.command(help=CONVERT_HELP)(convert)
app.command()(prepare_mri)
app.add_typer(patches_app, name="patches")
app.add_typer(cache_app, name="cache")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"napari-samseg {version('napari-samseg')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Segment Anything for microscopy, EM and medical images."""


@app.command()
@grouped
def demo(
    out: Annotated[Path, typer.Option(help="Folder for labels and pictures.")],
    *,
    model: ModelOptions,
    viewer: Annotated[
        bool, typer.Option("--viewer", help="Show the result in napari.")
    ] = False,
) -> None:
    """Segment real images that come with scikit-image, and show how well it went.

    Writes instance labels as 16-bit TIFF and a picture with contours and prompts.
    """
    from napari_samseg.core.demo import run_demo

    report = show_progress(run_demo(out, model.settings()))
    _print_demo(report)
    if viewer:
        _open_viewer(report)


@app.command()
@grouped
def segment(
    image: Annotated[Path, typer.Argument(help="TIFF, PNG, npy, or a zarr array.")],
    out: Annotated[Path, typer.Option(help="Label image to write, .tif.")],
    *,
    points: Annotated[
        Path | None, typer.Option(help="CSV with y, x; also label and object.")
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="CSV with y0, x0, y1, x1; also object.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="JSON list of objects with points and box, or a table that `prompts` "
            "made."
        ),
    ] = None,
    plane: Annotated[
        str, typer.Option(help="Plane of a stack: 12, or 3,12 with two axes.")
    ] = "",
    reading: ReadingOptions,
    model: ModelOptions,
    tiles: TileOptions,
    overlap: Overlap = 25.0,
    overlay: Annotated[
        Path | None, typer.Option(help="Also write a picture, .png.")
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(
            help="Store that `embed` made for this image, with the same settings: what "
            "is in it is not encoded, and what is missing is added."
        ),
    ] = None,
) -> None:
    """Segment the objects that points and boxes show in one plane of an image."""
    from napari_samseg.core.segment_file import SegmentJob, segment_file

    job = SegmentJob(
        image=image,
        out=out,
        overlay=overlay,
        points=points,
        boxes=boxes,
        prompts=prompts,
        plane=read_integers(plane, "--plane"),
        channel_axis=reading.channel_axis,
        embeddings=embeddings,
    )
    prediction, labels = show_progress(
        segment_file(
            job,
            reading.settings(),
            model.settings(),
            tiles.settings(overlap=overlap),
        )
    )
    _print_prediction(prediction, labels)
    for path in (out, overlay):
        if path is not None:
            say(f"wrote {path}")


def _print_prediction(
    prediction: MaskPrediction, labels: npt.NDArray[np.integer]
) -> None:
    """Print the objects, and which of them others lie over in the labels."""
    from napari_samseg.core.instances.tidy import count_pixels

    ids, seen = count_pixels(labels)
    kept = dict(zip(ids.tolist(), seen.tolist(), strict=True))
    table = Table("object", "pixels of its mask", "in the labels", "predicted IoU")
    hidden, ious = [], prediction.iou_predictions
    shown = set(range(len(ious)))
    if len(ious) > MOST_SHOWN:
        shown = set(ious.argsort(kind="stable")[:MOST_SHOWN].tolist())
    for i, (object_id, crop) in enumerate(
        zip(prediction.object_ids.tolist(), prediction.crops, strict=True)
    ):
        n, n_kept = int(crop.sum()), kept.get(object_id, 0)
        if i in shown:
            table.add_row(str(object_id), str(n), str(n_kept), f"{ious[i]:.2f}")
        if n and not n_kept:
            hidden.append(str(object_id))
    if len(ious) > MOST_SHOWN:
        say(f"{count_things(len(ious), 'object')}; of the lowest predicted IoU are:")
    output.print(table)
    if hidden:
        say(
            f"{len(hidden)} of them wholly under masks of a higher predicted IoU, and "
            f"not in the labels: {', '.join(hidden)}"
        )


@models_app.command("list")
def print_models() -> None:
    """List the embedded model, those tuned here, and those to be downloaded."""
    from napari_samseg.core.models.summary import summarise_models
    from napari_samseg.core.models.weights import models_folder

    table = Table("name", "here", "size", "a plane", "good for")
    for column in (0, 2, 3):
        table.columns[column].no_wrap = True
    for name, model in summarise_models().items():
        here = "yes" if model.is_here else ""
        table.add_row(name, here, model.size, model.speed, model.description)
    output.print(table)
    say("a plane: seconds that encoding one took when the model last ran here")
    say(f"folder: {models_folder()}")


@models_app.command("info")
def print_model(
    name: Annotated[str, typer.Argument(help="A name from `models list`.")],
) -> None:
    """Say where a model comes from, its licence, and how to cite it."""
    from napari_samseg.core.models.summary import summarise_models
    from napari_samseg.core.models.weights import (
        embedded_path,
        models_folder,
        tuned_models,
    )
    from napari_samseg.core.models.zoo import find_model

    tuned = tuned_models()
    if name in tuned:
        print_tuned(name, tuned[name])
        return
    about: tuple[tuple[str, str], ...]
    if name == "default":
        about = (
            ("family", "tiny"),
            ("licence", "BSD-3-Clause, as the plugin"),
            ("file", str(embedded_path())),
        )
    else:
        entry = find_model(name)
        file = entry.checkpoint
        about = (
            ("family", entry.family),
            ("licence", entry.licence),
            ("cite", entry.citation),
            ("file", str(models_folder() / file.file_name)),
            ("from", file.url),
            ("hash", file.hash),
        )
    summary = summarise_models()[name]
    for label, value in (
        ("name", name),
        ("good for", summary.description),
        ("size", summary.facts),
        *about,
    ):
        say(f"{label:8} {value}")


@models_app.command("download")
def download_model(
    names: Annotated[list[str], typer.Argument(help="Names from `models list`.")],
) -> None:
    """Download models, check them, and keep them for later use offline."""
    from napari_samseg.core.models.weights import download

    for name in names:
        path = show_progress(download(name))
        say(f"{name}: {path}")


def _print_demo(report: DemoReport) -> None:
    say(
        f"model {report.model} on {report.device}, loaded in "
        f"{report.load_seconds:.1f} s"
    )
    for result in report.results:
        _print_demo_result(result)


def _print_demo_result(result: DemoResult) -> None:
    from napari_samseg.core.demo import DEMO_IMAGES

    title = f"{result.name}: {DEMO_IMAGES[result.name].description}"
    table = Table("object", "prompt", "pixels", "predicted IoU", "IoU with Otsu")
    table.title, table.title_justify = title, "left"
    for item in result.objects:
        table.add_row(
            str(item.object_id),
            item.prompt,
            str(item.area),
            f"{item.iou_prediction:.2f}",
            f"{item.iou:.2f}",
        )
    output.print()
    output.print(table)
    worst = min(item.iou for item in result.objects)
    mean = sum(item.iou for item in result.objects) / len(result.objects)
    times = ", ".join(f"{step} {s:.2f} s" for step, s in result.seconds.items())
    for line in (
        f"IoU with Otsu: mean {mean:.2f}, worst {worst:.2f}",
        f"time: {times}",
        f"wrote {result.labels_path} and {result.overlay_path}",
    ):
        say(line)


def _open_viewer(report: DemoReport) -> None:
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not display:
        messages.print("there is no display: the viewer stays closed")
        return
    from napari_samseg.adapters.demo_viewer import show_demo

    show_demo(report)
