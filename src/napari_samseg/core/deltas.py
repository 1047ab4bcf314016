"""Compressed arrays for undo: in memory up to a budget, in a file beyond."""

from __future__ import annotations

import tempfile
import weakref
import zlib
from dataclasses import dataclass
from threading import Lock
from typing import IO, Any

import numpy as np
import numpy.typing as npt

__all__ = ["DELTA_MEMORY", "DeltaStore", "StoredArray"]

# Compressed bytes held in memory before arrays move to a file.
DELTA_MEMORY = 128 * 2**20

Labels = npt.NDArray[Any]

# Annotations are saved from a thread while others are drawn.
_FILE_LOCK = Lock()


class DeltaStore:
    """Compressed arrays, in memory up to a budget and in a temporary file beyond."""

    def __init__(self, memory_bytes: int = DELTA_MEMORY) -> None:
        self._memory_bytes = memory_bytes
        self._held = 0
        self._file: IO[bytes] | None = None

    def put(self, array: Labels) -> StoredArray:
        """Keep an array; give it back with `StoredArray.get`."""
        # ids in a crop are long runs of few values: level 1 shrinks them enough
        packed = zlib.compress(np.ascontiguousarray(array).data, 1)
        if self._held + len(packed) <= self._memory_bytes:
            self._held += len(packed)
            return StoredArray(array.shape, array.dtype, packed, None, 0, len(packed))
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as we
            weakref.finalize(self, self._file.close)
        with _FILE_LOCK:
            offset = self._file.seek(0, 2)
            self._file.write(packed)
        return StoredArray(
            array.shape, array.dtype, b"", self._file, offset, len(packed)
        )

    def close(self) -> None:
        """Delete the temporary file."""
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass(frozen=True, slots=True, eq=False)
class StoredArray:
    """An array in a `DeltaStore`."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    packed: bytes
    file: IO[bytes] | None
    offset: int
    length: int

    def get(self) -> Labels:
        """Return the array."""
        packed = self.packed
        if self.file is not None:
            with _FILE_LOCK:
                self.file.seek(self.offset)
                packed = self.file.read(self.length)
        values: Labels = np.frombuffer(zlib.decompress(packed), self.dtype)
        return values.reshape(self.shape)
