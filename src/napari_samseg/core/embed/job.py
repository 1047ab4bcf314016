"""The job that encodes a stack: read, encode and write at the same time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_samseg.core.cache.layout import TILES_PER_FILE
from napari_samseg.core.embed.order import PlaneOrder
from napari_samseg.core.embed.reading import (
    POLL_SECONDS,
    PlaneKept,
    PlaneUnreadable,
    ReaderFailed,
    StackReader,
    TileRead,
)
from napari_samseg.core.embed.stack import describe_seconds
from napari_samseg.core.embed.writing import StackWriter
from napari_samseg.core.errors import InvalidImageError, ModelMemoryError
from napari_samseg.core.models.batching import GPU_PLANES, encode_planes_steps
from napari_samseg.core.models.protocol import precision_of
from napari_samseg.core.steps import map_steps
from napari_samseg.core.types import PlaneEmbedding, Progress

if TYPE_CHECKING:
    from napari_samseg.core.cache.entry import StackEntry
    from napari_samseg.core.embed.stack import PlaneIndex, Stack
    from napari_samseg.core.models.protocol import PromptableModel

__all__ = ["EmbedReport", "embed_stack"]


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """What a job has done.

    Attributes
    ----------
    encoded : int
        Planes encoded and written.
    kept : int
        Planes that were there, or that another process made meanwhile.
    unreadable : tuple of (plane, reason)
        Planes that were skipped.
    seconds : float
        From start to end.
    """

    encoded: int
    kept: int
    unreadable: tuple[tuple[PlaneIndex, str], ...]
    seconds: float


def embed_stack(
    stack: Stack,
    model: PromptableModel,
    entry: StackEntry,
    location: str,
    order: PlaneOrder,
    *,
    skip_unreadable: bool = False,
) -> Generator[Progress, None, EmbedReport]:
    """Encode the planes of a stack that are not in its entry.

    May be ended at any step, or by force: what is finished is kept, and the next run
    goes on from there. Several processes may run it for the same stack at once: they
    share the planes.

    Parameters
    ----------
    stack : Stack
    model : PromptableModel
        The one the entry's recipe was made with.
    entry : StackEntry
    location : str
        Where the store lies, to see whether there is room.
    order : PlaneOrder
        The planes; its focus may be moved meanwhile.
    skip_unreadable : bool
        Go on without planes that cannot be read, and list them at the end.

    Raises
    ------
    InvalidImageError
        If a plane cannot be read and is not to be skipped; names it.
    CacheError
        If a plane cannot be written: no room, no permission, no answer.
    ModelMemoryError
        If memory runs out even for one tile.
    """
    ahead = 2 * _batch(model) + 1
    reader = StackReader(stack, entry, order, ahead)
    writer = StackWriter(entry, location, reader)
    job = _Job(stack.name, model, reader, writer, len(order), skip_unreadable)
    reader.start()
    writer.start()
    try:
        yield from job.run()
    finally:
        # finished planes are written even if the job was cancelled; then what is
        # still claimed is given up
        writer.end()
        reader.end()
    writer.check()
    return job.report()


@dataclass(slots=True, eq=False)
class _Job:
    name: str
    model: PromptableModel
    reader: StackReader
    writer: StackWriter
    total: int
    skip_unreadable: bool
    kept: int = 0
    unreadable: list[tuple[PlaneIndex, str]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    rested: float = 0.0
    parts: dict[PlaneIndex, dict[int, PlaneEmbedding]] = field(default_factory=dict)

    def run(self) -> Generator[Progress, None, None]:
        """Encode until everything has been read."""
        for progress in self._run():
            # whoever runs the job may let it rest between its steps
            before = time.monotonic()
            yield progress
            self.rested += time.monotonic() - before

    def _run(self) -> Generator[Progress, None, None]:
        wanted = _batch(self.model)
        waiting: list[TileRead] = []
        while not self.reader.is_over:
            self.writer.check()
            # what has been read need not wait for a full batch
            read = self.reader.next(0 if waiting else POLL_SECONDS)
            if isinstance(read, TileRead):
                waiting.append(read)
            elif read is not None:
                self._note(read)
            if waiting and (read is None or len(waiting) >= wanted):
                yield from self._encode(waiting)
                waiting = []
            yield self.progress()

    def progress(self) -> Progress:
        """Say how far it is, how fast, and how long it will take."""
        n_done = self.writer.n_written + self.kept + len(self.unreadable)
        spent = time.monotonic() - self.started - self.rested
        detail = ""
        if self.writer.n_written and spent > 0:
            rate = self.writer.n_written / spent
            left = describe_seconds((self.total - n_done) / rate)
            detail = f"{60 * rate:.3g} planes/min, {left} left"
        return Progress("encoding planes", n_done, self.total, detail)

    def report(self) -> EmbedReport:
        """Sum up."""
        return EmbedReport(
            self.writer.n_written,
            self.kept,
            tuple(self.unreadable),
            time.monotonic() - self.started,
        )

    def _note(self, read: PlaneKept | PlaneUnreadable | ReaderFailed) -> None:
        if isinstance(read, ReaderFailed):
            raise read.error
        if isinstance(read, PlaneKept):
            self.kept += 1
            return
        self.unreadable.append((read.plane, read.reason))
        self.parts.pop(read.plane, None)
        if not self.skip_unreadable:
            raise InvalidImageError(
                f"{self.name}: plane {_name(read.plane)} cannot be read: "
                f"{read.reason}. What is finished is kept; skip unreadable planes "
                "(--skip-unreadable) to go on without it"
            )

    def _encode(self, tiles: Sequence[TileRead]) -> Generator[Progress, None, None]:
        pixels = [tile.pixels for tile in tiles]
        encoded = yield from map_steps(
            encode_planes_steps(self.model, pixels), lambda step: self.progress()
        )
        for tile, (embedding, precision) in zip(tiles, encoded, strict=True):
            if precision != precision_of(self.model):
                raise ModelMemoryError(
                    f"{self.model.device} has not enough memory for model "
                    f"{self.model.name}: close other programs, or encode the stack on "
                    "the CPU"
                )
            self._keep(tile, embedding)

    def _keep(self, tile: TileRead, embedding: PlaneEmbedding) -> None:
        """Write a tile, together with those of its plane that share a file."""
        part = self.parts.setdefault(tile.plane, {})
        part[tile.number] = dataclasses.replace(embedding, original_size=tile.size)
        if tile.is_last or (tile.number + 1) % TILES_PER_FILE == 0:
            del self.parts[tile.plane]
            self.writer.add(tile.plane, tile.plane_digest, part, is_last=tile.is_last)


def _batch(model: PromptableModel) -> int:
    """Tiles to encode at once, if memory allows."""
    return GPU_PLANES if model.device.type == "cuda" else 1


def _name(plane: PlaneIndex) -> str:
    return ", ".join(str(i) for i in plane) or "0"
