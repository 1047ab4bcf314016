"""Memory in front of a store, and how the store of an image is found."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import zarr
from embedding_stores import RECIPE, SHORT, embeddings, features, fill

from napari_samseg.core.cache.layered import LayeredCache, StoreWarning
from napari_samseg.core.cache.lookup import EntryFinder, find_entry
from napari_samseg.core.cache.memory import MemoryCache
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.errors import CacheError

PLANE = (1, 2)
KEYS = [RECIPE.key(PLANE, tile, "pixels") for tile in RECIPE.tiles]


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "store")


@pytest.fixture
def entry(store):
    return store.entry(RECIPE)


def put_plane(cache, keys=KEYS, seed=0):
    for number, embedding in embeddings(seed).items():
        cache.put(keys[number], embedding)


def test_what_is_stored_comes_from_memory_the_second_time(entry):
    entry.put_tiles(PLANE, "pixels", embeddings(3))
    cache = LayeredCache(MemoryCache(), entry)
    first = cache.get(KEYS[0])
    np.testing.assert_allclose(first.features["image_embed"], features(3), atol=0.01)
    assert cache.get(KEYS[0]) is first


def test_a_plane_is_stored_once_all_its_tiles_are_encoded(entry):
    cache = LayeredCache(MemoryCache(0), entry)
    cache.put(KEYS[0], embeddings(0)[0])
    assert entry.plane_digest(PLANE) is None
    cache.put(KEYS[1], embeddings(0)[1])
    assert entry.has(PLANE, "pixels")
    assert entry.check(PLANE) == "sound"
    assert not entry.claimed()
    # memory holds nothing: it comes from the store
    assert cache.get(KEYS[1]) is not None


def test_what_a_plane_lacks_is_added_to_what_is_stored(entry):
    entry.put_tiles(PLANE, "pixels", {0: embeddings(0)[0]})
    LayeredCache(MemoryCache(), entry).put(KEYS[1], embeddings(0)[1])
    assert entry.has(PLANE, "pixels")


def test_planes_of_other_pixels_stay(entry):
    entry.put_tiles(PLANE, "others", embeddings(0))
    put_plane(LayeredCache(MemoryCache(), entry))
    assert entry.plane_digest(PLANE) == "others"


def test_a_plane_at_which_another_writer_is_stays_with_it(store, entry):
    other = store.entry(RECIPE)
    assert other.claim(PLANE)
    put_plane(LayeredCache(MemoryCache(), entry))
    assert entry.plane_digest(PLANE) is None
    assert entry.claimed()


def test_nothing_is_written_where_the_entry_was_deleted(store, entry):
    cache = LayeredCache(MemoryCache(), entry)
    store.delete(RECIPE.digest)
    put_plane(cache)
    assert store.digests() == []


def test_nothing_is_written_where_only_reading_is_allowed(store, entry):
    reading = EmbeddingStore(store.location, write=False).entry(RECIPE)
    put_plane(LayeredCache(MemoryCache(), reading))
    assert entry.recorded() == set()


def test_a_store_in_trouble_is_warned_of_once(entry, monkeypatch):
    def fail(key):
        raise CacheError("the disk is gone")

    monkeypatch.setattr(entry, "get", fail)
    cache = LayeredCache(MemoryCache(), entry)
    with pytest.warns(StoreWarning, match="the disk is gone"):
        assert cache.get(KEYS[0]) is None
    put_plane(cache)
    assert cache.get(KEYS[1]) is not None
    assert entry.recorded() == set(), "it is left alone"


def test_an_entry_is_found_in_whatever_form_it_is_stored(store):
    half = dataclasses.replace(SHORT, storage="uint8")
    fill(store, half)
    found = find_entry(store.location, SHORT, ((0,), "pixels"))
    assert found.recipe == half
    assert not found.read_only


def test_an_image_under_another_name_is_found_by_its_pixels(store):
    fill(store)
    moved = dataclasses.replace(SHORT, image="elsewhere/short.tif")
    assert find_entry(store.location, moved, ((1,), "pixels")).recipe == SHORT
    assert find_entry(store.location, moved, ((1,), "others")) is None


def test_another_image_under_the_same_name_is_not_taken_for_it(store):
    fill(store)
    assert find_entry(store.location, SHORT, ((0,), "others")) is None
    longer = dataclasses.replace(SHORT, planes=(3,))
    assert find_entry(store.location, longer, ((0,), "pixels")) is None


def test_nothing_is_made_by_looking(tmp_path):
    assert find_entry(str(tmp_path / "none"), SHORT, ((0,), "pixels")) is None
    empty = tmp_path / "empty"
    empty.mkdir()
    assert find_entry(str(empty), SHORT, ((0,), "pixels")) is None
    EmbeddingStore(tmp_path / "store")
    assert find_entry(str(tmp_path / "store"), SHORT, ((0,), "pixels")) is None
    assert not (tmp_path / "none").exists()
    assert list(empty.iterdir()) == []


def test_a_place_that_is_something_else_is_warned_of_once(tmp_path):
    zarr.create_group(tmp_path)
    finder = EntryFinder()
    sample = (0,), "pixels"
    with pytest.warns(StoreWarning, match="something else than embeddings"):
        assert finder.find(str(tmp_path), SHORT, sample) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert finder.find(str(tmp_path), SHORT, sample) is None
