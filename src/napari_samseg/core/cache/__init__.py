"""Embeddings kept for later: in memory, or in a store on disk."""

from __future__ import annotations

from napari_samseg.core.cache.entry import StackEntry
from napari_samseg.core.cache.layered import LayeredCache
from napari_samseg.core.cache.memory import MemoryCache
from napari_samseg.core.cache.protocol import EmbeddingCache

__all__ = [
    "CACHE_BACKENDS",
    "EmbeddingCache",
    "LayeredCache",
    "MemoryCache",
    "StackEntry",
]

CACHE_BACKENDS: dict[str, type[EmbeddingCache]] = {
    "memory": MemoryCache,
    "zarr": StackEntry,
    "layered": LayeredCache,
}
