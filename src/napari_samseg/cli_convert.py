"""The command ``napari-samseg convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_samseg.cli_options import Overwrite, option_of
from napari_samseg.cli_terminal import messages, say, show_progress
from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import SettingsError
from napari_samseg.core.io.label_formats import LABEL_FORMATS, list_formats
from napari_samseg.core.settings import ConvertSettings

__all__ = ["convert"]

FORMATS = "|".join(LABEL_FORMATS)
HELP = f"""Turn instance labels of one file format into another.

Formats are told by suffix: {list_formats()}.

What a format cannot hold, and what cannot be read, is counted and told.
"""


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Labels to read.")],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Labels to write; with --split, a folder."),
    ],
    read_as: Annotated[
        str, typer.Option("--from", help="Format of IN.", metavar=FORMATS)
    ] = "",
    write_as: Annotated[
        str, typer.Option("--to", help="Format of OUT.", metavar=FORMATS)
    ] = "",
    image: Annotated[
        str | None,
        typer.Option(
            help="Which image of a file with several, by its file name or the end of "
            "it; or which labels of an OME-Zarr image."
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="The image of these labels: its size, its name in COCO, and of NIfTI "
            "its affine."
        ),
    ] = None,
    masks: Annotated[str, option_of(ConvertSettings, "masks")] = "rle",
    object_type: Annotated[
        str, option_of(ConvertSettings, "object_type")
    ] = "annotation",
    category: Annotated[str, option_of(ConvertSettings, "category")] = "object",
    parts: Annotated[bool, option_of(ConvertSettings, "parts", "--parts")] = False,
    axis: Annotated[str, option_of(ConvertSettings, "axis")] = "z",
    slices: Annotated[str, option_of(ConvertSettings, "slices")] = "",
    drop_empty: Annotated[
        bool, option_of(ConvertSettings, "drop_empty", "--drop-empty")
    ] = False,
    canonical: Annotated[
        bool, option_of(ConvertSettings, "canonical", "--canonical")
    ] = False,
    split: Annotated[
        str,
        typer.Option(
            help="Split a COCO file at random into parts, such as train=0.8,val=0.2."
        ),
    ] = "",
    group: Annotated[
        str,
        typer.Option(
            help="Regular expression: images in whose name it finds the same, such as "
            "a patient, stay in one part. The planes of a volume always do."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Convert labels; what a person reads about it is `HELP`."""
    if split:
        from napari_samseg.core.convert_file import SplitJob, split_file

        shares = _read_shares(split)
        split_job = SplitJob(source, out, shares, group, seed, overwrite)
        done = show_progress(split_file(split_job))
        for name, n_images in done.items():
            say(f"{name}: {count_things(n_images, 'image')}")
        say(f"wrote {out}")
        return
    from napari_samseg.core.convert_file import ConvertJob, convert_file

    settings = ConvertSettings(
        masks=masks,
        object_type=object_type,
        category=category,
        parts=parts,
        axis=axis,
        slices=slices,
        drop_empty=drop_empty,
        canonical=canonical,
    )
    job = ConvertJob(source, out, read_as, write_as, image, like, overwrite)
    for note in show_progress(convert_file(job, settings)):
        messages.print(f"note: {note}", markup=False, soft_wrap=True)
    say(f"wrote {out}")


def _read_shares(text: str) -> dict[str, float]:
    shares = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            shares[name.strip()] = float(share)
        except ValueError as error:
            raise SettingsError(
                f"--split takes names and shares, such as train=0.8,val=0.2, not "
                f"{text!r}"
            ) from error
    return shares
