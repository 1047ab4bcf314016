"""Scenes as electron microscopy and tomography see them: little is background."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from drawing import (
    Float,
    Labels,
    Random,
    Scene,
    capsule,
    levels,
    place,
    smooth_noise,
    star,
)
from scipy import ndimage
from scipy.spatial import cKDTree

# fluid and the like: smaller components are no objects
LEAST_PIXELS = 25
# of images with fluid, those that show the retina as a narrow band
SCANS = 0.6


def draw_tissue(rng: Random, size: int) -> Scene:
    """Voronoi cells with membranes; some carry organelles that are no cells.

    Of some images the cells are joined to irregular profiles, as those of neurites,
    and of very different sizes.
    """
    spacing = float(np.exp(rng.uniform(np.log(9), np.log(size / 4))))
    seeds = _scatter_seeds(rng, size, spacing)
    joined = rng.uniform(0, 0.6) * (rng.random() < 0.6)
    labels, gap = _voronoi(rng, size, seeds, rng.uniform(0, 0.3) * spacing, joined)
    width = rng.uniform(0.8, max(1.0, spacing * 0.12))
    wall = np.exp(-((gap / (2 * width)) ** 2))
    grey = 0.35 + levels(rng, labels, rng.choice([0.03, 0.12])) + 0.6 * wall
    if rng.random() < 0.6:
        spots = smooth_noise(rng, size, rng.uniform(4, 10)) > rng.uniform(1.2, 2)
        grey = np.where(spots & (wall < 0.3), grey + rng.uniform(-0.3, 0.5), grey)
    if rng.random() < 0.4:
        grey = np.where(wall < 0.2, _draw_bodies(rng, size, grey), grey)
    if rng.random() < 0.6:
        labels = np.where(wall > 0.5, 0, labels).astype(np.uint16)
    grey = grey + smooth_noise(rng, size, rng.uniform(1.5, 6)) * rng.uniform(0, 0.12)
    return Scene(grey.astype(np.float32), (labels,))


def _scatter_seeds(rng: Random, size: int, spacing: float) -> npt.NDArray[np.float64]:
    count = max(int((size / spacing) ** 2), 3)
    seeds = rng.uniform(-spacing, size + spacing, (int(count * 1.6) + 4, 2))
    if rng.random() < 0.4:  # bundles of small profiles among large ones
        middles = rng.uniform(0, size, (rng.integers(1, 5), 2))
        picked = middles[rng.integers(len(middles), size=min(count, 400))]
        seeds = np.concatenate([seeds, rng.normal(picked, 2 * spacing)])
    return np.asarray(seeds)


def _voronoi(
    rng: Random, size: int, seeds: npt.NDArray[np.float64], bend: float, joined: float
) -> tuple[Labels, Float]:
    """Label cells, and tell how far each pixel is from the next one's."""
    spacing = size / max(len(seeds), 1) ** 0.5
    yy, xx = np.mgrid[:size, :size].astype(np.float32)
    yy = yy + bend * smooth_noise(rng, size, spacing)
    xx = xx + bend * smooth_noise(rng, size, spacing)
    tree = cKDTree(seeds)
    group = np.arange(len(seeds))
    neighbour = tree.query(seeds, k=2)[1][:, 1]
    for i in np.flatnonzero(rng.random(len(seeds)) < joined):
        group[group == group[i]] = group[neighbour[i]]
    k = min(6 if joined else 2, len(seeds))
    distance, index = tree.query(np.stack([yy, xx], -1).reshape(-1, 2), k=k)
    owners = group[index]
    other = owners != owners[:, :1]
    # where all neighbours are of the same cell, the last one bounds the distance
    other[:, -1] = True
    first = other.argmax(axis=1)
    gap = distance[np.arange(len(first)), first] - distance[:, 0]
    labels = (owners[:, 0] + 1).reshape(size, size).astype(np.uint16)
    return labels, gap.reshape(size, size).astype(np.float32)


def _draw_bodies(rng: Random, size: int, grey: Float) -> Float:
    """Paint organelles over a picture."""
    bodies, depth = place(
        rng, size, lambda r: star(rng, min(r, 18), rough=0.1, stretch=1.3), overlap=0.0
    )
    rim = (depth > 0.75) * rng.uniform(-0.2, 0.4)
    return np.where(bodies > 0, rng.uniform(0.2, 0.9) + rim, grey).astype(np.float32)


