"""Semantic labels from instance labels: the class of each object, pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError

__all__ = ["semantic_labels"]

# Labels above this many bytes are read block by block, when they are looked at.
AT_ONCE_BYTES = 1_000_000_000


def semantic_labels(labels: Any, object_classes: Mapping[int, int]) -> Any:
    """Replace each object id by the id of the object's class.

    Parameters
    ----------
    labels : array-like of int
        Instance labels of any shape: numpy, zarr or dask.
    object_classes : mapping of int to int
        Class id of each object that has one.

    Returns
    -------
    array of unsigned int
        0 for the background and for objects without a class, in the smallest
        type that holds the classes. A dask array, computed block by block as
        it is read, where `labels` is one or takes more than 1 GB.

    Raises
    ------
    InvalidLabelsError
        If the labels are not integers.
    """
    if not np.issubdtype(labels.dtype, np.integer):
        raise InvalidLabelsError(f"labels must be integers, not {labels.dtype}")
    objects = sorted(object_classes)
    ids = np.array(objects, np.int64)
    dtype = np.min_scalar_type(max(object_classes.values(), default=0))
    classes = np.array([object_classes[i] for i in objects], dtype)
    n_bytes = math.prod(labels.shape) * np.dtype(labels.dtype).itemsize
    is_lazy = type(labels).__module__.startswith("dask.")
    if n_bytes <= AT_ONCE_BYTES and not is_lazy:
        return _look_up(np.asarray(labels), ids, classes)
    import dask.array as da

    plane = (1,) * (labels.ndim - 2) + tuple(labels.shape[-2:])
    # name=False: dask would read everything once, for a name made of the content
    lazy = (
        labels
        if is_lazy
        else da.from_array(labels, chunks=getattr(labels, "chunks", plane), name=False)
    )
    return lazy.map_blocks(_look_up, ids, classes, dtype=dtype)


def _look_up(
    labels: npt.NDArray[Any], ids: npt.NDArray[np.int64], classes: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    if not len(ids):
        return np.zeros(labels.shape, classes.dtype)
    found, where = np.unique(labels, return_inverse=True)
    at = np.minimum(np.searchsorted(ids, found), len(ids) - 1)
    looked_up = np.where(ids[at] == found, classes[at], 0).astype(classes.dtype)
    return looked_up[where].reshape(labels.shape)
