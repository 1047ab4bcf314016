"""From files with an image and rough labels to a file with refined ones."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_samseg.core.chosen_model import model_steps
from napari_samseg.core.embed.order import select_planes
from napari_samseg.core.embed.stack import Stack
from napari_samseg.core.errors import InvalidLabelsError, naming_file
from napari_samseg.core.io.image_file import open_image_file
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.label_formats import LabelFormat, WriteRequest, find_writer
from napari_samseg.core.io.label_planes import LabelPlanes, open_label_planes
from napari_samseg.core.io.output import check_output_file
from napari_samseg.core.io.placement import image_steps
from napari_samseg.core.refine.report import check_report_path, write_report
from napari_samseg.core.refine.volume import (
    PlaneRefined,
    RefineTask,
    check_fit,
    refine_planes,
)
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    from napari_samseg.core.cache.protocol import EmbeddingCache
    from napari_samseg.core.images import PlaneSource
    from napari_samseg.core.planes import MeasuredPlane
    from napari_samseg.core.predict import Predictor
    from napari_samseg.core.refine.scores import ObjectScore, RefineCounts
    from napari_samseg.core.settings import (
        ImageSettings,
        ModelSettings,
        PromptSettings,
        RefineSettings,
        TileSettings,
    )

__all__ = ["RefineJob", "refine_file"]

# Labels of no more bytes are put together in memory, others in a file.
DENSE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class RefineJob:
    """Which files to read and write, and how to refine.

    Attributes
    ----------
    image : Path
        See `napari_samseg.core.io.image_file.open_image_file`.
    labels : Path
        See `napari_samseg.core.io.label_planes.open_label_planes`.
    out : Path
        In any format of `napari_samseg.core.io.label_formats` that can be written.
    prompts, settings, image_settings, model_settings, tile_settings
        See `napari_samseg.core.settings`.
    report : Path or None
        Table of scores to write, ``.csv``.
    planes : (int, int or None)
        Start and stop, in C order over the axes before (Y, X); other planes are
        written as they are.
    channel_axis : int or None
        Axis of the image that holds independent channels.
    embeddings : str or None
        Folder or URL of a store with embeddings of the image.
    overwrite : bool
        Replace files that are there already.
    """

    image: Path
    labels: Path
    out: Path
    prompts: PromptSettings
    settings: RefineSettings
    image_settings: ImageSettings
    model_settings: ModelSettings
    tile_settings: TileSettings
    report: Path | None = None
    planes: tuple[int, int | None] = (0, None)
    channel_axis: int | None = None
    embeddings: str | None = None
    overwrite: bool = False


def refine_file(job: RefineJob) -> Generator[Progress, None, RefineCounts]:
    """Refine the labels of a file, plane by plane.

    All that can be wrong with the files is found before the model is loaded, and
    nothing is left if the work ends early.

    Raises
    ------
    SamSegError
        If a file is missing or of the wrong kind, labels and image do not belong
        together, or the model cannot be had; the message says which and what to do.
    """
    yield Progress("reading")
    target = find_writer(job.out)
    assert target.write is not None
    _check_outputs(job, target)
    with (
        open_image_file(job.image, channel_axis=job.channel_axis) as source,
        # a mask of several objects is what is split
        open_label_planes(job.labels, is_mask=job.settings.split) as labels,
    ):
        try:
            check_fit(source.level_shape(job.image_settings.level), labels.shape)
        except InvalidLabelsError as error:
            raise InvalidLabelsError(f"{job.image}, {job.labels}: {error}") from error
        stack = Stack(source, str(job.image.absolute()), job.image_settings)
        planes = select_planes(stack.lengths, *job.planes)
        target.check_shape(job.out, labels.shape)
        _check_ids(job, target, labels)
        task = RefineTask(
            stack=stack,
            read_labels=labels.read,
            planes=planes,
            prompts=job.prompts,
            settings=job.settings,
            tiles=job.tile_settings,
            find_cache=None if job.embeddings is None else _StoreFinder(job),
        )
        with _empty_labels(job, labels) as refined:
            with naming_file(job.labels):
                counts, scores = yield from _fill(task, job, labels, refined)
            yield Progress("writing")
            placed = _placed(InstanceLabels(refined), job, source, labels)
            target.write(job.out, placed, WriteRequest(job.image.name))
    if job.report is not None:
        write_report(job.report, scores, len(labels.shape) - 2)
    return counts


def _placed(
    found: InstanceLabels, job: RefineJob, image: PlaneSource, labels: LabelPlanes
) -> InstanceLabels:
    """Put refined labels where the rough ones lie; where the image does, if unknown."""
    n_axes = len(found.shape)
    space = labels.source.space
    if space is None or (not space.code and image.space is not None):
        space = image.space
    if space is not None:
        return replace(found, space=space, **space.steps(n_axes))
    steps = image_steps(job.labels) or image_steps(job.image, image.channel_axis)
    fitting = {key: v for key, v in steps.items() if len(v) == n_axes}
    return replace(found, **fitting)


def _check_outputs(job: RefineJob, target: LabelFormat) -> None:
    inputs = (job.image, job.labels)
    target.check_out(job.out, inputs=inputs, overwrite=job.overwrite)
    if job.report is not None:
        check_report_path(job.report)
        known = (*inputs, job.out)
        check_output_file(job.report, inputs=known, overwrite=job.overwrite)
    if job.embeddings is not None:
        from napari_samseg.core.cache.zarr_store import EmbeddingStore

        EmbeddingStore(job.embeddings, write=False)


def _check_ids(job: RefineJob, target: LabelFormat, labels: LabelPlanes) -> None:
    """Refuse ids that the file cannot hold before the model is loaded."""
    dtype = np.dtype(labels.source.dtype)
    if target.largest_id is None or dtype.kind not in "iu" or job.settings.split:
        return
    if np.iinfo(dtype).max > target.largest_id:
        planes = np.ndindex(*labels.shape[:-2])
        highest = max(int(labels.read(plane).max(initial=0)) for plane in planes)
        target.check_ids(job.out, highest)


def _fill(
    task: RefineTask, job: RefineJob, labels: LabelPlanes, refined: Any
) -> Generator[Progress, None, tuple[RefineCounts, list[ObjectScore]]]:
    """Write all planes into an array, refined or as they are."""
    wanted = set(task.planes)
    lead = labels.shape[:-2]
    for done, plane in enumerate(np.ndindex(*lead)):
        if plane not in wanted:
            yield Progress("copying planes", done, math.prod(lead))
            refined[plane] = labels.read(plane)
    model = yield from model_steps(job.model_settings)
    from napari_samseg.core.predict import Predictor

    scores: list[ObjectScore] = []
    steps = refine_planes(task, Predictor(model))
    try:
        while True:
            step = next(steps)
            if isinstance(step, PlaneRefined) and step.refined is not None:
                refined[step.refined.plane] = step.refined.labels
                scores.extend(step.refined.scores)
            yield step
    except StopIteration as stop:
        return stop.value, scores
    finally:
        steps.close()


@contextmanager
def _empty_labels(job: RefineJob, labels: LabelPlanes) -> Iterator[Any]:
    """Make an array for labels: in memory, or in a file beside the one to write."""
    read = np.dtype(labels.source.dtype)
    # what is not negative needs no sign; real numbers are read as 32 bits
    keeps_type = read.kind in "biu" and not job.settings.split
    dtype = np.dtype(f"u{read.itemsize}" if keeps_type else np.uint32)
    if math.prod(labels.shape) * dtype.itemsize <= DENSE_BYTES:
        yield np.zeros(labels.shape, dtype)
        return
    import zarr

    job.out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".samseg-", dir=job.out.parent) as folder:
        yield zarr.create_array(
            store=Path(folder) / "labels.zarr",
            shape=labels.shape,
            dtype=dtype,
            chunks=(*(1 for _ in labels.shape[:-2]), *labels.shape[-2:]),
        )


class _StoreFinder:
    """Finds the embeddings of the image once, and keeps memory in front of them."""

    def __init__(self, job: RefineJob) -> None:
        self._job = job
        self._cache: EmbeddingCache | None = None

    def __call__(self, predictor: Predictor, plane: MeasuredPlane) -> EmbeddingCache:
        from napari_samseg.core.cache.layered import LayeredCache
        from napari_samseg.core.embed.stored import stored_embeddings

        if self._cache is None:
            job = self._job
            entry = stored_embeddings(
                str(job.embeddings),
                str(job.image.absolute()),
                plane,
                predictor.model,
                job.tile_settings,
            )
            self._cache = LayeredCache(predictor.cache, entry)
        return self._cache
