"""The command ``napari-samseg prompts``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from napari_samseg.cli_options import Overwrite, option_of
from napari_samseg.cli_terminal import say, show_progress
from napari_samseg.core.errors import SettingsError
from napari_samseg.core.settings import PromptSettings, describe

__all__ = ["KINDS", "prompts", "read_kinds"]

CHOICES = {info.name: info.choices for info in describe(PromptSettings)}
KINDS = (*CHOICES["box"][1:], *CHOICES["point"][1:], "mask")


def prompts(
    labels: Annotated[
        Path, typer.Argument(help="Instance labels: TIFF, PNG, npy, zarr.")
    ],
    out: Annotated[
        Path, typer.Option(help="Table to write: .csv, .json, .npy, .parquet or .npz.")
    ],
    kind: Annotated[
        str,
        typer.Option(
            help="A box, points and a mask, or some of these, with commas between "
            f"them: {', '.join(KINDS)}."
        ),
    ] = "box,centroid",
    points: Annotated[int, option_of(PromptSettings, "n_points", "--points")] = 1,
    negatives: Annotated[
        int, option_of(PromptSettings, "n_negatives", "--negatives")
    ] = 0,
    negative: Annotated[str, option_of(PromptSettings, "negative")] = "ring",
    ring: Annotated[int, option_of(PromptSettings, "ring")] = 10,
    jitter: Annotated[int, option_of(PromptSettings, "jitter")] = 10,
    grid: Annotated[int, option_of(PromptSettings, "grid")] = 32,
    mask_size: Annotated[int, option_of(PromptSettings, "mask_size")] = 256,
    min_area: Annotated[int, option_of(PromptSettings, "min_area")] = 1,
    seed: Annotated[int, option_of(PromptSettings, "seed")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make prompts from instance labels, for each plane of a stack.

    `segment --prompts` takes each of these tables, masks too.
    """
    from napari_samseg.core.prompts.file_job import prompts_file

    settings = PromptSettings(
        **read_kinds(kind, "--kind"),
        n_points=points,
        n_negatives=negatives,
        negative=negative,
        ring=ring,
        jitter=jitter,
        grid=grid,
        mask_size=mask_size,
        min_area=min_area,
        seed=seed,
    )
    steps = prompts_file(labels, out, settings, overwrite=overwrite)
    counts = show_progress(steps)
    say(str(counts))
    say(f"wrote {out}")


def read_kinds(text: str, flag: str) -> dict[str, Any]:
    """Read which prompts there are to be: one box and one way of points at most.

    Returns
    -------
    dict
        ``box``, ``point`` and ``mask`` of `PromptSettings`.

    Raises
    ------
    SettingsError
        If it is anything else; names the flag.
    """
    chosen: dict[str, Any] = {"box": "none", "point": "none", "mask": False}
    for word in (part.strip() for part in text.split(",")):
        if word not in KINDS:
            raise SettingsError(f"{flag}: {word!r} is not one of {', '.join(KINDS)}")
        name = next((n for n in ("box", "point") if word in CHOICES[n]), "mask")
        if chosen[name] not in ("none", False):
            raise SettingsError(
                f"{flag}: {chosen[name]} and {word} exclude each other: choose one"
            )
        chosen[name] = True if name == "mask" else word
    return chosen
