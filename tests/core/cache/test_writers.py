"""Writers and readers of the same planes at the same time lose nothing."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from embedding_stores import RECIPE, embeddings, features, get, put

from napari_samseg.core.cache import layout
from napari_samseg.core.cache.health import repair
from napari_samseg.core.cache.zarr_store import EmbeddingStore, StackEntry
from napari_samseg.core.types import PlaneEmbedding


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def entry(folder):
    """An entry with one plane, (1, 2)."""
    entry = EmbeddingStore(folder).entry(RECIPE)
    entry.put_tiles((1, 2), "pixels", embeddings(0))
    return entry


def test_a_plane_written_again_while_it_is_read_is_read_again(entry, monkeypatch):
    read = entry._read

    def write_first(*args):
        monkeypatch.setattr(entry, "_read", read)
        put(entry, (1, 2), 3)
        return None if args[2].checksum else read(*args)

    monkeypatch.setattr(entry, "_read", write_first)
    np.testing.assert_allclose(
        get(entry).features["image_embed"], features(3), atol=0.01
    )
    assert entry.has((1, 2)), "not put into quarantine"


def test_a_plane_written_again_while_it_is_checked_is_no_damage(
    folder, entry, monkeypatch
):
    stored = StackEntry._stored

    def write_first(self, *_):
        monkeypatch.setattr(StackEntry, "_stored", stored)
        put(entry, (1, 2), 3)

    monkeypatch.setattr(StackEntry, "_stored", write_first)
    assert list(repair(folder))
    assert entry.has((1, 2)), "not put into quarantine"


def test_only_the_record_that_was_judged_is_set_aside(folder, entry, monkeypatch):
    file = folder / RECIPE.digest / "features/c/6/0/0/0/0"
    file.write_bytes(b"damaged")
    judge = entry._judge

    def write_after(place):
        found = judge(place)
        put(entry, (1, 2), 3)
        return found

    monkeypatch.setattr(entry, "_judge", write_after)
    assert not entry.quarantine((1, 2))
    monkeypatch.undo()
    assert entry.check((1, 2)) == "sound"


def test_writers_of_two_files_of_a_plane_record_both(tmp_path, monkeypatch):
    n = layout.TILES_PER_FILE
    tiles = tuple((0, i, 8, i + 8) for i in range(n + 3))
    recipe = dataclasses.replace(RECIPE, tiles=tiles, embedding_shape=(1, 2, 2))
    values = PlaneEmbedding({"image_embed": np.ones((1, 2, 2))}, (8, 8), (64, 64), "e")
    first, second = (EmbeddingStore(tmp_path).entry(recipe) for _ in range(2))
    first.put_tiles((0, 0), "pixels", dict.fromkeys(range(3), values))
    features = first._features

    class Slow:
        """Another writer finishes while this one writes a file."""

        def __getitem__(self, index):
            return features[index]

        def __setitem__(self, index, written):
            second.put_tiles((0, 0), "pixels", dict.fromkeys(range(n, n + 3), values))
            features[index] = written

    monkeypatch.setattr(first, "_features", Slow())
    first.put_tiles((0, 0), "pixels", dict.fromkeys(range(3, 6), values))
    assert first.missing_tiles((0, 0), "pixels") == tuple(range(6, n))


def test_writers_that_begin_at_once_make_one_store(tmp_path):
    for i in range(10):
        folder = tmp_path / str(i)

        def begin(place, folder=folder):
            entry = EmbeddingStore(folder).entry(RECIPE)
            put(entry, RECIPE.plane_at(place), place)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(begin, range(8)))
        entry = EmbeddingStore(folder, write=False).entry(RECIPE)
        assert entry.recorded() == set(range(8))
        assert entry.check((1, 2)) == "sound"
