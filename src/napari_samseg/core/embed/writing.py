"""Embeddings are written in a thread, so that encoding and writing overlap."""

from __future__ import annotations

from collections.abc import Mapping
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING

from napari_samseg.core.cache.place import check_room

if TYPE_CHECKING:
    from napari_samseg.core.cache.entry import StackEntry
    from napari_samseg.core.embed.reading import StackReader
    from napari_samseg.core.embed.stack import PlaneIndex
    from napari_samseg.core.types import PlaneEmbedding

__all__ = ["StackWriter"]

# Groups of tiles that wait to be written.
BEHIND = 2
# Never fill a disk to the last byte: others need some, too.
SPARE_BYTES = 64 << 20


class StackWriter:
    """Writes embeddings into an entry, in a thread.

    Attributes
    ----------
    error : Exception or None
        Why nothing is written any more.
    """

    def __init__(self, entry: StackEntry, location: str, reader: StackReader) -> None:
        self._entry, self._location, self._reader = entry, location, reader
        self._queue: Queue[
            tuple[PlaneIndex, str, Mapping[int, PlaneEmbedding], bool] | None
        ] = Queue(BEHIND)
        self._written: list[PlaneIndex] = []
        self.error: Exception | None = None
        self._thread = Thread(target=self._run, name="samseg writer", daemon=True)

    @property
    def n_written(self) -> int:
        """Planes that are whole in the store now."""
        return len(self._written)

    def start(self) -> None:
        """Start to wait for what is to be written."""
        self._thread.start()

    def add(
        self,
        plane: PlaneIndex,
        plane_digest: str,
        embeddings: Mapping[int, PlaneEmbedding],
        *,
        is_last: bool,
    ) -> None:
        """Write tiles of a plane; waits while too many others wait.

        Raises
        ------
        Exception
            Whatever kept earlier ones from being written.
        """
        self.check()
        self._queue.put((plane, plane_digest, embeddings, is_last))

    def check(self) -> None:
        """Raise what went wrong in the thread, if anything did."""
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        """Write what waits, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self.error is not None:
                continue  # so that nobody waits for a place in the queue
            plane, plane_digest, embeddings, is_last = item
            try:
                nbytes = sum(embedding.nbytes for embedding in embeddings.values())
                check_room(self._location, nbytes + SPARE_BYTES)
                self._entry.put_tiles(plane, plane_digest, embeddings)
                if is_last:
                    self._reader.release(plane)
                    self._written.append(plane)
            except Exception as error:  # noqa: BLE001 - raised where planes are encoded
                self.error = error
