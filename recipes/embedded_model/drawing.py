"""What scenes are drawn with: noise, outlines, and objects scattered over a plane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

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


def star(rng: Random, radius: float, *, rough: float, stretch: float) -> Float:
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


def capsule(rng: Random, radius: float) -> Float:
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


def place(
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


def levels(rng: Random, labels: Labels, deviation: float) -> Float:
    """Draw a brightness per object, as an image."""
    table = rng.normal(0, deviation, int(labels.max()) + 1).astype(np.float32)
    table[0] = 0
    return np.asarray(table[labels], np.float32)
