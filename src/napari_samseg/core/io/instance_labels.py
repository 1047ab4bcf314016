"""Instance labels between files: the array, and what is known of each object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidLabelsError, LabelOverflowError
from napari_samseg.core.io.voxel_space import VoxelSpace
from napari_samseg.core.types import BoolArray

__all__ = [
    "InstanceLabels",
    "PlaneCut",
    "PlaneObject",
    "check_object_id",
    "label_planes",
    "number_objects",
    "paint_objects",
    "plane_objects",
]

LARGEST_ID = int(np.iinfo(np.uint32).max)


@dataclass(frozen=True, slots=True)
class PlaneCut:
    """Which planes of a volume (Z, Y, X) are there, as the first axis of labels.

    Attributes
    ----------
    axis : int
        Of the volume, across which the planes lie.
    numbers : tuple of int
        Positions of the planes along that axis, rising.
    length : int
        Planes of the whole volume along that axis.
    """

    axis: int
    numbers: tuple[int, ...]
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class InstanceLabels:
    """Instance labels and what is known of their objects.

    Attributes
    ----------
    labels : (..., Y, X) integer array-like
        0 is the background; numpy, dask or zarr.
    properties : mapping of object id to mapping
        What a file says of an object: ``category`` is the name of its class.
    scale, units : tuple or None
        Size of a pixel along each axis, and its units, such as "micrometer".
    notes : tuple of str
        What a person should know about the file: what was left out, and how much.
    space : VoxelSpace or None
        Where the voxels of the volume lie in the patient.
    translation : tuple of float or None
        Where the first pixel lies along each axis, in the units of `scale`.
    cut : PlaneCut or None
        The labels are planes of that volume; None if they are the whole of it.
    categories : mapping of category id to name
        All that a file numbers, also those of which there is no object.
    image_name : str
        File name of the image that the labels belong to; empty if not known.
    """

    labels: Any
    properties: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    scale: tuple[float, ...] | None = None
    units: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    space: VoxelSpace | None = None
    cut: PlaneCut | None = None
    translation: tuple[float, ...] | None = None
    categories: Mapping[int, str] = field(default_factory=dict)
    image_name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the labels, in pixels."""
        return tuple(int(n) for n in self.labels.shape)

    @property
    def volume_shape(self) -> tuple[int, ...]:
        """Shape of the volume of which these may be planes."""
        if self.cut is None:
            return self.shape
        _, *others = self.shape
        others.insert(self.cut.axis, self.cut.length)
        return tuple(others)


@dataclass(frozen=True, slots=True, eq=False)
class PlaneObject:
    """One object in one plane.

    Attributes
    ----------
    object_id : int
    box_yx : (y0, x0, y1, x1)
        Half-open box of the crop, inside the plane.
    crop : (y1 - y0, x1 - x0) bool
    plane : tuple of int
        Position along each axis before (Y, X).
    """

    object_id: int
    box_yx: tuple[int, int, int, int]
    crop: BoolArray
    plane: tuple[int, ...] = ()


def label_planes(labels: Any) -> Iterator[tuple[tuple[int, ...], npt.NDArray[Any]]]:
    """Read labels plane by plane.

    Yields
    ------
    index : tuple of int
        Position along each axis before (Y, X).
    plane : (Y, X) unsigned integer

    Raises
    ------
    InvalidLabelsError
        If the labels have no planes, are no integers, or an id is negative.
    """
    if len(labels.shape) < 2:
        raise InvalidLabelsError(
            f"labels are (..., Y, X), not of shape {tuple(labels.shape)}"
        )
    if np.dtype(labels.dtype).kind not in "biu":
        raise InvalidLabelsError(f"labels are integers, not {labels.dtype}")
    for index in np.ndindex(*labels.shape[:-2]):
        plane = np.asarray(labels[index])
        lowest = int(plane.min(initial=0))
        if lowest < 0:
            raise InvalidLabelsError(
                f"label ids from {lowest} up are no objects: the background is 0, and "
                "objects are numbered from 1"
            )
        yield index, plane.astype(f"u{plane.dtype.itemsize}", copy=False)


