"""A store on disk loses nothing that was finished, and uses nothing that is off."""

from __future__ import annotations

import dataclasses
import errno
import json
from importlib.metadata import version

import numpy as np
import pytest
import zarr.storage
from embedding_stores import RECIPE, SHAPE, embeddings, features, get, put
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_samseg.core.cache import layout
from napari_samseg.core.cache.recipe import StackRecipe
from napari_samseg.core.cache.storage import pack_features, unpack_features
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.errors import CacheError, SettingsError
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


def file_of(folder, entry, place=6):
    return folder / entry.recipe.digest / "features" / "c" / f"{place}/0/0/0/0"


# -- what is there ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("storage", "tolerance"), [("float32", 0), ("float16", 0.004), ("uint8", 0.04)]
)
def test_a_plane_comes_back(folder, storage, tolerance):
    recipe = dataclasses.replace(RECIPE, storage=storage)
    EmbeddingStore(folder).entry(recipe).put_tiles((1, 2), "pixels", embeddings(0))
    entry = EmbeddingStore(folder, write=False).entry(recipe)
    for tile in range(2):
        got = get(entry, tile=tile)
        expected = features(tile)
        np.testing.assert_allclose(
            got.features["image_embed"], expected, atol=tolerance
        )
        assert got.features["image_embed"].dtype == np.float32
        assert (got.original_size, got.input_size) == ((30, 30), (64, 64))
        with pytest.raises(ValueError, match="read-only"):
            got.features["image_embed"][0] = 0
    assert entry.recorded() == {6}
    assert entry.has((1, 2), "pixels")
    assert not entry.has((1, 2), "other pixels")
    assert not entry.has((0, 0))


def test_one_file_for_the_features_of_a_plane(folder, entry):
    assert file_of(folder, entry).is_file()
    entry.put_tiles((2, 3), "pixels", embeddings(4))
    files = [p for p in (folder / RECIPE.digest / "features").rglob("*") if p.is_file()]
    assert len(files) == 1 + 2  # the array's own, and one for each plane


def test_changed_pixels_are_another_plane(entry):
    assert get(entry, digest="changed") is None
    entry.put_tiles((1, 2), "changed", embeddings(7))
    assert get(entry) is None
    np.testing.assert_allclose(
        get(entry, digest="changed").features["image_embed"], features(7), atol=0.01
    )


