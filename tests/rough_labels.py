"""True labels made worse in known ways, and how well labels fit the true ones."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage import measure

from napari_samseg.core.metrics.overlap import mask_iou


def erode(labels, n):
    """Take `n` pixels off each object all around; none vanishes."""
    rough = labels.copy()
    for region in measure.regionprops(labels):
        core = ndimage.binary_erosion(np.pad(region.image, 1), iterations=n)[1:-1, 1:-1]
        if core.any():
            rough[region.slice][region.image & ~core] = 0
    return rough


def shift(labels, y, x):
    """Move all objects; what leaves the plane is gone."""
    return ndimage.shift(labels, (y, x), order=0)


def mean_iou(labels, true, ids):
    """Mean IoU of objects with the true ones of the same id."""
    return float(np.mean([mask_iou(labels == i, true == i) for i in ids]))
