"""Polygons filled by scan lines: quick on planes of any size.

A pixel is inside if its centre is, by the even-odd rule; of a centre that lies on
the outline, the upper and the left sides count as inside.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_samseg.core.types import BoolArray

__all__ = ["encloses_pixel", "fill_polygon"]

Indices = npt.NDArray[np.int64]


def encloses_pixel(
    vertices_yx: npt.NDArray[np.float64], plane_size: tuple[int, int]
) -> bool:
    """Tell whether a polygon (V, 2) has a pixel of the plane inside, without filling.

    The last vertex is joined to the first.
    """
    columns = _switches(vertices_yx, plane_size)[1]
    return bool((columns < plane_size[1]).any())


def fill_polygon(
    vertices_yx: npt.NDArray[np.float64], plane_size: tuple[int, int]
) -> BoolArray:
    """Return the pixels of a plane inside a polygon (V, 2), as (Y, X) bool.

    The last vertex is joined to the first.
    """
    mask = np.zeros(plane_size, bool)
    rows, columns = _switches(vertices_yx, plane_size)
    if len(rows):
        y0, y1 = rows[0], rows[-1] + 1
        x0, x1 = columns.min(), columns.max()
        switches = np.zeros((y1 - y0, x1 - x0 + 1), bool)
        switches[rows - y0, columns - x0] = True
        inside = np.logical_xor.accumulate(switches, axis=1)
        mask[y0:y1, x0:x1] = inside[:, :-1]
    return mask


def _switches(
    vertices_yx: npt.NDArray[np.float64], plane_size: tuple[int, int]
) -> tuple[Indices, Indices]:
    """Rows and columns where a scan line enters or leaves a polygon, row by row.

    A column may be the plane's width, where a line leaves what is cut there.
    """
    height, width = plane_size
    start, stop = vertices_yx, np.roll(vertices_yx, -1, axis=0)
    down = (start[:, 0] <= stop[:, 0])[:, np.newaxis]
    upper, lower = np.where(down, start, stop), np.where(down, stop, start)
    # a line through a vertex meets only one of its two edges
    first = np.clip(np.ceil(upper[:, 0]), 0, height).astype(np.int64)
    last = np.clip(np.ceil(lower[:, 0]), 0, height).astype(np.int64)
    counts = last - first
    edges = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    rows += first[edges]
    (y0, x0), (y1, x1) = upper[edges].T, lower[edges].T
    crossed = x0 + (rows - y0) * (x1 - x0) / (y1 - y0)
    columns = np.clip(np.ceil(crossed), 0, width).astype(np.int64)
    # two crossings in front of the same pixel cancel each other
    places, times = np.unique(rows * (width + 1) + columns, return_counts=True)
    rows, columns = np.divmod(places[times % 2 == 1], width + 1)
    return rows, columns
