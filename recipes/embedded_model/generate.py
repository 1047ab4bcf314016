"""Draw microscopy-like images with the instance labels that belong to them.

Every image comes from one seed. Objects are star-shaped cells, ellipses, capsules,
ringed fibres, relief discs (coins, pollen, colonies), Voronoi tissue, neurites,
organelles or pockets of fluid; the pictures vary in polarity, contrast, texture, uneven
light, blur, noise, scan lines, saturation, clutter, stain and bits.

`python recipes/embedded_model/generate.py --out sheet.png` draws some of each kind, one
kind in a row, from easy on the left to hard on the right.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from drawing import Labels, Random, Scene
from optics import image_scene
from scenes_apart import draw_capsules, draw_cells, draw_reliefs, draw_rings
from scenes_dense import draw_fluid, draw_neurites, draw_organelles, draw_tissue

SCENES: dict[str, Callable[[Random, int], Scene]] = {
    "cells": draw_cells,
    "capsules": draw_capsules,
    "rings": draw_rings,
    "reliefs": draw_reliefs,
    "tissue": draw_tissue,
    "neurites": draw_neurites,
    "organelles": draw_organelles,
    "fluid": draw_fluid,
}
# share of images of 16 bits
DEEP = 0.25


def generate_image(
    seed: int,
    size: int = 320,
    *,
    kind: str | None = None,
    difficulty: float | None = None,
    bits: int | None = None,
) -> tuple[npt.NDArray[np.uint8] | npt.NDArray[np.uint16], tuple[Labels, ...], str]:
    """Draw image number `seed`.

    Parameters
    ----------
    seed : int
    size : int
        Side in pixels.
    kind : str, optional
        Key in `SCENES`; the seeds go through all of them without.
    difficulty : float in 0..1, optional
        How hard it is to see; drawn from the seed without. The objects are the same.
    bits : int, optional
        8 or 16; drawn from the seed without.

    Returns
    -------
    image : (size, size) or (size, size, 3) uint8 or uint16
    labels : tuple of (size, size) uint16
        One map, or two where objects nest (inside, whole).
    kind : str
    """
    rng = np.random.default_rng((20, seed))
    kind = list(SCENES)[seed % len(SCENES)] if kind is None else kind
    drawn = float(rng.random() ** 1.5)  # what nobody can see teaches nothing
    depth = 16 if rng.random() < DEEP else 8
    scene = SCENES[kind](rng, size)
    image = image_scene(
        rng,
        scene,
        difficulty=drawn if difficulty is None else difficulty,
        bits=depth if bits is None else bits,
    )
    return image, scene.labels, kind


def draw_sheet(columns: int, size: int) -> npt.NDArray[np.uint8]:
    """Draw images of each kind, outlines of their objects on every second one."""
    from skimage.segmentation import find_boundaries

    rows = []
    for k, kind in enumerate(SCENES):
        tiles = []
        for i in range(columns):
            image, labels, _ = generate_image(
                1000 * k + i // 2 * 2,
                size,
                kind=kind,
                difficulty=(i // 2 * 2) / max(columns - 2, 1),
                bits=8,
            )
            tile = np.array(np.broadcast_to(np.atleast_3d(image), (size, size, 3)))
            if i % 2:
                tile[find_boundaries(labels[-1], mode="inner")] = (255, 60, 220)
                tile[find_boundaries(labels[0], mode="inner")] = (40, 200, 60)
            tiles.append(tile)
        rows.append(np.hstack(tiles))
    return np.vstack(rows).astype(np.uint8)


def main() -> None:
    """Write a sheet of pictures."""
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/generated.png"))
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--size", type=int, default=200, help="of an image, in pixels")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_sheet(options.columns, options.size)).save(options.out)


if __name__ == "__main__":
    main()
