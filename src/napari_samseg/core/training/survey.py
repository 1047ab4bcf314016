"""Before a training, and without torch: which labels are there to learn from."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.images import ArrayLike
from napari_samseg.core.prompts.object_index import index_objects
from napari_samseg.core.training.class_planes import ClassPlanes
from napari_samseg.core.training.images import LabelledImage, LabelledPlane
from napari_samseg.core.types import Progress

__all__ = ["LabelSnapshot", "read_labels", "snapshot_steps", "survey_steps"]

# Labels are large areas of one value: the fastest level takes most of them away.
COMPRESSION = 1


def survey_steps(
    images: Sequence[LabelledImage], min_area: int
) -> Generator[Progress, None, list[LabelledPlane]]:
    """Find the planes that have objects.

    Warns
    -----
    UserWarning
        If objects are smaller than `min_area` (in pixels): they are left out.

    Raises
    ------
    InvalidLabelsError
        If there is none, or ids are negative.
    """
    found, n_small = [], 0
    every = [(i, plane) for i, image in enumerate(images) for plane in image.planes]
    for done, (i, plane) in enumerate(every):
        yield Progress("looking for objects", done, len(every))
        image = images[i]
        objects = index_objects(read_labels(image, plane))
        is_large = objects.areas >= min_area
        n_small += int(np.count_nonzero(~is_large))
        if is_large.any():
            longer = int(np.argmax(objects.labels.shape))
            middles = objects.boxes_yx[:, [longer, longer + 2]].sum(axis=1)
            everything = LabelledPlane(
                i,
                plane,
                image.group,
                objects.object_ids,
                middles,
                has_classes=isinstance(image.labels, ClassPlanes),
            )
            found.append(everything.select(is_large))
    if not found:
        names = ", ".join(image.name for image in images[:3]) or "no image"
        raise InvalidLabelsError(
            f"there is no object of at least {min_area} px in the labels of {names}: "
            "label some first, or lower the smallest object (min_area)"
        )
    if n_small:
        n_found = sum(plane.n_objects for plane in found)
        warnings.warn(
            f"{n_small} of {n_small + n_found} objects are smaller than {min_area} px "
            "and are left out: lower the smallest object (min_area) to have them",
            stacklevel=2,
        )
    return found


def read_labels(
    image: LabelledImage, plane: tuple[int, ...]
) -> npt.NDArray[np.integer]:
    """Read the labels of a plane, (Y, X) integer."""
    labels = np.asarray(image.labels[plane])
    return labels.astype(np.uint8) if labels.dtype == bool else labels


@dataclass(frozen=True, slots=True, eq=False)
class LabelSnapshot:
    """Labels as they were at one moment: an array-like of whole planes.

    Somebody may go on painting into the labels themselves. Planes are kept
    compressed, and those without labels not at all.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    planes : dict of plane index to bytes
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    planes: dict[tuple[int, ...], bytes] = field(default_factory=dict)

    def __getitem__(self, plane: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return a plane, (Y, X)."""
        size = self.shape[-2:]
        kept = self.planes.get(tuple(plane))
        if kept is None:
            return np.zeros(size, self.dtype)
        return np.frombuffer(zlib.decompress(kept), self.dtype).reshape(size)


def snapshot_steps(
    labels: ArrayLike, only: Sequence[int] = ()
) -> Generator[Progress, None, LabelSnapshot]:
    """Copy labels, plane by plane.

    Parameters
    ----------
    labels : (..., Y, X) integer, array-like
    only : sequence of int
        Keep these values and no others; all of them if empty.

    Raises
    ------
    InvalidLabelsError
        If they have no planes.
    """
    shape = tuple(int(n) for n in labels.shape)
    if len(shape) < 2:
        raise InvalidLabelsError(f"labels of shape {shape} have no planes")
    snapshot = LabelSnapshot(shape, np.dtype(labels.dtype))
    total = math.prod(shape[:-2])
    for done, plane in enumerate(np.ndindex(*shape[:-2])):
        yield Progress("copying labels", done, total)
        found = np.array(labels[plane])
        if only:
            found[~np.isin(found, only)] = 0
        if found.any():
            snapshot.planes[plane] = zlib.compress(found.tobytes(), COMPRESSION)
    return snapshot
