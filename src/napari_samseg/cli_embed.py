"""The command ``napari-samseg embed``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_samseg.cli_options import (
    ModelOptions,
    Overlap,
    Planes,
    ReadingOptions,
    Storage,
    TileOptions,
    read_range,
)
from napari_samseg.cli_terminal import STOPPED, say, show_progress, tell
from napari_samseg.core.amounts import count_things
from napari_samseg.core.settings import EmbedSettings

if TYPE_CHECKING:
    from napari_samseg.core.embed.job import EmbedReport

__all__ = ["embed"]


def embed(
    image: Annotated[
        Path, typer.Argument(help="TIFF, PNG, npy, a zarr array or OME-Zarr image.")
    ],
    planes: Planes = "",
    *,
    model: ModelOptions,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder or URL of the store; the cache folder's if left out."
        ),
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only tell what it will take.")
    ] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a dask scheduler, or `local` for this machine."),
    ] = None,
    skip_unreadable: Annotated[
        bool,
        typer.Option(
            "--skip-unreadable", help="Go on without planes that cannot be read."
        ),
    ] = False,
    storage: Storage = "float16",
    tiles: TileOptions,
    overlap: Overlap = 25.0,
    reading: ReadingOptions,
) -> None:
    """Encode the planes of an image into a store, for prompting without waiting.

    What is there already is not encoded again: a job that was ended goes on where it
    was, and several may work on the same store at once.
    """
    from napari_samseg.core.embed.file_job import FileJob, open_stack_job

    job = FileJob(
        image=image,
        location=out,
        planes=read_range(planes),
        channel_axis=reading.channel_axis,
        image_settings=reading.settings(),
        model_settings=model.settings(),
        tile_settings=tiles.settings(overlap=overlap),
        settings=EmbedSettings(storage, "skip" if skip_unreadable else "stop"),
    )
    with open_stack_job(job) as stack_job, _stop_in_words(stack_job.location):
        if not estimate:
            stack_job.check_place()
        expected = show_progress(stack_job.estimate_steps())
        say(str(expected))
        if estimate:
            return
        # workers take long to start: what is there already is looked through here
        if scheduler is None or not expected.missing:
            report = show_progress(stack_job.embed_steps())
        else:
            from napari_samseg.core.cluster import embed_on_cluster

            report = show_progress(embed_on_cluster(job, scheduler))
        _print_report(report, stack_job.location)


@contextmanager
def _stop_in_words(location: str) -> Iterator[None]:
    """Say after Ctrl+C how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        from napari_samseg.core.cache.lookup import has_store

        text = (
            f"stopped: planes that are finished are kept in {location}; the same "
            "command goes on from there"
            if has_store(location)
            else "stopped before anything was written"
        )
        tell(text)
        raise typer.Exit(STOPPED) from None


def _print_report(report: EmbedReport, location: str) -> None:
    from napari_samseg.core.amounts import describe_seconds

    say(
        f"{count_things(report.encoded, 'plane')} encoded, {report.kept} there before, "
        f"in {describe_seconds(report.seconds)}"
    )
    say(f"store: {location}")
    for plane, reason in report.unreadable:
        place = ", ".join(str(i) for i in plane)
        tell(f"plane {place} was skipped: {reason}")
    if report.unreadable:
        raise typer.Exit(1)
