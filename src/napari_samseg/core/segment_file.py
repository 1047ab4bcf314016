"""Segment one plane of an image file from prompt files, and write the labels."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_samseg.core.chosen_model import model_steps
from napari_samseg.core.errors import (
    InvalidImageError,
    InvalidPromptError,
)
from napari_samseg.core.io.image_file import open_image_file
from napari_samseg.core.io.label_image import check_label_path, write_label_image
from napari_samseg.core.io.output import check_output_file
from napari_samseg.core.io.picture import check_picture_path, write_picture
from napari_samseg.core.io.prompt_table import build_prompts, read_prompt_files
from napari_samseg.core.models.weights import check_model
from napari_samseg.core.planes import measure_plane
from napari_samseg.core.prompts.stray_points import warn_stray
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_samseg.core.images import PlaneSource
    from napari_samseg.core.settings import (
        ImageSettings,
        ModelSettings,
        TileSettings,
    )
    from napari_samseg.core.types import MaskPrediction

__all__ = ["SegmentJob", "segment_file"]


@dataclass(frozen=True, slots=True)
class SegmentJob:
    """Which files to read and write.

    Attributes
    ----------
    image : Path
        See `napari_samseg.core.io.image_file.open_image_file`.
    out : Path
        Label image to write, ``.tif``.
    points, boxes, prompts : Path or None
        See `napari_samseg.core.io.prompt_table.read_prompt_files`.
    plane : tuple of int
        Position along each axis before (Y, X).
    channel_axis : int or None
        Axis that holds independent channels.
    overlay : Path or None
        Picture to write, ``.png``.
    embeddings : str or None
        Folder or URL of a store with embeddings of the image: tiles are taken from
        there, and those that are encoded put there.
    """

    image: Path
    out: Path
    points: Path | None = None
    boxes: Path | None = None
    prompts: Path | None = None
    plane: tuple[int, ...] = ()
    channel_axis: int | None = None
    overlay: Path | None = None
    embeddings: str | None = None


def segment_file(
    job: SegmentJob,
    image_settings: ImageSettings,
    model_settings: ModelSettings,
    tile_settings: TileSettings,
) -> Generator[Progress, None, tuple[MaskPrediction, npt.NDArray[Any]]]:
    """Segment the objects that the prompt files show.

    All that can be wrong with the files is found before the model is loaded.

    Returns
    -------
    prediction : MaskPrediction
    labels : (Y, X) uint32
        As they were written: where masks overlap, one of them is not whole.

    Raises
    ------
    SamSegError
        If a file is missing or of the wrong kind, a prompt lies outside the plane,
        or the model cannot be had; the message says which and what to do.
    """
    yield Progress("reading")
    check_model(model_settings.model)
    inputs = (job.image, job.points, job.boxes, job.prompts)
    check_label_path(job.out)
    check_output_file(job.out, inputs=inputs)
    if job.overlay is not None:
        check_picture_path(job.overlay)
        check_output_file(job.overlay, inputs=inputs)
    with open_image_file(job.image, channel_axis=job.channel_axis) as source:
        _check_plane(job, source)
        rows = read_prompt_files(
            points=job.points, boxes=job.boxes, prompts=job.prompts, plane=job.plane
        )
        plane_size = source.plane_size(image_settings.level)
        try:
            prompts = build_prompts(rows, plane_size)
        except InvalidPromptError as error:
            files = ", ".join(str(path) for path in inputs[1:] if path is not None)
            raise InvalidPromptError(f"{files}: {error}") from error
        warn_stray(prompts)
        plane = measure_plane(source, job.plane, image_settings)
        if job.embeddings is not None:
            _check_store(job.embeddings)

        yield Progress("loading the model")
        from napari_samseg.core.embed.stored import stored_embeddings
        from napari_samseg.core.predict import Predictor
        from napari_samseg.core.tiled import TiledPlane, plan_tiles

        model = yield from model_steps(model_settings)
        tiles = plan_tiles(plane_size, model.input_size, tile_settings)
        entry = (
            None
            if job.embeddings is None
            else stored_embeddings(
                job.embeddings, str(job.image.absolute()), plane, model, tile_settings
            )
        )
        tiled = TiledPlane(Predictor(model, entry), plane, tiles)
        prediction = yield from tiled.predict_steps(prompts)
        labels = prediction.to_labels()
        write_label_image(job.out, labels)
        if job.overlay is not None:
            from napari_samseg.core.overlay import draw_overlay

            write_picture(job.overlay, draw_overlay(plane.read(), prediction, prompts))
    return prediction, labels


def _check_plane(job: SegmentJob, source: PlaneSource) -> None:
    """Say which planes there are, unless one of them is asked for."""
    lead = source.shape[:-2]
    if len(job.plane) == len(lead):
        return
    if not lead:
        raise InvalidImageError(f"{job.image} is a single plane: leave out the plane")
    ranges = ", ".join(f"0 to {length - 1}" for length in lead)
    raise InvalidImageError(
        f"{job.image} is a stack of shape {source.shape}: choose one plane, a number "
        f"for each axis before (Y, X): {ranges}"
    )


def _check_store(location: str) -> None:
    """Say at once if there is no store: loading a model takes a while."""
    from napari_samseg.core.cache.zarr_store import EmbeddingStore

    EmbeddingStore(location, write=False)
