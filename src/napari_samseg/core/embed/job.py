"""The job that encodes a stack: read, encode and write at the same time."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_samseg.core.amounts import count_things, describe_seconds
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
from napari_samseg.core.embed.writing import StackWriter
from napari_samseg.core.errors import (
    InvalidImageError,
    ModelMemoryError,
    SamSegError,
)
from napari_samseg.core.memory import warn_fallback
from napari_samseg.core.models.batching import (
    GPU_PLANES,
    Encoded,
    encode_planes_steps,
)
from napari_samseg.core.models.lanes import Finished, Lanes, choose_lanes
from napari_samseg.core.models.speed import remember_speed
from napari_samseg.core.types import PlaneEmbedding, Progress

if TYPE_CHECKING:
    from napari_samseg.core.cache.entry import StackEntry
    from napari_samseg.core.embed.stack import PlaneIndex, Stack
    from napari_samseg.core.models.protocol import PromptableModel

__all__ = ["EmbedReport", "embed_stack"]

logger = logging.getLogger("napari_samseg")


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
        If memory runs out even for one tile: the CPU does not take over, as it would
        make something else of the rest of the planes.
    """
    n_lanes = choose_lanes(model)
    reader = StackReader(stack, entry, order, ahead=_batch(model) * n_lanes + 2)
    writer = StackWriter(entry, location, reader)
    job = _Job(stack.name, model, n_lanes, reader, writer, len(order), skip_unreadable)
    reader.start()
    writer.start()
    try:
        yield from job.run()
    except (GeneratorExit, KeyboardInterrupt):
        job.end()
        error = writer.error
        if error is not None:  # nobody gets to see it otherwise
            logger.error(
                "%s: what was encoded last is not written: %s",
                stack.name,
                error,
                exc_info=None if isinstance(error, SamSegError) else error,
            )
        raise
    except BaseException:
        job.end()
        raise
    job.end()
    writer.check()
    return job.report()


