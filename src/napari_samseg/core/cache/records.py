"""Commit records: what is known of the embeddings of a plane, written last."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from napari_samseg.core.cache.seal import to_sealed_bytes, unsealed
from napari_samseg.core.types import FloatArray

__all__ = ["PlaneRecord", "TileRecord", "checksum_features"]


@dataclass(frozen=True, slots=True)
class TileRecord:
    """What a record says of one tile.

    Attributes
    ----------
    checksum : str
        See `checksum_features`.
    original_size, input_size : (int, int)
        As in `PlaneEmbedding`.
    ranges : (C, 2) float32 or None
        As `pack_features` made them.
    """

    checksum: str
    original_size: tuple[int, int]
    input_size: tuple[int, int]
    ranges: FloatArray | None


@dataclass(frozen=True, slots=True)
class PlaneRecord:
    """What stands in ``records/<plane>``.

    Attributes
    ----------
    plane_digest : str
        Of the pixels that were encoded.
    tiles : dict of int to TileRecord
        By their place in the recipe.
    """

    plane_digest: str
    tiles: dict[int, TileRecord]

    def to_bytes(self) -> bytes:
        """Return the record as sealed JSON."""
        tiles = {
            str(number): [
                tile.checksum,
                *tile.original_size,
                *tile.input_size,
                None if tile.ranges is None else _to_text(tile.ranges),
            ]
            for number, tile in self.tiles.items()
        }
        return to_sealed_bytes({"plane_digest": self.plane_digest, "tiles": tiles})

    @classmethod
    def from_bytes(cls, content: bytes) -> PlaneRecord | None:
        """Read what `to_bytes` wrote; None if it is not that any more."""
        body = unsealed(content)
        if body is None:
            return None
        try:
            tiles = {
                int(number): TileRecord(
                    checksum, (y, x), (h, w), None if r is None else _from_text(r)
                )
                for number, (checksum, y, x, h, w, r) in body["tiles"].items()
            }
            return cls(body["plane_digest"], tiles)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def checksum_features(stored: npt.NDArray[Any], ranges: FloatArray | None) -> str:
    """Hash features as they are stored, with their ranges (xxh3, 64 bits)."""
    digest = xxhash.xxh3_64(np.ascontiguousarray(stored).data)
    if ranges is not None:
        digest.update(np.ascontiguousarray(ranges).data)
    return digest.hexdigest()


def _to_text(ranges: FloatArray) -> str:
    return base64.b64encode(ranges.astype("<f4").tobytes()).decode()


def _from_text(text: str) -> FloatArray:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(-1, 2)
