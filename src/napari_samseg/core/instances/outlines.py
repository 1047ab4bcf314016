"""Objects of a plane as polygons along the edges of their pixels, and back, exactly.

Corners are counted from the upper left corner of the plane, as in QuPath, COCO and
ImageJ: pixel (y, x) reaches from y to y + 1 and from x to x + 1. (In napari, and in the
rest of this package, an integer is the centre of a pixel: half a pixel less.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.prompts.polygon import fill_polygon
from napari_samseg.core.types import BoolArray

__all__ = ["Outline", "Ring", "fill_outlines", "join_rings", "outlines_of", "ring_area"]

# (V, 2) corners (y, x); the last is joined to the first and not repeated.
Ring = npt.NDArray[Any]

# Edges of a pixel that lies to their right: upper, right, lower, left. Where the
# pixel beyond lies, where the edge leads, and the corner it starts from.
BEYOND = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
AHEAD = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])
START = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """One part of an object: a polygon that may have holes.

    Rings do not cross themselves and visit no corner twice; two rings of a polygon
    may touch in a corner. That makes them valid as OGC simple features.

    Attributes
    ----------
    exterior : (V, 2) integer or float
        Corners (y, x).
    holes : tuple of (V, 2) integer or float
    """

    exterior: Ring
    holes: tuple[Ring, ...] = ()

    @property
    def rings(self) -> tuple[Ring, ...]:
        """The exterior, then the holes."""
        return (self.exterior, *self.holes)


def outlines_of(labels: npt.NDArray[Any]) -> dict[int, list[Outline]]:
    """Trace every object of a plane along the edges of its pixels.

    Parameters
    ----------
    labels : (Y, X) unsigned or non-negative integer
        0 is the background. Pixels of an object that touch only in a corner are parts
        of their own.

    Returns
    -------
    dict of id to list of Outline
        In the order of the ids; `fill_outlines` gives exactly the same pixels back.

    Raises
    ------
    InvalidLabelsError
        If it is no plane of integers.
    """
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise InvalidLabelsError(
            f"outlines are those of a plane (Y, X) of integers, not of {labels.dtype} "
            f"{labels.shape}"
        )
    if not labels.size or not labels.any():
        return {}
    # a copy in the machine's byte order, as cc3d wants it
    padded = np.pad(labels.astype(labels.dtype.newbyteorder("=")), 1)
    parts = cc3d.connected_components(padded, connectivity=4)
    exteriors: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    for part, ring in _trace(parts):
        for simple in _simple_rings(ring):
            # rings run with the object to their right: holes the other way round
            if ring_area(simple) > 0:
                exteriors[part] = simple
            else:
                holes.setdefault(part, []).append(simple)
    found: dict[int, list[Outline]] = {}
    for part, exterior in exteriors.items():
        # the first corner is the upper left one of a pixel of the part
        y, x = exterior[np.lexsort((exterior[:, 1], exterior[:, 0]))[0]]
        outline = Outline(exterior, tuple(holes.get(part, ())))
        found.setdefault(int(labels[y, x]), []).append(outline)
    return dict(sorted(found.items()))


def fill_outlines(
    outlines: Iterable[Outline], plane_size: tuple[int, int]
) -> tuple[tuple[int, int, int, int], BoolArray]:
    """Return the pixels whose centres lie inside polygons, as far as in the plane.

    Parameters
    ----------
    outlines : iterable of Outline
        Corners may be any real numbers.
    plane_size : (int, int)
        (Y, X) in pixels.

    Returns
    -------
    box_yx : (y0, x0, y1, x1)
        Half-open.
    mask : (y1 - y0, x1 - x0) bool
        Of size 0 where there is no pixel inside.
    """
    parts = list(outlines)
    corners = np.concatenate([part.exterior for part in parts]) if parts else None
    if corners is None or not len(corners):
        return (0, 0, 0, 0), np.zeros((0, 0), bool)
    size = np.array(plane_size)
    low = np.clip(np.floor(corners.min(axis=0)), 0, size).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)), low, size).astype(int)
    shape = (int(high[0] - low[0]), int(high[1] - low[1]))
    mask = np.zeros(shape, bool)
    for part in parts:
        filled = np.zeros(shape, bool)
        for ring in part.rings:
            # to centres of pixels of the box
            filled ^= fill_polygon(np.asarray(ring, np.float64) - 0.5 - low, shape)
        mask |= filled
    return (int(low[0]), int(low[1]), int(high[0]), int(high[1])), mask


def join_rings(outline: Outline) -> Ring:
    """Return a polygon with holes as one ring, for formats that know no holes.

    A cut leads to each hole and back the same way, so that it has no width.
    """
    joined = outline.exterior
    for hole in outline.holes:
        away = np.abs(joined[:, np.newaxis] - hole[np.newaxis]).sum(axis=2)
        at, first = np.unravel_index(int(away.argmin()), away.shape)
        there = np.roll(hole, -int(first), axis=0)
        cut = [joined[: at + 1], there, there[:1], joined[at:]]
        joined = np.concatenate(cut)
    return joined


def ring_area(ring: Ring) -> float:
    """Return the area inside a ring; negative where it runs round a hole."""
    y, x = np.asarray(ring, np.float64).T
    inner = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum()
    return float(inner + x[-1] * y[0] - x[0] * y[-1]) / 2


def _trace(parts: npt.NDArray[Any]) -> Iterator[tuple[int, Ring]]:
    """Yield part and corners of each closed line between pixels of padded parts."""
    width = parts.shape[1]
    flat = parts.ravel()
    step = (BEYOND[:, 0] * width + BEYOND[:, 1]).tolist()
    ahead = (AHEAD[:, 0] * width + AHEAD[:, 1]).tolist()
    inside = np.flatnonzero(flat)
    edges = [inside[flat[inside] != flat[inside + beyond]] for beyond in step]
    pixels = np.concatenate(edges)
    sides = np.repeat(np.arange(4), [len(of_side) for of_side in edges])
    # at a corner turn right round the pixel itself, or go on, or turn left
    part = flat[pixels]
    right = pixels + np.array(ahead)[sides]
    left = right + np.array(step)[sides]
    turns_right, goes_on = flat[right] != part, flat[left] != part
    next_pixel = np.where(turns_right, pixels, np.where(goes_on, right, left))
    next_side = (sides + np.where(turns_right, 1, np.where(goes_on, 0, 3))) % 4
    # keys rise, as each side's pixels do
    keys = sides * flat.size + pixels
    following = np.searchsorted(keys, next_side * flat.size + next_pixel)
    order, starts = _cycles(following.tolist())
    sides, pixels = sides[order], pixels[order]
    # the padding of one pixel goes again
    corners = np.stack(np.divmod(pixels, width), axis=1) - 1 + START[sides]
    before = np.roll(sides, 1)
    ends = np.append(starts[1:], len(order))
    before[starts] = sides[ends - 1]
    is_corner = sides != before
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        yield int(flat[pixels[start]]), corners[start:end][is_corner[start:end]]


def _cycles(following: list[int]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Order a permutation by its cycles; return the order and where each starts."""
    is_seen = bytearray(len(following))
    order: list[int] = []
    starts: list[int] = []
    for first in range(len(following)):
        if is_seen[first]:
            continue
        starts.append(len(order))
        at = first
        while not is_seen[at]:
            is_seen[at] = 1
            order.append(at)
            at = following[at]
    return np.array(order, np.int64), np.array(starts, np.int64)


def _simple_rings(ring: Ring) -> Iterator[Ring]:
    """Split a ring where it comes to a corner again."""
    corners = [tuple(corner) for corner in ring.tolist()]
    if len(set(corners)) == len(corners):
        yield ring
        return
    path: list[Sequence[int]] = []
    places: dict[Sequence[int], int] = {}
    for corner in corners:
        if corner in places:
            start = places[corner]
            yield np.array(path[start:])
            for left in path[start:]:
                del places[left]
            del path[start:]
        places[corner] = len(path)
        path.append(corner)
    yield np.array(path)