@pytest.mark.parametrize(
    "change",
    [
        {"image": "other.tif"},
        {"encoder_digest": "f"},
        {"precision": "bfloat16"},
        {"preprocessing": (("normalisation", "minmax"),)},
        {"storage": "float32"},
        {"plane_size": (40, 31)},
        {"dtype": "uint8"},
        {"planes": (12,)},
        {"tiles": ((0, 0, 40, 30),)},
        {"plane_axes": (-3, -1)},
        {"input_size": 512},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_recipe_never_shares_an_entry(folder, entry, change):
    other = dataclasses.replace(RECIPE, **change)
    assert other.digest != RECIPE.digest
    store = EmbeddingStore(folder)
    assert store.entry(other).recorded() == set()
    assert set(store.recipes()) == {RECIPE.digest, other.digest}
    assert store.recipes()[other.digest] == other


def test_the_name_of_the_model_and_the_version_are_labels(folder, entry):
    other = dataclasses.replace(RECIPE, model="copy of m", plugin_version="99")
    assert (other, other.digest) == (RECIPE, RECIPE.digest)
    found = EmbeddingStore(folder).entry(other)
    assert get(found) is not None
    assert found.recipe.model == "m"
    assert found.recipe.plugin_version == version("napari-samseg")


def pixels_are(digest):
    """All planes of an image have these pixels."""
    return lambda plane: digest


def test_an_image_that_moved_finds_its_entry(folder, entry):
    moved = dataclasses.replace(RECIPE, image="elsewhere/stack.tif", model="n")
    store = EmbeddingStore(folder)
    found = store.entry(moved, pixels_are("pixels"))
    assert found.recipe.image == "stack.tif"
    assert get(found) is not None
    assert set(store.recipes()) == {RECIPE.digest}
    reader = EmbeddingStore(folder, write=False)
    assert get(reader.entry(moved, pixels_are("pixels"))) is not None
    assert reader.entry(moved) is None
    assert reader.entry(moved, pixels_are("others")) is None
    assert reader.entry(moved, pixels_are(None)) is None, "cannot be read"


def test_pixels_are_asked_for_only_where_there_is_something_to_find(folder, entry):
    asked = []
    other = dataclasses.replace(RECIPE, image="b.tif", dtype="uint8")
    EmbeddingStore(folder).entry(other, asked.append)
    assert asked == []
    for place in (0, 11):
        put(entry, RECIPE.plane_at(place), place)
    moved = dataclasses.replace(RECIPE, image="moved.tif")
    EmbeddingStore(folder).entry(moved, asked.append)
    assert asked == [(1, 2)], "the middle of what is there"


def test_images_of_the_same_shape_do_not_share_an_entry(folder, entry):
    store = EmbeddingStore(folder)
    other = dataclasses.replace(RECIPE, image="other.tif")
    theirs = store.entry(other, pixels_are("other pixels"))
    assert theirs.recipe.image == "other.tif"
    put(theirs, (1, 2), 5, "other pixels")
    assert get(store.entry(RECIPE, pixels_are("pixels"))) is not None
    # each finds its own where their names were swapped
    swapped = store.entry(other, pixels_are("pixels"))
    assert swapped.recipe.image == "stack.tif"


def test_an_image_that_changed_keeps_its_entry(folder, entry):
    again = EmbeddingStore(folder).entry(RECIPE, pixels_are("new pixels"))
    assert again.recipe == RECIPE
    assert again.plane_digest((1, 2)) == "pixels"
    assert again.plane_digest((0, 0)) is None


@pytest.mark.parametrize(
    "change",
    [{"encoder_digest": "f"}, {"precision": "bfloat16"}, {"tiles": ((0, 0, 40, 30),)}],
    ids=lambda change: next(iter(change)),
)
def test_equal_pixels_do_not_make_up_for_another_encoder(folder, entry, change):
    other = dataclasses.replace(RECIPE, image="moved.tif", **change)
    found = EmbeddingStore(folder).entry(other, pixels_are("pixels"))
    assert found.recipe == other


def test_an_entry_can_be_deleted(folder, entry):
    store = EmbeddingStore(folder)
    store.delete(RECIPE.digest)
    assert store.recipes() == {}
    assert store.entry(RECIPE).recorded() == set()


@given(st.lists(st.integers(1, 6), max_size=3), st.data())
def test_places_and_planes_are_inverse(lengths, data):
    recipe = dataclasses.replace(RECIPE, planes=tuple(lengths))
    place = data.draw(st.integers(0, recipe.n_planes - 1))
    assert recipe.position(recipe.plane_at(place)) == place
    assert StackRecipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@settings(max_examples=30)
@given(st.floats(-1e4, 1e4), st.floats(0, 1e4), st.integers(0, 99))
def test_eight_bits_are_within_half_a_step(low, span, seed):
    values = low + span * np.random.default_rng(seed).random((3, 4, 4))
    values = values.astype(np.float32)
    back = unpack_features(*pack_features(values, "uint8"))
    ranges = np.ptp(values, axis=(1, 2), keepdims=True)
    rounding = 1e-6 * np.abs(values).max()
    assert (np.abs(back - values) <= ranges / 255 * 0.51 + rounding + 1e-6).all()


def test_what_does_not_fit_is_refused(entry):
    huge = np.full(SHAPE, 1e6, np.float32)
    with pytest.raises(CacheError, match="choose float32"):
        entry.put_tiles(
            (0, 0),
            "p",
            {0: PlaneEmbedding({"image_embed": huge}, (30, 30), (4, 4), "e")},
        )
    assert not entry.has((0, 0))
    small = PlaneEmbedding({"image_embed": huge[:, :2] * 0}, (1, 1), (1, 1), "e")
    with pytest.raises(CacheError, match="does not belong"):
        entry.put_tiles((0, 0), "p", {0: small, 1: small})
    with pytest.raises(SettingsError, match="float8"):
        dataclasses.replace(RECIPE, storage="float8")
    with pytest.raises(SettingsError, match="no planes"):
        dataclasses.replace(RECIPE, planes=(0, 4))
    with pytest.raises(SettingsError, match="no tiles"):
        dataclasses.replace(RECIPE, tiles=())


# -- where it lies ---------------------------------------------------------------------


def test_a_folder_that_may_only_be_read(folder, entry):
    reader = EmbeddingStore(folder, write=False)
    assert reader.read_only
    assert get(reader.entry(RECIPE)) is not None
    assert reader.entry(dataclasses.replace(RECIPE, image="x")) is None
    file_of(folder, entry).write_bytes(b"damaged")
    assert get(reader.entry(RECIPE)) is None
    assert reader.entry(RECIPE).recorded() == {6}, "nothing is moved"


def test_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CacheError, match="but other files"):
        EmbeddingStore(tmp_path)
    with pytest.raises(CacheError, match="is a file"):
        EmbeddingStore(tmp_path / "notes.txt")
    zarr.create_group(tmp_path / "other")
    with pytest.raises(CacheError, match="something else"):
        EmbeddingStore(tmp_path / "other")
    with pytest.raises(CacheError, match="there is no store"):
        EmbeddingStore(tmp_path / "nowhere", write=False)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["notes.txt", "other"]


def test_a_newer_schema_is_not_touched(folder, entry, monkeypatch):
    monkeypatch.setattr(layout, "SCHEMA", 0)
    with pytest.raises(CacheError, match="newer version"):
        EmbeddingStore(folder)


# -- what goes wrong -------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "gone"])
@pytest.mark.parametrize("what", ["features", "record"])
def test_damage_is_found_and_put_right(folder, entry, damage, what):
    path = file_of(folder, entry)
    if what == "record":
        path = folder / RECIPE.digest / "records" / "6"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 3] ^= 4
    keep = {"cut": len(content) // 2, "emptied": 0}.get(damage, len(content))
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:keep])
    again = EmbeddingStore(folder).entry(RECIPE)
    assert get(again) is None
    assert again.check((1, 2)) != "sound"
    assert not again.has((1, 2))
    again.put_tiles((1, 2), "pixels", embeddings(0))
    assert again.check((1, 2)) == "sound"
    assert get(again) is not None


