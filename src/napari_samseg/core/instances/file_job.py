"""From files with semantic labels to a file with instance labels."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidLabelsError, SettingsError, naming_file
from napari_samseg.core.instances.class_source import (
    join_masks,
    photograph_notes,
)
from napari_samseg.core.instances.class_table import (
    check_table_path,
    class_pixels_steps,
    write_class_table,
)
from napari_samseg.core.io.class_image import (
    ClassImage,
    is_picture,
    read_class_image,
    read_mask_image,
    snap_note,
)
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.label_doubts import looks_natural
from napari_samseg.core.io.label_formats import WriteRequest, find_writer
from napari_samseg.core.io.label_image import open_label_image, palette_note
from napari_samseg.core.io.placement import (
    axes_without_size,
    read_placement,
    relative_spacing,
)
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    from napari_samseg.core.instances.methods import Instances
    from napari_samseg.core.settings import InstanceSettings

__all__ = ["DTYPES", "InstancesJob", "choose_spacing", "instances_file", "read_classes"]

WIDE = "uint64"
DTYPES = ("uint32", WIDE)


@dataclass(frozen=True, slots=True)
class InstancesJob:
    """Which files to read and write.

    Attributes
    ----------
    out : Path
        Instance labels to write, in any format of
        `napari_samseg.core.io.label_formats` that can be written.
    labels : Path or None
        Semantic labels; see `napari_samseg.core.io.class_image.read_class_image`.
    axon, myelin : Path or None
        Instead: one mask for each of the two classes.
    before : Path or None
        Instance labels made earlier, whose ids are to stay.
    seeds : Path or None
        Points for the method of this name; see
        `napari_samseg.core.io.seed_points.read_seeds`.
    spacing : tuple of float or None
        Size of a pixel along each axis; as the file of labels says if not given,
        counted in pixels of its finest axis.
    overwrite : bool
        Replace a file that is there already.
    table : Path or None
        Table to write, ``.csv``: the pixels of each class in each object.
    dtype : str
        Data type of the ids: uint32, or uint64 in OME-Zarr.
    as_is : bool
        Work on labels that look like a photograph, too.
    blocks : bool or None
        Work block by block, straight onto disk; None does so where memory ends.
    """

    out: Path
    labels: Path | None = None
    axon: Path | None = None
    myelin: Path | None = None
    before: Path | None = None
    seeds: Path | None = None
    spacing: tuple[float, ...] | None = None
    overwrite: bool = False
    table: Path | None = None
    dtype: str = "uint32"
    as_is: bool = False
    blocks: bool | None = None


def instances_file(
    job: InstancesJob, settings: InstanceSettings
) -> Generator[Progress, None, tuple[Instances, list[str]]]:
    """Find the instances in label files, and write them.

    Volumes that do not fit in memory are worked on block by block, see
    `napari_samseg.core.instances.disk_job`.

    Returns
    -------
    Instances
    list of str
        What a person should know about the files that were read.

    Raises
    ------
    SamSegError
        If a file is missing or of the wrong kind; the message says which.
    """
    from napari_samseg.core.instances.disk_job import goes_to_disk, instances_on_disk
    from napari_samseg.core.instances.methods import SEMANTIC_METHODS, find_instances
    from napari_samseg.core.instances.volume_job import slabs
    from napari_samseg.core.io.seed_points import read_seeds

    _check_options(job, settings)
    if goes_to_disk(job, settings.method):
        return (yield from instances_on_disk(job, settings))
    inputs = (job.labels, job.axon, job.myelin, job.before, job.seeds)
    target = find_writer(job.out)
    assert target.write is not None
    target.check_out(job.out, inputs=inputs, overwrite=job.overwrite)
    yield Progress("reading")
    if settings.method in SEMANTIC_METHODS and job.labels is not None:
        classes, notes = _read_ids(job.labels), list[str]()
    else:
        classes, notes = read_classes(job.labels, job.axon, job.myelin, as_is=job.as_is)
    target.check_shape(job.out, classes.shape)
    source = job.labels or job.axon or job.out
    place = read_placement(source, classes.ndim)
    spacing, more = choose_spacing(job, settings, place)
    notes += more
    before = None if job.before is None else _read_ids(job.before)
    seeds = None if job.seeds is None else read_seeds(job.seeds, classes.ndim)
    yield Progress("finding instances")
    with naming_file(source):
        found = find_instances(
            classes, settings, spacing=spacing, before=before, seeds=seeds
        )
    if job.table is not None:
        parts = [(slab,) for slab in slabs(classes.shape)]
        rows = yield from class_pixels_steps(found.labels, classes, parts)
    yield Progress("writing")
    is_wide = job.dtype == WIDE
    labels = found.labels.astype(WIDE) if is_wide else found.labels
    placed = InstanceLabels(labels, **place)
    target.write(job.out, placed, WriteRequest(source.name))
    if job.table is not None:
        write_class_table(job.table, rows)
    return found, [*notes, *found.notes, *target.space_notes(placed)]


def _check_options(job: InstancesJob, settings: InstanceSettings) -> None:
    if job.seeds is not None and settings.method != "points":
        raise SettingsError(
            f"{job.seeds}: seeds are for the method points, and the method is "
            f"{settings.method}: leave one of the two out"
        )
    if job.dtype not in DTYPES:
        raise SettingsError(f"ids are {' or '.join(DTYPES)}, not {job.dtype!r}")
    if job.dtype == WIDE and find_writer(job.out).name != "ome-zarr":
        raise SettingsError(
            f"{job.out}: ids of 64 bits are written as OME-Zarr alone: end its name in "
            ".zarr, or leave --dtype out"
        )
    if job.table is not None:
        known = (job.labels, job.axon, job.myelin, job.before, job.seeds, job.out)
        check_table_path(job.table, known, overwrite=job.overwrite)


def choose_spacing(
    job: InstancesJob, settings: InstanceSettings, place: Mapping[str, Any]
) -> tuple[tuple[float, ...] | None, list[str]]:
    """Return the spacing that was asked for, or else that of the file, and notes.

    Parameters
    ----------
    job : InstancesJob
    settings : InstanceSettings
    place : mapping
        See `napari_samseg.core.io.placement.read_placement`.
    """
    from napari_samseg.core.instances.methods import METHOD_SETTINGS

    if job.spacing is not None:
        return job.spacing, []
    spacing = relative_spacing(place)
    if "min_distance" not in METHOD_SETTINGS[settings.method]:
        return spacing, []
    unknown = axes_without_size(place)
    if spacing is None and unknown:
        axes = " and ".join(str(axis) for axis in unknown)
        note = (
            f"{job.labels or job.axon} does not say how large a pixel is along axis "
            f"{axes}, so all axes count alike: --spacing gives the sizes, such as "
            "--spacing 3,1,1"
        )
        return None, [note]
    if spacing is None:
        return None, []
    sizes = " x ".join(f"{size:.4g}" for size in spacing)
    note = (
        f"{job.labels or job.axon} has pixels of {sizes}, and distances count in "
        "pixels of its finest axis: --spacing gives another size"
    )
    return spacing, [note]


def read_classes(
    labels: Path | None = None,
    axon: Path | None = None,
    myelin: Path | None = None,
    *,
    as_is: bool = False,
) -> tuple[npt.NDArray[Any], list[str]]:
    """Read semantic labels from one file, or from a mask of axons and one of myelin.

    What looks like a photograph is refused, unless it is to be taken as it is.

    Returns
    -------
    classes : unsigned integer
        Of two masks: 0 background, 1 myelin, 2 axon.
    notes : list of str
        What a person should know about the files.

    Raises
    ------
    SamSegError
        If a file is missing or of the wrong kind, or the masks do not fit each other;
        the message says which.
    """
    check_inputs(labels, axon, myelin)
    notes: list[str] = []
    if labels is not None:
        classes = _tell(labels, read_class_image(labels), notes)
        if looks_natural(classes):
            notes += photograph_notes(str(labels), as_is=as_is)
        return classes, notes
    # both are there, as was checked
    axon, myelin = cast("Path", axon), cast("Path", myelin)
    is_axon, is_myelin = (
        _tell(path, read_mask_image(path), notes) > 0 for path in (axon, myelin)
    )
    for path in (axon, myelin):
        values = _read_ids(path)
        if looks_natural(values) and not is_picture(values):
            notes += photograph_notes(str(path), as_is=as_is)
    if is_axon.shape != is_myelin.shape:
        raise InvalidLabelsError(
            f"{axon} has shape {is_axon.shape}, and {myelin} {is_myelin.shape}: they "
            "are not masks of one image"
        )
    if n_both := int((is_axon & is_myelin).sum()):
        pixels = count_things(n_both, "pixel")
        notes.append(f"{pixels} in both masks, taken for axon")
    return join_masks(is_axon, is_myelin), notes


def check_inputs(labels: Path | None, axon: Path | None, myelin: Path | None) -> None:
    """Raise `InvalidLabelsError` unless there is one file, or one for each mask."""
    if labels is not None:
        if axon is not None or myelin is not None:
            raise InvalidLabelsError(
                "give either one file of labels, or a mask of axons and one of myelin"
            )
    elif axon is None and myelin is None:
        raise InvalidLabelsError(
            "there is nothing to read: give a file of labels, or a mask of axons and "
            "one of myelin"
        )
    elif axon is None or myelin is None:
        given, lacking = ("axon", "myelin") if myelin is None else ("myelin", "axon")
        raise InvalidLabelsError(
            f"--{given} goes with --{lacking}, the mask of the other class, which is "
            f"missing: add it, or give {axon or myelin} by itself, without --{given}"
        )


def _read_ids(path: Path) -> npt.NDArray[Any]:
    # 8-bit ids may look like the grey levels of a mask, but stay what they are
    with open_label_image(path) as labels:
        return np.asarray(labels[...])


def _tell(path: Path, image: ClassImage, notes: list[str]) -> npt.NDArray[Any]:
    """Return classes, and add to the notes what was done to get them."""
    notes += snap_note(path, image.n_snapped, image.values)
    if image.has_palette:
        notes.append(palette_note(path, image.values))
    return image.classes
