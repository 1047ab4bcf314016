"""Scenes of objects that lie apart, touch or overlap a little."""

from __future__ import annotations

import numpy as np
from drawing import Random, Scene, capsule, levels, place, smooth_noise, star
from scipy import ndimage


def draw_cells(rng: Random, size: int) -> Scene:
    """Star-shaped cells or ellipses, touching or apart, with an inner profile."""
    rough = rng.choice([0.0, 0.12, 0.3])
    stretch = rng.uniform(1.0, 1.9)
    labels, depth = place(
        rng,
        size,
        lambda r: star(rng, r, rough=rough, stretch=stretch),
        overlap=rng.choice([0.0, 0.1, 0.35]),
    )
    inside = labels > 0
    profile = 1 - rng.uniform(0, 0.7) * np.clip(depth, 0, 1) ** 2
    if rng.random() < 0.25:  # phase-contrast-like: bright or dark rim
        profile = rng.uniform(0.2, 0.8) + rng.uniform(0.3, 1) * (depth > 0.8)
    grey = np.where(inside, profile * (0.7 + levels(rng, labels, 0.15)), 0.0)
    texture = smooth_noise(rng, size, rng.uniform(2, 12)) * rng.uniform(0, 0.15)
    grey = grey + texture * inside
    return Scene(grey.astype(np.float32), (labels,))


def draw_capsules(rng: Random, size: int) -> Scene:
    """Rods, bacteria, mitochondria: bent capsules."""
    labels, depth = place(
        rng, size, lambda r: capsule(rng, max(r / 2, 2.0)), overlap=0.05
    )
    inside = labels > 0
    grey = inside * (0.6 + 0.4 * (1 - np.clip(depth, 0, 1)) * rng.uniform(0, 1))
    grey = grey + inside * levels(rng, labels, 0.1)
    stripes = smooth_noise(rng, size, rng.uniform(2, 5)) * rng.uniform(0, 0.25)
    return Scene((grey + stripes * inside).astype(np.float32), (labels,))


def draw_rings(rng: Random, size: int) -> Scene:
    """Fibres: an inner disc in a sheath; labels of the inside and of the whole."""
    stretch, rough = rng.uniform(1, 1.6), rng.uniform(0, 0.12)
    whole, depth = place(
        rng,
        size,
        lambda r: star(rng, max(r, 5), rough=rough, stretch=stretch),
        overlap=rng.choice([0.05, 0.25]),
    )
    thickness = rng.uniform(0.25, 0.65, int(whole.max()) + 1).astype(np.float32)
    edge = thickness[whole]
    inner = np.where(depth < edge, whole, 0).astype(np.uint16)
    sheath, core, ground = rng.permutation([0.95, 0.45, 0.1])
    if rng.random() < 0.5:
        core = ground + rng.uniform(-0.12, 0.12)
    grey = np.where(inner > 0, core, np.where(whole > 0, sheath, ground))
    grey = grey + levels(rng, whole, 0.06)
    texture = smooth_noise(rng, size, rng.uniform(3, 20)) * rng.uniform(0, 0.12)
    return Scene((grey + texture * (whole == 0)).astype(np.float32), (inner, whole))


def draw_reliefs(rng: Random, size: int) -> Scene:
    """Discs with a relief lit from one side, as coins or pollen, and their shadow."""
    labels, depth = place(
        rng,
        size,
        lambda r: star(rng, max(r, 9), rough=0.02, stretch=rng.uniform(1, 1.12)),
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
    grey = np.where(inside, rng.uniform(0.5, 0.9) + levels(rng, labels, 0.08), ground)
    shadow = ndimage.shift(
        ndimage.gaussian_filter(inside.astype(np.float32), 2), rng.uniform(-4, 4, 2)
    )
    grey = grey - np.where(inside, 0, shadow * rng.uniform(0, 0.2))
    return Scene((grey + shade * rng.uniform(0.4, 1.2)).astype(np.float32), (labels,))
