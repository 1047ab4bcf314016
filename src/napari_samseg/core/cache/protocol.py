"""What every cache of embeddings offers."""

from __future__ import annotations

from typing import Protocol

from napari_samseg.core.cache.key import EmbeddingKey
from napari_samseg.core.types import PlaneEmbedding

__all__ = ["EmbeddingCache"]


class EmbeddingCache(Protocol):
    """A place for embeddings that several threads may use at once."""

    def get(self, key: EmbeddingKey) -> PlaneEmbedding | None:
        """Return the embedding of `key`, or None if it is not here."""

    def put(self, key: EmbeddingKey, embedding: PlaneEmbedding) -> None:
        """Keep an embedding; the cache may drop this or others for lack of room."""
