"""Variants of an embedding, drawn anew in each step.

Whatever moves or changes pixels has to be encoded again. What is left to vary once an
image is encoded is the embedding itself: noise on it, or channels left out, as in
networks trained with noise (Bishop 1995) and with spatial dropout (Tompson et al.
2015). That costs no encoding and no room.
"""

from __future__ import annotations

import numpy as np
import torch

from napari_samseg.core.settings import AugmentSettings

__all__ = ["perturb"]


def perturb(
    features: torch.Tensor, settings: AugmentSettings, rng: np.random.Generator
) -> torch.Tensor:
    """Return a random variant of embeddings; themselves where none is asked for.

    Parameters
    ----------
    features : (B, C, h, w) float tensor
        Gradients pass through.
    settings : AugmentSettings
        Of which `feature_noise` and `feature_dropout` count.
    rng : numpy.random.Generator
        Not drawn from where none is asked for.

    Returns
    -------
    (B, C, h, w) float tensor
        On the same device.
    """
    if not (settings.feature_noise or settings.feature_dropout):
        return features
    # drawn on the processor: the same on every device
    random = torch.Generator().manual_seed(int(rng.integers(2**63)))
    varied = features
    if settings.feature_noise:
        spread = features.detach().std(dim=(2, 3), keepdim=True)
        strength = float(rng.uniform(0, settings.feature_noise))
        noise = torch.randn(features.shape, generator=random)
        varied = varied + strength * spread * noise.to(features.device)
    if settings.feature_dropout:
        drawn = torch.rand(*features.shape[:2], 1, 1, generator=random)
        is_out = (drawn < settings.feature_dropout).to(features.device)
        # the mean, not zero: the decoder's layers after it see sums of usual size
        mean = features.detach().mean(dim=(2, 3), keepdim=True)
        varied = torch.where(is_out, mean, varied)
    return varied
