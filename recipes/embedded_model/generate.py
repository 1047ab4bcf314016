"""Draw microscopy-like images with the instance labels that belong to them.

Every image comes from one seed. Objects are star-shaped cells, ellipses, capsules,
ringed fibres, relief discs (coins, pollen, colonies) or Voronoi tissue; the pictures
vary in polarity, contrast, texture, uneven light, blur, noise, clutter and stain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

Float = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint16]
Random = np.random.Generator


@dataclass(frozen=True, slots=True)
class Scene:
    """A drawing before optics: grey (Y, X) in about 0..1 and its label maps."""

    grey: Float
    labels: tuple[Labels, ...]


def smooth_noise(rng: Random, size: int, scale: float) -> Float:
    """Gaussian noise with a correlation length of `scale` pixels, unit deviation."""
    small = max(int(size / max(scale, 1.0)) + 4, 4)
    noise = rng.standard_normal((small, small)).astype(np.float32)
    field = ndimage.zoom(noise, size / (small - 3), order=3)[:size, :size]
    return np.asarray((field - field.mean()) / (field.std() + 1e-6), np.float32)


def _star(rng: Random, radius: float, *, rough: float, stretch: float) -> Float:
    """Elliptical-like radius map of one object: below 1 is inside."""
    half = int(np.ceil(radius * stretch * (1 + 2 * rough))) + 3
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    yy, xx = yy + rng.uniform(-0.5, 0.5), xx + rng.uniform(-0.5, 0.5)
    turn = rng.uniform(0, np.pi)
    u = (xx * np.cos(turn) + yy * np.sin(turn)) / np.sqrt(stretch)
    v = (-xx * np.sin(turn) + yy * np.cos(turn)) * np.sqrt(stretch)
    angle = np.arctan2(v, u)
    outline = np.ones_like(angle)
    for k in range(2, 7):
        outline += (
            rough * rng.normal() / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
        )
    return np.asarray(
        np.hypot(u, v) / (radius * np.clip(outline, 0.3, None)), np.float32
    )


def _capsule(rng: Random, radius: float) -> Float:
    """Radius map of a bent rod whose half width is `radius`."""
    length = radius * rng.uniform(3, 9)
    half = int(length / 2 + radius) + 4
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    turn, bend = rng.uniform(0, np.pi), rng.uniform(-0.6, 0.6) / max(length, 1)
    u = xx * np.cos(turn) + yy * np.sin(turn)
    v = -xx * np.sin(turn) + yy * np.cos(turn)
    v = v - bend * (u * u - length * length / 12)
    outside = np.clip(np.abs(u) - length / 2, 0, None)
    return np.asarray(np.hypot(outside, v) / radius, np.float32)


def _place(
    rng: Random, size: int, draw: Callable[[float], Float], *, overlap: float
) -> tuple[Labels, Float]:
    """Scatter objects; returns their labels and each pixel's radius in its object."""
    labels = np.zeros((size, size), np.uint16)
    depth = np.full((size, size), 9.0, np.float32)
    typical = float(np.exp(rng.uniform(np.log(4), np.log(size / 7))))
    spread = rng.uniform(0.05, 0.35)
    target = rng.uniform(0.08, 0.55) * size * size
    covered, next_id = 0, 1
    clusters = rng.uniform(0, size, (rng.integers(1, 5), 2))
    clustered = rng.random() < 0.4
    for _ in range(min(int(4 * target / (3 * typical**2)) + 4, 700)):
        inside = draw(typical * float(np.exp(rng.normal(0, spread))))
        h = inside.shape[0]
        if clustered:
            centre = clusters[rng.integers(len(clusters))] + rng.normal(0, size / 8, 2)
        else:
            centre = rng.uniform(0, size, 2)
        y, x = (int(c) - h // 2 for c in centre)
        y0, x0 = max(y, 0), max(x, 0)
        y1, x1 = min(y + h, size), min(x + h, size)
        if y1 <= y0 or x1 <= x0:
            continue
        part = inside[y0 - y : y1 - y, x0 - x : x1 - x]
        mask, window = part < 1, labels[y0:y1, x0:x1]
        taken = mask & (window > 0)
        if not mask.any() or taken.sum() > overlap * mask.sum():
            continue
        mask &= window == 0
        window[mask] = next_id
        depth[y0:y1, x0:x1] = np.where(
            mask | (window == 0),
            np.minimum(part, depth[y0:y1, x0:x1]),
            depth[y0:y1, x0:x1],
        )
        next_id += 1
        covered += int(mask.sum())
        if covered > target:
            break
    return labels, depth


def _levels(rng: Random, labels: Labels, deviation: float) -> Float:
    """Draw a brightness per object, as an image."""
    table = rng.normal(0, deviation, int(labels.max()) + 1).astype(np.float32)
    table[0] = 0
    return np.asarray(table[labels], np.float32)


def draw_cells(rng: Random, size: int) -> Scene:
    """Star-shaped cells or ellipses, touching or apart, with an inner profile."""
    rough = rng.choice([0.0, 0.12, 0.3])
    stretch = rng.uniform(1.0, 1.9)
    labels, depth = _place(
        rng,
        size,
        lambda r: _star(rng, r, rough=rough, stretch=stretch),
        overlap=rng.choice([0.0, 0.1, 0.35]),
    )
    inside = labels > 0
    profile = 1 - rng.uniform(0, 0.7) * np.clip(depth, 0, 1) ** 2
    if rng.random() < 0.25:  # phase-contrast-like: bright or dark rim
        profile = rng.uniform(0.2, 0.8) + rng.uniform(0.3, 1) * (depth > 0.8)
    grey = np.where(inside, profile * (0.7 + _levels(rng, labels, 0.15)), 0.0)
    texture = smooth_noise(rng, size, rng.uniform(2, 12)) * rng.uniform(0, 0.15)
    grey = grey + texture * inside
    return Scene(grey.astype(np.float32), (labels,))


def draw_capsules(rng: Random, size: int) -> Scene:
    """Rods, bacteria, mitochondria: bent capsules."""
    labels, depth = _place(
        rng, size, lambda r: _capsule(rng, max(r / 2, 2.0)), overlap=0.05
    )
    inside = labels > 0
    grey = inside * (0.6 + 0.4 * (1 - np.clip(depth, 0, 1)) * rng.uniform(0, 1))
    grey = grey + inside * _levels(rng, labels, 0.1)
    stripes = smooth_noise(rng, size, rng.uniform(2, 5)) * rng.uniform(0, 0.25)
    return Scene((grey + stripes * inside).astype(np.float32), (labels,))


def draw_rings(rng: Random, size: int) -> Scene:
    """Fibres: an inner disc in a sheath; labels of the inside and of the whole."""
    stretch, rough = rng.uniform(1, 1.6), rng.uniform(0, 0.12)
    whole, depth = _place(
        rng,
        size,
        lambda r: _star(rng, max(r, 5), rough=rough, stretch=stretch),
        overlap=rng.choice([0.05, 0.25]),
    )
    thickness = rng.uniform(0.25, 0.65, int(whole.max()) + 1).astype(np.float32)
    edge = thickness[whole]
    inner = np.where(depth < edge, whole, 0).astype(np.uint16)
    sheath, core, ground = rng.permutation([0.95, 0.45, 0.1])
    if rng.random() < 0.5:
        core = ground + rng.uniform(-0.12, 0.12)
    grey = np.where(inner > 0, core, np.where(whole > 0, sheath, ground))
    grey = grey + _levels(rng, whole, 0.06)
    texture = smooth_noise(rng, size, rng.uniform(3, 20)) * rng.uniform(0, 0.12)
    return Scene((grey + texture * (whole == 0)).astype(np.float32), (inner, whole))


def draw_reliefs(rng: Random, size: int) -> Scene:
    """Discs with a relief lit from one side, as coins or pollen, and their shadow."""
    labels, depth = _place(
        rng,
        size,
        lambda r: _star(rng, max(r, 9), rough=0.02, stretch=rng.uniform(1, 1.12)),
        overlap=0.0,
    )
    inside = labels > 0
    height = np.clip(1.15 - depth, 0, 0.3) * rng.uniform(1, 4) * inside
    motif = smooth_noise(rng, size, rng.uniform(3, 12)) * rng.uniform(0.1, 0.6)
    height = ndimage.gaussian_filter(height + motif * inside * (depth < 0.85), 0.8)
    dy, dx = np.gradient(height)
    turn = rng.uniform(0, 2 * np.pi)
    shade = np.cos(turn) * dx + np.sin(turn) * dy
    ground = rng.uniform(0.1, 0.35)
    grey = np.where(inside, rng.uniform(0.5, 0.9) + _levels(rng, labels, 0.08), ground)
    shadow = ndimage.shift(
        ndimage.gaussian_filter(inside.astype(np.float32), 2), rng.uniform(-4, 4, 2)
    )
    grey = grey - np.where(inside, 0, shadow * rng.uniform(0, 0.2))
    return Scene((grey + shade * rng.uniform(0.4, 1.2)).astype(np.float32), (labels,))


def draw_tissue(rng: Random, size: int) -> Scene:
    """Voronoi cells with membranes; some walls carry organelles that are no cells."""
    spacing = float(np.exp(rng.uniform(np.log(9), np.log(size / 4))))
    count = max(int((size / spacing) ** 2), 3)
    seeds = rng.uniform(-spacing, size + spacing, (int(count * 1.6) + 4, 2))
    yy, xx = np.mgrid[:size, :size].astype(np.float32)
    bend = rng.uniform(0, 0.3) * spacing
    yy = yy + bend * smooth_noise(rng, size, spacing)
    xx = xx + bend * smooth_noise(rng, size, spacing)
    distance, index = cKDTree(seeds).query(np.stack([yy, xx], -1).reshape(-1, 2), k=2)
    gap = (distance[:, 1] - distance[:, 0]).reshape(size, size)
    labels = (index[:, 0] + 1).reshape(size, size).astype(np.uint16)
    width = rng.uniform(0.8, max(1.0, spacing * 0.15))
    wall = np.exp(-((gap / (2 * width)) ** 2))
    grey = 0.35 + _levels(rng, labels, rng.choice([0.03, 0.12])) + 0.6 * wall
    if rng.random() < 0.5:
        spots = smooth_noise(rng, size, rng.uniform(4, 10)) > rng.uniform(1.2, 2)
        grey = np.where(spots & (wall < 0.3), grey + rng.uniform(-0.3, 0.5), grey)
    if rng.random() < 0.6:
        labels = np.where(wall > 0.5, 0, labels).astype(np.uint16)
    grey = grey + smooth_noise(rng, size, rng.uniform(1.5, 6)) * rng.uniform(0, 0.12)
    return Scene(grey.astype(np.float32), (labels,))


SCENES: dict[str, Callable[[Random, int], Scene]] = {
    "cells": draw_cells,
    "capsules": draw_capsules,
    "rings": draw_rings,
    "reliefs": draw_reliefs,
    "tissue": draw_tissue,
}


def image_scene(rng: Random, scene: Scene) -> npt.NDArray[np.uint8]:
    """Photograph a scene: clutter, light, blur, noise, polarity, stain.

    Returns
    -------
    (Y, X) or (Y, X, 3) uint8
    """
    grey, size = scene.grey.copy(), scene.grey.shape[0]
    ground = scene.labels[-1] == 0
    if rng.random() < 0.5:
        clutter = smooth_noise(rng, size, rng.uniform(4, 40)) * rng.uniform(0, 0.12)
        grey += clutter * ground
    if rng.random() < 0.3:  # specks and debris that nobody labelled
        specks = rng.random((size, size)) > 0.999
        grey += ndimage.gaussian_filter(specks.astype(np.float32), 1.0) * 5
    if rng.random() < 0.5:  # uneven light
        ramp = smooth_noise(rng, size, size / rng.uniform(0.8, 2.5))
        grey = grey * np.exp(0.35 * rng.random() * ramp) + 0.12 * rng.random() * ramp
    grey = ndimage.gaussian_filter(grey, np.exp(rng.uniform(np.log(0.3), np.log(2.2))))
    low, high = np.percentile(grey, [0.5, 99.5])
    grey = np.clip((grey - low) / max(high - low, 1e-3), -0.1, 1.2)
    contrast = rng.uniform(0.25, 1)
    grey = contrast * grey + rng.uniform(0, 1 - contrast)
    photons = np.exp(rng.uniform(np.log(30), np.log(3000)))
    grey = rng.poisson(np.clip(grey, 0, None) * photons) / photons
    grey = grey + rng.normal(0, rng.choice([0.0, 0.02, 0.06]), grey.shape)
    if rng.random() < 0.4:
        grey = 1 - grey
    if rng.random() < 0.3:
        ink, paper = rng.uniform(0, 0.7, 3), rng.uniform(0.5, 1, 3)
        colour = paper + (ink - paper) * np.clip(grey, 0, 1)[..., None]
        colour = colour + rng.normal(0, 0.02, colour.shape)
        return np.asarray(np.clip(colour, 0, 1) * 255, np.uint8)
    return np.asarray(np.clip(grey, 0, 1) * 255, np.uint8)


def generate_image(
    seed: int, size: int = 320
) -> tuple[npt.NDArray[np.uint8], tuple[Labels, ...], str]:
    """Draw image number `seed`.

    Returns
    -------
    image : (size, size) or (size, size, 3) uint8
    labels : tuple of (size, size) uint16
        One map, or two where objects nest (inside, whole).
    kind : str
        Key in `SCENES`.
    """
    rng = np.random.default_rng((20, seed))
    kind = list(SCENES)[seed % len(SCENES)]
    scene = SCENES[kind](rng, size)
    return image_scene(rng, scene), scene.labels, kind
