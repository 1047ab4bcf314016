"""Semantic labels from files, also from pictures that were painted or resaved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.io.label_image import open_label_image

__all__ = [
    "ClassImage",
    "grey_classes",
    "is_picture",
    "read_class_image",
    "snap_classes",
    "snap_table",
]

# A value that fewer pixels have is no class, but what smoothing left at an edge.
CLASS_SHARE = 0.005
# The same where the foreground is so small that only the background is frequent.
SPARSE_SHARE = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class ClassImage:
    """Semantic labels, and what was done to get them.

    Attributes
    ----------
    classes : (Y, X) or (Z, Y, X) unsigned integer
    values : tuple of int
        Value in the file of each class, 0 to K; the class itself if the file holds
        classes.
    n_snapped : int
        Pixels whose value lay between those of classes.
    """

    classes: npt.NDArray[Any]
    values: tuple[int, ...]
    n_snapped: int = 0


def read_class_image(path: Path) -> ClassImage:
    """Read semantic labels from any file that images are read from.

    8-bit pictures of masks, grey or RGB with equal channels, whose values are spread
    over 0..255 (0, 127, 255 of AxonDeepSeg; 0, 255 of ImageJ), become classes 0, 1, 2
    in the order of their values, see `snap_classes`. All other labels stay as they
    are.

    Parameters
    ----------
    path : Path
        See `napari_samseg.core.io.image_file.open_image_file`.

    Raises
    ------
    MissingFileError, InvalidImageError
        If there is no such image.
    InvalidLabelsError
        If it holds colours, or real numbers that are not whole.
    """
    with open_label_image(path) as labels:
        array = np.asarray(labels[...])
    if is_picture(array):
        return snap_classes(array)
    return ClassImage(array, tuple(np.unique(array).tolist()))


def snap_classes(picture: npt.NDArray[np.uint8]) -> ClassImage:
    """Give each pixel of a picture of a mask the class of the nearest frequent value.

    Smoothing, resizing or JPEG leave values between those of the classes along
    edges; each of these goes to the nearest value that at least 0.5 % of the pixels
    have (of a picture that is all but empty: 5 % of the pixels that are not 0).

    Parameters
    ----------
    picture : uint8
        0 is always a class.
    """
    counts = np.bincount(picture.ravel(), minlength=256)
    values = np.union1d([0], _frequent_values(counts))
    n_snapped = int(counts.sum() - counts[values].sum())
    return ClassImage(snap_table(values)[picture], tuple(values.tolist()), n_snapped)


def snap_table(values: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Return the class of each grey level: the position of the nearest of `values`."""
    levels = np.arange(256)[:, np.newaxis]
    nearest: npt.NDArray[Any] = np.abs(levels - np.asarray(values)).argmin(axis=1)
    return nearest.astype(np.uint8)


def _frequent_values(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Values that are no accident of an edge, by how often each of 0..255 occurs."""
    frequent = np.flatnonzero(counts >= CLASS_SHARE * max(1, counts.sum()))
    if len(frequent) > 1:
        return frequent
    # a few small objects, of which more is edge: a value stands out all the same
    inside = counts.copy()
    inside[0] = 0
    present = np.flatnonzero(inside)
    common = np.flatnonzero(inside >= SPARSE_SHARE * max(1, inside.sum()))
    return common if len(common) else present


def is_picture(array: npt.NDArray[Any]) -> bool:
    """Tell whether values are grey levels of a picture rather than classes or ids."""
    if array.dtype != np.uint8:
        return False
    return grey_classes(np.bincount(array.ravel(), minlength=256)) is not None


def grey_classes(counts: npt.NDArray[np.int64]) -> tuple[int, ...] | None:
    """Return the grey levels that are classes of a picture of a mask.

    Parameters
    ----------
    counts : (256,) int64
        How often each value occurs.

    Returns
    -------
    tuple of int or None
        In rising order, from 0; None where the values are themselves classes or ids.
    """
    values = np.flatnonzero(counts)
    if not len(values) or values[-1] < 200:
        return None
    frequent = np.flatnonzero(counts >= CLASS_SHARE * max(1, counts.sum()))
    # ids from 1 on are many and follow one another; classes of a picture are far apart
    if len(frequent) > 8 or (len(frequent) > 1 and np.diff(frequent).min() <= 16):
        return None
    return tuple(np.union1d([0], _frequent_values(counts)).tolist())
