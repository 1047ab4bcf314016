"""The command ``napari-samseg bids``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_samseg.cli_options import option_of, read_numbers
from napari_samseg.cli_terminal import STOPPED, say, show_progress, tell
from napari_samseg.core.amounts import count_things
from napari_samseg.core.settings import InstanceSettings

if TYPE_CHECKING:
    from napari_samseg.core.instances.bids_job import BidsReport

__all__ = ["bids"]


def bids(
    root: Annotated[Path, typer.Argument(help="Folder of a BIDS dataset.")],
    axon: Annotated[
        str | None,
        typer.Option(
            metavar="SUFFIX",
            help="What follows the name of an image in that of its mask of axons: "
            "seg-axon-manual.",
        ),
    ] = None,
    myelin: Annotated[
        str | None, typer.Option(metavar="SUFFIX", help="The same for myelin.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="SUFFIX", help="Instead: the same for one file of semantic labels."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the derivatives; ROOT/derivatives/maps if none."),
    ] = None,
    labels_folder: Annotated[
        Path, typer.Option(help="Where labels lie in the dataset.")
    ] = Path("derivatives/labels"),
    pixel_size: Annotated[
        str,
        typer.Option(
            help="Size of a pixel in micrometres, or height,width, where the dataset "
            "does not say."
        ),
    ] = "",
    map_format: Annotated[
        str,
        typer.Option(metavar="png|tif", help="Format of maps; png ends at id 65535."),
    ] = "png",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Make anew what was made from other files or settings."
        ),
    ] = False,
    method: Annotated[
        str | None,
        typer.Option(
            metavar=option_of(InstanceSettings, "method").metavar,
            help="How instances are found; axon-myelin if masks of both are given, "
            "otherwise components.",
        ),
    ] = None,
    connectivity: Annotated[int, option_of(InstanceSettings, "connectivity")] = 0,
    smoothing: Annotated[float, option_of(InstanceSettings, "smoothing")] = 1.0,
    min_distance: Annotated[float, option_of(InstanceSettings, "min_distance")] = 5.0,
    h: Annotated[float, option_of(InstanceSettings, "h")] = 0.0,
    seed_class: Annotated[int, option_of(InstanceSettings, "seed_class")] = 2,
    fill_holes: Annotated[
        bool, option_of(InstanceSettings, "fill_holes", "--fill-holes")
    ] = False,
    clear_border: Annotated[
        bool, option_of(InstanceSettings, "clear_border", "--clear-border")
    ] = False,
    min_size: Annotated[int, option_of(InstanceSettings, "min_size")] = 0,
    max_size: Annotated[int, option_of(InstanceSettings, "max_size")] = 0,
) -> None:
    """Turn the labels of a BIDS microscopy dataset into derivatives.

    For each image: instance map, map of myelin, prompts, morphometrics, and a picture
    and a page to check them by. What is complete is left as it is, and what the
    dataset lacks is listed at the end.
    """
    from napari_samseg.core.instances.bids_job import BidsJob, bids_derivatives

    job = BidsJob(
        root=root,
        out=out,
        labels=labels,
        axon=axon,
        myelin=myelin,
        labels_folder=labels_folder,
        pixel_size=read_numbers(pixel_size, "--pixel-size", "micrometres") or None,
        map_format=map_format,
        overwrite=overwrite,
    )
    settings = InstanceSettings(
        method=method or ("components" if axon is None else "axon-myelin"),
        connectivity=connectivity,
        smoothing=smoothing,
        min_distance=min_distance,
        h=h,
        seed_class=seed_class,
        fill_holes=fill_holes,
        clear_border=clear_border,
        min_size=min_size,
        max_size=max_size,
    )
    try:
        report = show_progress(bids_derivatives(job, settings))
    except KeyboardInterrupt:
        tell("stopped: images that are complete stay; the same command goes on")
        raise typer.Exit(STOPPED) from None
    _print_report(report)
    say(f"derivatives: {job.out_folder}")
    if report.failed:
        raise typer.Exit(1)


def _print_report(report: BidsReport) -> None:
    for name, found in report.made:
        say(f"{name}: {found}")
    done = count_things(len(report.made), "image")
    say(
        f"{done} done, {len(report.kept)} were complete, "
        f"{len(report.failed)} could not be done"
    )
    for name, note in report.notes:
        tell(f"note: {name}: {note}")
    for missing in report.missing:
        tell(f"missing: {missing}")
    for name, reason in report.failed:
        tell(f"not done: {name}: {reason}")
