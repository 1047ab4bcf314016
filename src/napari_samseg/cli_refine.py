"""The command ``napari-samseg refine``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from napari_samseg.cli_options import (
    ModelOptions,
    Overwrite,
    ReadingOptions,
    TileOptions,
    option_of,
    read_range,
)
from napari_samseg.cli_prompts import KINDS, read_kinds
from napari_samseg.cli_terminal import output, say, show_progress
from napari_samseg.core.settings import PromptSettings, RefineSettings

if TYPE_CHECKING:
    from napari_samseg.core.refine.scores import RefineCounts

__all__ = ["refine"]


def refine(
    image: Annotated[
        Path, typer.Argument(help="TIFF, PNG, npy, a zarr array or OME-Zarr image.")
    ],
    labels: Annotated[
        Path, typer.Argument(help="Its rough instance labels: TIFF, PNG, npy, zarr.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="Labels to write: .tif, .png, .zarr and what `convert` can."),
    ],
    *,
    prompts: Annotated[
        str,
        typer.Option(
            help="What each object becomes: a box, points and a mask, or some of "
            f"these, with commas between them: {', '.join(KINDS)}."
        ),
    ] = "box",
    points: Annotated[int, option_of(PromptSettings, "n_points", "--points")] = 1,
    negatives: Annotated[
        int, option_of(PromptSettings, "n_negatives", "--negatives")
    ] = 0,
    negative: Annotated[str, option_of(PromptSettings, "negative")] = "ring",
    margin: Annotated[int, option_of(RefineSettings, "margin")] = 0,
    overlap: Annotated[str, option_of(RefineSettings, "overlap")] = "higher-iou",
    agreement: Annotated[float, option_of(RefineSettings, "agreement")] = 0.2,
    min_area: Annotated[
        int,
        typer.Option(min=1, help="Smaller parts of objects keep their pixels."),
    ] = 1,
    split: Annotated[bool, option_of(RefineSettings, "split", "--split")] = False,
    split_distance: Annotated[float, option_of(RefineSettings, "split_distance")] = 5.0,
    report: Annotated[
        Path | None,
        typer.Option(help="Also write a table of scores, most doubtful first, .csv."),
    ] = None,
    planes: Annotated[
        str,
        typer.Option(
            help="START:STOP, counted through all axes before (Y, X); other planes "
            "stay as they are."
        ),
    ] = "",
    reading: ReadingOptions,
    model: ModelOptions,
    tiles: TileOptions,
    embeddings: Annotated[
        str | None,
        typer.Option(help="Store that `embed` made for this image."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Prompt a model with each object of rough labels, and take its masks instead.

    Ids stay. An object for which the model finds nothing, or something else, keeps its
    old pixels; how many did is told, and --report lists them. With --split, no pixel
    changes hands: masks and objects that the model sees as several are split, and those
    that it does not see are listed.
    """
    from napari_samseg.core.refine.file_job import RefineJob, refine_file

    job = RefineJob(
        image=image,
        labels=labels,
        out=out,
        prompts=PromptSettings(
            **read_kinds(prompts, "--prompts"),
            n_points=points,
            n_negatives=negatives,
            negative=negative,
            min_area=min_area,
        ),
        settings=RefineSettings(overlap, agreement, margin, split, split_distance),
        image_settings=reading.settings(),
        model_settings=model.settings(),
        tile_settings=tiles.settings(),
        report=report,
        planes=read_range(planes),
        channel_axis=reading.channel_axis,
        embeddings=embeddings,
        overwrite=overwrite,
    )
    counts = show_progress(refine_file(job))
    say(str(counts))
    _print_worst(counts)
    for path in (out, report):
        if path is not None:
            say(f"wrote {path}")


def _print_worst(counts: RefineCounts) -> None:
    """Print the most doubtful objects, and what their doubt is made of."""
    if not counts.worst:
        return
    has_planes = any(score.plane for score in counts.worst)
    names = ("doubt", "predicted IoU", "IoU with the old", "share it got", "pixels")
    table = Table("object", *(("plane",) if has_planes else ()), *names)
    for score in counts.worst:
        place = (",".join(map(str, score.plane)),) if has_planes else ()
        parts = (score.doubt, score.predicted_iou, score.agreement, score.visible)
        table.add_row(
            str(score.object_id),
            *place,
            *(f"{part:.2f}" for part in parts),
            score.words,
        )
    say("look at these first (doubt is 1 minus the product of the three after it):")
    output.print(table)
