"""Encode a stack into a store, in one call and without a window."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_samseg.core.embed.stack_job import StackJob
from napari_samseg.core.images import PlaneSource, open_image
from napari_samseg.core.planes import measure_plane
from napari_samseg.core.settings import (
    EmbedSettings,
    ImageSettings,
    ModelSettings,
    TileSettings,
)
from napari_samseg.core.steps import run_steps

if TYPE_CHECKING:
    from napari_samseg.core.embed.job import EmbedReport
    from napari_samseg.core.models.protocol import PromptableModel
    from napari_samseg.core.types import Progress

__all__ = ["embed"]


def embed(
    image: Any,
    *,
    model: str | os.PathLike[str] | PromptableModel = "default",
    out: str | os.PathLike[str] | None = None,
    planes: tuple[int, int | None] = (0, None),
    settings: ImageSettings | None = None,
    tiles: TileSettings | None = None,
    storage: str = "float16",
    unreadable: str = "stop",
    device: str = "auto",
    precision: str = "fast",
    name: str | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> EmbedReport:
    """Encode the planes of a stack into a store, for prompting without waiting.

    What is there already is not encoded again: a call that was interrupted goes on
    where it was, and several processes may work on the same stack at once. The
    Segment panel finds what is in the default store by itself.

    Parameters
    ----------
    image : path, array-like or PlaneSource
        A file (TIFF, zarr, OME-Zarr, npy and others), or a stack (..., Y, X) of any
        dtype: numpy, dask, zarr, a list of resolution levels. Use
        `core.images.open_image` to say which axis holds channels.
    model : str, path or PromptableModel
        Name in the zoo, path of a checkpoint, or a model already loaded.
    out : str or path, optional
        Folder or URL of the store; that of the cache folder if not given.
    planes : (start, stop)
        Half-open, in C order over the axes before (Y, X); all of them by default.
    settings : ImageSettings, optional
        Contrast, channels and resolution level.
    tiles : TileSettings, optional
        How planes larger than the model's input are cut.
    storage : str
        "float16", "float32" or "uint8".
    unreadable : str
        "stop" at a plane that cannot be read, or "skip" it.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps"; not used for a loaded model.
    precision : str
        "fast", "exact", "bfloat16" or "float16"; not used for a loaded model.
    name : str, optional
        What the image is called in the store; its path if it has one. An array is
        found by its pixels, whatever it is called.
    on_progress : callable, optional
        Gets each `Progress`.

    Returns
    -------
    EmbedReport
        How many planes were encoded, were there, or could not be read.

    Raises
    ------
    InvalidImageError
        If the image is none, or a plane cannot be read and is not to be
        skipped.
    SettingsError
        If there is no such plane, or a setting is out of bounds.
    UnknownNameError, MissingFileError, CheckpointError, DownloadError
        If there is no such file, or the model cannot be loaded.
    CacheError
        If the store cannot be written, or there is too little room.
    """
    from napari_samseg.core.embed.stack import Stack

    settings = ImageSettings() if settings is None else settings
    chosen: ModelSettings | PromptableModel
    if isinstance(model, str | os.PathLike):
        chosen = ModelSettings(os.fspath(model), device, precision)
    else:
        chosen = model
    with _open(image) as source:
        job = StackJob(
            Stack(source, name or _name(image, source, settings), settings),
            chosen,
            location=None if out is None else os.fspath(out),
            planes=planes,
            tile_settings=tiles,
            settings=EmbedSettings(storage, unreadable),
        )
        return run_steps(job.embed_steps(), on_progress)


def _open(image: Any) -> AbstractContextManager[PlaneSource]:
    if isinstance(image, str | os.PathLike):
        from napari_samseg.core.io.image_file import open_image_file

        return open_image_file(Path(image))
    return nullcontext(image if isinstance(image, PlaneSource) else open_image(image))


def _name(image: Any, source: PlaneSource, settings: ImageSettings) -> str:
    if isinstance(image, str | os.PathLike):
        return str(Path(image).absolute())
    # two arrays of one shape must not take each other's place in the store
    middle = tuple(n // 2 for n in source.level_shape(settings.level)[:-2])
    return f"array {measure_plane(source, middle, settings).digest[:8]}"
