"""The model frame: from the plane to the square an encoder sees, and back.

SAM resizes a plane until its longer side fills a square, pads the rest at the
bottom and right, and answers with small square logits. This file alone knows
those conventions and SAM's order xy: points, boxes and planes go in, masks come
out (Kirillov et al. 2023, `ResizeLongestSide` and `Sam.postprocess_masks`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from napari_samseg.core.types import BoolArray, FloatArray, IntArray

__all__ = [
    "boxes_to_frame",
    "crop_mask",
    "points_to_frame",
    "resize_plane",
    "resized_size",
]

# Full-resolution logits are thresholded in blocks of rows of at most this size.
BLOCK_PIXELS = 1 << 22


def resized_size(original_size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the size (Y, X) a plane has inside the model's square of `side` pixels.

    The longer side becomes `side`; the shorter one is at least one pixel, where
    SAM would round a very elongated plane down to nothing.
    """
    scale = side / max(original_size)
    y, x = (max(1, int(length * scale + 0.5)) for length in original_size)
    return y, x


def resize_plane(plane: FloatArray, side: int) -> torch.Tensor:
    """Resize a plane (Y, X, 3) to the model frame, without padding.

    Returns (1, 3, y, x) float32 on the CPU. SamPredictor resizes 8-bit images with
    Pillow and rounds them to whole grey levels; planes here are floating point,
    so the same antialiased bilinear filter runs in torch, without rounding. For an
    8-bit plane the two differ by less than one grey level.
    """
    y, x = plane.shape[:2]
    pixels = np.ascontiguousarray(plane, np.float32)
    if not pixels.flags.writeable:
        pixels = pixels.copy()
    # A view: a plane may fill much of the memory, the resized one never does.
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    size = resized_size((y, x), side)
    if size != (y, x):
        tensor = F.interpolate(
            tensor, size, mode="bilinear", align_corners=False, antialias=True
        )
    return tensor.contiguous()


def points_to_frame(
    points_yx: FloatArray, original_size: tuple[int, int], side: int
) -> FloatArray:
    """Turn points (..., 2) in yx of the plane into xy of the model frame."""
    return (points_yx * _scale_yx(original_size, side))[..., ::-1].astype(np.float32)


def boxes_to_frame(
    boxes_yx: FloatArray, original_size: tuple[int, int], side: int
) -> FloatArray:
    """Turn half-open boxes (N, 4) in yx into SAM's ``(x0, y0, x1, y1)``, scaled.

    SAM's corners are pixel centres: the last pixel of a half-open box is one less
    than its end.
    """
    corners = boxes_yx.reshape(-1, 2, 2) - np.array([[0], [1]], np.float32)
    return points_to_frame(corners, original_size, side).reshape(-1, 4)


def _scale_yx(original_size: tuple[int, int], side: int) -> npt.NDArray[np.float64]:
    return np.divide(resized_size(original_size, side), original_size)


def crop_mask(
    logits: FloatArray, original_size: tuple[int, int], side: int
) -> tuple[BoolArray, IntArray]:
    """Threshold low-resolution logits at the full resolution of the plane.

    The logits are enlarged to the square of `side` pixels, its padding is cut
    off, and the rest is resized to the plane, each time bilinearly, as
    `Sam.postprocess_masks` does. Both steps are linear and separable, so they are
    one product with a matrix on either side; only the part of the plane that a
    positive logit can reach is computed.

    Parameters
    ----------
    logits : (h, w) float32
    original_size : (int, int)
        (Y, X) of the plane.
    side : int
        Side of the model's square, in pixels.

    Returns
    -------
    crop : (y, x) bool
        The mask inside its tight box; of size 0 if nothing is above 0.
    box_yx : (4,) int64
        Half-open box of the crop in the plane.
    """
    empty = np.zeros((0, 0), bool), np.zeros(4, np.int64)
    positive = logits > 0
    if not positive.any():
        return empty
    size = resized_size(original_size, side)
    rows = _enlarger(logits.shape[0], side, size[0], original_size[0])
    columns = _enlarger(logits.shape[1], side, size[1], original_size[1])
    y0, y1, ly0, ly1 = rows.reach(np.flatnonzero(positive.any(axis=1)))
    x0, x1, lx0, lx1 = columns.reach(np.flatnonzero(positive.any(axis=0)))
    right = logits[ly0:ly1, lx0:lx1] @ columns.weights[x0:x1, lx0:lx1].T
    left = rows.weights[y0:y1, ly0:ly1]
    mask = np.empty((y1 - y0, x1 - x0), bool)
    step = max(1, BLOCK_PIXELS // max(1, x1 - x0))
    for start in range(0, len(mask), step):
        block = slice(start, start + step)
        np.greater(left[block] @ right, 0, out=mask[block])
    return _tighten(mask, (y0, x0)) if mask.any() else empty


def _tighten(mask: BoolArray, origin_yx: tuple[int, int]) -> tuple[BoolArray, IntArray]:
    """Cut a mask that is not empty down to its tight box."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    y0, y1 = int(rows[0]), int(rows[-1]) + 1
    x0, x1 = int(columns[0]), int(columns[-1]) + 1
    y, x = origin_yx
    box = np.array([y + y0, x + x0, y + y1, x + x1], np.int64)
    return mask[y0:y1, x0:x1].copy(), box


class _Enlarger(NamedTuple):
    """One axis of the way from low-resolution logits to the plane.

    `weights` (length, low) float32 has few values per row, from `first` to
    `last` (length,), both rising along the axis.
    """

    weights: FloatArray
    first: IntArray
    last: IntArray

    def reach(self, positive: npt.NDArray[np.intp]) -> tuple[int, int, int, int]:
        """Return the part of the plane that logits at some positions reach.

        The first two numbers are a half-open range in the plane, the others the
        range of logits it is computed from.
        """
        start = int(np.searchsorted(self.last, positive[0]))
        stop = int(np.searchsorted(self.first, positive[-1], side="right"))
        if start >= stop:
            return 0, 0, 0, 0
        return start, stop, int(self.first[start]), int(self.last[stop - 1]) + 1


@lru_cache(maxsize=16)
def _enlarger(low: int, side: int, inner: int, length: int) -> _Enlarger:
    """Compose low -> `side`, cut to `inner`, -> `length`, along one axis."""
    whole = _bilinear(low, side)[:inner]
    indices, fractions = _bilinear_taps(inner, length)
    weights = whole[indices[:, 0]] * (1 - fractions)[:, None]
    weights += whole[indices[:, 1]] * fractions[:, None]
    used = weights != 0
    first = np.maximum.accumulate(used.argmax(axis=1))
    last = np.maximum.accumulate(low - 1 - used[:, ::-1].argmax(axis=1))
    return _Enlarger(weights, first, last)


def _bilinear(low: int, high: int) -> FloatArray:
    """Matrix (high, low) of bilinear resizing along one axis."""
    indices, fractions = _bilinear_taps(low, high)
    matrix = np.zeros((high, low), np.float32)
    np.add.at(matrix, (np.arange(high), indices[:, 0]), 1 - fractions)
    np.add.at(matrix, (np.arange(high), indices[:, 1]), fractions)
    return matrix


def _bilinear_taps(low: int, high: int) -> tuple[IntArray, FloatArray]:
    """Return indices (high, 2) and the weight of the second, corners not aligned."""
    centre = np.maximum((np.arange(high) + 0.5) * (low / high) - 0.5, 0)
    lower = np.minimum(centre.astype(np.int64), low - 1)
    upper = np.minimum(lower + 1, low - 1)
    return np.stack([lower, upper], axis=1), (centre - lower).astype(np.float32)