def test_a_full_disk_keeps_what_was_finished(folder, entry, monkeypatch):
    async def no_room(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(zarr.storage.LocalStore, "set", no_room)
        with pytest.raises(CacheError, match="No space left on device"):
            entry.put_tiles((0, 0), "p", embeddings(1))
    assert not entry.has((0, 0))
    assert get(entry) is not None
    entry.put_tiles((0, 0), "p", embeddings(1))
    assert entry.check((0, 0)) == "sound"


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("cannot schedule new futures after shutdown")],
    ids=["memory", "shutdown"],
)
@pytest.mark.parametrize("where", ["store", "codec"])
def test_want_of_memory_or_threads_is_no_damage(entry, monkeypatch, error, where):
    read = zarr.storage.LocalStore.get

    async def fail(self, key, *args):
        if "features/c" in key:
            raise error
        return await read(self, key, *args)

    class Failing:
        def __getitem__(self, index):
            raise error

    if where == "store":
        monkeypatch.setattr(zarr.storage.LocalStore, "get", fail)
    else:
        monkeypatch.setattr(entry, "_features", Failing())
    with pytest.raises(type(error)):
        get(entry)
    with pytest.raises(type(error)):
        entry.check((1, 2))
    assert entry.recorded() == {6}


@pytest.mark.parametrize("what", ["index", "tile"])
def test_a_tile_put_beside_a_damaged_one_is_whole(folder, entry, what):
    path = file_of(folder, entry)
    content = bytearray(path.read_bytes())
    content[-8 if what == "index" else 40] ^= 1
    path.write_bytes(content)
    key = RECIPE.key((1, 2), RECIPE.tiles[1], "pixels")
    entry.put(key, embeddings(0)[1])
    assert get(entry, tile=1) is not None
    assert get(entry, tile=0) is None
    assert entry.check((1, 2)) == "missing"
    entry.put(RECIPE.key((1, 2), RECIPE.tiles[0], "pixels"), embeddings(0)[0])
    assert entry.check((1, 2)) == "sound"


def test_features_without_a_record_do_not_count(folder, entry):
    (folder / RECIPE.digest / "records" / "6").unlink()
    assert get(EmbeddingStore(folder).entry(RECIPE)) is None
