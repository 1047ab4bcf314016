"""Crops of the packed images as training batches, each a function of seed and step.

A crop is a window of the model's canvas: the image is scaled, turned and shifted under
it, and the window has a random place on the canvas, so that positions mean the same
in training as they do when a whole image is encoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pack import PackedImage
from scipy import ndimage
from torch.nn import functional

from napari_samseg.core.training.targets import ObjectTargets

CANVAS = 512
WINDOW_SAMPLES = 48
# how often each set is drawn; within a set every image is equally likely
SHARES = {
    "dsb2018/dark_background_gray": 0.24,
    "dsb2018/color_stained": 0.11,
    "dsb2018/bright_background_gray": 0.06,
    "axon_sem": 0.24,
    "em_fib25": 0.07,
    "mri_lesions": 0.03,
    "laptrack_cells": 0.04,
    "generated/cells": 0.06,
    "generated/capsules": 0.03,
    "generated/rings": 0.04,
    "generated/reliefs": 0.05,
    "generated/tissue": 0.03,
}
# of images whose objects nest, how often the outer ones are prompted
OUTER_SHARE = 0.3

Random = np.random.Generator


@dataclass(frozen=True, slots=True)
class CropPlan:
    """Size of a batch: `crops` windows of `size` pixels, some objects in each."""

    size: int
    crops: int
    objects: int


@dataclass(frozen=True, slots=True, eq=False)
class CropBatch:
    """Crops and the objects prompted in them.

    Attributes
    ----------
    pixels : (B, 3, S, S) float32 in 0..255, and `valid` (B, 1, S, S), 0 off the image
    labels : (B, S/2, S/2) int64, for the dense targets
    image_index : (N,) int64
        Crop of each object.
    boxes_xyxy, points_xy, point_labels
        Prompts in pixels of the crop, as SAM counts them: (N, 4), (N, 3, 2), (N, 3).
    targets : ObjectTargets
    offset_xy : (int, int)
        Place of the crops on the canvas, in pixels, multiples of 8.
    """

    pixels: torch.Tensor
    valid: torch.Tensor
    labels: torch.Tensor
    image_index: torch.Tensor
    boxes_xyxy: torch.Tensor
    points_xy: torch.Tensor
    point_labels: torch.Tensor
    targets: ObjectTargets
    offset_xy: tuple[int, int]


class CropSource:
    """Draws crops from the training images of a pack."""

    def __init__(self, images: list[PackedImage], *, seed: int) -> None:
        self.seed = seed
        self.images = [i for i in images if i.split == "train"]
        by_source: dict[str, list[int]] = {}
        for i, image in enumerate(self.images):
            by_source.setdefault(image.source, []).append(i)
        self.sources = [s for s in SHARES if s in by_source]
        share = np.array([SHARES[s] for s in self.sources])
        self.share = share / share.sum()
        self.members = [by_source[s] for s in self.sources]
        self.pyramids = [_pyramid(image.pixels) for image in self.images]
        self.objects = [[_objects(m) for m in image.labels] for image in self.images]

    def batch_at(self, step: int, plan: CropPlan) -> CropBatch:
        """Draw the batch of a step."""
        rng = np.random.default_rng((self.seed, step))
        crops = [self._crop(rng, plan) for _ in range(plan.crops)]
        offset = tuple(
            int(v) * 8 for v in rng.integers(0, (CANVAS - plan.size) // 8 + 1, 2)
        )
        prompts = [
            o for b, crop in enumerate(crops) for o in _prompt(rng, crop, b, plan)
        ]
        if not prompts:  # no crop shows an object: draw again, still from the seed
            return self.batch_at(step + 1_000_003, plan)
        fine = np.stack([crop.labels for crop in crops])
        return CropBatch(
            pixels=torch.stack([crop.pixels for crop in crops]),
            valid=torch.stack([crop.valid for crop in crops]),
            labels=torch.from_numpy(fine[:, 2::4, 2::4].astype(np.int64)),
            image_index=torch.tensor([p.crop for p in prompts]),
            boxes_xyxy=torch.from_numpy(np.stack([p.box for p in prompts])),
            points_xy=torch.from_numpy(np.stack([p.points for p in prompts])),
            point_labels=torch.from_numpy(np.stack([p.labels for p in prompts])),
            targets=ObjectTargets(
                torch.from_numpy(np.stack([p.window for p in prompts])),
                torch.from_numpy(np.stack([p.mask for p in prompts])),
            ),
            offset_xy=(offset[0], offset[1]),
        )

    def _crop(self, rng: Random, plan: CropPlan) -> _Crop:
        source = rng.choice(len(self.sources), p=self.share)
        i = int(rng.choice(self.members[source]))
        # the first map is the inner one, which a lone point more often means
        nested = len(self.images[i].labels) > 1
        which = int(nested and rng.random() < OUTER_SHARE)
        labels, objects = self.images[i].labels[which], self.objects[i][which]
        if not len(objects):
            return self._crop(rng, plan)
        height, width = labels.shape
        anchor = objects[rng.integers(len(objects))]
        natural = CANVAS / max(height, width)
        scale = natural * np.exp(rng.normal(0, 0.35))
        if rng.random() < 0.2:
            wanted = np.exp(rng.uniform(np.log(8), np.log(0.7 * plan.size)))
            scale = wanted / np.sqrt(anchor[2])
        scale = float(np.clip(scale, natural / 3, natural * 5))
        centre = anchor[:2] + rng.uniform(-0.35, 0.35, 2) * plan.size / scale
        half = plan.size / scale / 2
        extent = np.array([height, width])
        if rng.random() < 0.8:  # keep the window on the image where it fits
            centre = np.where(
                extent > 2 * half, np.clip(centre, half, extent - half), centre
            )
        turn = rng.integers(4) * np.pi / 2
        if rng.random() < 0.35:
            turn += rng.uniform(-np.pi / 4, np.pi / 4)
        flip = rng.choice([-1.0, 1.0])
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix = matrix @ np.diag([flip, 1.0]) / scale
        pixels, valid = _warp_pixels(self.pyramids[i], matrix, centre, plan.size)
        fine = _warp_labels(labels, matrix, centre, plan.size)
        areas = np.zeros(int(labels.max()) + 1, np.float32)
        areas[objects[:, 3].astype(int)] = objects[:, 2] * scale**2
        return _Crop(pixels, valid, fine, areas, scale)


@dataclass(frozen=True, slots=True, eq=False)
class _Crop:
    pixels: torch.Tensor
    valid: torch.Tensor
    labels: npt.NDArray[np.int32]  # twice as fine as the pixels
    areas: npt.NDArray[np.float32]  # whole area of each object, in crop pixels
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class _Prompt:
    crop: int
    box: npt.NDArray[np.float32]
    points: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    window: npt.NDArray[np.float32]
    mask: npt.NDArray[np.float32]


def _pyramid(pixels: npt.NDArray[np.uint8]) -> list[torch.Tensor]:
    """Levels (C, Y, X) uint8, each half the one before."""
    level = torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).contiguous()
    levels = [level]
    while min(level.shape[1:]) > 256 and len(levels) < 4:
        level = functional.avg_pool2d(level[None].float(), 2)[0].round().byte()
        levels.append(level)
    return levels


def _objects(labels: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
    """Rows of (y, x, area, id), centres of the bounding boxes."""
    areas = np.bincount(labels.ravel())
    rows = [
        (
            (s[0].start + s[0].stop) / 2,
            (s[1].start + s[1].stop) / 2,
            areas[i + 1],
            i + 1,
        )
        for i, s in enumerate(ndimage.find_objects(labels.astype(np.int32)))
        if s is not None and areas[i + 1] >= 20
    ]
    return np.array(rows, np.float64).reshape(-1, 4)


def _source_yx(
    matrix: npt.NDArray[np.float64],
    centre: npt.NDArray[np.float64],
    size: int,
    count: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Source coordinates, continuous, of a count x count grid over the crop.

    Two arrays: reductions over a last axis of two are what made crops slow.
    """
    steps = ((np.arange(count) + 0.5) * (size / count) - size / 2).astype(np.float32)
    m, c = matrix.astype(np.float32), centre.astype(np.float32)
    y = (m[0, 0] * steps + c[0])[:, None] + (m[0, 1] * steps)[None]
    x = (m[1, 0] * steps + c[1])[:, None] + (m[1, 1] * steps)[None]
    return y, x


