"""True masks of prompted objects, as the loss compares them with logits.

A cell of a target is the share of it that the object covers. Single points would miss
what is thinner than a cell, and teach that there is nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from napari_samseg.core.models.frame import resized_size
from napari_samseg.core.types import BoolArray, IntArray

__all__ = ["ObjectTargets", "window_grid", "window_targets"]

# The window reaches beyond the object by this share of its longer side, plus pixels
# for objects of a few pixels.
WINDOW_MARGIN, WINDOW_MARGIN_PIXELS = 0.35, 2.0

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class ObjectTargets:
    """The true masks of N objects in windows.

    Attributes
    ----------
    windows_xyxy : (N, 4) float tensor
        Window of each object, as fractions 0..1 of the area the logits cover.
    masks : (N, k, k) float tensor
        Share of each cell of the window that the object covers, in 0..1.
    extents_xy : (N, 2) float tensor, optional
        Where the view ends, as fractions of the area the logits cover: beyond is
        padding, in which nothing is right or wrong. Without, there is none.
    spots_xy : (N, k, k, 2) float tensor, optional
        Where a click into each cell goes, as fractions of the cell; into its middle
        without.
    whole : (N, h, w) float tensor, optional
        Share of each cell of the whole view that the object covers.
    """

    windows_xyxy: torch.Tensor
    masks: torch.Tensor
    extents_xy: torch.Tensor | None = None
    spots_xy: torch.Tensor | None = None
    whole: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, rows: torch.Tensor) -> ObjectTargets:
        """Return the targets of some objects."""
        return ObjectTargets(
            self.windows_xyxy[rows],
            self.masks[rows],
            None if self.extents_xy is None else self.extents_xy[rows],
            None if self.spots_xy is None else self.spots_xy[rows],
            None if self.whole is None else self.whole[rows],
        )

    def to(self, device: torch.device) -> ObjectTargets:
        """Return a copy on a device."""
        return ObjectTargets(
            self.windows_xyxy.to(device),
            self.masks.to(device),
            None if self.extents_xy is None else self.extents_xy.to(device),
            None if self.spots_xy is None else self.spots_xy.to(device),
            None if self.whole is None else self.whole.to(device),
        )

    @property
    def is_object(self) -> torch.Tensor:
        """Cells that count as the object's, (N, k, k) bool; never none of an object.

        Those covered by more than half as much as the fullest: all cells of an object
        may be covered by a little.
        """
        return self.masks > 0.5 * self.masks.amax((-2, -1), keepdim=True)


def window_grid(windows_xyxy: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return middles of cells as `grid_sample` takes them, (N, h, w, 2) in -1..1.

    Parameters
    ----------
    windows_xyxy : (N, 4) float tensor
        As fractions 0..1 of the area that the logits cover.
    size : (int, int)
        (h, w), cells along each side.
    """
    x0, y0, x1, y1 = windows_xyxy.unbind(1)
    down, right = (
        (torch.arange(n, device=windows_xyxy.device) + 0.5) / n for n in size
    )
    x = x0[:, None] + (x1 - x0)[:, None] * right
    y = y0[:, None] + (y1 - y0)[:, None] * down
    grid = torch.stack(
        [x[:, None, :].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])],
        dim=-1,
    )
    return grid * 2 - 1


