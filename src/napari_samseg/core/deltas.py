"""What changed in labels, for undo and redo: in memory up to a budget, then on disk.

Commits and a person's strokes are kept alike, as the values before and after of
the region that changed.
"""

from __future__ import annotations

import tempfile
import weakref
import zlib
from dataclasses import dataclass
from threading import Lock
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.painting import LabelTarget, Region

__all__ = ["DELTA_MEMORY", "DeltaStore", "PixelChange", "PixelDelta", "StoredArray"]

# Compressed bytes held in memory before arrays move to a file.
DELTA_MEMORY = 128 * 2**20

Labels = npt.NDArray[Any]

# Annotations are saved from a thread while others are drawn.
_FILE_LOCK = Lock()


@dataclass(frozen=True, slots=True, eq=False)
class PixelChange:
    """Values of labels before and after an edit.

    Attributes
    ----------
    region : tuple of slice
        Where, one slice for each axis of the labels.
    before, after : integer arrays
        Equal where nothing was edited, whatever the labels hold there.
    """

    region: Region
    before: Labels
    after: Labels

    def apply(self, target: LabelTarget) -> None:
        """Give pixels that hold their value before the edit the one after it.

        Pixels that somebody else changed in between stay as they are.
        """
        _exchange(target, self.region, self.before, self.after)

    def revert(self, target: LabelTarget) -> None:
        """Give pixels that hold their value after the edit the one before it."""
        _exchange(target, self.region, self.after, self.before)


def _exchange(target: LabelTarget, region: Region, old: Labels, new: Labels) -> None:
    now = target.read(region)
    moved = now == old
    moved &= old != new
    if moved.any():
        np.copyto(now, new, where=moved, casting="unsafe")
        target.write(region, now)


@dataclass(frozen=True, slots=True, eq=False)
class PixelDelta:
    """A `PixelChange`, compressed."""

    region: Region
    before: StoredArray
    after: StoredArray

    def get(self) -> PixelChange:
        """Return the change with its arrays."""
        return PixelChange(self.region, self.before.get(), self.after.get())


class DeltaStore:
    """Compressed arrays, in memory up to a budget and in a temporary file beyond."""

    def __init__(self, memory_bytes: int = DELTA_MEMORY) -> None:
        self.memory_bytes = memory_bytes
        self._held = 0
        self._file: IO[bytes] | None = None

    def keep(self, change: PixelChange) -> PixelDelta:
        """Keep a change; give it back with `PixelDelta.get`."""
        return PixelDelta(
            change.region, self.put(change.before), self.put(change.after)
        )

    def put(self, array: Labels) -> StoredArray:
        """Keep an array; give it back with `StoredArray.get`."""
        packed, n_runs = _pack(array)
        file, offset, held = None, 0, packed
        if self._held + len(packed) <= self.memory_bytes:
            self._held += len(packed)
        else:
            file, offset, held = *self._append(packed), b""
        return StoredArray(
            array.shape, array.dtype, n_runs, held, file, offset, len(packed)
        )

    def _append(self, packed: bytes) -> tuple[IO[bytes], int]:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as we
            weakref.finalize(self, self._file.close)
        with _FILE_LOCK:
            offset = self._file.seek(0, 2)
            self._file.write(packed)
        return self._file, offset

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
    n_runs: int
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
        raw = zlib.decompress(packed)
        if self.n_runs:
            lengths = np.frombuffer(raw, np.int64, self.n_runs)
            ids = np.frombuffer(raw, self.dtype, self.n_runs, lengths.nbytes)
            return np.asarray(np.repeat(ids, lengths).reshape(self.shape))
        values: Labels = np.frombuffer(raw, self.dtype)
        return values.reshape(self.shape)


def _pack(array: Labels) -> tuple[bytes, int]:
    """Compress an array, as runs of equal values if that is shorter.

    Ids in a crop are long runs: finding them takes a tenth of the time that
    zlib takes for all pixels, which a commit on the main thread cannot afford.
    """
    flat = np.ascontiguousarray(array).ravel()
    starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    n_runs = len(starts) + 1
    if n_runs * (8 + flat.itemsize) >= flat.nbytes:
        return zlib.compress(flat.data, 1), 0
    first = np.concatenate([[0], starts])
    lengths = np.diff(first, append=flat.size).astype(np.int64)
    return zlib.compress(lengths.tobytes() + flat[first].tobytes(), 1), n_runs