def _warp_pixels(
    levels: list[torch.Tensor],
    matrix: npt.NDArray[np.float64],
    centre: npt.NDArray[np.float64],
    size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    step = float(np.sqrt(abs(np.linalg.det(matrix))))
    level = int(np.clip(np.floor(np.log2(max(step, 1.0)) + 0.35), 0, len(levels) - 1))
    image = levels[level]
    valid = np.ones((size, size), bool)
    grid, spans = [], []
    for axis, source in enumerate(_source_yx(matrix, centre, size, size)):
        source = source / np.float32(2**level)
        extent = image.shape[1 + axis]
        # the grid is affine: its extremes are at the corners
        corners = source[:: size - 1, :: size - 1]
        low = int(np.clip(np.floor(corners.min()) - 1, 0, extent - 1))
        high = int(np.clip(np.ceil(corners.max()) + 1, low + 1, extent))
        valid &= (source >= 0) & (source <= extent)
        grid.append((source - np.float32(low)) * np.float32(2 / (high - low)) - 1)
        spans.append(slice(low, high))
    part = image[:, spans[0], spans[1]].float()[None]
    grid_xy = torch.from_numpy(np.stack(grid[::-1], -1))[None]
    pixels = functional.grid_sample(
        part, grid_xy, padding_mode="border", align_corners=False
    )[0]
    return pixels.expand(3, -1, -1), torch.from_numpy(valid)[None].float()


def _warp_labels(
    labels: npt.NDArray[np.uint16],
    matrix: npt.NDArray[np.float64],
    centre: npt.NDArray[np.float64],
    size: int,
) -> npt.NDArray[np.int32]:
    y, x = _source_yx(matrix, centre, size, 2 * size)
    # truncation is the floor for what is inside, and -0.5 is caught by its sign
    iy, ix = y.astype(np.int32), x.astype(np.int32)
    inside = (y >= 0) & (x >= 0) & (iy < labels.shape[0]) & (ix < labels.shape[1])
    index = np.where(inside, iy * np.int32(labels.shape[1]) + ix, 0)
    return labels.ravel()[index].astype(np.int32) * inside


def _prompt(rng: Random, crop: _Crop, index: int, plan: CropPlan) -> list[_Prompt]:
    """Prompt some of the objects that a crop shows."""
    visible = np.bincount(crop.labels.ravel(), minlength=len(crop.areas)) / 4
    visible[0] = 0
    wanted = (visible >= 6) & (visible >= 0.3 * crop.areas[: len(visible)])
    ids = np.flatnonzero(wanted)
    ids = rng.permutation(ids)[: plan.objects]
    if not len(ids):
        return []
    slices = ndimage.find_objects(crop.labels, int(ids.max()))
    return [_prompt_object(rng, crop, index, int(i), slices[i - 1]) for i in ids]


def _prompt_object(
    rng: Random, crop: _Crop, index: int, object_id: int, part: tuple[slice, slice]
) -> _Prompt:
    size = crop.labels.shape[0] // 2
    mask = crop.labels[part] == object_id
    y0, x0 = part[0].start / 2, part[1].start / 2
    y1, x1 = part[0].stop / 2, part[1].stop / 2
    h, w = y1 - y0, x1 - x0
    jitter = rng.uniform(-0.1, 0.1, 4) * (rng.random() < 0.85)
    # boxes are cut at the border, as they are in a whole image
    bx0, by0 = max(x0 + jitter[0] * w, 0), max(y0 + jitter[1] * h, 0)
    bx1, by1 = min(x1 + jitter[2] * w, size), min(y1 + jitter[3] * h, size)
    # SAM counts pixels of the original: the last one ends one scaled pixel earlier
    s = crop.scale
    box = np.array([bx0, by0, bx1 - s, by1 - s], np.float32)
    points, labels = _points(rng, crop, mask, (part[0].start, part[1].start), object_id)
    margin = 0.35 * max(h, w) + 3
    window = np.array([x0 - margin, y0 - margin, x1 + margin, y1 + margin])
    window = np.clip(window, 0, size)
    k = WINDOW_SAMPLES
    steps = (np.arange(k) + 0.5) / k
    yy = (2 * (window[1] + steps * (window[3] - window[1]))).astype(int)
    xx = (2 * (window[0] + steps * (window[2] - window[0]))).astype(int)
    target = (crop.labels[np.ix_(yy, xx)] == object_id).astype(np.float32)
    fractions = (window / size).astype(np.float32)
    return _Prompt(index, box, points, labels, fractions, target)


def _points(
    rng: Random,
    crop: _Crop,
    mask: npt.NDArray[np.bool_],
    corner: tuple[int, int],
    object_id: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """One point anywhere inside, one more inside or outside, and one beside a box."""
    inside = np.argwhere(mask) + corner
    first = inside[rng.integers(len(inside))]
    second, label = inside[rng.integers(len(inside))], 1
    reach = max(mask.shape)
    low = np.clip(np.array(corner) - reach // 2, 0, None)
    high = np.array(corner) + np.array(mask.shape) + reach // 2
    near = crop.labels[low[0] : high[0], low[1] : high[1]] != object_id
    if rng.random() < 0.5 and near.any():
        outside = np.argwhere(near) + low
        second, label = outside[rng.integers(len(outside))], 0
    yx = (np.stack([first, second]) + rng.uniform(0, 1, (2, 2))) / 2
    # an integer is the centre of an original pixel, as large as the scale
    xy = yx[:, ::-1] - 0.5 * crop.scale
    return xy.astype(np.float32), np.array([1, label], np.int64)


def augment_pixels(
    pixels: torch.Tensor, valid: torch.Tensor, seed: int
) -> torch.Tensor:
    """Change polarity, contrast, gamma, colour, sharpness and noise of (B, 3, S, S)."""
    random = torch.Generator().manual_seed(seed)
    n = len(pixels)

    def draw(low: float, high: float, *shape: int) -> torch.Tensor:
        return (
            torch.rand(n, *(shape or (1, 1, 1)), generator=random) * (high - low) + low
        )

    def chance(p: float) -> torch.Tensor:
        return torch.rand(n, 1, 1, 1, generator=random) < p

    x = pixels / 255
    blurred = functional.avg_pool2d(
        functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1
    )
    x = torch.where(chance(0.2), x + draw(-0.4, 1) * (blurred - x), x)
    x = torch.where(chance(0.2), x.mean(1, keepdim=True).expand_as(x), x)
    x = x.clamp(0, 1) ** torch.exp(draw(-0.45, 0.45) * chance(0.6))
    middle = draw(0.2, 0.8)
    x = torch.where(chance(0.5), middle + (x - middle) * draw(0.6, 1.4), x)
    x = torch.where(chance(0.2), 1 - x, x)
    ink, paper = draw(0, 0.6, 3, 1, 1), draw(0.6, 1.1, 3, 1, 1)
    grey = x.mean(1, keepdim=True)
    x = torch.where(chance(0.07), ink + (paper - ink) * grey, x)
    x = torch.where(chance(0.15), x * draw(0.8, 1.2, 3, 1, 1), x)
    noise = torch.randn(x[:, :1].shape, generator=random)
    x = x + noise * draw(0, 0.08) * chance(0.35)
    return x.clamp(0, 1) * 255 * valid
