"""Labels of a whole stack through a model, one plane at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from napari_samseg.core.embed.order import select_planes
from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.planes import measure_plane
from napari_samseg.core.refine.plane import RefinedPlane, refine_plane
from napari_samseg.core.refine.scores import RefineCounts
from napari_samseg.core.refine.split import split_plane
from napari_samseg.core.settings import PromptSettings, RefineSettings, TileSettings
from napari_samseg.core.steps import map_steps
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    from napari_samseg.core.cache.protocol import EmbeddingCache
    from napari_samseg.core.embed.stack import PlaneIndex, Stack
    from napari_samseg.core.planes import MeasuredPlane
    from napari_samseg.core.predict import Predictor
    from napari_samseg.core.tiled import TiledPlane

__all__ = ["PlaneRefined", "RefineTask", "check_fit", "open_tiled", "refine_planes"]

FindCache = Callable[["Predictor", "MeasuredPlane"], "EmbeddingCache"]


@dataclass(frozen=True, slots=True)
class PlaneRefined(Progress):
    """A plane of a stack is finished.

    Attributes
    ----------
    refined : RefinedPlane or None
        Its labels and scores, for whoever keeps them: the job does not.
    """

    refined: RefinedPlane | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RefineTask:
    """What is to be refined, and how.

    Attributes
    ----------
    stack : Stack
        The image.
    read_labels : callable
        Gets the index of a plane and returns its labels, (Y, X) integer.
    planes : tuple of plane indices
        See `napari_samseg.core.embed.stack.select_planes`.
    prompts, settings, tiles
        See `napari_samseg.core.settings`.
    find_cache : callable or None
        Gets the predictor and a plane, and returns where its embeddings may be; the
        predictor's cache where it is None.
    """

    stack: Stack
    read_labels: Callable[[PlaneIndex], npt.NDArray[Any]]
    planes: tuple[PlaneIndex, ...]
    prompts: PromptSettings = field(default_factory=PromptSettings)
    settings: RefineSettings = field(default_factory=RefineSettings)
    tiles: TileSettings = field(default_factory=TileSettings)
    find_cache: FindCache | None = None


def check_fit(image_shape: tuple[int, ...], label_shape: tuple[int, ...]) -> None:
    """Raise `InvalidLabelsError` unless labels lie on an image pixel by pixel."""
    if image_shape != label_shape:
        raise InvalidLabelsError(
            f"the image has shape {image_shape}, and the labels {label_shape}: they do "
            "not belong together"
        )


def refine_planes(
    task: RefineTask, predictor: Predictor
) -> Generator[Progress, None, RefineCounts]:
    """Prompt a model with the objects of labels, plane by plane; see `refine_plane`.

    Or only split them, see `napari_samseg.core.refine.split.split_plane`.

    One plane is in memory at a time. Each one is handed out as `PlaneRefined` as soon
    as it is finished, so that a job that is cancelled loses nothing.

    Raises
    ------
    InvalidLabelsError
        If the labels of a plane are none, or not of its size.
    InvalidImageError
        If a plane of the image cannot be read.
    ModelMemoryError
        If memory runs out even for one object on the CPU.
    """
    counts, total = RefineCounts(), len(task.planes)
    highest_id = (yield from _find_highest_id(task)) if task.settings.split else 0
    for done, plane in enumerate(task.planes):

        def name_plane(step: Progress, done: int = done) -> Progress:
            where = f"plane {done + 1} of {total}: " if total > 1 else ""
            within = step.done / step.total if step.total else 0.0
            # hundredths, so that a bar moves within a plane, too
            at = round(100 * (done + within))
            return Progress("refining", at, 100 * total, f"{where}{step.stage}")

        yield name_plane(Progress("reading"))
        labels = task.read_labels(plane)
        if not labels.any():
            # nothing to find: the image need not be looked at
            refined = RefinedPlane(plane, labels, (), 0, 0)
        else:
            tiled = open_tiled(task, predictor, plane)
            if task.settings.split:
                steps = split_plane(tiled, labels, task.settings, highest_id)
            else:
                steps = refine_plane(tiled, labels, task.prompts, task.settings)
            refined = yield from map_steps(steps, name_plane)
            highest_id = max(highest_id, int(refined.labels.max()))
        counts.add(refined.scores, refined.n_small, refined.n_changed)
        yield PlaneRefined("refining", 100 * (done + 1), 100 * total, refined=refined)
    return counts


def _find_highest_id(task: RefineTask) -> Generator[Progress, None, int]:
    """Look at all planes: new ids are to be new in the whole stack."""
    planes, highest_id = select_planes(task.stack.lengths), 0
    for done, plane in enumerate(planes):
        yield Progress("looking at ids", done, len(planes))
        highest_id = max(highest_id, int(task.read_labels(plane).max(initial=0)))
    return highest_id


def open_tiled(task: RefineTask, predictor: Predictor, plane: PlaneIndex) -> TiledPlane:
    """Return a plane of the image, to be encoded tile by tile where prompts lie."""
    from napari_samseg.core.predict import Predictor as NewPredictor
    from napari_samseg.core.tiled import TiledPlane, plan_tiles

    stack = task.stack
    measured = measure_plane(
        stack.source, plane, stack.settings, plane_axes=stack.plane_axes
    )
    if task.find_cache is not None:
        cache = task.find_cache(predictor, measured)
        predictor = NewPredictor(predictor.model, cache)
    tiles = plan_tiles(measured.size, predictor.model.input_size, task.tiles)
    return TiledPlane(predictor, measured, tiles)
