"""Writers share the planes of a stack, and those of a dead one become free."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest
import zarr.storage
from embedding_stores import RECIPE

from napari_samseg.core.cache.seal import to_sealed_bytes
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.errors import CacheError


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def claim_as(**changes):
    holder = {
        "owner": "somebody",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "time": time.time(),
    }
    return to_sealed_bytes(holder | changes)


def test_a_plane_is_claimed_by_one_writer(folder):
    first, second = (EmbeddingStore(folder).entry(RECIPE) for _ in range(2))
    assert first.claim((0, 1))
    assert first.claim((0, 1)), "renewed"
    assert not second.claim((0, 1))
    assert second.claim((0, 2))
    assert first.claimed() == second.claimed() == {1, 2}
    second.release((0, 1))
    assert not second.claim((0, 1)), "only who holds it gives it up"
    first.release((0, 1))
    assert second.claim((0, 1))


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({}, True),
        ({"host": "elsewhere", "pid": 1, "started": 0}, True),
        ({"time": 0}, False),
        ({"time": 4e9}, False),
        ({"pid": 2**22 + 1}, False),
        ({"started": psutil.Process().create_time() - 60}, False),
        ({"pid": "one"}, False),
    ],
    ids=["live", "other host", "old", "far ahead", "gone", "reused number", "off"],
)
def test_a_claim_ends_with_its_process_and_with_time(folder, changes, held):
    entry = EmbeddingStore(folder).entry(RECIPE)
    claims = folder / RECIPE.digest / "claims"
    claims.mkdir()
    (claims / "1").write_bytes(claim_as(**changes))
    assert entry.claimed() == ({1} if held else set())
    assert entry.claim((0, 1)) is not held


def test_planes_are_claimed_on_drives_without_hard_links(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    first, second = (EmbeddingStore(folder).entry(RECIPE) for _ in range(2))
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    assert first.claim((0, 1))
    assert not second.claim((0, 1))
    assert second.claim((0, 2))
    first.release((0, 1))
    assert second.claim((0, 1))


def test_a_claim_on_a_full_disk_says_so(folder, monkeypatch):
    entry = EmbeddingStore(folder).entry(RECIPE)

    async def no_room(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr.storage.LocalStore, "set", no_room)
    monkeypatch.setattr(zarr.storage.LocalStore, "set_if_not_exists", no_room)
    with pytest.raises(CacheError, match="make room"):
        entry.claim((0, 1))


@pytest.mark.parametrize("left", [b"", b"{", b"[]", json.dumps({"a": 1}).encode()])
def test_what_is_no_claim_does_not_hold(folder, left):
    entry = EmbeddingStore(folder).entry(RECIPE)
    claims = folder / RECIPE.digest / "claims"
    claims.mkdir()
    (claims / "1").write_bytes(left)
    assert entry.claim((0, 1))


def test_the_claim_of_a_dead_process_ends(folder):
    entry = EmbeddingStore(folder).entry(RECIPE)
    code = f"""
from napari_samseg.core.cache.zarr_store import EmbeddingStore
store = EmbeddingStore({str(folder)!r})
(recipe,) = store.recipes().values()
assert store.entry(recipe).claim((0, 1))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (folder / RECIPE.digest / "claims" / "1").exists()
    assert entry.claim((0, 1))
