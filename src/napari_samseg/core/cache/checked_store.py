"""A zarr store whose failures are told in words."""

from __future__ import annotations

import errno
import re
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import TypeVar

import zarr.storage
from zarr.abc.buffer import Buffer
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import BufferPrototype

from napari_samseg.core.errors import CacheError, DamagedStoreError

__all__ = ["CheckedStore", "in_words", "is_trouble_here"]

# What a program that ends, or may start no more threads, says of its own.
OUT_OF_THREADS = re.compile(
    "cannot schedule new futures|shutdown has been called|loop is closed|"
    "can't start new thread",
    re.IGNORECASE,
)

T = TypeVar("T")


class CheckedStore(zarr.storage.WrapperStore[Store]):
    """Passes everything on to a store, and turns what it raises into `CacheError`.

    What cannot be read because it is damaged is a `DamagedStoreError`: it can be
    encoded again. A network or a permission that is missing is not: nothing is known
    about what lies there, so it must not be taken for damage.

    Parameters
    ----------
    store : zarr Store
    location : str
        What messages call it.
    """

    def __init__(self, store: Store, location: str) -> None:
        super().__init__(store)
        self.location = location

    @property
    def wrapped(self) -> Store:
        """The store that everything is passed on to."""
        return self._store

    def _with_store(self, store: Store) -> CheckedStore:
        return CheckedStore(store, self.location)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return the bytes of a key, None if there is none."""
        return await self._reading(super().get(key, prototype, byte_range))

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return parts of keys."""
        return await self._reading(super().get_partial_values(prototype, key_ranges))

    async def exists(self, key: str) -> bool:
        """Tell whether there is a key."""
        return await self._reading(super().exists(key))

    async def getsize(self, key: str) -> int:
        """Return the bytes of a key, without reading it where the store can.

        Those of a key that is gone are none: whoever adds up what is listed comes
        upon claims that were given up since.
        """
        return await self._reading(_size_or_none(self._store, key))

    async def set(self, key: str, value: Buffer) -> None:
        """Store a key."""
        await self._writing(super().set(key, value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Store a key unless there is one."""
        await self._writing(super().set_if_not_exists(key, value))

    async def delete(self, key: str) -> None:
        """Remove a key."""
        await self._writing(super().delete(key))

    async def delete_dir(self, prefix: str) -> None:
        """Remove everything below a prefix."""
        await self._writing(super().delete_dir(prefix))

    def list(self) -> AsyncIterator[str]:
        """List all keys."""
        return self._listing(super().list())

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """List the keys below a prefix."""
        return self._listing(super().list_prefix(prefix))

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List the names in a folder."""
        return self._listing(super().list_dir(prefix))

    async def _reading(self, operation: Awaitable[T]) -> T:
        try:
            return await operation
        except Exception as error:  # each driver has errors of its own
            if is_trouble_here(error):
                raise
            if self._means_damage(error):
                raise DamagedStoreError(
                    f"something in {self.location} is damaged: {error}"
                ) from error
            raise in_words(error, self.location, "read") from error

    def _means_damage(self, error: Exception) -> bool:
        if isinstance(self._store, zarr.storage.FsspecStore):
            return False  # it may all be the network's
        # a bad block; a zip file whose table leads nowhere
        damage = (errno.EIO, errno.EINVAL)
        return not isinstance(error, OSError) or error.errno in damage

    async def _writing(self, operation: Awaitable[None]) -> None:
        try:
            await operation
        except Exception as error:  # each driver has errors of its own
            raise in_words(error, self.location, "written") from error

    async def _listing(self, names: AsyncIterator[str]) -> AsyncIterator[str]:
        try:
            async for name in names:
                yield name
        except FileNotFoundError:
            return  # a folder that is not there holds nothing
        except Exception as error:  # each driver has errors of its own
            raise in_words(error, self.location, "listed") from error


async def _size_or_none(store: Store, key: str) -> int:
    try:
        return await store.getsize(key)
    except FileNotFoundError:
        return 0


def is_trouble_here(error: Exception) -> bool:
    """Tell whether an error says nothing of what is stored.

    This program has run out of memory or of threads, or is about to end.
    """
    if isinstance(error, RuntimeError):
        return OUT_OF_THREADS.search(str(error)) is not None
    return isinstance(error, MemoryError)


def in_words(error: Exception, location: str, verb: str) -> Exception:
    """Return what to raise in place of what a store raised.

    Parameters
    ----------
    error : Exception
    location : str
        Of the store.
    verb : str
        What could not be done: "read", "written".
    """
    if isinstance(error, CacheError):
        return error
    number = error.errno if isinstance(error, OSError) else None
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    text = f"{location} cannot be {verb}: {reason or type(error).__name__}"
    if isinstance(error, TimeoutError):
        text = (
            f"{location} does not answer in time: check the network and try again; "
            "what was finished is kept"
        )
    elif isinstance(error, PermissionError):
        text += "; ask its owner for the permission, or choose another place"
    elif number in (errno.ENOSPC, errno.EDQUOT):
        text += "; what was finished is kept: make room and start again"
    elif isinstance(error, FileNotFoundError | ConnectionError):
        text += "; check the address and the network"
    return CacheError(text)
