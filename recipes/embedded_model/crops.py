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
from first_prompts import (
    FINE,
    CropObjects,
    NothingPrompts,
    PromptGroup,
    draw_groups,
    draw_nothing,
)
from pack import PackedImage
from scipy import ndimage
from torch.nn import functional

from napari_samseg.core.prompts.object_index import index_objects

# how often each set is drawn; within a set every image is equally likely
SHARES = {
    "dsb2018/dark_background_gray": 0.17,
    "dsb2018/color_stained": 0.12,
    "dsb2018/bright_background_gray": 0.05,
    "axon_sem": 0.18,
    "em_fib25": 0.16,
    "mri_lesions": 0.02,
    "laptrack_cells": 0.03,
    "generated/cells": 0.06,
    "generated/capsules": 0.02,
    "generated/rings": 0.03,
    "generated/reliefs": 0.02,
    "generated/tissue": 0.05,
    "generated/neurites": 0.03,
    "generated/organelles": 0.03,
    "generated/fluid": 0.05,
}
# of images whose objects nest, how often the outer ones are prompted
OUTER_SHARE = 0.35
# sets in which what has no label is no object: a prompt there has nothing to find. Of
# nested labels, the outer ones tell.
WHOLLY_LABELLED = ("dsb2018", "axon_sem", "laptrack_cells", "generated")
# how often a crop shows nothing but its own pixels in disorder, noise or one grey
BLANK_SHARE = 0.05
# side of the pieces put in disorder, in pixels
PIECE = 8
# least pixels of an object that a crop shows, and least share of the whole object
LEAST_AREA, LEAST_SHARE = 6, 0.3

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
    groups : list of PromptGroup
        Objects that are prompted and decoded together.
    nothing : list of NothingPrompts
        Where there is no object.
    offset_yx : (int, int)
        Place of the crops on the canvas, in pixels, multiples of 8.
    seed : int
        Of the correction clicks.
    """

    pixels: torch.Tensor
    valid: torch.Tensor
    labels: torch.Tensor
    groups: list[PromptGroup]
    nothing: list[NothingPrompts]
    offset_yx: tuple[int, int]
    seed: int


class CropSource:
    """Draws crops from the training images of a pack.

    Parameters
    ----------
    images : list of PackedImage
    seed : int
    canvas : int
        Side of the square that the model sees, in pixels.
    """

    def __init__(
        self, images: list[PackedImage], *, seed: int, canvas: int = 512
    ) -> None:
        self.seed, self.canvas = seed, canvas
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
        if plan.size < self.canvas:
            crops = [c if rng.random() > BLANK_SHARE else _blank(rng, c) for c in crops]
        places = (self.canvas - plan.size) // 8 + 1
        y, x = (int(v) * 8 for v in rng.integers(0, places, 2))
        shown = [_choose(rng, crop, plan.objects) for crop in crops]
        groups = draw_groups(rng, shown, plan.size, (y, x), self.canvas)
        empty = [(i, c.labels) for i, c in enumerate(crops) if c.is_wholly_labelled]
        # whole canvases are decoded around objects alone
        small = plan.size < self.canvas
        nothing = draw_nothing(rng, empty, plan.size, (y, x)) if small else []
        if not groups:  # no crop shows an object: draw again, still from the seed
            return self.batch_at(step + 1_000_003, plan)
        fine = np.stack([crop.labels for crop in crops])
        return CropBatch(
            pixels=torch.stack([crop.pixels for crop in crops]),
            valid=torch.stack([crop.valid for crop in crops]),
            labels=torch.from_numpy(fine[:, 2::4, 2::4].astype(np.int64)),
            groups=groups,
            nothing=nothing,
            offset_yx=(y, x),
            seed=int(rng.integers(2**32)),
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
        natural = self.canvas / max(height, width)
        # large planes are seen whole and in tiles, at any scale up to their own
        usual = natural ** rng.random() if natural < 1 else natural
        scale = usual * np.exp(rng.normal(0, 0.35))
        if rng.random() < 0.2:
            wanted = np.exp(rng.uniform(np.log(8), np.log(0.8 * plan.size)))
            scale = wanted / np.sqrt(anchor[2])
        scale = float(np.clip(scale, natural / 3, max(natural, 1) * 5))
        centre = anchor[:2] + rng.uniform(-0.35, 0.35, 2) * plan.size / scale
        half = plan.size / scale / 2
        extent = np.array([height, width])
        if rng.random() < 0.8:  # keep the window on the image where it fits
            inside = np.clip(centre, half, np.maximum(extent - half, half))
            centre = np.where(extent > 2 * half, inside, centre)
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
        is_outer = which == len(self.images[i].labels) - 1
        kind = self.images[i].source.split("/")[0]
        is_wholly = is_outer and kind in WHOLLY_LABELLED
        return _Crop(pixels, valid, fine, areas, scale, is_wholly)


@dataclass(frozen=True, slots=True, eq=False)
class _Crop:
    pixels: torch.Tensor
    valid: torch.Tensor
    labels: npt.NDArray[np.int32]  # FINE times as fine as the pixels
    areas: npt.NDArray[np.float32]  # whole area of each object, in crop pixels
    scale: float
    is_wholly_labelled: bool


def _blank(rng: Random, crop: _Crop) -> _Crop:
    """Leave nothing to be found in a crop."""
    pixels, kind = crop.pixels, rng.integers(3)
    side = pixels.shape[-1]
    shown = crop.areas[crop.areas > 0]
    # objects as small as a piece would stay whole
    if kind == 0 and shown.min(initial=np.inf) > PIECE**2:
        n = side // PIECE
        pieces = pixels.reshape(3, n, PIECE, n, PIECE).permute(1, 3, 0, 2, 4)
        pieces = pieces.flatten(0, 1)[torch.from_numpy(rng.permutation(n * n))]
        pixels = pieces.reshape(n, n, 3, PIECE, PIECE).permute(2, 0, 3, 1, 4)
        pixels = pixels.reshape(3, side, side)
    else:
        noise = rng.normal(rng.uniform(30, 220), rng.uniform(2, 50), (1, side, side))
        grey = np.clip(
            noise if kind == 1 else np.full_like(noise, noise[0, 0, 0]), 0, 255
        )
        pixels = torch.from_numpy(grey.astype(np.float32)).expand(3, -1, -1)
    labels, valid = np.zeros_like(crop.labels), torch.ones_like(crop.valid)
    return _Crop(pixels, valid, labels, crop.areas, crop.scale, True)


def _choose(rng: Random, crop: _Crop, count: int) -> CropObjects:
    """Choose some of the objects that a crop shows."""
    found = index_objects(crop.labels, min_area=LEAST_AREA * FINE**2)
    visible = found.areas / FINE**2
    rows = np.flatnonzero(visible >= LEAST_SHARE * crop.areas[found.object_ids])
    return CropObjects(found.select(rng.permutation(rows)[:count]), crop.scale)


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
    pixels = pixels.clamp(0, 255)  # what lies between pixels is rounded
    return pixels.expand(3, -1, -1), torch.from_numpy(valid)[None].float()


def _warp_labels(
    labels: npt.NDArray[np.uint16],
    matrix: npt.NDArray[np.float64],
    centre: npt.NDArray[np.float64],
    size: int,
) -> npt.NDArray[np.int32]:
    y, x = _source_yx(matrix, centre, size, FINE * size)
    # truncation is the floor for what is inside, and -0.5 is caught by its sign
    iy, ix = y.astype(np.int32), x.astype(np.int32)
    inside = (y >= 0) & (x >= 0) & (iy < labels.shape[0]) & (ix < labels.shape[1])
    index = np.where(inside, iy * np.int32(labels.shape[1]) + ix, 0)
    return labels.ravel()[index].astype(np.int32) * inside


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