def plane_objects(
    plane: npt.NDArray[Any], index: tuple[int, ...] = ()
) -> Iterator[PlaneObject]:
    """Cut the objects of a plane (Y, X) out, in the order of their ids."""
    from scipy import ndimage

    ids, dense = np.unique(plane, return_inverse=True)
    is_object = ids != 0
    numbered = (np.cumsum(is_object) * is_object)[dense].reshape(plane.shape)
    boxes = ndimage.find_objects(numbered)
    for object_id, (rows, columns) in zip(ids[is_object].tolist(), boxes, strict=True):
        crop = plane[rows, columns] == object_id
        box = (rows.start, columns.start, rows.stop, columns.stop)
        yield PlaneObject(object_id, box, crop, index)


def number_objects(
    objects: Sequence[PlaneObject], kind: str
) -> tuple[list[PlaneObject], list[str]]:
    """Give an id to objects without one, above all ids that are there.

    Parameters
    ----------
    objects : sequence of PlaneObject
        0 stands for no id.
    kind : str
        What the file calls its objects, for the notes.

    Returns
    -------
    objects : list of PlaneObject
    notes : list of str
        How many had none although others did, how many had one above 32 bits, and how
        many share one in a plane.
    """
    given = {item.object_id for item in objects}
    wide = sorted(object_id for object_id in given if object_id > LARGEST_ID)
    highest = max(given.difference(wide), default=0)
    notes = []
    if wide:
        names = dict(zip(wide, range(highest + 1, LARGEST_ID), strict=False))
        notes.append(
            f"{count_things(len(wide), 'id')} above {LARGEST_ID}, more than 32 bits "
            f"hold, got new numbers from {highest + 1} on"
        )
        objects = [
            replace(item, object_id=names.get(item.object_id, item.object_id))
            for item in objects
        ]
        highest += len(wide)
    numbered, n_new = [], 0
    for item in objects:
        n_new += not item.object_id
        new_id = item.object_id or highest + n_new
        numbered.append(replace(item, object_id=new_id))
    if n_new and highest:
        notes.append(
            f"{count_things(n_new, kind)} without an id, numbered from {highest + 1} "
            f"to {highest + n_new}; the others keep theirs"
        )
    uses = Counter((item.object_id, item.plane) for item in numbered)
    n_shared = sum(n - 1 for n in uses.values())
    if n_shared:
        notes.append(
            f"{count_things(n_shared, kind)} with the id of another one in the same "
            "plane, taken for parts of one object"
        )
    return numbered, notes


def paint_objects(
    objects: Iterable[PlaneObject], shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.uint32], list[str]]:
    """Paint objects, which may overlap, into one label map.

    Where objects overlap, the smaller one is on top, so that none is lost because it
    lies inside another; of equal ones, the later.

    Parameters
    ----------
    objects : iterable of PlaneObject
    shape : tuple of int
        Of the label map, (..., Y, X).

    Returns
    -------
    labels : uint32
    notes : list of str
        How many objects and pixels overlap, and which objects are hidden whole.
    """
    labels = np.zeros(shape, np.uint32)
    found = sorted(objects, key=lambda item: -int(item.crop.sum()))
    n_overlapping, n_pixels = 0, 0
    for item in found:
        check_object_id(item.object_id)
        y0, x0, y1, x1 = item.box_yx
        region = labels[item.plane][y0:y1, x0:x1]
        below = region[item.crop]
        covered = int(((below != 0) & (below != item.object_id)).sum())
        n_pixels += covered
        n_overlapping += covered > 0
        region[item.crop] = item.object_id
    notes = []
    if n_pixels:
        notes.append(
            f"{count_things(n_overlapping, 'object')} on top of larger ones, in "
            f"{count_things(n_pixels, 'pixel')}: there the smaller one is kept"
        )
        hidden = {item.object_id for item in found if item.crop.any()}
        hidden -= set(np.unique(labels).tolist())
        if hidden:
            names = ", ".join(map(str, sorted(hidden)[:12]))
            notes.append(
                f"{count_things(len(hidden), 'object')} hidden whole under smaller "
                f"ones, and lost: {names}"
            )
    return labels, notes


def check_object_id(object_id: int) -> None:
    """Raise `LabelOverflowError` unless an id fits the labels that are made here."""
    if not 0 < object_id <= LARGEST_ID:
        raise LabelOverflowError(
            f"object id {object_id} does not fit unsigned 32 bits: number the objects "
            "from 1, as `napari-samseg instances` does"
        )
