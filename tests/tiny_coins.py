"""A tiny model and a corner of scikit-image's coins, which trainings in tests share."""

from __future__ import annotations

import numpy as np
from skimage.data import coins
from skimage.filters import threshold_otsu
from skimage.measure import label
from small_models import build_small

from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.models.tiny import prompt_prior


def labelled_coins() -> tuple[np.ndarray, np.ndarray]:
    """The picture (128, 128), and the large components of Otsu's threshold."""
    picture = coins()[150:278, 40:168]
    labels = label(picture > threshold_otsu(picture))
    areas = np.bincount(labels.ravel())
    return picture, np.where(areas[labels] >= 200, labels, 0)


def tiny_model() -> SamModel:
    """The model, with the same random weights each time."""
    sam = build_small(
        input_size=128,
        widths=(8, 16, 16, 16, 16),
        depths=(0, 0, 0, 0, 0),
        decoder_heads=4,
        mask_channels=4,
    )
    return SamModel(sam, name="test", family="tiny", prior=prompt_prior)
