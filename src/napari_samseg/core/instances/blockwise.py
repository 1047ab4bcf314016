"""Instances of volumes larger than memory, block by block.

A volume is gone through in blocks; what has to be known of the whole of it are
tables, as of the components that meet at the faces of blocks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from napari_samseg.core.errors import InvalidLabelsError, LabelOverflowError
from napari_samseg.core.images import ArrayLike
from napari_samseg.core.instances.components import (
    axes_of,
    label_components,
    neighbourhood,
)
from napari_samseg.core.types import Progress

__all__ = [
    "BlockwiseReport",
    "Writable",
    "block_shape",
    "block_slices",
    "label_blockwise",
    "thick_block_shape",
]

# Values held at once of what is read: some 100 MB with all that is made of them.
BLOCK_VALUES = 1 << 23

Block = tuple[slice, ...]


class Writable(Protocol):
    """An array that is written block by block, such as one of zarr."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def dtype(self) -> Any: ...  # noqa: D102

    def __getitem__(self, key: Any, /) -> Any: ...

    def __setitem__(self, key: Any, value: Any, /) -> None: ...


@dataclass(frozen=True, slots=True)
class BlockwiseReport:
    """What was made of a volume.

    Attributes
    ----------
    n_objects : int
    n_foreground : int
        Pixels that belong to objects.
    notes : tuple of str
        What a person should know of how objects were found.
    """

    n_objects: int
    n_foreground: int
    notes: tuple[str, ...] = ()


def label_blockwise(
    classes: ArrayLike,
    out: Writable,
    *,
    connectivity: int | None = None,
    block: Sequence[int] | None = None,
) -> Generator[Progress, None, BlockwiseReport]:
    """Label the connected components of a volume that need not fit in memory.

    Parameters
    ----------
    classes : (Y, X) or (Z, Y, X) bool or integer, array-like
        numpy, dask or zarr; 0 is background.
    out : array of the same shape, unsigned integer
        Gets ids from 1, without gaps.
    connectivity : int, optional
        See `napari_samseg.core.instances.components.neighbourhood`.
    block : sequence of int, optional
        Size of a block along each axis; a multiple of the chunks of `out` if they
        are to be written once. Chosen from the chunks if not given.

    Raises
    ------
    InvalidLabelsError
        If `out` has another shape, or see `label_components`.
    LabelOverflowError
        If there are more components than the data type of `out` counts.
    """
    shape = tuple(int(n) for n in classes.shape)
    if tuple(out.shape) != shape:
        raise InvalidLabelsError(
            f"labels of shape {shape} do not fit an output of shape {tuple(out.shape)}"
        )
    reach = axes_of(neighbourhood(len(shape), connectivity), len(shape))
    blocks = block_slices(out, block)
    largest = int(np.iinfo(out.dtype).max)
    n_found, n_foreground = 0, 0
    for done, where in enumerate(blocks):
        yield Progress("labelling blocks", done, len(blocks))
        labels = label_components(
            np.asarray(classes[where]), connectivity, is_piece=len(blocks) > 1
        )
        n_here = int(labels.max(initial=0))
        if n_found + n_here > largest:
            raise LabelOverflowError(
                f"there are more than {largest} components before blocks are joined, "
                f"which {np.dtype(out.dtype)} cannot count: write into a wider type"
            )
        numbered = labels.astype(out.dtype)
        numbered[labels > 0] += np.dtype(out.dtype).type(n_found)
        out[where] = numbered
        n_found += n_here
        n_foreground += int((labels > 0).sum())
    pairs = []
    for done, where in enumerate(blocks):
        yield Progress("joining blocks", done, len(blocks))
        pairs += list(_meetings(classes, out, where, reach))
    names, n_objects = _join(n_found, pairs)
    for done, where in enumerate(blocks):
        yield Progress("renumbering", done, len(blocks))
        out[where] = names[np.asarray(out[where])].astype(out.dtype)
    return BlockwiseReport(n_objects, n_foreground)


