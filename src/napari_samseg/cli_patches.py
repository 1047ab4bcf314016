"""The commands ``napari-samseg patches cut`` and ``patches stitch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_samseg.cli_options import ChannelAxis, Overwrite, read_integers
from napari_samseg.cli_terminal import say, show_progress
from napari_samseg.core.amounts import count_things

__all__ = ["patches_app"]

patches_app = typer.Typer(
    no_args_is_help=True,
    help="Cut images and labels into patches, and put them together again.",
)


@patches_app.command()
def cut(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Any image, or labels.")],
    out: Annotated[Path, typer.Option(help="Folder for the patches.")],
    size: Annotated[
        str,
        typer.Option(
            help="Of each patch along the last axes: 256, or 256,512 as Y,X, or "
            "16,256,256 of a volume. Stacks are cut plane by plane otherwise."
        ),
    ] = "256",
    stride: Annotated[
        str,
        typer.Option(
            help="From one patch to the next, at most the size; the size if not given."
        ),
    ] = "",
    file_format: Annotated[
        str, typer.Option("--format", help="Of the patches.", metavar="tif|png|npy")
    ] = "tif",
    labels: Annotated[
        bool,
        typer.Option(
            "--labels",
            help="IN holds labels: beyond its end is background, not a reflection.",
        ),
    ] = False,
    channel_axis: ChannelAxis = None,
    overwrite: Overwrite = False,
) -> None:
    """Cut an image or labels into patches, which cover all of it.

    The last patch along an axis ends with the image, and so overlaps the one before.
    """
    from napari_samseg.core.patch_files import CutJob, cut_file

    job = CutJob(
        source=source,
        out=out,
        size=read_integers(size, "--size"),
        stride=read_integers(stride, "--stride"),
        suffix=f".{file_format}",
        is_label=labels,
        channel_axis=channel_axis,
        overwrite=overwrite,
    )
    n_patches = show_progress(cut_file(job))
    say(f"wrote {count_things(n_patches, 'patch', 'patches')} to {out}")


@patches_app.command()
def stitch(
    folder: Annotated[
        Path,
        typer.Argument(help="Patches, or what was made of them under the same names."),
    ],
    out: Annotated[
        Path, typer.Option(help="File to write: .tif, .png, .npy, .zarr or .nii.gz.")
    ],
    grid: Annotated[
        Path | None,
        typer.Option(help="Folder that `patches cut` has made, if it is another."),
    ] = None,
    overlap: Annotated[
        str,
        typer.Option(
            help="Where patches overlap: the one that comes first, or the mean, which "
            "suits probabilities and not labels.",
            metavar="first|mean",
        ),
    ] = "first",
    overwrite: Overwrite = False,
) -> None:
    """Put patches together to what they were cut from, exactly."""
    from napari_samseg.core.patch_files import StitchJob, stitch_folder

    job = StitchJob(folder, out, grid, overlap, overwrite)
    shape = show_progress(stitch_folder(job))
    say(f"wrote {out}, {' x '.join(map(str, shape))}")
