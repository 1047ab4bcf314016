"""What is kept can be listed, deleted, kept small and handed on."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import zipfile

import numpy as np
import pytest
import zarr.storage
from embedding_stores import RECIPE, SHORT, embeddings, fill, get, put

from napari_samseg.core.cache import entry as entry_module
from napari_samseg.core.cache import layout, manage
from napari_samseg.core.cache.keys import StoreKeys
from napari_samseg.core.cache.seal import to_sealed_bytes
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.errors import CacheError, OutputError, SettingsError

OTHER = dataclasses.replace(SHORT, image="other.tif")


def run(steps):
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def store(folder):
    """Three entries; SHORT was used first, RECIPE last."""
    store = EmbeddingStore(folder)
    fill(store)
    fill(store, OTHER)
    put(store.entry(RECIPE), (1, 2), 0)
    for hour, recipe in enumerate((SHORT, OTHER, RECIPE)):
        use(store, recipe, 3600 * hour)
    return store


def use(store, recipe, seconds):
    store.keys(recipe.digest).set("used", to_sealed_bytes({"time": seconds}))


def images(entries):
    return [entry.recipe.image for entry in entries]


def prune(store, max_bytes):
    """Delete what is to leave; return the images of it."""
    chosen = manage.plan_prune(run(manage.list_entries(store)), max_bytes)
    deleted = run(manage.prune(store, [entry.digest for entry in chosen]))
    assert deleted == [entry.digest for entry in chosen]
    assert not set(deleted) & set(store.digests())
    return images(chosen)


def test_a_list_says_what_is_there(store, folder):
    (folder / OTHER.digest / "zarr.json").write_text("{")
    (folder / OTHER.digest / "features" / "zarr.json").write_text("{")
    entries = run(manage.list_entries(EmbeddingStore(folder, write=False)))
    recipe, unreadable, short = entries
    assert (recipe.recipe, recipe.planes_done, recipe.last_used) == (RECIPE, 1, 7200)
    assert (short.recipe, short.planes_done, short.last_used) == (SHORT, 2, 0)
    assert (unreadable.recipe, unreadable.planes_done) == (None, 2)
    for entry in entries:
        files = [p for p in (folder / entry.digest).rglob("*") if p.is_file()]
        assert entry.nbytes == sum(p.stat().st_size for p in files)
    assert [s.done for s in manage.list_entries(store)] == [0, 1, 2]


def test_what_vanishes_while_sizes_are_added_up_has_none(store, folder, monkeypatch):
    entry = store.entry(SHORT)
    size = entry.nbytes()
    entry.claim((0,))
    getsize = zarr.storage.LocalStore.getsize

    async def give_up_first(self, key):
        if "claims" in key:
            (folder / key).unlink()
        return await getsize(self, key)

    monkeypatch.setattr(zarr.storage.LocalStore, "getsize", give_up_first)
    assert entry.nbytes() == size


def test_an_entry_is_known_by_the_start_of_its_name(store):
    assert manage.find_digest(store, SHORT.digest[:8]) == SHORT.digest
    with pytest.raises(CacheError, match="no entry"):
        manage.find_digest(store, "xyz")
    with pytest.raises(CacheError, match=r"more than one entry \(3\)"):
        manage.find_digest(store, "")


def test_deleting_one_or_all(store, folder):
    size = store.entry(SHORT).nbytes()
    assert run(manage.delete(store, SHORT.digest)) == size
    assert set(store.digests()) == {OTHER.digest, RECIPE.digest}
    assert not (folder / SHORT.digest).exists()
    run(manage.delete(store))
    assert store.digests() == []
    assert EmbeddingStore(folder, write=False).recipes() == {}


def test_deleting_that_is_cut_off_leaves_nothing_that_counts(store, monkeypatch):
    delete_dir = zarr.storage.LocalStore.delete_dir

    async def cut_off(self, prefix):
        if not prefix.endswith("records"):
            raise OSError(errno.EIO, "Input/output error")
        await delete_dir(self, prefix)

    monkeypatch.setattr(zarr.storage.LocalStore, "delete_dir", cut_off)
    with pytest.raises(CacheError, match="Input/output error"):
        store.delete(SHORT.digest)
    assert store.entry(SHORT).recorded() == set()


def test_the_least_recently_used_entries_leave_first(store):
    sizes = [store.entry(recipe).nbytes() for recipe in (SHORT, OTHER, RECIPE)]
    assert prune(store, sum(sizes)) == []
    assert prune(store, sum(sizes) - 1) == ["short.tif"]
    assert get(store.entry(OTHER), (0,)) is not None
    use(store, OTHER, 9 * 3600)
    assert prune(store, store.entry(OTHER).nbytes()) == ["stack.tif"]
    assert prune(store, 0) == ["other.tif"]
    with pytest.raises(SettingsError, match="-1 bytes"):
        prune(store, -1)


def test_an_entry_that_is_being_written_is_not_pruned(store):
    entry = store.entry(SHORT)
    entry.claim((0,))
    assert prune(store, 0) == ["other.tif", "stack.tif"]
    # nor if the writer came after it was chosen
    assert run(manage.prune(store, [SHORT.digest])) == []
    entry.release((0,))
    assert prune(store, 0) == ["short.tif"]


def test_reading_and_writing_mark_an_entry_at_most_once_a_minute(store, monkeypatch):
    from napari_samseg.core.cache import entry as module

    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    entry = store.entry(SHORT)
    assert entry.last_used() == 0
    assert get(entry, (0,), digest="other pixels") is None
    assert entry.last_used() == 0, "a miss is no use"
    get(entry, (0,))
    assert entry.last_used() == 1000
    now[0] = 1059
    get(entry, (0,))
    assert entry.last_used() == 1000
    now[0] = 1061
    put(entry, (0,), 0)
    assert entry.last_used() == 1061


def test_marking_never_fails(store, folder, monkeypatch):
    reader = EmbeddingStore(folder, write=False).entry(SHORT)
    assert get(reader, (0,)) is not None
    assert reader.last_used() == 0

    async def no_room(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr.storage.LocalStore, "set", no_room)
    assert get(EmbeddingStore(folder).entry(SHORT), (0,)) is not None


def test_a_store_that_is_only_read_is_not_made_smaller(folder, store):
    reader = EmbeddingStore(folder, write=False)
    for steps in (manage.delete(reader), manage.prune(reader, [])):
        with pytest.raises(CacheError, match="only be read"):
            run(steps)


@pytest.mark.parametrize("digest", [None, SHORT.digest])
def test_a_zip_file_holds_what_is_finished(store, folder, tmp_path, digest):
    store.entry(SHORT).claim((0,))
    store.keys(OTHER.digest).set("records/1", b"{")
    assert store.entry(OTHER).quarantine((1,))
    path = tmp_path / "out" / "store.zip"
    steps = list(manage.export_zip(store, digest, path))
    assert [step.done for step in steps] == list(range(len(steps)))
    assert [p.name for p in path.parent.iterdir()] == ["store.zip"]
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    assert not [n for n in names if "claims" in n or "quarantine" in n or "used" in n]
    copy = EmbeddingStore(path, write=False)
    expected = store.recipes() if digest is None else {digest: SHORT}
    assert copy.recipes() == expected
    for recipe in expected.values():
        assert copy.entry(recipe).recorded() == store.entry(recipe).recorded()
    np.testing.assert_array_equal(
        get(copy.entry(SHORT), (1,)).features["image_embed"],
        get(store.entry(SHORT), (1,)).features["image_embed"],
    )


@pytest.mark.parametrize("tile", [0, 1])
def test_a_plane_finished_during_an_export_is_there_whole_or_not(
    folder, tmp_path, monkeypatch, tile
):
    """The second tile lies in another file, which the first record speaks not of."""
    monkeypatch.setattr(layout, "TILES_PER_FILE", 1)
    monkeypatch.setattr(entry_module, "TILES_PER_FILE", 1)
    store = EmbeddingStore(folder)
    entry = store.entry(SHORT)
    put(entry, (0,), 0)
    entry.put_tiles((1,), "pixels", {n: embeddings(1)[n] for n in range(tile)})
    files = StoreKeys.files

    def finish(self, *args):
        names = files(self, *args)
        if not entry.has((1,)):
            put(entry, (1,), 1)
        return names

    monkeypatch.setattr(StoreKeys, "files", finish)
    path = tmp_path / "store.zip"
    run(manage.export_zip(store, None, path))
    assert entry.has((1,))
    with EmbeddingStore(path, write=False) as copy:
        copied = copy.entry(SHORT)
        assert copied.check((0,)) == "sound"
        assert copied.check((1,)) != "damaged"
        assert copied.recorded() <= {0, 1}


def test_a_zip_file_is_there_whole_or_not_at_all(store, tmp_path, monkeypatch):
    path = tmp_path / "store.zip"
    path.write_text("older")
    steps = manage.export_zip(store, None, path)
    for _ in range(3):
        next(steps)
    steps.close()
    assert path.read_text() == "older"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store", "store.zip"]
    with pytest.raises(CacheError, match=r"end in \.zip"):
        run(manage.export_zip(store, None, tmp_path / "store.tar"))
    with pytest.raises(OutputError, match="is a file"):
        run(manage.export_zip(store, None, path / "below.zip"))
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 10)
    )
    with pytest.raises(CacheError, match="are free"):
        run(manage.export_zip(store, None, path))
    assert path.read_text() == "older"


def test_anyone_can_read_the_features_with_zarr(folder, store):
    array = zarr.open_array(folder, path=f"{SHORT.digest}/features", mode="r")
    assert (array.shape, array.shards) == ((2, 2, 16, 8, 8), (1, 2, 16, 8, 8))
    np.testing.assert_allclose(
        array[1, 0], embeddings(1)[0].features["image_embed"], atol=0.01
    )
    about = json.loads((folder / SHORT.digest / "zarr.json").read_text())
    recipe = about["attributes"]["napari_samseg"]
    assert recipe["plane_axes"] == [-2, -1]
    assert recipe["schema"] == 1


def test_what_vanishes_while_it_is_measured_takes_no_room(store, monkeypatch):
    held = store.keys(SHORT.digest).nbytes()
    list_prefix = zarr.storage.LocalStore.list_prefix

    async def with_a_claim(self, prefix):
        async for name in list_prefix(self, prefix):
            yield name
        yield f"{prefix}claims/0"  # its writer has given it up by now

    monkeypatch.setattr(zarr.storage.LocalStore, "list_prefix", with_a_claim)
    assert store.keys(SHORT.digest).nbytes() == held
