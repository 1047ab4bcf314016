"""Masks as the logits that a decoder takes as mask prompts."""

from __future__ import annotations

import numpy as np

from napari_samseg.core.types import BoolArray, FloatArray

__all__ = ["MASK_LOGIT", "coarse_shares", "mask_to_logits"]

# Logit of a pixel that surely belongs to a mask prompt (probability 0.9997).
MASK_LOGIT = 8.0


def mask_to_logits(mask: BoolArray, low_res_size: int) -> FloatArray:
    """Turn a mask into the logits that a model takes as a mask prompt.

    Parameters
    ----------
    mask : (Y, X) bool
    low_res_size : int
        Side s of the result; the longer side of the plane fills it, and what is
        beyond the plane is background.

    Returns
    -------
    (s, s) float32
        From -8 to 8; the share of a coarse pixel that the mask covers is mapped
        linearly, so that edges stay where they are.
    """
    scale = low_res_size / max(mask.shape)
    height, width = (max(1, round(side * scale)) for side in mask.shape)
    share = coarse_shares(height, mask.shape[0]) @ mask.astype(np.float32)
    share = share @ coarse_shares(width, mask.shape[1]).T
    logits = np.full((low_res_size, low_res_size), -MASK_LOGIT, np.float32)
    logits[:height, :width] = MASK_LOGIT * (2 * share - 1)
    return logits


def coarse_shares(n_coarse: int, n_fine: int) -> FloatArray:
    """Share of each coarse pixel that each fine one covers, (n_coarse, n_fine)."""
    step = n_fine / n_coarse
    start = np.arange(n_coarse)[:, np.newaxis] * step
    fine = np.arange(n_fine)
    covered = np.minimum(start + step, fine + 1) - np.maximum(start, fine)
    shares: FloatArray = (np.clip(covered, 0, None) / step).astype(np.float32)
    return shares
