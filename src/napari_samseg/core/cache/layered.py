"""Memory in front of a stack's embeddings in a store."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from threading import Lock
from typing import Any

from napari_samseg.core.cache.entry import StackEntry
from napari_samseg.core.cache.key import EmbeddingKey
from napari_samseg.core.cache.protocol import EmbeddingCache
from napari_samseg.core.types import PlaneEmbedding

__all__ = ["LayeredCache", "StoreWarning", "warn_store"]


class StoreWarning(UserWarning):
    """A store of embeddings cannot be used, and the work goes on without it."""


def warn_store(error: Exception) -> None:
    """Say why a store is not used any more."""
    reason = str(error) or type(error).__name__
    message = f"going on without the stored embeddings: {reason}"
    warnings.warn(message, StoreWarning, stacklevel=3)


class LayeredCache:
    """Looks in memory first and then in a store; what is new goes to both.

    A store must never be in the way of work. One that fails is warned of once and
    left alone from then on; planes that it holds for other pixels stay; and a plane
    goes there only once all its tiles are encoded, unless another writer is at it.

    Parameters
    ----------
    memory : EmbeddingCache
    entry : StackEntry
        May be read only.
    """

    def __init__(self, memory: EmbeddingCache, entry: StackEntry) -> None:
        self._memory, self._entry = memory, entry
        self._is_usable = True
        self._plane: tuple[tuple[int, ...], str] | None = None
        self._tiles: dict[int, PlaneEmbedding] = {}
        self._lock = Lock()

    def get(self, key: EmbeddingKey) -> PlaneEmbedding | None:
        """Return the embedding of `key`, or None if it is in neither."""
        embedding = self._memory.get(key)
        if embedding is None:
            embedding = self._attempt(self._entry.get, key)
            if embedding is not None:
                self._memory.put(key, embedding)
        return embedding

    def put(self, key: EmbeddingKey, embedding: PlaneEmbedding) -> None:
        """Keep an embedding in memory, and its plane in the store once it is whole."""
        self._memory.put(key, embedding)
        if self._entry.recipe.makes(key) and not self._entry.read_only:
            self._attempt(self._collect, key, embedding)

    def _collect(self, key: EmbeddingKey, embedding: PlaneEmbedding) -> None:
        with self._lock:
            plane = key.plane, key.plane_digest
            if plane != self._plane:
                # a plane that was left half encoded is encoded when somebody needs it
                self._plane, self._tiles = plane, {}
            self._tiles[self._entry.recipe.tiles.index(key.tile)] = embedding
            missing = set(self._entry.missing_tiles(*plane))
            if missing <= self._tiles.keys():
                self._write(*plane, {number: self._tiles[number] for number in missing})
                self._tiles = {}

    def _write(
        self,
        plane: tuple[int, ...],
        plane_digest: str,
        tiles: dict[int, PlaneEmbedding],
    ) -> None:
        entry = self._entry
        is_others = entry.plane_digest(plane) not in (None, plane_digest)
        if not tiles or is_others or not entry.exists() or not entry.claim(plane):
            return
        try:
            entry.put_tiles(plane, plane_digest, tiles)
        finally:
            entry.release(plane)

    def _attempt(self, act: Callable[..., Any], *values: Any) -> Any:
        if not self._is_usable:
            return None
        try:
            return act(*values)
        except Exception as error:  # noqa: BLE001 - whatever it is, work goes on
            self._is_usable = False
            warn_store(error)
            return None
