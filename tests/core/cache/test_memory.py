from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_samseg.core.cache import MemoryCache
from napari_samseg.core.cache.key import EmbeddingKey
from napari_samseg.core.errors import SettingsError
from napari_samseg.core.types import PlaneEmbedding


def key(i: int) -> EmbeddingKey:
    return EmbeddingKey(str(i), "e", "float32")


def embedding(nbytes: int) -> PlaneEmbedding:
    features = {"image_embed": np.zeros((1, 1, nbytes), np.uint8)}
    return PlaneEmbedding(features, (8, 8), (8, 8), "e")


def test_the_least_recently_used_leaves_first():
    cache = MemoryCache(max_bytes=200)
    cache.put(key(1), embedding(100))
    cache.put(key(2), embedding(100))
    cache.get(key(1))
    cache.put(key(3), embedding(100))
    assert cache.get(key(2)) is None
    assert cache.get(key(1)) is not None
    assert cache.get(key(3)) is not None


def test_one_too_large_for_the_cache_drops_nothing():
    cache = MemoryCache(max_bytes=200)
    cache.put(key(1), embedding(100))
    cache.put(key(2), embedding(201))
    assert cache.get(key(2)) is None
    assert cache.get(key(1)) is not None


def test_clearing_drops_everything():
    cache = MemoryCache()
    cache.put(key(1), embedding(100))
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)
    assert cache.get(key(1)) is None


def test_a_negative_size_is_refused():
    with pytest.raises(SettingsError, match="-1 bytes"):
        MemoryCache(max_bytes=-1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 120)), max_size=40))
def test_it_never_holds_more_than_it_may_nor_loses_count(puts):
    cache = MemoryCache(max_bytes=200)
    for i, nbytes in puts:
        cache.put(key(i), embedding(nbytes))
        held = [cache.get(key(j)) for j in range(6)]
        assert sum(e.nbytes for e in held if e is not None) == cache.nbytes <= 200
        assert cache.get(key(i)).nbytes == nbytes
