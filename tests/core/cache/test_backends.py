"""Every cache keeps the same promises."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_samseg.core.cache import CACHE_BACKENDS
from napari_samseg.core.cache.key import EmbeddingKey, digest_array
from napari_samseg.core.cache.layered import LayeredCache
from napari_samseg.core.cache.memory import MemoryCache
from napari_samseg.core.cache.recipe import StackRecipe
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.types import PlaneEmbedding


@pytest.fixture(params=list(CACHE_BACKENDS))
def cache(request, tmp_path):
    return MAKERS[request.param](tmp_path)


def make_entry(folder):
    return EmbeddingStore(folder / "store").entry(RECIPE)


KEY = EmbeddingKey(
    plane_digest="p",
    encoder_digest="e",
    precision="float32",
    preprocessing=(("normalisation", "percentile"), ("low", 0.1)),
    plane=(3,),
    tile=(0, 0, 64, 64),
)


RECIPE = StackRecipe(
    image="stack.tif",
    planes=(5,),
    plane_size=(64, 64),
    dtype="uint8",
    encoder_digest="e",
    model="m",
    embedding_shape=(4, 8, 8),
    precision="float32",
    preprocessing=KEY.preprocessing,
    tiles=((0, 0, 64, 64), (0, 32, 64, 96)),
)
MAKERS = {
    "memory": lambda folder: MemoryCache(),
    "zarr": make_entry,
    "layered": lambda folder: LayeredCache(MemoryCache(), make_entry(folder)),
}


def embedding(value: float, size: int = 8) -> PlaneEmbedding:
    features = np.full((4, size, size), value, np.float32)
    return PlaneEmbedding({"image_embed": features}, (30, 40), (48, 64), "e")


def test_what_is_put_is_got(cache):
    put = embedding(1)
    cache.put(KEY, put)
    got = cache.get(dataclasses.replace(KEY))
    np.testing.assert_array_equal(
        got.features["image_embed"], put.features["image_embed"]
    )
    assert (got.original_size, got.input_size) == ((30, 40), (48, 64))
    assert got.encoder_digest == "e"


def test_what_was_not_put_is_not_there(cache):
    assert cache.get(KEY) is None


@pytest.mark.parametrize(
    "change",
    [
        {"plane_digest": "q"},
        {"encoder_digest": "f"},
        {"precision": "bfloat16"},
        {"preprocessing": (("normalisation", "percentile"), ("low", 0.2))},
        {"plane": (4,)},
        {"tile": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_key_is_another_embedding(cache, change):
    cache.put(KEY, embedding(1))
    assert cache.get(dataclasses.replace(KEY, **change)) is None


def test_the_last_put_wins(cache):
    cache.put(KEY, embedding(1))
    cache.put(KEY, embedding(2))
    assert cache.get(KEY).features["image_embed"][0, 0, 0] == 2


def test_threads_see_whole_embeddings(cache):
    def put_and_get(i: int) -> float:
        key = dataclasses.replace(KEY, plane=(i % 4,))
        cache.put(key, embedding(i % 4))
        values = cache.get(key).features["image_embed"]
        assert (values == values[0, 0, 0]).all()
        return float(values[0, 0, 0])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(put_and_get, range(200))) == [i % 4 for i in range(200)]


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    position=st.floats(0, 1, exclude_max=True),
)
def test_a_digest_changes_with_any_value(shape, position):
    plane = np.zeros(shape, np.float32)
    changed = plane.copy()
    changed.flat[int(position * plane.size)] = 1e-6
    assert digest_array(plane) != digest_array(changed)
    assert digest_array(plane) == digest_array(np.asfortranarray(plane))
    assert digest_array(plane) != digest_array(plane.astype(np.int32))
    assert digest_array(plane) != digest_array(plane[None])
