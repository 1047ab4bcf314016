"""The embeddings of one stack in a store: many readers, many writers, no lost plane.

A plane counts once its record is there, and a record counts once the checksums
agree: what a crash, a full disk or a bad block left behind is found when it is read,
put into quarantine and encoded again. No two planes share a file, so writers never
rewrite each other's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby
from threading import RLock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zarr

from napari_samseg.core.cache.checked_store import is_trouble_here
from napari_samseg.core.cache.claims import Claims
from napari_samseg.core.cache.key import EmbeddingKey
from napari_samseg.core.cache.keys import StoreKeys
from napari_samseg.core.cache.layout import METADATA, TILES_PER_FILE
from napari_samseg.core.cache.recipe import StackRecipe
from napari_samseg.core.cache.records import (
    PlaneRecord,
    TileRecord,
    checksum_features,
)
from napari_samseg.core.cache.seal import to_sealed_bytes, unsealed
from napari_samseg.core.cache.storage import pack_features, unpack_features
from napari_samseg.core.errors import CacheError, DamagedStoreError
from napari_samseg.core.types import FloatArray, PlaneEmbedding

__all__ = ["PlaneState", "StackEntry", "read_last_used", "recorded_places"]

PlaneState = Literal["sound", "missing", "damaged"]

# How often it is written down that an entry is in use.
USED_SECONDS = 60.0


class StackEntry:
    """The embeddings of one stack: an `EmbeddingCache` for its keys.

    Several threads, processes and machines may use the same entry.

    Attributes
    ----------
    recipe : StackRecipe
        As it was when the entry was made: the image may have another name now.
    read_only : bool
        Whether nothing can be written.
    """

    def __init__(
        self, recipe: StackRecipe, features: zarr.Array[Any], keys: StoreKeys
    ) -> None:
        self.recipe = recipe
        self.read_only: bool = features.read_only
        self._features = features
        self._keys = keys
        self._claims = Claims(keys)
        self._lock = RLock()
        self._marked = -USED_SECONDS

    # -- as a cache ----------------------------------------------------------------

    def get(self, key: EmbeddingKey) -> PlaneEmbedding | None:
        """Return the embedding of `key`; None if it is missing, stale or damaged.

        What is damaged goes to quarantine.

        Raises
        ------
        CacheError
            If the store is out of reach, so that nothing is known.
        """
        if not self.recipe.makes(key):
            return None
        with self._lock:
            place = self.recipe.position(key.plane)
            judged = None
            for judged in self._contents(place):
                tile = self._recorded_tile(judged, key)
                if tile is None:
                    return None
                self._mark_used()
                features = self._read(place, self.recipe.tiles.index(key.tile), tile)
                if features is not None:
                    return self._embedding(features, tile)
            self._set_aside(place, judged)
            return None

    def put(self, key: EmbeddingKey, embedding: PlaneEmbedding) -> None:
        """Keep the embedding of one tile; other keys than this stack's are dropped."""
        if not self.recipe.makes(key) or self.read_only:
            return
        number = self.recipe.tiles.index(key.tile)
        self.put_tiles(key.plane, key.plane_digest, {number: embedding})

    # -- plane by plane ------------------------------------------------------------

    def put_tiles(
        self,
        plane: tuple[int, ...],
        plane_digest: str,
        embeddings: Mapping[int, PlaneEmbedding],
    ) -> None:
        """Keep tiles of a plane, by their number in the recipe.

        Tiles that share a file, `TILES_PER_FILE` of them, are best written together.

        Raises
        ------
        CacheError
            If they cannot be written: no room, no permission, no answer.
        """
        place = self.recipe.position(plane)
        packed = {n: self._pack(embedding) for n, embedding in embeddings.items()}
        with self._lock:
            record = self._record(place)
            if record is None or record.plane_digest != plane_digest:
                self._drop_plane(place)
            for file, numbers in _by_file(packed):
                new = {number: packed[number] for number in numbers}
                self._write_file(place, file, plane_digest, new)

    def missing_tiles(
        self, plane: tuple[int, ...], plane_digest: str
    ) -> tuple[int, ...]:
        """Return the numbers of the tiles that are not recorded for these pixels.

        The checksums of the others are not looked at.
        """
        record = self._record(self.recipe.position(plane))
        every = range(len(self.recipe.tiles))
        if record is None or record.plane_digest != plane_digest:
            return tuple(every)
        return tuple(number for number in every if number not in record.tiles)

    def has(self, plane: tuple[int, ...], plane_digest: str | None = None) -> bool:
        """Tell whether all tiles of a plane are recorded, for these pixels if given.

        The checksums are not looked at.
        """
        record = self._record(self.recipe.position(plane))
        if record is None or len(record.tiles) < len(self.recipe.tiles):
            return False
        return plane_digest is None or record.plane_digest == plane_digest

    def plane_digest(self, plane: tuple[int, ...]) -> str | None:
        """Return the digest of the pixels that were encoded, None without a record."""
        record = self._record(self.recipe.position(plane))
        return None if record is None else record.plane_digest

    def recorded(self) -> set[int]:
        """Return the places of all planes that have a record, without reading any."""
        return recorded_places(self._keys)

    def check(self, plane: tuple[int, ...]) -> PlaneState:
        """Read a plane whole and compare checksums; nothing is changed.

        Returns
        -------
        "sound", "missing" or "damaged"
            A plane of which some tiles have not been encoded is missing.
        """
        return self._judge(self.recipe.position(plane))[0]

    def quarantine(self, plane: tuple[int, ...]) -> bool:
        """Set the record of a plane aside if it is damaged, so that it is encoded anew.

        Returns
        -------
        bool
            Whether it was: False for a plane that is sound or missing or was written
            again meanwhile, and in a store that is only read.
        """
        place = self.recipe.position(plane)
        state, content = self._judge(place)
        return state == "damaged" and self._set_aside(place, content)

    def exists(self) -> bool:
        """Tell whether the entry is still there: somebody may have deleted it."""
        return self._keys.get(METADATA) is not None

    def nbytes(self) -> int:
        """Bytes on disk."""
        return self._keys.nbytes()

    def last_used(self) -> float | None:
        """Return when the entry was last read or written, in seconds since 1970.

        To the minute; None if nobody wrote it down.
        """
        return read_last_used(self._keys)

    # -- shares of the work --------------------------------------------------------

    def claim_as(self, owner: str) -> None:
        """Claim planes in a name that other writers use, too.

        They do not keep planes from each other then.
        """
        self._claims = Claims(self._keys, owner)

    def claim(self, plane: tuple[int, ...]) -> bool:
        """Try to take a plane, so that other writers leave it; renews an own claim.

        A claim ends with `release`, with its process if that ran on this machine,
        and after ten minutes without renewal.
        """
        return self._claims.take(self.recipe.position(plane))

    def release(self, plane: tuple[int, ...]) -> None:
        """Give a claimed plane up."""
        self._claims.release(self.recipe.position(plane))

    def claimed(self) -> set[int]:
        """Return the places of all planes at which a writer is."""
        return self._claims.live()

    # -- parts ---------------------------------------------------------------------

    def _contents(self, place: int) -> Iterator[bytes]:
        """Yield the record of a plane, and again if it was written again meanwhile.

        Whoever finds fault with the last one yielded has found damage.
        """
        before = None
        while (content := self._keys.get(f"records/{place}")) != before:
            if content is None:
                return
            yield content
            before = content

    def _judge(self, place: int) -> tuple[PlaneState, bytes | None]:
        """Read a plane whole; return what it is, and the record that says so."""
        content = None
        for content in self._contents(place):
            record = PlaneRecord.from_bytes(content)
            if record is not None and all(
                self._stored(place, number, tile) is not None
                for number, tile in record.tiles.items()
            ):
                whole = len(record.tiles) == len(self.recipe.tiles)
                return "sound" if whole else "missing", content
        gone = self._keys.get(f"records/{place}") is None
        return "missing" if gone else "damaged", content

    def _set_aside(self, place: int, judged: bytes | None) -> bool:
        """Put a record into quarantine unless it is not the judged one any more."""
        name = f"records/{place}"
        if self.read_only or judged is None or self._keys.get(name) != judged:
            return False
        self._keys.set(f"quarantine/{place}", judged)
        self._keys.delete(name)
        return True

    def _recorded_tile(self, content: bytes, key: EmbeddingKey) -> TileRecord | None:
        record = PlaneRecord.from_bytes(content)
        if record is None or record.plane_digest != key.plane_digest:
            return None
        return record.tiles.get(self.recipe.tiles.index(key.tile))

    def _embedding(self, features: FloatArray, tile: TileRecord) -> PlaneEmbedding:
        return PlaneEmbedding(
            {"image_embed": features},
            tile.original_size,
            tile.input_size,
            self.recipe.encoder_digest,
        )

    def _pack(self, embedding: PlaneEmbedding) -> tuple[npt.NDArray[Any], TileRecord]:
        stored, ranges = pack_features(
            embedding.features["image_embed"], self.recipe.storage
        )
        if stored.shape != self.recipe.embedding_shape:
            raise CacheError(
                f"an embedding of shape {stored.shape} does not belong among those "
                f"of shape {self.recipe.embedding_shape}"
            )
        checksum = checksum_features(stored, ranges)
        return stored, TileRecord(
            checksum, embedding.original_size, embedding.input_size, ranges
        )

    def _read(self, place: int, number: int, tile: TileRecord) -> FloatArray | None:
        stored = self._stored(place, number, tile)
        if stored is None:
            return None
        features = unpack_features(stored, tile.ranges)
        features.flags.writeable = False  # caches hand the same array to everyone
        return features

    def _stored(
        self, place: int, number: int, tile: TileRecord
    ) -> npt.NDArray[Any] | None:
        """Read a tile as it lies there, None unless it is what was recorded."""
        try:
            stored = np.asarray(self._features[place, number])
        except DamagedStoreError:
            return None
        except CacheError:
            raise
        except Exception as error:  # each codec has errors of its own
            if is_trouble_here(error):
                raise
            return None
        sound = checksum_features(stored, tile.ranges) == tile.checksum
        return stored if sound else None

    def _write_file(
        self,
        place: int,
        file: int,
        plane_digest: str,
        packed: Mapping[int, tuple[npt.NDArray[Any], TileRecord]],
    ) -> None:
        """Write the tiles of one file anew, with those beside them that are whole."""
        first = file * TILES_PER_FILE
        stop = min(first + TILES_PER_FILE, len(self.recipe.tiles))
        recorded = self._recorded_tiles(place, plane_digest)
        shape = (stop - first, *self.recipe.embedding_shape)
        values = np.zeros(shape, self.recipe.storage)
        kept: dict[int, TileRecord] = {}
        for number in range(first, stop):
            if number in packed:
                values[number - first], kept[number] = packed[number]
            elif number in recorded:
                beside = self._stored(place, number, recorded[number])
                if beside is not None:
                    values[number - first], kept[number] = beside, recorded[number]
        if any(first <= number < stop for number in recorded):
            # the record must not speak of what is gone for a moment
            self._record_tiles(place, plane_digest, range(first, stop), {})
        # zarr reads what it overwrites, sound or not
        self._keys.delete(f"features/c/{place}/{file}/0/0/0")
        self._features[place, first:stop] = values
        self._record_tiles(place, plane_digest, range(first, stop), kept)

    def _record_tiles(
        self,
        place: int,
        plane_digest: str,
        numbers: range,
        tiles: Mapping[int, TileRecord],
    ) -> None:
        """Record these of the tiles of a file, and none of its others.

        The record is read again for that: another writer may have recorded tiles
        of another file meanwhile.
        """
        recorded = self._recorded_tiles(place, plane_digest)
        others = {n: tile for n, tile in recorded.items() if n not in numbers}
        record = PlaneRecord(plane_digest, {**others, **tiles})
        self._keys.set(f"records/{place}", record.to_bytes())
        self._mark_used()

    def _drop_plane(self, place: int) -> None:
        """Forget a plane, its record first: it must not speak of what is gone."""
        self._keys.delete(f"records/{place}")
        for file in range(-(-len(self.recipe.tiles) // TILES_PER_FILE)):
            self._keys.delete(f"features/c/{place}/{file}/0/0/0")

    def _record(self, place: int) -> PlaneRecord | None:
        return PlaneRecord.from_bytes(self._keys.get(f"records/{place}") or b"")

    def _recorded_tiles(self, place: int, plane_digest: str) -> dict[int, TileRecord]:
        record = self._record(place)
        if record is None or record.plane_digest != plane_digest:
            return {}
        return record.tiles

    def _mark_used(self) -> None:
        """Write down that the entry is in use, which must never be in the way."""
        if self.read_only or time.monotonic() - self._marked < USED_SECONDS:
            return
        self._marked = time.monotonic()
        with suppress(CacheError):
            self._keys.set("used", to_sealed_bytes({"time": time.time()}))


def _by_file(numbers: Iterable[int]) -> Iterator[tuple[int, list[int]]]:
    """Group the numbers of tiles by the file they lie in."""
    for file, group in groupby(sorted(numbers), lambda n: n // TILES_PER_FILE):
        yield file, list(group)


def recorded_places(keys: StoreKeys) -> set[int]:
    """Return the places of all planes of an entry that have a record."""
    return {int(name) for name in keys.names("records") if name.isdigit()}


def read_last_used(keys: StoreKeys) -> float | None:
    """Return when an entry was last in use, None if nobody wrote it down."""
    used = unsealed(keys.get("used"))
    return None if used is None else float(used["time"])
