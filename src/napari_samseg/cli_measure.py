"""The command ``napari-samseg measure``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_samseg.cli_options import Overwrite, read_numbers
from napari_samseg.cli_terminal import messages, say, show_progress
from napari_samseg.core.amounts import count_things

__all__ = ["measure"]


def measure(
    labels: Annotated[
        Path, typer.Argument(help="Instance labels of a plane: TIFF, PNG, npy, zarr.")
    ],
    out: Annotated[Path, typer.Option(help="Table to write, .csv.")],
    myelin: Annotated[
        Path | None,
        typer.Option(help="Mask of the myelin; the rest of each object is its axon."),
    ] = None,
    pixel_size: Annotated[
        str,
        typer.Option(
            help="Side of a pixel, or height,width, in micrometres unless --unit "
            "says otherwise; if not given, what the labels or "
            "the image say (OME-TIFF, ImageJ, OME-Zarr, NIfTI)."
        ),
    ] = "",
    unit: Annotated[
        str, typer.Option(help="Unit in which --pixel-size is given: nm, um or mm.")
    ] = "um",
    qc: Annotated[
        Path | None,
        typer.Option(help="Also draw the objects over the image: .png or .html."),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="What the labels were made of, for --qc.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure each object: area, diameters, shape; of axons g-ratio and myelin.

    Lengths are in micrometres, or in pixels where no file says how large these are.
    """
    from napari_samseg.core.instances.measure_job import MeasureJob, measure_file

    job = MeasureJob(
        labels=labels,
        out=out,
        myelin=myelin,
        pixel_size=read_numbers(pixel_size, "--pixel-size", unit) or None,
        unit=unit,
        qc=qc,
        image=image,
        overwrite=overwrite,
    )
    table, notes = show_progress(measure_file(job))
    for note in notes:
        messages.print(f"note: {note}", markup=False, soft_wrap=True)
    say(f"{count_things(len(table), 'object')} measured in {table.unit}")
    for path in (out, qc):
        if path is not None:
            say(f"wrote {path}")
