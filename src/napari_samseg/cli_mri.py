"""The command ``napari-samseg prepare-mri``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_samseg.cli_options import option_of
from napari_samseg.cli_terminal import messages, say, show_progress
from napari_samseg.core.settings import MriSettings

__all__ = ["prepare_mri"]


def prepare_mri(
    image: Annotated[Path, typer.Argument(help="NIfTI volume.")],
    out: Annotated[Path, typer.Option(help="Folder for what is made.")],
    masks: Annotated[
        list[Path] | None,
        typer.Option(
            "--mask", help="Labels on the grid of the image; may be given repeatedly."
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Template or other volume, to whose grid all is brought."),
    ] = None,
    brain: Annotated[
        Path | None,
        typer.Option(help="Mask of the brain, instead of one that is found."),
    ] = None,
    volume: Annotated[
        int | None, typer.Option(help="Which volume of a series (4D), from 0.", min=0)
    ] = None,
    bias_correction: Annotated[
        bool,
        option_of(MriSettings, "bias_correction", "--bias-correction/--no-bias"),
    ] = True,
    brain_mask: Annotated[
        bool, option_of(MriSettings, "brain_mask", "--brain-mask")
    ] = False,
    strip: Annotated[bool, option_of(MriSettings, "strip", "--strip")] = False,
    reorient: Annotated[bool, option_of(MriSettings, "reorient", "--reorient")] = False,
    registration: Annotated[str, option_of(MriSettings, "registration")] = "affine",
    tools: Annotated[str, option_of(MriSettings, "tools")] = "simpleitk",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what was made before.")
    ] = False,
) -> None:
    """Correct, register and mask an MRI volume, and its labels with it.

    What is read stays as it is. A JSON file beside the results says how they were made.
    """
    from napari_samseg.core.mri import MriJob
    from napari_samseg.core.mri import prepare_mri as prepare

    job = MriJob(
        image=image,
        out=out,
        masks=tuple(masks or ()),
        reference=reference,
        brain=brain,
        volume=volume,
        overwrite=overwrite,
    )
    settings = MriSettings(
        bias_correction=bias_correction,
        brain_mask=brain_mask,
        strip=strip,
        reorient=reorient,
        registration=registration,
        tools=tools,
    )
    report = show_progress(prepare(job, settings))
    for note in report.notes:
        messages.print(f"note: {note}", markup=False, soft_wrap=True)
    for path in report.written:
        say(f"wrote {path}")
