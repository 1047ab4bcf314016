"""The command ``napari-samseg instances``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_samseg.cli_options import Overwrite, option_of, read_numbers
from napari_samseg.cli_terminal import messages, say, show_progress
from napari_samseg.core.settings import InstanceSettings

__all__ = ["instances"]


def instances(
    labels: Annotated[
        Path | None,
        typer.Argument(help="Semantic labels: TIFF, PNG, npy, zarr, OME-Zarr."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="Instance labels to write, in any format that `convert` writes: .tif, "
            ".png, .nii.gz, .zarr, ...; in blocks, .zarr."
        ),
    ] = Path("instances.tif"),
    method: Annotated[
        str | None,
        typer.Option(
            metavar=option_of(InstanceSettings, "method").metavar,
            help=f"{option_of(InstanceSettings, 'method').help} If not given: "
            "axon-myelin with --axon and --myelin, points with --seeds, otherwise "
            "components.",
        ),
    ] = None,
    axon: Annotated[Path | None, typer.Option(help="Mask of axons.")] = None,
    myelin: Annotated[Path | None, typer.Option(help="Mask of myelin.")] = None,
    before: Annotated[
        Path | None, typer.Option(help="Earlier instance labels, whose ids stay.")
    ] = None,
    seeds: Annotated[
        Path | None,
        typer.Option(
            help="Points for the method points: a CSV of napari, or with y and x (and "
            "z), or a table that `prompts` made."
        ),
    ] = None,
    spacing: Annotated[
        str,
        typer.Option(
            help="Size of a pixel along each axis in any unit, such as 50,4.6,4.6 of "
            "a stack of sections; of NIfTI, OME-Zarr and TIFF as the file says. "
            "Distances count in pixels of the finest axis."
        ),
    ] = "",
    connectivity: Annotated[int, option_of(InstanceSettings, "connectivity")] = 0,
    smoothing: Annotated[float, option_of(InstanceSettings, "smoothing")] = 1.0,
    min_distance: Annotated[float, option_of(InstanceSettings, "min_distance")] = 5.0,
    h: Annotated[float, option_of(InstanceSettings, "h")] = 0.0,
    seed_class: Annotated[int, option_of(InstanceSettings, "seed_class")] = 2,
    into_membranes: Annotated[
        bool, option_of(InstanceSettings, "into_membranes", "--into-membranes")
    ] = False,
    inward: Annotated[int, option_of(InstanceSettings, "inward")] = 1,
    outward: Annotated[int, option_of(InstanceSettings, "outward")] = 0,
    fill_holes: Annotated[
        bool, option_of(InstanceSettings, "fill_holes", "--fill-holes")
    ] = False,
    clear_border: Annotated[
        bool, option_of(InstanceSettings, "clear_border", "--clear-border")
    ] = False,
    min_size: Annotated[int, option_of(InstanceSettings, "min_size")] = 0,
    max_size: Annotated[int, option_of(InstanceSettings, "max_size")] = 0,
    blocks: Annotated[
        bool | None,
        typer.Option(
            "--blocks/--no-blocks",
            help="Work block by block, straight onto disk, or in memory; as the size "
            "of the volume asks for, if neither is given.",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            help="Table to write, .csv: the pixels of each class in each object."
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            metavar="uint32|uint64",
            help="Data type of the ids; 64 bits, which a volume of thousands of "
            "millions of parts needs, in OME-Zarr.",
        ),
    ] = "uint32",
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is",
            help="Work on labels that look like a photograph, too: each value is "
            "taken for a class.",
        ),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Turn semantic labels into instance labels, and back.

    Foreground that belongs to no object, and objects that are removed, are counted.
    """
    from napari_samseg.core.instances.file_job import InstancesJob, instances_file

    job = InstancesJob(
        out=out,
        labels=labels,
        axon=axon,
        myelin=myelin,
        before=before,
        seeds=seeds,
        spacing=read_numbers(spacing, "--spacing") or None,
        overwrite=overwrite,
        blocks=blocks,
        table=table,
        dtype=dtype,
        as_is=as_is,
    )
    settings = InstanceSettings(
        method=method or _method_for(axon, seeds),
        connectivity=connectivity,
        smoothing=smoothing,
        min_distance=min_distance,
        h=h,
        seed_class=seed_class,
        into_membranes=into_membranes,
        inward=inward,
        outward=outward,
        fill_holes=fill_holes,
        clear_border=clear_border,
        min_size=min_size,
        max_size=max_size,
    )
    found, notes = show_progress(instances_file(job, settings))
    for note in notes:
        messages.print(f"note: {note}", markup=False, soft_wrap=True)
    say(str(found))
    for path in (out, table):
        if path is not None:
            say(f"wrote {path}")


def _method_for(axon: Path | None, seeds: Path | None) -> str:
    if seeds is not None:
        return "points"
    return "components" if axon is None else "axon-myelin"
