"""Instances of label files larger than memory: block by block, straight onto disk."""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_samseg.core.errors import InvalidLabelsError, OutputError, SettingsError
from napari_samseg.core.instances.blockwise import block_slices
from napari_samseg.core.instances.class_source import (
    ClassSource,
    open_classes_steps,
    photograph_notes,
)
from napari_samseg.core.instances.class_table import (
    class_pixels_steps,
    write_class_table,
)
from napari_samseg.core.instances.volume_job import (
    MEMORY_VALUES,
    fits_memory,
    volume_instances_steps,
)
from napari_samseg.core.io.image_file import may_hold_colours, open_image_file
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.label_formats import find_writer
from napari_samseg.core.io.label_image import holds_palette_labels
from napari_samseg.core.io.ome_zarr_labels import (
    check_zarr_path,
    create_ome_zarr_labels,
    image_of,
)
from napari_samseg.core.io.placement import read_placement
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    from napari_samseg.core.images import PlaneSource
    from napari_samseg.core.instances.file_job import InstancesJob
    from napari_samseg.core.instances.methods import Instances
    from napari_samseg.core.settings import InstanceSettings

__all__ = ["goes_to_disk", "instances_on_disk"]

# Colours of more objects are left out of what is read first.
MOST_NAMED = 65_535


def goes_to_disk(job: InstancesJob, method: str) -> bool:
    """Tell whether the files of a job are worked on block by block.

    If the job does not say: what memory cannot hold is, and what is large and is to be
    written in blocks.
    """
    if job.blocks is not None:
        return job.blocks
    path = job.labels or job.axon
    if path is None or not path.exists():
        return False
    # what there is to warn of is told when it is read
    with warnings.catch_warnings(action="ignore"), _open_file(path) as source:
        n = math.prod(source.shape)
    return not fits_memory(n, method) or (n > MEMORY_VALUES and _is_zarr(job.out))


def _is_zarr(out: Path) -> bool:
    return find_writer(out).name == "ome-zarr"


def instances_on_disk(
    job: InstancesJob, settings: InstanceSettings
) -> Generator[Progress, None, tuple[Instances, list[str]]]:
    """Find the instances in label files block by block, into an OME-Zarr label image.

    Nothing is left if the work ends early.

    Raises
    ------
    OutputError
        If `out` is no ``.zarr``, or is there already.
    SettingsError
        If ids of before are to stay, or see `volume_instances_steps`.
    SamSegError
        If a file is missing or of the wrong kind; the message says which.
    """
    if not _is_zarr(job.out):
        suffix = find_writer(job.out).fits(job.out)
        hint = job.out.with_name(job.out.name[: -len(suffix)] + ".zarr")
        raise OutputError(
            f"{job.out}: labels are worked on block by block, and so are written as "
            f"OME-Zarr: --out {hint}"
        )
    check_zarr_path(job.out)
    if job.before is not None:
        raise SettingsError(
            "ids of earlier labels cannot be kept block by block: leave --before out, "
            "or take a part of the volume"
        )
    from napari_samseg.core.instances.file_job import choose_spacing

    yield Progress("reading")
    with ExitStack() as stack:
        classes = yield from _open_classes(job, stack)
        doubts: list[str] = []
        if classes.is_photograph:
            doubts = photograph_notes(classes.name, as_is=job.as_is)
        place = read_placement(job.labels or _given(job.axon), len(classes.shape))
        spacing, notes = choose_spacing(job, settings, place)
        like = InstanceLabels(_Shape(classes.shape, job.dtype), **place)
        new = stack.enter_context(create_ome_zarr_labels(job.out, like))
        result = yield from volume_instances_steps(
            classes,
            settings,
            spacing=spacing,
            make_out=lambda shape: new.levels[0],
            scratch=_folder_beside(job.out),
            memory_values=0,
        )
        if job.table is not None:
            level = new.levels[0]
            rows = yield from class_pixels_steps(level, classes, block_slices(level))
        yield from new.shrink()
        new.describe(range(1, min(result.found.n_objects, MOST_NAMED + 1) + 1))
    if job.table is not None:
        write_class_table(job.table, rows)
    return result.found, [*classes.notes, *doubts, *notes, *result.found.notes]


def _folder_beside(out: Path) -> Path:
    """Return the folder that holds an OME-Zarr image, or that of its labels."""
    return (image_of(out) or out).parent


class _Shape:
    """Says how labels will be, of which there are none yet."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)


def _open_classes(
    job: InstancesJob, stack: ExitStack
) -> Generator[Progress, None, ClassSource]:
    from napari_samseg.core.instances.file_job import check_inputs

    check_inputs(job.labels, job.axon, job.myelin)
    if job.labels is not None:
        source = stack.enter_context(_open_file(job.labels))
        return (yield from _classes_of(source, job.labels))
    sources = [
        (stack.enter_context(_open_file(path)), path)
        for path in (_given(job.myelin), _given(job.axon))
    ]
    myelin = yield from _classes_of(*sources[0], is_mask=True)
    return (yield from _classes_of(*sources[1], is_mask=True, myelin=myelin))


def _classes_of(
    source: PlaneSource, path: Path, **more: Any
) -> Generator[Progress, None, ClassSource]:
    if not source.rgb and source.n_channels > 1:
        raise InvalidLabelsError(
            f"{path} has {source.n_channels} channels, and labels one value for each "
            "pixel: save the labels by themselves"
        )
    classes = yield from open_classes_steps(
        source.levels[0],
        str(path),
        is_colour=source.rgb,
        is_image=True,
        refuses=False,
        **more,
    )
    return classes


@contextmanager
def _open_file(path: Path) -> Iterator[PlaneSource]:
    indices = holds_palette_labels(path)
    rgb = None if may_hold_colours(path) and not indices else False
    with open_image_file(path, rgb=rgb, indices=indices) as source:
        yield source


def _given(path: Path | None) -> Path:
    if path is None:
        raise InvalidLabelsError("there is nothing to read")
    return path
