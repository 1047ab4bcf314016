"""A mask of the brain, without any other program."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import binary_fill_holes
from skimage.filters import threshold_otsu

from napari_samseg.core.errors import InvalidImageError
from napari_samseg.core.instances.components import label_components
from napari_samseg.core.instances.tidy import count_pixels
from napari_samseg.core.instances.watershed import distance_inside
from napari_samseg.core.io.nifti import NiftiVolume
from napari_samseg.core.types import BoolArray

__all__ = ["find_brain"]

# Bridges between brain and skull are thinner than twice this, in millimetres.
BRIDGE_MM = 3.0
# Furrows narrower than twice this belong to the brain.
FURROW_MM = 4.0


def find_brain(volume: NiftiVolume) -> BoolArray:
    """Find the brain: the largest bright body that is left when bridges are cut.

    Brighter than Otsu's threshold; cut where it is thinner than 6 mm; furrows and holes
    filled. Rough: made for skulls that a dark rim parts from the brain, and for volumes
    without a skull.

    Raises
    ------
    InvalidImageError
        If nothing is brighter than the rest.
    """
    array, spacing = volume.array, volume.space.spacing
    if array.min() == array.max():
        raise InvalidImageError("all voxels are equal, so there is no brain to find")
    bright = array > threshold_otsu(array)
    body = _shrunk(bright, BRIDGE_MM, spacing)
    # a brain of few voxels has no middle so far from its border
    body = body if body.any() else bright
    parts = label_components(body, 6)
    ids, sizes = count_pixels(parts)
    brain = _grown(parts == ids[sizes.argmax()], BRIDGE_MM, spacing) & bright
    # what closes a furrow at the border needs room beyond it
    room = [int(np.ceil(FURROW_MM / step)) + 1 for step in spacing]
    padded = np.pad(brain, [(n, n) for n in room])
    closed = _shrunk(_grown(padded, FURROW_MM, spacing), FURROW_MM, spacing)
    inner = closed[tuple(slice(n, -n) for n in room)]
    filled: BoolArray = binary_fill_holes(inner | brain)
    return filled


def _shrunk(mask: BoolArray, millimetres: float, spacing: tuple[float, ...]) -> Any:
    return distance_inside(mask, spacing) > millimetres


def _grown(mask: BoolArray, millimetres: float, spacing: tuple[float, ...]) -> Any:
    return ~_shrunk(~mask, millimetres, spacing)
