"""What is in a store of embeddings: list, delete, make room, hand on as a zip file."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_samseg.core.cache.claims import Claims
from napari_samseg.core.cache.entry import read_last_used, recorded_places
from napari_samseg.core.cache.keys import PARTIAL, StoreKeys
from napari_samseg.core.cache.layout import FEATURES, METADATA
from napari_samseg.core.cache.place import check_room
from napari_samseg.core.cache.recipe import StackRecipe
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.errors import (
    CacheError,
    NewerStoreError,
    OutputError,
    SettingsError,
)
from napari_samseg.core.io.output import check_output_file
from napari_samseg.core.types import Progress
from napari_samseg.core.whole_file import whole_file

__all__ = [
    "EntrySummary",
    "delete",
    "export_zip",
    "find_digest",
    "list_entries",
    "plan_prune",
    "prune",
]

# What an entry holds besides planes, but for what only writers need.
DOCUMENTS = (METADATA, FEATURES)


@dataclass(frozen=True, slots=True)
class EntrySummary:
    """What a list of entries says of one.

    Attributes
    ----------
    digest : str
        Name of the entry.
    recipe : StackRecipe or None
        None if it cannot be read: the entry is damaged, or of a newer version.
    planes_done : int
        Planes with a record; checksums are not looked at.
    nbytes : int
        Bytes on disk.
    last_used : float or None
        Seconds since 1970, to the minute; None if unknown.
    in_use : bool
        A writer is at it.
    """

    digest: str
    recipe: StackRecipe | None
    planes_done: int
    nbytes: int
    last_used: float | None
    in_use: bool


def list_entries(
    store: EmbeddingStore,
) -> Generator[Progress, None, list[EntrySummary]]:
    """Say what is in a store, the entry used last first."""
    digests = store.digests()
    entries = []
    for done, digest in enumerate(digests):
        yield Progress("looking through the store", done, len(digests), digest)
        entries.append(_summarise(store, digest))
    return sorted(entries, key=lambda entry: entry.last_used or 0, reverse=True)


def find_digest(store: EmbeddingStore, start: str) -> str:
    """Return the one entry whose digest starts so.

    Raises
    ------
    CacheError
        If there is none, or more than one.
    """
    found = [digest for digest in store.digests() if digest.startswith(start)]
    if len(found) != 1:
        many = "no entry" if not found else f"more than one entry ({len(found)})"
        raise CacheError(
            f"{many} of {store.location} starts with {start!r}: `napari-samseg cache "
            "list` shows them"
        )
    return found[0]


def delete(
    store: EmbeddingStore, digest: str | None = None
) -> Generator[Progress, None, int]:
    """Delete an entry, or all; return the number of bytes that were freed.

    Raises
    ------
    CacheError
        If the store is only read.
    """
    _check_writable(store)
    digests = store.digests() if digest is None else [digest]
    freed = 0
    for done, name in enumerate(digests):
        yield Progress("deleting embeddings", done, len(digests), name)
        freed += store.keys(name).nbytes()
        store.delete(name)
    return freed


def prune(
    store: EmbeddingStore, digests: Sequence[str]
) -> Generator[Progress, None, list[str]]:
    """Delete entries, but for those at which a writer is by now.

    Parameters
    ----------
    store : EmbeddingStore
    digests : sequence of str
        As `plan_prune` chose them, and a person agreed to.

    Returns
    -------
    list of str
        Digests of what was deleted.

    Raises
    ------
    CacheError
        If the store is only read.
    """
    _check_writable(store)
    deleted = []
    for done, digest in enumerate(digests):
        yield Progress("deleting embeddings", done, len(digests), digest)
        if not Claims(store.keys(digest)).live():
            store.delete(digest)
            deleted.append(digest)
    return deleted


def plan_prune(entries: Sequence[EntrySummary], max_bytes: int) -> list[EntrySummary]:
    """Choose the entries that leave: those used least recently, as few as will do.

    Entries at which a writer is stay.

    Parameters
    ----------
    entries : sequence of EntrySummary
        As from `list_entries`.
    max_bytes : int
        Bytes that may be left on disk.

    Raises
    ------
    SettingsError
        If `max_bytes` is negative.
    """
    if max_bytes < 0:
        raise SettingsError(f"a store of {max_bytes} bytes is not possible")
    held = sum(entry.nbytes for entry in entries)
    chosen = []
    for entry in reversed(entries):
        if held <= max_bytes:
            break
        if not entry.in_use:
            held -= entry.nbytes
            chosen.append(entry)
    return chosen


def export_zip(
    store: EmbeddingStore, digest: str | None, path: Path
) -> Generator[Progress, None, None]:
    """Write an entry, or all, into a zip file that is a store, too.

    The file is there whole or not at all. It holds what is finished: no claims,
    nothing from quarantine.

    Raises
    ------
    OutputError
        If the file cannot be written there.
    CacheError
        If the name does not end in ``.zip``, by which a store of that kind is known.
    """
    if path.suffix != ".zip":
        raise CacheError(f"{path} must end in .zip to be read again")
    check_output_file(path)
    digests = store.digests() if digest is None else [digest]
    keys = StoreKeys(store.store)
    check_room(path, sum(store.keys(entry).nbytes() for entry in digests))
    planes = [
        (entry, place)
        for entry in digests
        for place in sorted(recorded_places(store.keys(entry)))
    ]
    documents = [f"{entry}/{name}" for entry in digests for name in DOCUMENTS]
    with (
        _exported(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        _copy(keys, [METADATA, *documents], archive)
        for done, (entry, place) in enumerate(planes):
            yield Progress("exporting", done, len(planes), entry)
            # the record first: what it speaks of is there by then
            _copy(keys, [f"{entry}/records/{place}"], archive)
            _copy(keys, keys.files(f"{entry}/features/c/{place}"), archive)


def _copy(keys: StoreKeys, names: Sequence[str], archive: zipfile.ZipFile) -> None:
    for name in names:
        content = None if name.endswith(PARTIAL) else keys.get(name)
        if content is not None:  # another writer may have put it aside
            archive.writestr(name, content)


@contextlib.contextmanager
def _exported(path: Path) -> Iterator[Path]:
    """Write a file, whole or not at all, and say what went wrong in words."""
    try:
        with whole_file(path) as part:
            yield part
    except CacheError:
        raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def _summarise(store: EmbeddingStore, digest: str) -> EntrySummary:
    keys = store.keys(digest)
    try:
        recipe = store.recipe(digest)
    except NewerStoreError:
        recipe = None
    return EntrySummary(
        digest,
        recipe,
        len(recorded_places(keys)),
        keys.nbytes(),
        read_last_used(keys),
        in_use=bool(Claims(keys).live()),
    )


def _check_writable(store: EmbeddingStore) -> None:
    if store.read_only:
        raise CacheError(f"{store.location} may only be read: nothing can be deleted")