def window_targets(
    crops: Sequence[BoolArray],
    boxes_yx: IntArray,
    size: tuple[int, int],
    side: int,
    *,
    samples: int = 48,
    plane: bool = False,
    clicks: bool = False,
    logits_side: int | None = None,
) -> ObjectTargets:
    """Reduce masks to the cells of windows around their objects.

    Parameters
    ----------
    crops : sequence of N (y, x) bool
        The masks inside their boxes.
    boxes_yx : (N, 4) int64
        Half-open, in pixels of the view.
    size : (int, int)
        (Y, X) of the view, in pixels.
    side : int
        Side of the model's square, in pixels, which the logits cover.
    samples : int
        Cells along each side of a window.
    plane : bool
        One window for all: the whole view.
    clicks : bool
        Find out where clicks into cells go, which takes as long again.
    logits_side : int, optional
        Side of the logits: with it, the whole masks are there too, in cells of about
        that size.
    """
    n = len(crops)
    windows = np.zeros((n, 4), np.float32)
    masks = np.zeros((n, samples, samples), np.float32)
    spots = np.zeros((n, samples, samples, 2), np.float32) if clicks else None
    height, width = resized_size(size, side)
    extents = np.array([width / side, height / side], np.float32)
    shape = _cells(extents, logits_side or 0)
    whole = np.zeros((n, *shape), np.float32)
    for i, (crop, box) in enumerate(zip(crops, boxes_yx.tolist(), strict=True)):
        y0, x0, y1, x1 = (0.0, 0.0, *size) if plane else _window(box, size)
        windows[i] = x0, y0, x1, y1
        pixels = crop.astype(np.float32)
        down = _Cells.of(y0 - box[0], y1 - box[0], samples, crop.shape[0])
        right = _Cells.of(x0 - box[1], x1 - box[1], samples, crop.shape[1])
        masks[i] = _cover(pixels, down, right)
        if spots is not None:
            spots[i] = _spots(pixels, down, right, masks[i])
        if logits_side is not None:
            rows = _Cells.of(-box[0], size[0] - box[0], shape[0], crop.shape[0])
            columns = _Cells.of(-box[1], size[1] - box[1], shape[1], crop.shape[1])
            whole[i] = _cover(pixels, rows, columns)
    scale = extents / np.array(size[::-1], np.float32)
    return ObjectTargets(
        torch.from_numpy(windows * np.tile(scale, 2)),
        torch.from_numpy(masks),
        torch.from_numpy(np.tile(extents, (n, 1))),
        None if spots is None else torch.from_numpy(spots),
        None if logits_side is None else torch.from_numpy(whole),
    )


def _window(box: Sequence[int], size: tuple[int, int]) -> tuple[float, ...]:
    """Return the window (y0, x0, y1, x1) around a box, in pixels of the view."""
    longest = max(box[2] - box[0], box[3] - box[1])
    margin = WINDOW_MARGIN * longest + WINDOW_MARGIN_PIXELS
    low = (max(box[axis] - margin, 0.0) for axis in (0, 1))
    high = (min(box[axis + 2] + margin, float(size[axis])) for axis in (0, 1))
    return (*low, *high)


def _cells(extents_xy: Float32, side: int) -> tuple[int, int]:
    """Count the cells of logits (rows, columns) that show the view, parts as whole."""
    width, height = (math.ceil(e * side - 1e-3) for e in extents_xy.tolist())
    return height, width


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Cells along one axis of a window, and the pixels of a crop.

    Attributes
    ----------
    shares : (k, n) float32
        Share of each cell that each pixel takes.
    moments : (k, n) float32
        That, times where in the cell its middle is, 0..1.
    """

    shares: Float32
    moments: Float32

    @classmethod
    def of(cls, start: float, end: float, k: int, n: int) -> _Cells:
        """Lay k cells from `start` to `end`, in pixels of a crop of n."""
        edges = np.linspace(start, end, k + 1)[:, None]
        pixels = np.arange(n)
        low = np.maximum(edges[:-1], pixels)
        high = np.minimum(edges[1:], pixels + 1)
        length = (end - start) / k
        shares = np.maximum(high - low, 0) / length
        moments = shares * ((low + high) / 2 - edges[:-1]) / length
        return cls(shares.astype(np.float32), moments.astype(np.float32))


def _cover(pixels: Float32, down: _Cells, right: _Cells) -> Float32:
    """Return what the object covers of each cell, (k, l) float32 in 0..1."""
    return (down.shares @ pixels @ right.shares.T).clip(0, 1)


def _spots(pixels: Float32, down: _Cells, right: _Cells, shares: Float32) -> Float32:
    """Return where a click into each cell goes, (k, l, 2) float32 in xy, 0..1.

    To the middle of the object's part of cells that count as the object's, and to the
    middle of the rest in others: the middle of a cell need not be on a thin object.
    """
    right_moments = down.shares @ pixels @ right.moments.T
    down_moments = down.moments @ pixels @ right.shares.T
    middles = np.stack([right_moments, down_moments], axis=-1)
    is_object = (shares > 0.5 * shares.max())[..., None]
    part = shares[..., None]
    spots = np.where(is_object, middles, 0.5 - middles)
    spots /= np.maximum(np.where(is_object, part, 1 - part), 1e-6)
    return np.asarray(spots.clip(0, 1))
