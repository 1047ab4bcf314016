"""The least recently used embeddings leave first, once too many bytes are held."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from napari_samseg.core.cache.key import EmbeddingKey
from napari_samseg.core.errors import SettingsError
from napari_samseg.core.types import PlaneEmbedding

__all__ = ["MemoryCache"]


class MemoryCache:
    """Keep embeddings in memory, at most `max_bytes` of them.

    The default holds 64 planes of SAM (4 MiB each).
    """

    def __init__(self, max_bytes: int = 256 << 20) -> None:
        if max_bytes < 0:
            raise SettingsError(f"a cache of {max_bytes} bytes is not possible")
        self.max_bytes = max_bytes
        self._embeddings: OrderedDict[EmbeddingKey, PlaneEmbedding] = OrderedDict()
        self._nbytes = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._embeddings)

    @property
    def nbytes(self) -> int:
        """Bytes of features held."""
        return self._nbytes

    def get(self, key: EmbeddingKey) -> PlaneEmbedding | None:
        """Return the embedding of `key`, or None if it is not here."""
        with self._lock:
            embedding = self._embeddings.get(key)
            if embedding is not None:
                self._embeddings.move_to_end(key)
            return embedding

    def put(self, key: EmbeddingKey, embedding: PlaneEmbedding) -> None:
        """Keep an embedding, dropping the least recently used ones for it.

        One that is larger than the whole cache is not kept, and drops nothing.
        """
        if embedding.nbytes > self.max_bytes:
            return
        with self._lock:
            replaced = self._embeddings.pop(key, None)
            if replaced is not None:
                self._nbytes -= replaced.nbytes
            self._embeddings[key] = embedding
            self._nbytes += embedding.nbytes
            while self._nbytes > self.max_bytes:
                _, dropped = self._embeddings.popitem(last=False)
                self._nbytes -= dropped.nbytes

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._embeddings.clear()
            self._nbytes = 0
