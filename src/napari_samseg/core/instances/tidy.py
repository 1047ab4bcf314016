"""Put instance labels in order: sizes, holes, borders, ids."""

from __future__ import annotations

from typing import Any

import fastremap
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_samseg.core.errors import InvalidLabelsError, LabelOverflowError

__all__ = [
    "count_pixels",
    "drop_at_border",
    "drop_by_size",
    "fill_holes",
    "keep_ids",
    "narrow_labels",
    "relabel",
    "to_semantic",
]

AnyLabels = npt.NDArray[Any]

# Pixels whose runs of equal ids are found at once: what is made of them stays in cache.
RUN_BLOCK = 1 << 20


def count_pixels(labels: AnyLabels) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return the ids in use, rising and without 0, and the pixels of each."""
    ids, counts = fastremap.unique(labels, return_counts=True)
    is_object = ids != 0
    return ids[is_object], counts[is_object].astype(np.int64)


def relabel(labels: AnyLabels) -> AnyLabels:
    """Give the objects the numbers 1 to N without gaps, in the order of their ids.

    Returns
    -------
    integer
        A copy, of the same data type.
    """
    if not labels.size:
        return labels.copy()
    flat = np.ascontiguousarray(labels).reshape(-1)
    places = range(0, flat.size, RUN_BLOCK)
    # ids seldom change from one pixel to the next: runs of them are far fewer
    blocks = [_runs(flat[start : start + RUN_BLOCK]) for start in places]
    values = np.concatenate([block_values for block_values, _ in blocks])
    ids = fastremap.unique(values)
    table = {i: n for n, i in enumerate(ids[ids != 0].tolist(), start=1)}
    names = fastremap.remap(values, {0: 0} | table, in_place=True)
    renamed = np.empty_like(flat)
    first = 0
    for start, (_, lengths) in zip(places, blocks, strict=True):
        here = names[first : first + len(lengths)]
        renamed[start : start + RUN_BLOCK] = np.repeat(here, lengths)
        first += len(lengths)
    return renamed.reshape(labels.shape)


def drop_by_size(
    labels: AnyLabels, minimum: int = 0, maximum: int | None = None
) -> tuple[AnyLabels, int]:
    """Remove objects that are too small or too large.

    Parameters
    ----------
    labels : integer
    minimum, maximum : int
        In pixels, both inclusive.

    Returns
    -------
    labels : integer
        A copy; the ids of the others stay.
    n_dropped : int
    """
    ids, counts = count_pixels(labels)
    is_dropped = counts < minimum
    if maximum is not None:
        is_dropped |= counts > maximum
    return _drop(labels, ids[is_dropped]), int(is_dropped.sum())


def drop_at_border(
    labels: AnyLabels, axes: tuple[int, ...] | None = None
) -> tuple[AnyLabels, int]:
    """Remove objects that touch the border, of which a part may be missing.

    Parameters
    ----------
    labels : integer
    axes : tuple of int, optional
        Axes whose ends count; all of them if not given.

    Returns
    -------
    labels : integer
        A copy; the ids of the others stay.
    n_dropped : int
    """
    at_border: set[int] = set()
    for axis in range(labels.ndim) if axes is None else axes:
        for end in (0, -1):
            at_border.update(fastremap.unique(labels.take(end, axis)).tolist())
    at_border.discard(0)
    return _drop(labels, np.array(sorted(at_border))), len(at_border)


def fill_holes(labels: AnyLabels) -> AnyLabels:
    """Fill the background that an object encloses; in volumes, in three dimensions.

    A hole with another object in it is filled around that object.

    Returns
    -------
    integer
        A copy.
    """
    filled = labels.copy()
    boxes = ndimage.find_objects(relabel(labels).astype(np.int64))
    ids, _ = count_pixels(labels)
    for object_id, box in zip(ids, boxes, strict=True):
        mask = labels[box] == object_id
        holes = ndimage.binary_fill_holes(mask) & (filled[box] == 0)
        filled[box][holes] = object_id
    return filled


def keep_ids(labels: AnyLabels, before: AnyLabels) -> AnyLabels:
    """Give objects the ids they had before, as far as they are the same objects.

    Each old id goes to the new object that covers most of the old one; objects
    without one get new ids above all old ones.

    Parameters
    ----------
    labels, before : integer, of one shape

    Returns
    -------
    uint32 or wider

    Raises
    ------
    InvalidLabelsError
        If the shapes differ.
    """
    if labels.shape != before.shape:
        raise InvalidLabelsError(
            f"labels of shape {labels.shape} cannot keep ids of {before.shape}"
        )
    is_both = (labels != 0) & (before != 0)
    pairs, counts = np.unique(
        np.stack([before[is_both], labels[is_both]]).astype(np.int64),
        axis=1,
        return_counts=True,
    )
    names: dict[int, int] = {}
    taken: set[int] = set()
    # the largest overlaps choose first; equal ones in the order of the old ids
    for i in np.argsort(-counts, kind="stable"):
        old, new = int(pairs[0, i]), int(pairs[1, i])
        if old not in taken and new not in names:
            names[new] = old
            taken.add(old)
    next_id = max(int(before.max(initial=0)), int(max(taken, default=0))) + 1
    for new in count_pixels(labels)[0].tolist():
        if new not in names:
            names[new] = next_id
            next_id += 1
    dtype = np.uint32 if next_id <= 2**32 else np.uint64
    renamed: AnyLabels = fastremap.remap(
        labels.astype(dtype), {0: 0} | names, in_place=True
    )
    return renamed


def narrow_labels(labels: AnyLabels, dtype: npt.DTypeLike) -> AnyLabels:
    """Convert labels to another data type, which must hold all ids.

    Raises
    ------
    LabelOverflowError
        If it does not; says which would, and how ids without gaps would fit.
    """
    target = np.dtype(dtype)
    largest = int(labels.max(initial=0))
    if largest > np.iinfo(target).max:
        n = len(count_pixels(labels)[0])
        way_out = (
            "relabel without gaps"
            if n <= np.iinfo(target).max
            else f"use {np.min_scalar_type(largest)}"
        )
        raise LabelOverflowError(
            f"id {largest} does not fit {target}, which ends at "
            f"{np.iinfo(target).max}: {way_out}"
        )
    return labels.astype(target)


def to_semantic(labels: AnyLabels, classes: dict[int, int] | None = None) -> AnyLabels:
    """Return the class of each pixel of an instance map.

    Parameters
    ----------
    labels : integer
    classes : dict of id to class, optional
        1 for every object if not given; objects that are not in it become 0.

    Returns
    -------
    uint8 or wider
    """
    if classes is None:
        return np.asarray(labels != 0, np.uint8)
    largest = max(classes.values(), default=0)
    dtype = np.min_scalar_type(largest)
    table = {int(i): classes.get(int(i), 0) for i in count_pixels(labels)[0]}
    wide = labels.astype(np.int64)
    semantic = fastremap.remap(wide, {0: 0} | table, in_place=True)
    return np.asarray(semantic, dtype)


def _runs(flat: AnyLabels) -> tuple[AnyLabels, npt.NDArray[np.int64]]:
    """Return the value of each run of equal pixels, and its length."""
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    return flat[starts], np.diff(starts, append=len(flat))


def _drop(labels: AnyLabels, ids: npt.NDArray[Any]) -> AnyLabels:
    if not len(ids):
        return labels.copy()
    dropped: AnyLabels = fastremap.mask(labels, ids.tolist(), in_place=False)
    return dropped
