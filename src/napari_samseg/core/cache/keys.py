"""Single keys of a zarr store, and where a store lies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import zarr.storage
from zarr.abc.store import Store
from zarr.buffer import default_buffer_prototype

# zarr offers keys only to coroutines; this is how its own arrays wait for them.
from zarr.core.sync import sync

from napari_samseg.core.cache.checked_store import CheckedStore, in_words
from napari_samseg.core.errors import CacheError, DamagedStoreError

__all__ = ["PARTIAL", "StoreKeys", "check_place", "local_path", "open_keys"]

# How zarr ends the name of a file that it has not finished.
PARTIAL = ".partial"


def open_keys(location: str | os.PathLike[str] | Store, *, write: bool) -> CheckedStore:
    """Open a folder, a zip file, an fsspec URL or a store as a zarr store.

    Parameters
    ----------
    location : str, path or Store
        ``folder``, ``file.zip`` (to read), ``memory://...``, ``s3://...``.
    write : bool
        Whether anything is to be written. A folder that may not be written is
        opened for reading then, too: the caller sees `Store.read_only`.

    Raises
    ------
    CacheError
        If it is a file that is no zip, a zip that is to be written, or a URL of
        which the protocol is unknown or needs a library that is not installed.
    """
    if isinstance(location, CheckedStore):
        return location
    if isinstance(location, Store):
        return CheckedStore(location, str(location))
    path = local_path(location)
    if path is None:
        url = os.fspath(location)
        return CheckedStore(_open_url(url, write=write), url)
    try:
        return CheckedStore(_open_path(path, write=write), str(location))
    except OSError as error:
        raise in_words(error, str(location), "read") from error


def local_path(location: str | os.PathLike[str] | Store) -> Path | None:
    """Return the path of a location on this machine, None if it lies elsewhere."""
    if isinstance(location, CheckedStore):
        return local_path(location.wrapped)
    if isinstance(location, zarr.storage.LocalStore):
        return location.root
    if isinstance(location, Store):
        return None
    text = os.fspath(location)
    if text.startswith("file://"):
        return Path(url2pathname(urlsplit(text).path))
    return None if "://" in text else Path(text).expanduser()


def _open_path(path: Path, *, write: bool) -> Store:
    if not write and not path.exists():
        raise CacheError(f"there is no store of embeddings in {path}")
    if path.suffix == ".zip":
        return _open_zip(path, write=write)
    if path.is_file():
        raise CacheError(f"{path} is a file, not a folder of embeddings")
    if path.is_dir():
        write = write and os.access(path, os.W_OK)
    return zarr.storage.LocalStore(path, read_only=not write)


def check_place(location: str) -> None:
    """Say where nothing can be written, before anything that takes a while.

    Raises
    ------
    CacheError
        If the location is that of a zip file.
    """
    path = local_path(location)
    if path is not None and path.suffix == ".zip":
        raise CacheError(
            f"{path} is a zip file, which can only be read: choose a folder, and make "
            "a zip file of it with `napari-samseg cache export`"
        )


def _open_zip(path: Path, *, write: bool) -> Store:
    if write:
        check_place(str(path))
    try:
        return sync(zarr.storage.ZipStore.open(path, mode="r", read_only=True))
    except OSError:
        raise
    except Exception as error:  # a damaged table of contents fails in many ways
        raise CacheError(
            f"{path} is no zip file, or was cut off: copy or export it again"
        ) from error


def _open_url(url: str, *, write: bool) -> Store:
    # what other writers add must be seen
    options = {"use_listings_cache": False}
    try:
        return zarr.storage.FsspecStore.from_url(
            url, storage_options=options, read_only=not write
        )
    except ImportError as error:
        raise CacheError(
            f"{url} needs a library that is not installed: {error}"
        ) from error
    except ValueError as error:
        protocol = urlsplit(url).scheme
        raise CacheError(
            f"{url} cannot be opened ({error}): give a folder, a .zip file, or a URL "
            f"of a protocol that fsspec knows, which {protocol}:// is not"
        ) from error
    except OSError as error:
        raise CacheError(f"{url} cannot be opened: {error}") from error


class StoreKeys:
    """Read, write and list single keys below a prefix of a store.

    Parameters
    ----------
    store : zarr Store
    prefix : str
        Empty for the whole store.
    """

    def __init__(self, store: Store, prefix: str = "") -> None:
        self.store = store
        self.prefix = prefix

    def get(self, name: str) -> bytes | None:
        """Return what is stored under a name, None if nothing is.

        What is there but cannot be read is empty: nothing that is stored is.
        """
        try:
            value = sync(self.store.get(self._key(name), default_buffer_prototype()))
        except DamagedStoreError:
            return b""
        return None if value is None else value.to_bytes()

    def set(self, name: str, value: bytes) -> None:
        """Store a value whole or not at all, in place of an older one."""
        sync(self.store.set(self._key(name), _buffer(value)))

    def set_new(self, name: str, value: bytes) -> bool:
        """Store a value unless there is one; True if it is this one then.

        Where the storage knows no exclusive creation (fsspec, drives without hard
        links), two writers may both be told True.
        """
        try:
            sync(self.store.set_if_not_exists(self._key(name), _buffer(value)))
        except CacheError:
            # what is really in the way is in the way of this, too, and told by it
            if self.get(name) is None:
                self.set(name, value)
        return self.get(name) == value

    def delete(self, name: str) -> None:
        """Remove a key; nothing happens if there is none."""
        sync(self.store.delete(self._key(name)))

    def delete_all(self, folder: str = "") -> None:
        """Remove everything in a folder, or below the prefix."""
        sync(self.store.delete_dir(self._key(folder)))

    def names(self, folder: str = "") -> list[str]:
        """Return the names in a folder, sorted, but for files that are not finished."""
        found = sync(_collect(self.store.list_dir(self._key(folder))))
        return sorted(name for name in found if not name.endswith(PARTIAL))

    def files(self, folder: str = "") -> list[str]:
        """Return the names of all keys below a folder, with their folders, sorted."""
        # the end matters: "records/1" is a prefix of "records/12"
        place = self._key(folder)
        found = sync(_collect(self.store.list_prefix(f"{place}/" if place else "")))
        start = len(self.prefix) + 1 if self.prefix else 0
        return sorted(key[start:] for key in found)

    def nbytes(self) -> int:
        """Bytes of everything below the prefix."""
        return int(sync(self.store.getsize_prefix(self._key(""))))

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self.prefix, name) if part)


async def _collect(names: Any) -> list[str]:
    return [name async for name in names]


def _buffer(value: bytes) -> Any:
    return default_buffer_prototype().buffer.from_bytes(value)
