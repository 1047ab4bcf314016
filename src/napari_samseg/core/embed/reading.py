"""Planes are read in a thread, so that reading and encoding overlap."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, RLock, Thread
from typing import TYPE_CHECKING

from napari_samseg.core.errors import CacheError
from napari_samseg.core.planes import MODEL_PIXELS, measure_plane

if TYPE_CHECKING:
    from napari_samseg.core.cache.entry import StackEntry
    from napari_samseg.core.embed.order import PlaneOrder
    from napari_samseg.core.embed.stack import PlaneIndex, Stack
    from napari_samseg.core.types import FloatArray

__all__ = ["PlaneKept", "PlaneUnreadable", "ReaderFailed", "StackReader", "TileRead"]

logger = logging.getLogger("napari_samseg")

# How long the thread waits before it looks whether it is to end.
POLL_SECONDS = 0.1
# How often a plane that another process is at is looked at.
OTHERS_SECONDS = 0.5
# A claim ends by itself after ten minutes: it is renewed long before.
RENEW_SECONDS = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class TileRead:
    """A tile to encode.

    Attributes
    ----------
    plane : tuple of int
    plane_digest : str
    number : int
        Of the tile in the recipe.
    size : (int, int)
        (Y, X) in pixels of the plane.
    pixels : (y, x, 3) float32
    is_last : bool
        The plane has no further tiles to encode.
    """

    plane: PlaneIndex
    plane_digest: str
    number: int
    size: tuple[int, int]
    pixels: FloatArray
    is_last: bool


@dataclass(frozen=True, slots=True)
class PlaneKept:
    """A plane that is in the store, for these pixels."""

    plane: PlaneIndex


@dataclass(frozen=True, slots=True)
class PlaneUnreadable:
    """A plane that cannot be read, and why."""

    plane: PlaneIndex
    reason: str


@dataclass(frozen=True, slots=True)
class ReaderFailed:
    """The store cannot be asked any more."""

    error: Exception


Read = TileRead | PlaneKept | PlaneUnreadable | ReaderFailed


class StackReader:
    """Reads the planes of a stack that are not in its entry, in a thread.

    Each is claimed before it is read; planes that other processes have claimed come
    last, when they are either done or free again. What is there is read, too: a plane
    whose checksum is off is encoded again.

    Parameters
    ----------
    stack : Stack
    entry : StackEntry
    order : PlaneOrder
    ahead : int
        Tiles that may wait to be encoded.
    """

    def __init__(
        self, stack: Stack, entry: StackEntry, order: PlaneOrder, ahead: int
    ) -> None:
        self._stack, self._entry, self._order = stack, entry, order
        self._queue: Queue[Read | None] = Queue(ahead)
        self._is_ending = Event()
        self._is_over = False
        self._lock = RLock()
        # when each was claimed or renewed; those that others are at, as they came
        self._claimed: dict[PlaneIndex, float] = {}
        self._with_others: dict[PlaneIndex, None] = {}
        self._thread = Thread(target=self._run, name="samseg reader", daemon=True)

    def start(self) -> None:
        """Start reading ahead."""
        self._thread.start()

    def stop(self) -> None:
        """Read and claim nothing more; returns at once."""
        self._is_ending.set()

    def end(self) -> None:
        """Stop reading, and give up the planes that were not written."""
        self.stop()
        self._thread.join()
        for plane in list(self._claimed):
            try:
                self.release(plane)
            except CacheError as error:
                # it must not hide why the job ends, and the claim ends by itself
                logger.warning("The claim of plane %s stays: %s", plane, error)

    @property
    def is_over(self) -> bool:
        """Whether everything has been handed out."""
        return self._is_over

    @property
    def n_with_others(self) -> int:
        """Planes looked at so far at which other processes are."""
        return len(self._with_others)

    def next(self, timeout: float = POLL_SECONDS) -> Read | None:
        """Return what was read next, None if there is nothing yet or any more."""
        if self._is_over:
            return None
        try:
            read = self._queue.get(block=timeout > 0, timeout=timeout or None)
        except Empty:
            return None
        self._is_over = read is None
        return read

    def renew(self) -> None:
        """Tell others, once in a while, that somebody is still at the planes."""
        now = time.monotonic()
        with self._lock:
            for plane, claimed in list(self._claimed.items()):
                if now - claimed > RENEW_SECONDS:
                    self._entry.claim(plane)
                    self._claimed[plane] = now

    def release(self, plane: PlaneIndex) -> None:
        """Give up a plane that is written, or will not be."""
        with self._lock:
            self._entry.release(plane)
            self._claimed.pop(plane, None)

    def _run(self) -> None:
        try:
            for read in self._read_all():
                self._hand_out(read)
        except Exception as error:  # noqa: BLE001 - told where planes are encoded
            self._hand_out(ReaderFailed(error))
        self._hand_out(None)

    def _hand_out(self, read: Read | None) -> None:
        while not self._is_ending.is_set():
            try:
                self._queue.put(read, timeout=POLL_SECONDS)
            except Full:
                continue
            return

    def _read_all(self) -> Iterator[Read]:
        while (plane := self._order.take()) is not None:
            yield from self._read_unless_taken(plane)
            if self._is_ending.is_set():
                return
        while self._with_others:
            n_before = len(self._with_others)
            for plane in tuple(self._with_others):
                yield from self._read_unless_taken(plane)
                if self._is_ending.is_set():
                    return
            if len(self._with_others) == n_before:
                self._is_ending.wait(OTHERS_SECONDS)

    def _read_unless_taken(self, plane: PlaneIndex) -> Iterator[Read]:
        # of a plane that is not whole, another process may be making the rest
        if self._entry.has(plane) or self._claim(plane):
            self._with_others.pop(plane, None)
            yield from self._read_plane(plane)
        else:
            self._with_others[plane] = None

    def _claim(self, plane: PlaneIndex) -> bool:
        """Try to take a plane, and remember to give it up."""
        with self._lock:
            if plane in self._claimed:
                return True
            # before it is asked for: it may be taken although no answer comes
            self._claimed[plane] = time.monotonic()
            is_mine = self._entry.claim(plane)
            if not is_mine:
                del self._claimed[plane]
        return is_mine

    def _read_plane(self, plane: PlaneIndex) -> Iterator[Read]:
        try:
            measured = measure_plane(
                self._stack.source,
                plane,
                self._stack.settings,
                plane_axes=self._stack.plane_axes,
            )
        except MemoryError:
            raise  # which is not the plane's fault
        # whatever the library of a file format raises
        except Exception as error:  # noqa: BLE001
            self.release(plane)
            yield PlaneUnreadable(plane, str(error) or type(error).__name__)
            return
        if self._is_ending.is_set():
            return
        tiles = self._entry.recipe.tiles
        missing = self._find_missing(plane, measured.digest)
        if missing is None:
            self._with_others[plane] = None
            return
        if not missing:
            self.release(plane)
            yield PlaneKept(plane)
            return
        for number in missing:
            if self._is_ending.is_set():
                return
            box = tiles[number]
            try:
                pixels = measured.read(box, MODEL_PIXELS)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001
                self.release(plane)
                yield PlaneUnreadable(plane, str(error) or type(error).__name__)
                return
            size = box[2] - box[0], box[3] - box[1]
            is_last = number == missing[-1]
            yield TileRead(plane, measured.digest, number, size, pixels, is_last)

    def _find_missing(self, plane: PlaneIndex, digest: str) -> tuple[int, ...] | None:
        """Return the tiles to encode, None if another process is at the plane.

        What is damaged is set aside.
        """
        missing = self._entry.missing_tiles(plane, digest)
        if len(missing) == len(self._entry.recipe.tiles):
            is_sound = True  # nothing that is there will be used
        else:
            is_sound = self._entry.check(plane) != "damaged"
        if is_sound and (not missing or plane in self._claimed):
            return missing
        # a plane that is damaged, or whose pixels changed, has a record: it was not
        # claimed before it was read
        if not self._claim(plane):
            return None
        if not is_sound:
            # unless it was written again between the looks
            self._entry.quarantine(plane)
        return self._entry.missing_tiles(plane, digest)
