"""Tiles: parts of a plane too large to be encoded at once.

A pyramid of tiles covers a plane: at the finest scale tiles of the model's own size,
at each coarser one tiles twice as large (encoded at half the resolution), up to one
that is the whole plane. Neighbours overlap, so that every object lies whole in a tile
of a scale that suits its size: objects are never cut at a border and sewn together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import SettingsError

__all__ = ["Box", "choose_tile", "grow_box", "tile_pyramid", "touches_inner_border"]

# Half-open (y0, x0, y1, x1) in pixels of the plane.
Box = tuple[int, int, int, int]


def tile_pyramid(
    plane_size: tuple[int, int], tile: int, overlap: float = 0.25
) -> tuple[Box, ...]:
    """Cover a plane with overlapping tiles at all scales, the finest first.

    Parameters
    ----------
    plane_size : (int, int)
        (Y, X) in pixels.
    tile : int
        Side of the finest tiles, in pixels. A plane that is no larger is one tile.
    overlap : float
        Share of a tile that it has in common with the next: an object up to this
        share of the side of a tile lies whole in one.

    Returns
    -------
    tuple of (y0, x0, y1, x1)
        The last one is the whole plane.

    Raises
    ------
    SettingsError
        If `tile` is below 16, or `overlap` not from 0 up to 0.5.
    """
    if tile < 16:
        raise SettingsError(f"tiles of {tile} pixels are too small: take 16 or more")
    if not 0 <= overlap <= 0.5:
        raise SettingsError(f"an overlap of {overlap:g} is not from 0 to 0.5")
    height, width = plane_size
    tiles: list[Box] = []
    side = tile
    while side < max(plane_size):
        rows = _starts(height, side, overlap)
        columns = _starts(width, side, overlap)
        tiles += [
            (y, x, min(y + side, height), min(x + side, width))
            for y in rows
            for x in columns
        ]
        side *= 2
    return (*tiles, (0, 0, height, width))


def choose_tile(
    tiles: Sequence[Box],
    extent: npt.NDArray[np.floating],
    plane_size: tuple[int, int],
    *,
    larger_than: int = 0,
) -> int:
    """Choose the tile that shows an object best.

    Parameters
    ----------
    tiles : sequence of (y0, x0, y1, x1)
        Of `tile_pyramid`.
    extent : (4,) float
        Half-open box (y0, x0, y1, x1) of what is known of the object.
    plane_size : (int, int)
        (Y, X) in pixels.
    larger_than : int
        Only tiles with a longer side than this come into question.

    Returns
    -------
    int
        Of the smallest tiles that hold the extent, the one with most room around
        it (the border of the plane is no border).
    """
    boxes = np.array(tiles, float)
    room = np.stack(
        [
            np.where(boxes[:, 0] <= 0, np.inf, extent[0] - boxes[:, 0]),
            np.where(boxes[:, 1] <= 0, np.inf, extent[1] - boxes[:, 1]),
            np.where(boxes[:, 2] >= plane_size[0], np.inf, boxes[:, 2] - extent[2]),
            np.where(boxes[:, 3] >= plane_size[1], np.inf, boxes[:, 3] - extent[3]),
        ]
    ).min(axis=0)
    side = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    # some context is wanted, too: a tenth of the tile around the object
    length = max(float(extent[2] - extent[0]), float(extent[3] - extent[1]))
    holds = room >= np.minimum(side / 10, max(16.0, length / 8))
    holds &= side > larger_than
    if not holds.any():
        return len(tiles) - 1
    smallest = side[holds].min()
    best = np.where(holds & (side == smallest), room, -np.inf)
    return int(best.argmax())


def touches_inner_border(
    box_yx: Sequence[int], tile: Box, plane_size: tuple[int, int], margin: int = 2
) -> bool:
    """Tell whether a box in a tile reaches a side that is not the plane's border."""
    y0, x0, y1, x1 = box_yx
    sides = (
        tile[0] > 0 and y0 <= tile[0] + margin,
        tile[1] > 0 and x0 <= tile[1] + margin,
        tile[2] < plane_size[0] and y1 >= tile[2] - margin,
        tile[3] < plane_size[1] and x1 >= tile[3] - margin,
    )
    return any(sides)


def grow_box(
    a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]
) -> npt.NDArray[np.floating]:
    """Return the smallest box around two boxes."""
    return np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Spread tiles evenly, so that neighbours overlap by at least their share."""
    if length <= side:
        return [0]
    step = side * (1 - overlap)
    n = math.ceil((length - side) / step) + 1
    return [round(start) for start in np.linspace(0, length - side, n)]
