"""Stores lie in folders, zip files, memory and clouds; what is out of reach says so."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import zipfile

import fsspec
import psutil
import pytest
import zarr.storage
from embedding_stores import RECIPE, SHORT, embeddings, fill, get, put
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.memory import MemoryFileSystem

from napari_samseg.core.cache import keys, place
from napari_samseg.core.cache.manage import export_zip
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.errors import CacheError, DamagedStoreError


class CloudFileSystem(MemoryFileSystem):
    """Files in memory that cannot be reached while `failure` is set."""

    protocol = "cloud"
    store = {}  # noqa: RUF012 - as in MemoryFileSystem
    pseudo_dirs = [""]  # noqa: RUF012
    failure = None

    def _fail(self):
        if CloudFileSystem.failure is not None:
            raise CloudFileSystem.failure

    def cat_file(self, *args, **kwargs):
        self._fail()
        return super().cat_file(*args, **kwargs)

    def pipe_file(self, *args, **kwargs):
        self._fail()
        return super().pipe_file(*args, **kwargs)

    def ls(self, *args, **kwargs):
        self._fail()
        return super().ls(*args, **kwargs)

    def rm(self, *args, **kwargs):
        self._fail()
        return super().rm(*args, **kwargs)


@pytest.fixture
def cloud(monkeypatch):
    """Name of a new store in a file system that can fail."""
    fsspec.register_implementation("cloud", CloudFileSystem, clobber=True)
    monkeypatch.setattr(CloudFileSystem, "store", {})
    monkeypatch.setattr(CloudFileSystem, "pseudo_dirs", [""])
    yield "cloud://bucket/store"
    CloudFileSystem.failure = None


@pytest.fixture
def folder(tmp_path):
    fill(EmbeddingStore(tmp_path / "store"))
    return tmp_path / "store"


@pytest.mark.parametrize("location", ["memory://samseg-test/a", "file://{}/url", "{}"])
def test_what_is_put_anywhere_is_got_again(tmp_path, location):
    location = location.format(tmp_path)
    fill(EmbeddingStore(location))
    store = EmbeddingStore(location, write=False)
    assert store.recipes() == {SHORT.digest: SHORT}
    entry = store.entry(SHORT)
    assert get(entry, (1,)) is not None
    assert entry.recorded() == {0, 1}
    assert entry.check((1,)) == "sound"
    assert entry.nbytes() > 1000
    writer = EmbeddingStore(location).entry(SHORT)
    assert writer.claim((0,))
    assert not EmbeddingStore(location).entry(SHORT).claim((0,))
    writer.release((0,))
    EmbeddingStore(location).keys(SHORT.digest).set("records/0", b"{")
    assert writer.quarantine((0,))
    assert writer.check((0,)) == "missing"
    EmbeddingStore(location).delete(SHORT.digest)
    assert EmbeddingStore(location).recipes() == {}


def test_a_zip_file_is_read(folder, tmp_path):
    path = tmp_path / "store.zip"
    for _ in export_zip(EmbeddingStore(folder, write=False), None, path):
        pass
    store = EmbeddingStore(path, write=False)
    assert store.read_only
    assert get(store.entry(SHORT), (1,), 1) is not None
    with pytest.raises(CacheError, match="only be read"):
        EmbeddingStore(path)


def is_open(path):
    return str(path) in {file.path for file in psutil.Process().open_files()}


def test_a_closed_zip_file_is_let_go(folder, tmp_path):
    path = tmp_path / "store.zip"
    with EmbeddingStore(folder, write=False) as source:
        list(export_zip(source, None, path))
    with EmbeddingStore(path, write=False) as store:
        entry = store.entry(SHORT)
        assert get(entry, (1,)) is not None
        assert is_open(path)
    assert not is_open(path)
    # what is no store lets go of it, too
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "mine")
    with pytest.raises(CacheError, match="other files"):
        EmbeddingStore(path, write=False)
    assert not is_open(path)


def test_a_store_given_open_stays_open(folder, tmp_path):
    path = tmp_path / "store.zip"
    list(export_zip(EmbeddingStore(folder, write=False), None, path))
    source = asyncio.run(zarr.storage.ZipStore.open(path, mode="r"))
    with EmbeddingStore(source, write=False) as store:
        assert store.digests() == [SHORT.digest]
    assert is_open(path)
    source.close()


def test_a_store_that_may_only_be_read_is_not_touched(folder):
    (folder / SHORT.digest / "records" / "1").write_text("{")
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    source = zarr.storage.LocalStore(folder, read_only=True)
    store = EmbeddingStore(source)
    assert store.read_only
    entry = store.entry(SHORT)
    key = SHORT.key((0,), SHORT.tiles[0], "pixels")
    entry.put(key, embeddings(7)[0])
    assert not entry.quarantine((1,))
    assert get(entry, (0,)) is not None
    assert store.entry(RECIPE) is None
    with pytest.raises(CacheError, match="read"):
        put(entry, (0,), 7)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_a_folder_without_permission_to_write_is_opened_to_read(folder, monkeypatch):
    monkeypatch.setattr(keys.os, "access", lambda path, mode: mode != os.W_OK)
    store = EmbeddingStore(folder)
    assert store.read_only
    assert get(store.entry(SHORT), (1,)) is not None


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may do anything")
def test_permissions_of_the_file_system_are_told(folder):
    folder.chmod(0o500)
    try:
        assert EmbeddingStore(folder).read_only
        folder.chmod(0)
        with pytest.raises(CacheError, match="ask its owner"):
            EmbeddingStore(folder)
    finally:
        folder.chmod(0o700)


FAILURES = [
    (TimeoutError("timed out"), "does not answer in time"),
    (FSTimeoutError(), "does not answer in time"),
    (PermissionError(13, "Forbidden"), "Forbidden; ask its owner"),
    (ConnectionError("name not known"), "name not known; check the address"),
    (ValueError("bad answer"), "bad answer"),
]
IDS = [type(failure).__name__ for failure, _ in FAILURES]


@pytest.mark.parametrize(("failure", "message"), FAILURES, ids=IDS)
def test_a_remote_store_out_of_reach_says_so_and_is_not_taken_for_damaged(
    cloud, failure, message
):
    entry = fill(EmbeddingStore(cloud))
    files = set(CloudFileSystem.store)
    CloudFileSystem.failure = failure
    for attempt in (
        lambda: EmbeddingStore(cloud),
        lambda: EmbeddingStore(cloud, write=False),
        lambda: get(entry, (0,)),
        lambda: put(entry, (0,), 5),
        lambda: entry.check((0,)),
        lambda: entry.claim((0,)),
        lambda: entry.recorded(),
    ):
        with pytest.raises(CacheError, match=message) as caught:
            attempt()
        assert not isinstance(caught.value, DamagedStoreError)
        assert cloud in str(caught.value)
    CloudFileSystem.failure = None
    assert set(CloudFileSystem.store) == files
    assert get(entry, (0,)) is not None


def test_a_remote_store_that_is_not_there(cloud):
    with pytest.raises(CacheError, match="no store of embeddings in cloud://"):
        EmbeddingStore(cloud, write=False)
    fill(EmbeddingStore(cloud))
    CloudFileSystem.failure = FileNotFoundError("The specified bucket does not exist")
    with pytest.raises(CacheError, match="no store of embeddings in cloud://"):
        EmbeddingStore(cloud, write=False)
    with pytest.raises(CacheError, match=r"bucket does not exist; check the address"):
        EmbeddingStore(cloud)


def test_a_url_that_nothing_can_open():
    with pytest.raises(CacheError, match=r"nonsense:// is not"):
        EmbeddingStore("nonsense://bucket/store")
    fsspec.register_implementation(
        "driverless", "no_such_module.Files", errtxt="Install no_such_module"
    )
    with pytest.raises(CacheError, match="Install no_such_module"):
        EmbeddingStore("driverless://bucket/store", write=False)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="is a file"):
        EmbeddingStore(tmp_path / "file")
    with pytest.raises(CacheError, match="file"):
        EmbeddingStore(tmp_path / "file" / "below")
    (tmp_path / "file.zip").touch()
    with pytest.raises(CacheError, match="cut off"):
        EmbeddingStore(tmp_path / "file.zip", write=False)


def test_free_room_is_that_of_the_disk(tmp_path, monkeypatch):
    new = tmp_path / "not" / "yet"
    assert place.free_bytes(new) == place.free_bytes(f"file://{new}")
    assert abs(place.free_bytes(new) - shutil.disk_usage(tmp_path).free) < 1 << 30
    assert place.free_bytes("memory://x") is None
    assert place.free_bytes(EmbeddingStore(new).store) is not None
    assert place.free_bytes(zarr.storage.MemoryStore()) is None
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 10**9)
    )
    place.check_room(tmp_path, 10**9)
    with pytest.raises(CacheError, match=r"needs 2\.50 GB, and 1\.00 GB are free"):
        place.check_room(tmp_path, 25 * 10**8)
    place.check_room("s3://bucket/store", 10**15)


def test_the_default_store_is_in_the_folder_of_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path))
    assert place.default_store_folder() == tmp_path / "embeddings"
    fill(EmbeddingStore(place.default_store_folder()))
    other = dataclasses.replace(SHORT, image="other")
    assert EmbeddingStore(tmp_path / "embeddings", write=False).entry(other) is None
