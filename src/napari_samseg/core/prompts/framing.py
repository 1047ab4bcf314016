"""Prompts of a plane as seen from a tile of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_samseg.core.geometry import Box, grow_box
from napari_samseg.core.prompts.mask_logits import MASK_LOGIT
from napari_samseg.core.types import FOREGROUND, PADDING, FloatArray, PlanePrompts

__all__ = ["frame_prompts", "prompted_extents"]


def prompted_extents(
    prompts: PlanePrompts, plane_size: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Return the box around what is known to belong to each object.

    Parameters
    ----------
    prompts : PlanePrompts
        In pixels of the plane.
    plane_size : (int, int)
        (Y, X) in pixels.

    Returns
    -------
    (N, 4) float64
        Half-open (y0, x0, y1, x1): the hull of foreground points, box, and mask.
        The whole plane where none of them says anything.
    """
    extents = np.empty((len(prompts), 4))
    for i in range(len(prompts)):
        points = prompts.points_yx[i][prompts.point_labels[i] == FOREGROUND]
        parts = [np.concatenate([point, point + 1]) for point in points]
        if prompts.has_box[i]:
            parts.append(prompts.boxes_yx[i])
        if prompts.low_res_masks is not None and prompts.has_mask[i]:
            parts += _mask_extent(prompts.low_res_masks[i], plane_size)
        extent = np.array([0, 0, *plane_size], float) if not parts else parts[0]
        for part in parts[1:]:
            extent = grow_box(extent, part)
        extents[i] = extent
    return extents


def frame_prompts(
    prompts: PlanePrompts, tile: Box, plane_size: tuple[int, int], low_res_size: int
) -> PlanePrompts:
    """Move prompts into the coordinates of a tile.

    Points of the background beyond the tile are left out: they say nothing about
    what it shows.

    Parameters
    ----------
    prompts : PlanePrompts
        In pixels of the plane; mask prompts (N, s, s) of any s.
    tile : (y0, x0, y1, x1)
        Half-open, in pixels of the plane.
    plane_size : (int, int)
        (Y, X) in pixels.
    low_res_size : int
        Side of the model's mask prompt.
    """
    origin = np.array(tile[:2], np.float32)
    size = np.array(tile[2:], np.float32) - origin
    points = prompts.points_yx - origin
    out = np.any((points < -0.5) | (points > size - 0.5), axis=2, keepdims=True)
    labels = np.where(out[..., 0], np.int8(PADDING), prompts.point_labels)
    masks = prompts.low_res_masks
    if masks is not None:
        masks = np.stack(
            [_frame_mask(m, tile, plane_size, low_res_size) for m in masks]
        )
    return PlanePrompts(
        prompts.object_ids,
        np.where(out, np.float32(0), points),
        labels,
        prompts.boxes_yx - np.concatenate([origin, origin]),
        masks,
    )


def _mask_extent(
    logits: FloatArray, plane_size: tuple[int, int]
) -> list[npt.NDArray[np.float64]]:
    """Return the box around positive logits in pixels of the plane, if any are."""
    cell = max(plane_size) / len(logits)
    rows = np.flatnonzero((logits > 0).any(axis=1))
    columns = np.flatnonzero((logits > 0).any(axis=0))
    if not len(rows):
        return []
    box = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) * cell
    return [np.minimum(box, [*plane_size, *plane_size])]


def _frame_mask(
    logits: FloatArray, tile: Box, plane_size: tuple[int, int], side: int
) -> FloatArray:
    """Resample logits (s, s) of the plane's frame into a tile's frame (side, side)."""
    if np.isnan(logits).all():
        return np.full((side, side), np.nan, np.float32)
    whole = (0, 0, *plane_size)
    if tile == whole and len(logits) == side:
        return logits
    cell = max(plane_size) / len(logits)
    height, width = tile[2] - tile[0], tile[3] - tile[1]
    step = max(height, width) / side
    rows = max(1, round(height / step))
    columns = max(1, round(width / step))
    framed = np.full((side, side), -MASK_LOGIT, np.float32)
    from_rows = _resampler(tile[0] / cell, step / cell, rows, len(logits))
    from_columns = _resampler(tile[1] / cell, step / cell, columns, len(logits))
    framed[:rows, :columns] = from_rows @ logits @ from_columns.T
    return framed


def _resampler(start: float, step: float, n_out: int, n_in: int) -> FloatArray:
    """Matrix (n_out, n_in) of linear resampling, averaging where it shrinks.

    Output cell i covers ``start + i * step`` to ``start + (i + 1) * step`` in cells
    of the input.
    """
    centres = start + (np.arange(n_out) + 0.5) * step
    # beyond the outermost centres of the input the value there holds
    centres = np.clip(centres, 0.5, n_in - 0.5)
    distance = np.abs(np.arange(n_in) + 0.5 - centres[:, np.newaxis])
    weights = np.clip(1 - distance / max(step, 1.0), 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(weights, np.float32)
