"""A stack in a file, to be encoded: all of it said in plain values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from napari_samseg.core.embed.stack import Stack
from napari_samseg.core.embed.stack_job import StackJob
from napari_samseg.core.io.image_file import open_image_file
from napari_samseg.core.settings import (
    EmbedSettings,
    ImageSettings,
    ModelSettings,
    TileSettings,
)

if TYPE_CHECKING:
    from napari_samseg.core.models.protocol import PromptableModel

__all__ = ["FileJob", "open_stack_job"]


@dataclass(frozen=True, slots=True)
class FileJob:
    """Which file to encode, how, and where to; other processes understand it, too.

    Attributes
    ----------
    image : Path
        See `napari_samseg.core.io.image_file.open_image_file`.
    location : str or None
        Folder or URL of the store; the cache folder's if None.
    planes : (int, int or None)
        Start and stop, in C order over the axes that are not in the plane.
    channel_axis : int or None
        Axis that holds independent channels.
    image_settings, model_settings, tile_settings, settings
        See `napari_samseg.core.settings`.
    owner : str or None
        See `napari_samseg.core.embed.stack_job.StackJob`.
    """

    image: Path
    location: str | None = None
    planes: tuple[int, int | None] = (0, None)
    channel_axis: int | None = None
    image_settings: ImageSettings = field(default_factory=ImageSettings)
    model_settings: ModelSettings = field(default_factory=ModelSettings)
    tile_settings: TileSettings = field(default_factory=TileSettings)
    settings: EmbedSettings = field(default_factory=EmbedSettings)
    owner: str | None = None


@contextmanager
def open_stack_job(
    job: FileJob, model: PromptableModel | None = None
) -> Iterator[StackJob]:
    """Open the image of a job, until the ``with`` block ends.

    Parameters
    ----------
    job : FileJob
    model : PromptableModel, optional
        The one that the job names, if it is loaded already.

    Raises
    ------
    MissingFileError, InvalidImageError
        If there is no such image.
    SettingsError
        If there is no such plane.
    """
    with open_image_file(job.image, channel_axis=job.channel_axis) as source:
        yield StackJob(
            Stack(source, str(job.image.absolute()), job.image_settings),
            job.model_settings if model is None else model,
            location=job.location,
            planes=job.planes,
            tile_settings=job.tile_settings,
            settings=job.settings,
            owner=job.owner,
        )