@dataclass(slots=True, eq=False)
class _Part:
    """Tiles of a plane that are encoded and not handed to the writer yet."""

    plane_digest: str
    tiles: dict[int, PlaneEmbedding] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Job:
    name: str
    model: PromptableModel
    n_lanes: int
    reader: StackReader
    writer: StackWriter
    total: int
    skip_unreadable: bool
    kept: int = 0
    n_encoded: int = 0  # tiles
    encoding_seconds: float = 0.0
    # why nothing more is read; what was read before is finished first
    failure: Exception | None = None
    unreadable: dict[PlaneIndex, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    # planes that are kept pass quickly: they say nothing of what is left
    encoding_since: float | None = None
    rested: float = 0.0
    parts: dict[PlaneIndex, _Part] = field(default_factory=dict)
    lanes: Lanes[Sequence[TileRead], list[Encoded]] = field(init=False)

    def __post_init__(self) -> None:
        self.lanes = Lanes(self.n_lanes)

    def run(self) -> Generator[Progress, None, None]:
        """Encode until everything has been read."""
        for progress in self._run():
            # whoever runs the job may let it rest between its steps
            before = time.monotonic()
            yield progress
            self.rested += self.lanes.seconds_at_rest(before)

    def _run(self) -> Generator[Progress, None, None]:
        wanted = _batch(self.model)
        waiting: list[TileRead] = []
        while self._goes_on() or waiting or self.lanes.is_busy:
            self.writer.check()
            if self._goes_on() and len(waiting) < wanted:
                # what has been read need not wait for a full batch
                is_idle = not waiting and not self.lanes.is_busy
                read = self.reader.next(POLL_SECONDS if is_idle else 0)
                if isinstance(read, TileRead):
                    waiting.append(read)
                    if len(waiting) < wanted:
                        continue
                elif read is not None:
                    self._note(read)
                    yield self.progress()
                    continue
            if waiting and self.lanes.is_free:
                self._start(waiting)
                waiting = []
                continue
            if self.lanes.is_busy:
                waiting = [*self._advance(), *waiting]
            yield self.progress()
        if self.failure is not None:
            raise self.failure

    def _goes_on(self) -> bool:
        """Whether there is more to read."""
        return self.failure is None and not self.reader.is_over

    def end(self) -> None:
        """Write what is encoded, give up the rest, and end the threads."""
        self.reader.stop()
        for tiles, finished in self.lanes.end():
            if finished is not None:
                for tile, (embedding, _) in zip(tiles, finished.value, strict=True):
                    self._collect(tile, embedding)
        for plane in self.unreadable:
            self.parts.pop(plane, None)
        # after a cancel, the next run goes on within the plane
        for plane, part in self.parts.items():
            if self.writer.error is None:
                self.writer.add(plane, part.plane_digest, part.tiles, is_last=False)
        self.writer.end()
        self.reader.end()

    def progress(self) -> Progress:
        """Say how far it is, how fast, and how long it will take."""
        n_done = self.writer.n_written + self.kept + len(self.unreadable)
        return Progress("encoding planes", n_done, self.total, self._detail(n_done))

    def _detail(self, n_done: int) -> str:
        n_left, n_others = self.total - n_done, self.reader.n_with_others
        if n_others and n_others == n_left:
            planes = count_things(n_others, "plane")
            return f"waiting for {planes} of another process"
        if self.encoding_since is None or not self.writer.n_written:
            return ""
        rate = self.writer.n_written / self._spent()
        left = describe_seconds(n_left / rate)
        return f"{60 * rate:.3g} planes/min, {left} left"

    def _spent(self) -> float:
        """Seconds since the first tile, without those of rest."""
        assert self.encoding_since is not None
        spent = time.monotonic() - self.encoding_since - self.rested
        return max(spent, 1e-3)

    def report(self) -> EmbedReport:
        """Sum up."""
        return EmbedReport(
            self.writer.n_written,
            self.kept,
            tuple(self.unreadable.items()),
            time.monotonic() - self.started,
        )

    def _note(self, read: PlaneKept | PlaneUnreadable | ReaderFailed) -> None:
        if isinstance(read, ReaderFailed):
            self.failure = read.error
            return
        if isinstance(read, PlaneKept):
            self.kept += 1
            return
        self.unreadable[read.plane] = read.reason
        self.parts.pop(read.plane, None)
        if not self.skip_unreadable:
            self.failure = InvalidImageError(
                f"{self.name}: plane {_name(read.plane)} cannot be read: "
                f"{read.reason}. What is finished is kept; skip unreadable planes "
                "(--skip-unreadable) to go on without it"
            )

    def _start(self, tiles: Sequence[TileRead]) -> None:
        """Encode tiles, beside what is being encoded."""
        # a plane may turn out to be unreadable after some of its tiles
        tiles = [tile for tile in tiles if tile.plane not in self.unreadable]
        if self.encoding_since is None:
            self.encoding_since = time.monotonic()
        steps = encode_planes_steps(
            self.model,
            [tile.pixels for tile in tiles],
            on_cpu=False,  # another precision would be another entry
            alone=self.n_lanes == 1,
        )
        self.lanes.start(tiles, steps)

    def _advance(self) -> list[TileRead]:
        """Go on encoding; return the tiles that are to be encoded again.

        Memory that is too little for planes side by side may do for one at a time.
        """
        try:
            for finished in self.lanes.advance():
                self._keep_all(finished)
        except ModelMemoryError:
            if self.n_lanes == 1:
                raise
        else:
            return []
        warn_fallback(self.model.device, "encoding one plane at a time")
        self.n_lanes = 1
        left = self.lanes.end()
        self.lanes = Lanes(1)
        # tiles of a plane are written in order
        return [tile for tiles, _ in left for tile in tiles]

    def _keep_all(self, finished: Finished[Sequence[TileRead], list[Encoded]]) -> None:
        tiles = finished.key
        for tile, (embedding, _) in zip(tiles, finished.value, strict=True):
            if tile.plane not in self.unreadable:
                self._keep(tile, embedding)
        self.n_encoded += len(tiles)
        self.encoding_seconds += finished.seconds
        # the first have started alone
        if 1 < self.n_lanes < self.n_encoded:
            seconds = self.encoding_seconds / self.n_encoded / self.n_lanes
            remember_speed(self.model, seconds, self.n_lanes)

    def _collect(self, tile: TileRead, embedding: PlaneEmbedding) -> _Part:
        part = self.parts.setdefault(tile.plane, _Part(tile.plane_digest))
        part.tiles[tile.number] = dataclasses.replace(
            embedding, original_size=tile.size
        )
        return part

    def _keep(self, tile: TileRead, embedding: PlaneEmbedding) -> None:
        """Write a tile, together with those of its plane that share a file."""
        self.reader.renew()
        part = self._collect(tile, embedding)
        if tile.is_last or (tile.number + 1) % TILES_PER_FILE == 0:
            digest, tiles = part.plane_digest, part.tiles
            self.writer.add(tile.plane, digest, tiles, is_last=tile.is_last)
            del self.parts[tile.plane]


def _batch(model: PromptableModel) -> int:
    """Tiles to encode at once, if memory allows."""
    return GPU_PLANES if model.device.type == "cuda" else 1


def _name(plane: PlaneIndex) -> str:
    return ", ".join(str(i) for i in plane) or "0"