def draw_neurites(rng: Random, size: int) -> Scene:
    """Tubes, filled or hollow, that bend, branch and cross each other."""
    labels = np.zeros((size, size), np.uint16)
    depth = np.full((size, size), 9.0, np.float32)
    radius = float(np.exp(rng.uniform(np.log(1.6), np.log(size / 22))))
    count = int(rng.uniform(3, 6 + 40 / radius))
    for i in range(1, count + 1):
        course = _course(rng, size, rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi))
        parts = [course]
        for _ in range(rng.integers(0, 3)):
            fork = course[rng.integers(len(course))]
            parts.append(_course(rng, size, fork, rng.uniform(0, 2 * np.pi)))
        path = np.rint(np.concatenate(parts)).astype(int)
        path = path[((path >= 0) & (path < size)).all(axis=1)]
        if not len(path):
            continue
        apart = np.ones((size, size), bool)
        apart[path[:, 0], path[:, 1]] = False
        own = radius * float(np.exp(rng.normal(0, 0.3)))
        bulge = 1 + rng.uniform(0, 0.3) * smooth_noise(rng, size, 6 * own)
        away = ndimage.distance_transform_edt(apart) / (own * np.clip(bulge, 0.4, 2))
        # those drawn later lie above
        mask = away < 1
        labels[mask] = i
        depth = np.where(mask, away, depth).astype(np.float32)
    inside = labels > 0
    hollow = rng.random() < 0.4
    profile = 0.3 + 0.7 * (depth > 0.6) if hollow else 1 - 0.6 * np.clip(depth, 0, 1)
    grey = inside * (profile + levels(rng, labels, 0.12))
    beads = smooth_noise(rng, size, rng.uniform(2, 8)) * rng.uniform(0, 0.2)
    return Scene((grey + beads * inside).astype(np.float32), (labels,))


def _course(
    rng: Random, size: int, start: npt.NDArray[np.float64], angle: float
) -> npt.NDArray[np.float64]:
    """Return positions (N, 2), half a pixel apart, along a smooth random walk."""
    steps = int(size * rng.uniform(0.5, 2.5))
    turns = ndimage.gaussian_filter1d(rng.normal(0, 1, steps), 12, mode="nearest")
    angles = angle + np.cumsum(turns * rng.uniform(0.02, 0.12))
    moves = 0.5 * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    return np.asarray(start + np.cumsum(moves, axis=0))


def draw_organelles(rng: Random, size: int) -> Scene:
    """Organelles in a cell's inside: filled, hollow, or striped as mitochondria.

    Membranes of the cells run between them and are no objects.
    """
    rough, stretch = rng.uniform(0, 0.15), rng.uniform(1, 2)
    rods = rng.random() < 0.5
    labels, depth = place(
        rng,
        size,
        lambda r: (
            capsule(rng, max(r / 2, 3))
            if rods
            else star(rng, max(r, 4), rough=rough, stretch=stretch)
        ),
        overlap=0.0,
    )
    spacing = size * rng.uniform(0.15, 0.6)
    _, gap = _voronoi(rng, size, _scatter_seeds(rng, size, spacing), 8.0, 0.3)
    ground = rng.uniform(0.3, 0.7)
    ink = rng.uniform(0.25, 0.6) * rng.choice([-1, 1])
    grey = ground + ink * np.exp(-((gap / 3) ** 2))
    grey = grey + smooth_noise(rng, size, rng.uniform(1.5, 5)) * rng.uniform(0, 0.12)
    kind = rng.integers(3)
    rim = np.clip((depth - 0.7) / 0.2, 0, 1)
    inner = rng.uniform(0.3, 0.9) * ink
    if kind == 1:  # hollow: the inside is as bright as what is around
        inner = rng.uniform(-0.1, 0.1)
    filling = ground + inner + levels(rng, labels, 0.05) + rim * ink
    if kind == 2:
        yy, xx = np.mgrid[:size, :size]
        turn, period = rng.uniform(0, np.pi), rng.uniform(3, 8)
        phase = (yy * np.sin(turn) + xx * np.cos(turn)) / period * 2 * np.pi
        wave = np.sin(phase + 1.5 * smooth_noise(rng, size, 12))
        filling = filling + rng.uniform(0.1, 0.3) * ink * wave
    grey = np.where(labels > 0, filling, grey)
    return Scene(grey.astype(np.float32), (labels,))


