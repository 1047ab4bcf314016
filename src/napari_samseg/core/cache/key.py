"""What an embedding was made from, so that it is never taken for another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

__all__ = ["EmbeddingKey", "digest_array"]


@dataclass(frozen=True, slots=True)
class EmbeddingKey:
    """Identity of an embedding: two equal keys mean equal features.

    Attributes
    ----------
    plane_digest : str
        `digest_array` of what was encoded.
    encoder_digest : str
        See `PromptableModel.encoder_digest`.
    precision : str
        Arithmetic of the encoder, such as ``"float32"``.
    preprocessing : tuple of (str, value)
        What made the plane of the image, by name: level, channels, normalisation
        with its numbers. Empty if `plane_digest` is that of the finished plane.
    plane : tuple of int
        Index of the plane in its image.
    tile : (y0, x0, y1, x1) or None
        Part of the plane, half-open; None for the whole.
    """

    plane_digest: str
    encoder_digest: str
    precision: str
    preprocessing: tuple[tuple[str, str | int | float | None], ...] = ()
    plane: tuple[int, ...] = ()
    tile: tuple[int, int, int, int] | None = None


def digest_array(array: npt.NDArray[Any]) -> str:
    """Hash the values, shape and dtype of an array (xxh3, 128 bits)."""
    digest = xxhash.xxh3_128(f"{array.shape} {array.dtype.str}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
