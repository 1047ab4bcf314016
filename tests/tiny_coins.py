"""A tiny model and a corner of scikit-image's coins, which trainings in tests share."""

from __future__ import annotations

import numpy as np
import torch
from skimage.data import coins
from skimage.filters import threshold_otsu
from skimage.measure import label

from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.models.tiny import TinyConfig, build_tiny, prompt_prior

CONFIG = TinyConfig(
    input_size=128,
    embed_dim=32,
    widths=(8, 16, 16, 16, 16),
    depths=(0, 0, 0, 0, 0),
    decoder_heads=4,
    mlp_dim=32,
    mask_channels=4,
)


def labelled_coins() -> tuple[np.ndarray, np.ndarray]:
    """The picture (128, 128), and the large components of Otsu's threshold."""
    picture = coins()[150:278, 40:168]
    labels = label(picture > threshold_otsu(picture))
    areas = np.bincount(labels.ravel())
    return picture, np.where(areas[labels] >= 200, labels, 0)


def tiny_model() -> SamModel:
    """The model, with the same random weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = build_tiny(CONFIG)
    return SamModel(sam, name="test", family="tiny", prior=prompt_prior)