def draw_fluid(rng: Random, size: int) -> Scene:
    """Dark pockets between wavy layers, as fluid in tomography of the retina."""
    yy = np.mgrid[:size, :size][0].astype(np.float32)
    wave = smooth_noise(rng, size, size / rng.uniform(1, 3))
    yy = yy + wave * rng.uniform(2, size / 12)
    middle, band = rng.uniform(0.3, 0.7) * size, rng.uniform(0.1, 0.35) * size
    grain = rng.uniform(8, size / 6)
    if rng.random() < SCANS:
        band = rng.uniform(0.06, 0.2) * size
        grain = rng.uniform(4, max(5.0, band / 2))
        grey = _draw_retina(rng, (yy - middle) / band)
    else:
        count = int(rng.integers(4, 11))
        edges = np.sort(rng.uniform(0, size, count))
        shades = rng.uniform(0.1, 1.0, count)
        grey = shades[np.searchsorted(edges, yy) % count]
    # layers whose edges are a few pixels soft
    grey = ndimage.gaussian_filter(grey.astype(np.float32), rng.uniform(0.7, 1.8))
    field = smooth_noise(rng, size, grain)
    if rng.random() < 0.6:  # wider than high
        wide = ndimage.gaussian_filter1d(field, grain * rng.uniform(0.2, 0.8), axis=1)
        field = wide / (wide.std() + 1e-6)
    field = field - ((yy - middle) / band) ** 2
    pockets = field > rng.uniform(0.3, 1.3)
    pockets = ndimage.binary_opening(pockets, iterations=1)
    found, _ = ndimage.label(pockets)
    sizes = np.bincount(found.ravel())
    found[(sizes < LEAST_PIXELS)[found]] = 0
    if found.max() == 0:  # a pocket at least
        lone = star(rng, size / 12, rough=0.25, stretch=1.5)
        y, x = (int(v) for v in rng.uniform(0, size - max(lone.shape), 2))
        found[y : y + lone.shape[0], x : x + lone.shape[1]][lone < 1] = 1
    soft = ndimage.gaussian_filter((found > 0).astype(np.float32), rng.uniform(0.5, 2))
    # hardly darker than the dark layers, or black
    clear = rng.uniform(0.4, 1)
    grey = grey * (1 - clear * soft) + rng.uniform(0.0, 0.15) * clear * soft
    speckle = rng.gamma(rng.uniform(3, 15), 1.0, grey.shape)
    grey = grey * (1 + rng.uniform(0.2, 1) * (speckle / speckle.mean() - 1))
    return Scene(grey.astype(np.float32), (found.astype(np.uint16),))


def _draw_retina(rng: Random, height: Float) -> npt.NDArray[np.float64]:
    """Paint layers between -1 and 1 of `height`, and little light above and below.

    The lowest layers are the brightest, and what is bright throws shadows down.
    """
    count = int(rng.integers(4, 9))
    edges = np.sort(rng.uniform(-1, 1, count))
    shades = rng.uniform(0.15, 0.6, count + 1)
    shades[-1] = rng.uniform(0.7, 1)
    grey = shades[np.searchsorted(edges, height)]
    above, below = rng.uniform(0.02, 0.12, 2)
    fading = below + rng.uniform(0, 0.4) * np.exp(-(height - 1) / rng.uniform(0.2, 1))
    grey = np.where(height < -1, above, np.where(height > 1, fading, grey))
    columns = rng.random(height.shape[1]) < rng.uniform(0, 0.08)
    shadow = ndimage.gaussian_filter1d(columns.astype(np.float32), rng.uniform(0.6, 2))
    shaded = np.clip(shadow * 1.5, 0, 0.7) * (height > rng.uniform(-0.8, 0.3))
    return np.asarray(grey * (1 - shaded))