def block_shape(out: Any, block: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the size of the blocks that an array is written in.

    The size that is given, or whole chunks of the array, as many as fit in memory.
    """
    shape = tuple(int(n) for n in out.shape)
    if block is not None:
        return tuple(min(int(b), n) for b, n in zip(block, shape, strict=True))
    chunk = _chunk(out)
    size = list(chunk)
    if math.prod(size) > BLOCK_VALUES:
        # one chunk that is larger than wanted: planes of it
        size[0] = max(1, BLOCK_VALUES // math.prod(size[1:]))
        return tuple(size)
    grows = True
    while grows:
        grows = False
        for axis in reversed(range(len(size))):
            step = min(size[axis] + chunk[axis], shape[axis]) - size[axis]
            more = math.prod(size) // size[axis] * (size[axis] + step)
            if step > 0 and more <= BLOCK_VALUES:
                size[axis] += step
                grows = True
    return tuple(size)


def thick_block_shape(out: Any, size: Sequence[int]) -> tuple[int, ...]:
    """Return the size of blocks with little margin for what is in them.

    Parameters
    ----------
    out : array
    size : sequence of int
        Blocks that it is written in, as of `block_shape`.

    Returns
    -------
    tuple of int
        As many pixels along each axis as chunks of the array allow: these may be
        planes, of which a margin would be more than the block.
    """
    shape = tuple(int(n) for n in out.shape)
    step = [min(c, s) for c, s in zip(_chunk(out), size, strict=True)]
    # as deep as what was written before
    step[0] = size[0]
    thick = list(step)
    while True:
        per_axis = [math.prod(thick) // n for n in thick]
        open_axes = [
            axis
            for axis, n in enumerate(thick)
            if n < shape[axis] and per_axis[axis] * (n + step[axis]) <= BLOCK_VALUES
        ]
        if not open_axes:
            return tuple(thick)
        axis = min(open_axes, key=thick.__getitem__)
        thick[axis] = min(thick[axis] + step[axis], shape[axis])


def _chunk(out: Any) -> tuple[int, ...]:
    """Return what of an array is written at once."""
    shape = tuple(int(n) for n in out.shape)
    chunk = getattr(out, "shards", None) or getattr(out, "chunks", None) or shape
    return tuple(min(int(c), n) for c, n in zip(chunk, shape, strict=True))


def block_slices(out: Writable, block: Sequence[int] | None = None) -> list[Block]:
    """Return the blocks that an array is written in: whole chunks of it."""
    shape = tuple(int(n) for n in out.shape)
    ranges = [
        [slice(start, min(start + step, n)) for start in range(0, n, step)]
        for n, step in zip(shape, block_shape(out, block), strict=True)
    ]
    return list(itertools.product(*ranges))


def _meetings(
    classes: ArrayLike, out: Writable, where: Block, reach: int
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield pairs (N, 2) of ids that touch across the lower faces of a block.

    The block is seen with one pixel of its neighbours below and, along the other
    axes, on both sides: that is where corners meet.
    """
    for axis, own in enumerate(where):
        if own.start == 0:
            continue
        wide = [
            slice(max(0, s.start - 1), min(n, s.stop + 1))
            for s, n in zip(where, out.shape, strict=True)
        ]
        wide[axis] = slice(own.start - 1, own.start + 1)
        ids = np.asarray(out[tuple(wide)]).astype(np.int64)
        values = np.asarray(classes[tuple(wide)])
        below, above = (
            (slice(None),) * axis + (side,) for side in (slice(0, 1), slice(1, 2))
        )
        for shift in _shifts(ids.ndim, axis, reach):
            pairs = _pairs(
                (ids[below], values[below]), (ids[above], values[above]), shift
            )
            if len(pairs):
                yield pairs


def _shifts(ndim: int, axis: int, reach: int) -> Iterator[tuple[int, ...]]:
    """Yield the steps from one side of a face to neighbours on the other."""
    steps = [(0,) if a == axis else (-1, 0, 1) for a in range(ndim)]
    for shift in itertools.product(*steps):
        if sum(s != 0 for s in shift) + 1 <= reach:
            yield shift


def _pairs(
    a: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    b: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    shift: tuple[int, ...],
) -> npt.NDArray[np.int64]:
    here = tuple(slice(max(0, -s), -s if s > 0 else None) for s in shift)
    there = tuple(slice(max(0, s), s if s < 0 else None) for s in shift)
    ids_a, ids_b = a[0][here], b[0][there]
    touch = (ids_a != 0) & (ids_b != 0) & (a[1][here] == b[1][there])
    return np.unique(np.stack([ids_a[touch], ids_b[touch]], axis=1), axis=0)


def _join(
    n_found: int, pairs: Sequence[npt.NDArray[np.int64]]
) -> tuple[npt.NDArray[np.int64], int]:
    """Return the final id of each number, and how many objects there are."""
    joined = np.concatenate(pairs) if pairs else np.zeros((0, 2), np.int64)
    graph = coo_matrix(
        (np.ones(len(joined), np.uint8), tuple(joined.T)),
        shape=(n_found + 1, n_found + 1),
    )
    _, groups = connected_components(graph, directed=False)
    # in the order of the first number of each group; 0 stays alone and first
    order = np.unique(groups, return_index=True)[1]
    names = np.empty(len(order), np.int64)
    names[np.argsort(order)] = np.arange(len(order))
    return names[groups], len(order) - 1
