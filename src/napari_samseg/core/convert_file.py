"""Instance labels from one file format to another; COCO datasets into their parts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidLabelsError, SettingsError, naming_file
from napari_samseg.core.io.coco_labels import DEFAULT_CATEGORY
from napari_samseg.core.io.instance_labels import label_planes
from napari_samseg.core.io.label_formats import (
    LabelFormat,
    ReadRequest,
    WriteRequest,
    find_format,
    find_writer,
)
from napari_samseg.core.io.output import check_output_file
from napari_samseg.core.io.plane_cut import cut_planes
from napari_samseg.core.io.voxel_space import turn_volume
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    from napari_samseg.core.io.instance_labels import InstanceLabels
    from napari_samseg.core.io.voxel_space import VoxelSpace
    from napari_samseg.core.settings import ConvertSettings

__all__ = ["ConvertJob", "SplitJob", "convert_file", "split_file"]

# x, y and z as they are, in nibabel's orientations.
UNTURNED = np.array([[0, 1], [1, 1], [2, 1]])


@dataclass(frozen=True, slots=True)
class ConvertJob:
    """Which file to read, which to write.

    Attributes
    ----------
    source, out : Path
    read_as, write_as : str
        Names of formats, where the suffix does not tell.
    image : str or None
        Which image of a file with several.
    like : Path or None
        The image that the labels belong to: its size, its name in COCO, and, of NIfTI,
        where its voxels lie.
    overwrite : bool
        Replace a file that is there already.
    """

    source: Path
    out: Path
    read_as: str = ""
    write_as: str = ""
    image: str | None = None
    like: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class SplitJob:
    """Which COCO file to split, and how.

    Attributes
    ----------
    source : Path
        COCO's JSON, or JSON-lines.
    out : Path
        Folder in which each part gets a folder of its own.
    shares : mapping of name to float
        See `napari_samseg.core.io.coco_splits.split_by_group`.
    group : str
        See `napari_samseg.core.io.coco_splits.group_by`; the file if empty.
    seed : int
    overwrite : bool
        Replace files that are there already.
    """

    source: Path
    out: Path
    shares: Mapping[str, float]
    group: str = ""
    seed: int = 0
    overwrite: bool = False


def convert_file(
    job: ConvertJob, settings: ConvertSettings
) -> Generator[Progress, None, tuple[str, ...]]:
    """Read labels in one format and write them in another.

    Returns
    -------
    tuple of str
        What a person should know: what was left out, and how much.

    Raises
    ------
    SamSegError
        If a file is missing or of the wrong kind, or cannot be written; the message
        says which and what to do.
    """
    source = find_format(job.source, job.read_as)
    target = find_writer(job.out, job.write_as)
    if source.read is None:
        raise InvalidLabelsError(
            f"{job.source}: {source.title} cannot be read, only written"
        )
    assert target.write is not None
    _check_out(job, target)
    yield Progress("reading")
    shape, space = (None, None) if job.like is None else _read_like(job, settings)
    request = ReadRequest(job.image, shape, settings.canonical)
    with source.read(job.source, request) as found:
        if shape is not None:
            found = _placed(found, shape, space, job)
        elif settings.canonical:
            found = _canonical(found)
        found = cut_planes(found, settings)
        notes = list(found.notes)
        # what was put there for want of any other says nothing
        nothing: tuple[dict[str, Any], ...] = ({}, {"category": DEFAULT_CATEGORY})
        known = sum(1 for values in found.properties.values() if values not in nothing)
        if known and not target.keeps_properties:
            notes.append(
                f"{target.title} holds ids alone: what is known of "
                f"{count_things(known, 'object')}, such as their category, stays behind"
            )
        notes += target.space_notes(found)
        yield Progress("writing")
        name = found.image_name or job.source.name
        name = name if job.like is None else job.like.name
        with naming_file(job.source):
            if not any(plane.any() for _, plane in label_planes(found.labels)):
                notes.append(f"{job.source} holds no object: all its pixels are 0")
            target.write(job.out, found, WriteRequest(name, settings))
    return tuple(notes)


def split_file(job: SplitJob) -> Generator[Progress, None, dict[str, int]]:
    """Split a COCO file into parts that share no group.

    Returns
    -------
    dict of name to int
        Images of each part.

    Raises
    ------
    SamSegError
        If the file is missing or no COCO, or cannot be split in such a way.
    """
    from napari_samseg.core.io import coco, coco_splits

    for name in job.shares:
        if not re.fullmatch(r"\w[\w. -]*", name):
            raise SettingsError(
                f"a part is called {name!r}, and each gets a folder of its name in "
                f"{job.out}: take letters and digits, such as train=0.8,val=0.2"
            )
        target = job.out / name / coco_splits.ANNOTATIONS
        check_output_file(target, inputs=(job.source,), overwrite=job.overwrite)
    yield Progress("reading")
    is_lines = find_format(job.source).name == "jsonl"
    read = coco.read_json_lines if is_lines else coco.read_coco
    parts = coco_splits.split_by_group(
        read(job.source),
        job.shares,
        group_of=coco_splits.group_by(job.group) if job.group else None,
        seed=job.seed,
    )
    yield Progress("writing")
    coco_splits.write_splits(job.out, parts)
    return {name: len(part.images) for name, part in parts.items()}


def _check_out(job: ConvertJob, target: LabelFormat) -> None:
    if job.write_as and not target.fits(job.out) and not target.is_folder:
        raise InvalidLabelsError(
            f"{target.title} is written as {' or '.join(target.suffixes)}, not as "
            f"{job.out.name!r}"
        )
    inputs = (job.source, job.like)
    target.check_out(job.out, inputs=inputs, overwrite=job.overwrite)


def _read_like(
    job: ConvertJob, settings: ConvertSettings
) -> tuple[tuple[int, ...], VoxelSpace | None]:
    from napari_samseg.core.io.image_file import open_image_file

    assert job.like is not None
    with open_image_file(job.like, canonical=settings.canonical) as image:
        return image.shape, image.space


def _placed(
    found: InstanceLabels,
    shape: tuple[int, ...],
    space: VoxelSpace | None,
    job: ConvertJob,
) -> InstanceLabels:
    """Put labels where their image lies, which must have the same voxels.

    Their axes may run in another order or the other way, as those of volumes that were
    turned to RAS do: they are turned back.
    """
    if found.space is not None and space is not None and found.space.code * space.code:
        turn = found.space.turn_to(space)
        found = found if turn is None else _turned(found, turn)
    if shape != found.shape:
        raise InvalidLabelsError(
            f"{job.source} has labels of shape {found.shape}, and the image "
            f"{job.like} has shape {shape}: they do not belong together"
        )
    if space is None:
        return found
    if (
        found.space is not None
        and found.space.code
        and space.code
        and not found.space.is_like(space, (1, *shape)[-3:])
    ):
        raise InvalidLabelsError(
            f"{job.source} and {job.like} have the same shape and lie in different "
            f"places ({found.space}; {space}): bring them to one grid first"
        )
    return dataclasses.replace(found, space=space, **space.steps(len(shape)))


def _canonical(found: InstanceLabels) -> InstanceLabels:
    """Turn labels to RAS, of files that say where they lie."""
    from nibabel.orientations import io_orientation

    if found.space is None or not found.space.code:
        return found
    return _turned(found, io_orientation(found.space.affine))


def _turned(found: InstanceLabels, turn: npt.NDArray[Any]) -> InstanceLabels:
    if (turn == UNTURNED).all() or found.space is None:
        return found
    labels, space = turn_volume(np.asarray(found.labels[...]), found.space, turn)
    steps = space.steps(labels.ndim)
    return dataclasses.replace(found, labels=labels, space=space, **steps)
