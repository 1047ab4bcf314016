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

from napari_samseg.core.errors import CacheError

__all__ = ["StoreKeys", "open_keys"]


def open_keys(location: str | os.PathLike[str] | Store, *, write: bool) -> Store:
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
        If it is a file that is no zip, or a zip that is to be written.
    """
    if isinstance(location, Store):
        return location
    text = os.fspath(location)
    if text.startswith("file://"):
        text = url2pathname(urlsplit(text).path)
    if "://" in text:
        return zarr.storage.FsspecStore.from_url(text, read_only=not write)
    path = Path(text)
    if path.suffix == ".zip":
        if write:
            raise CacheError(
                f"{path} is a zip file, which is only read: unpack it, or write into "
                "a folder and export that"
            )
        return zarr.storage.ZipStore(path, mode="r", read_only=True)
    if path.is_file():
        raise CacheError(f"{path} is a file, not a folder of embeddings")
    return zarr.storage.LocalStore(path, read_only=not write)


class StoreKeys:
    """Read, write and list single keys below a prefix of a store."""

    def __init__(self, store: Store, prefix: str) -> None:
        self.store = store
        self.prefix = prefix

    def get(self, name: str) -> bytes | None:
        """Return what is stored under a name, None if nothing is."""
        key = f"{self.prefix}/{name}"
        value = sync(self.store.get(key, default_buffer_prototype()))
        return None if value is None else value.to_bytes()

    def set(self, name: str, value: bytes) -> None:
        """Store a value whole or not at all, in place of an older one."""
        sync(self.store.set(f"{self.prefix}/{name}", _buffer(value)))

    def set_new(self, name: str, value: bytes) -> bool:
        """Store a value unless there is one; True if it is this one then.

        Where the storage knows no exclusive creation (fsspec), two writers may
        both be told True.
        """
        sync(self.store.set_if_not_exists(f"{self.prefix}/{name}", _buffer(value)))
        return self.get(name) == value

    def delete(self, name: str) -> None:
        """Remove a key; nothing happens if there is none."""
        sync(self.store.delete(f"{self.prefix}/{name}"))

    def delete_all(self) -> None:
        """Remove everything below the prefix."""
        sync(self.store.delete_dir(self.prefix))

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder."""
        return sync(_collect(self.store, f"{self.prefix}/{folder}"))

    def nbytes(self) -> int:
        """Bytes of everything below the prefix."""
        return int(sync(self.store.getsize_prefix(self.prefix)))


async def _collect(store: Store, folder: str) -> list[str]:
    return [name async for name in store.list_dir(folder)]


def _buffer(value: bytes) -> Any:
    return default_buffer_prototype().buffer.from_bytes(value)
