"""Embeddings of stacks on disk, in zarr: many readers, many writers, no lost plane.

::

    store/                    zarr v3 group; attributes: kind, schema
      <recipe digest>/        group, an entry; attributes: the recipe
        features              array (planes, tiles, C, h, w); a chunk per tile,
                              a shard (one file) per plane
        records/<plane>       JSON, written last: digest of the plane's pixels and a
                              checksum of each tile's features
        claims/<plane>        JSON: which writer is at it, and since when
        quarantine/<plane>    records of what was found damaged

A plane counts once its record is there, and a record counts once the checksums
agree: what a crash, a full disk or a bad block left behind is found when it is read,
put into quarantine and encoded again. No two planes share a file, so writers never
rewrite each other's.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from threading import RLock
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import psutil
import xxhash
import zarr
import zarr.errors
from zarr.abc.store import Store
from zarr.codecs import BloscCodec

from napari_samseg.core.cache.key import EmbeddingKey
from napari_samseg.core.cache.keys import StoreKeys, open_keys
from napari_samseg.core.cache.recipe import StackRecipe
from napari_samseg.core.cache.storage import pack_features, unpack_features
from napari_samseg.core.errors import CacheError
from napari_samseg.core.types import FloatArray, PlaneEmbedding

__all__ = ["EmbeddingStore", "StackEntry"]

KIND = "napari-samseg embeddings"
SCHEMA = 1
ATTRIBUTE = "napari_samseg"
# Measured on SAM features (see docs/concepts/embedding-cache.md): 0.43 of float32 in
# half precision, twice as fast to write as zstd, which saves another 2 %.
COMPRESSOR = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")
# A writer that has not been heard of for so long is taken for dead.
CLAIM_SECONDS = 600.0


class EmbeddingStore:
    """A place for the embeddings of many stacks, one entry per recipe.

    Parameters
    ----------
    location : str, path or zarr Store
        A folder, a ``.zip`` file (to read), or an fsspec URL.
    write : bool
        Make the store if it is not there. A place that may not be written is
        opened for reading.

    Raises
    ------
    CacheError
        If there is something else, a store of a newer version, or nothing to read.
    """

    def __init__(
        self, location: str | os.PathLike[str] | Store, *, write: bool = True
    ) -> None:
        self.location = str(location)
        self.store = open_keys(location, write=write)
        self._root = self._open_root(write=write)

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written."""
        return self._root.read_only

    def recipes(self) -> dict[str, StackRecipe]:
        """Return the recipes of all entries that can be read, by digest."""
        found = {}
        for digest, group in self._root.groups():
            recipe = _read_recipe(group)
            if recipe is not None and recipe.digest == digest:
                found[digest] = recipe
        return found

    def entry(self, recipe: StackRecipe) -> StackEntry | None:
        """Return the entry of a recipe; made if need be, None where only reading.

        Raises
        ------
        CacheError
            If the entry is damaged, or cannot be written.
        """
        group = self._find(recipe)
        if group is None:
            if self.read_only:
                return None
            with _writing(self.location):
                _create_entry(self._root, recipe)
            group = self._find(recipe)
        if group is None:
            raise CacheError(
                f"entry {recipe.digest} of {self.location} is damaged: delete it with "
                "`napari-samseg cache delete`"
            )
        return StackEntry(recipe, group, self.location)

    def _find(self, recipe: StackRecipe) -> zarr.Group | None:
        group = self._root.get(recipe.digest)
        if isinstance(group, zarr.Group) and _read_recipe(group) == recipe:
            return group
        return None

    def delete(self, digest: str) -> None:
        """Remove an entry with all its features."""
        StoreKeys(self.store, digest).delete_all()

    def _open_root(self, *, write: bool) -> zarr.Group:
        try:
            root = zarr.open_group(self.store, mode="r+" if write else "r")
        except FileNotFoundError as error:
            if not write:
                raise CacheError(f"there is no store in {self.location}") from error
            return self._create_root()
        except (ValueError, KeyError, json.JSONDecodeError) as error:
            raise CacheError(f"the store in {self.location} is damaged") from error
        about = root.attrs.get(ATTRIBUTE)
        if not isinstance(about, Mapping) or about.get("kind") != KIND:
            raise CacheError(f"{self.location} is something else than embeddings")
        schema = about.get("schema")
        if not isinstance(schema, int) or schema > SCHEMA:
            raise CacheError(
                f"the store in {self.location} was made by a newer version (schema "
                f"{schema}, this one reads {SCHEMA}): update napari-samseg"
            )
        return root

    def _create_root(self) -> zarr.Group:
        folder = getattr(self.store, "root", None)
        if folder is not None and folder.is_dir() and any(folder.iterdir()):
            raise CacheError(
                f"{self.location} holds other files: choose a new or empty folder"
            )
        about = {"kind": KIND, "schema": SCHEMA, "version": version("napari-samseg")}
        with _writing(self.location):
            return zarr.create_group(
                self.store, attributes={ATTRIBUTE: about}, overwrite=False
            )


class StackEntry:
    """The embeddings of one stack: an `EmbeddingCache` for its keys.

    Several threads, processes and machines may use the same entry.

    Attributes
    ----------
    recipe : StackRecipe
    """

    def __init__(self, recipe: StackRecipe, group: zarr.Group, location: str) -> None:
        self.recipe = recipe
        self._features = cast("zarr.Array[Any]", group["features"])
        self._location = location
        self._keys = StoreKeys(group.store, group.path)
        self._owner = uuid.uuid4().hex
        self._lock = RLock()
        self.read_only: bool = group.read_only

    # -- as a cache ----------------------------------------------------------------

    def get(self, key: EmbeddingKey) -> PlaneEmbedding | None:
        """Return the embedding of `key`; None if it is missing, stale or damaged.

        What is damaged goes to quarantine.
        """
        if not self.recipe.makes(key):
            return None
        with self._lock:
            place = self.recipe.position(key.plane)
            record = self._record(place)
            if record is None or record.plane_digest != key.plane_digest:
                return None
            number = self.recipe.tiles.index(key.tile)
            tile = record.tiles.get(number)
            if tile is None:
                return None
            features = self._read(place, number, tile)
            if features is None:
                self._quarantine(place)
                return None
            return PlaneEmbedding(
                {"image_embed": features},
                tile.original_size,
                tile.input_size,
                self.recipe.encoder_digest,
            )

    def put(self, key: EmbeddingKey, embedding: PlaneEmbedding) -> None:
        """Keep the embedding of one tile; other keys than this stack's are dropped."""
        if not self.recipe.makes(key) or self.read_only:
            return
        with self._lock:
            place = self.recipe.position(key.plane)
            number = self.recipe.tiles.index(key.tile)
            record = self._record(place)
            tiles = {}
            if record is not None and record.plane_digest == key.plane_digest:
                tiles = record.tiles
            with _writing(self._location):
                if not tiles:
                    self._drop_features(place)
                stored, tiles[number] = self._pack(embedding)
                self._features[place, number] = stored
                self._write_record(place, _Record(key.plane_digest, tiles))

    # -- plane by plane ------------------------------------------------------------

    def put_plane(
        self,
        plane: tuple[int, ...],
        plane_digest: str,
        embeddings: Sequence[PlaneEmbedding],
    ) -> None:
        """Keep all tiles of a plane, in the order of the recipe: one file, one record.

        Raises
        ------
        CacheError
            If it cannot be written: no room, no permission.
        """
        packed = [self._pack(embedding) for embedding in embeddings]
        place = self.recipe.position(plane)
        tiles = {number: tile for number, (_, tile) in enumerate(packed)}
        with self._lock, _writing(self._location):
            self._drop_features(place)
            self._features[place] = np.stack([stored for stored, _ in packed])
            self._write_record(place, _Record(plane_digest, tiles))

    def has(self, plane: tuple[int, ...], plane_digest: str | None = None) -> bool:
        """Tell whether all tiles of a plane are recorded, for these pixels if given.

        The checksums are not looked at.
        """
        record = self._record(self.recipe.position(plane))
        if record is None or len(record.tiles) < len(self.recipe.tiles):
            return False
        return plane_digest is None or record.plane_digest == plane_digest

    def recorded(self) -> set[int]:
        """Return the places of all planes that have a record, without reading any."""
        return {int(name) for name in self._keys.names("records") if name.isdigit()}

    def is_sound(self, plane: tuple[int, ...]) -> bool:
        """Read a recorded plane whole and compare checksums; quarantine if wrong."""
        place = self.recipe.position(plane)
        record = self._record(place)
        sound = record is not None and len(record.tiles) == len(self.recipe.tiles)
        if record is not None and sound:
            sound = all(
                self._read(place, number, tile) is not None
                for number, tile in record.tiles.items()
            )
        if not sound:
            self._quarantine(place)
        return sound

    def nbytes(self) -> int:
        """Bytes on disk."""
        return self._keys.nbytes()

    # -- shares of the work --------------------------------------------------------

    def claim(self, plane: tuple[int, ...]) -> bool:
        """Try to take a plane, so that other writers leave it; renews an own claim.

        A claim ends with `release`, with its process if that ran on this machine,
        and after ten minutes without renewal.
        """
        name = f"claims/{self.recipe.position(plane)}"
        mine = json.dumps(
            {
                "owner": self._owner,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "time": time.time(),
            }
        ).encode()
        if self._keys.set_new(name, mine):
            return True
        holder = _read_claim(self._keys.get(name))
        if holder.get("owner") != self._owner and _is_alive(holder):
            return False
        self._keys.set(name, mine)
        return self._keys.get(name) == mine

    def release(self, plane: tuple[int, ...]) -> None:
        """Give a claimed plane up."""
        self._keys.delete(f"claims/{self.recipe.position(plane)}")

    # -- parts ---------------------------------------------------------------------

    def _pack(self, embedding: PlaneEmbedding) -> tuple[npt.NDArray[Any], _TileRecord]:
        stored, ranges = pack_features(
            embedding.features["image_embed"], self.recipe.storage
        )
        if stored.shape != self.recipe.embedding_shape:
            raise CacheError(
                f"an embedding of shape {stored.shape} does not belong among those "
                f"of shape {self.recipe.embedding_shape}"
            )
        checksum = _checksum(stored, ranges)
        return stored, _TileRecord(
            checksum, embedding.original_size, embedding.input_size, ranges
        )

    def _read(self, place: int, number: int, tile: _TileRecord) -> FloatArray | None:
        try:
            stored = np.asarray(self._features[place, number])
        except Exception:  # noqa: BLE001 - each codec has errors of its own
            return None
        if _checksum(stored, tile.ranges) != tile.checksum:
            return None
        features = unpack_features(stored, tile.ranges)
        features.flags.writeable = False  # caches hand the same array to everyone
        return features

    def _drop_features(self, place: int) -> None:
        """Remove a plane's file: zarr reads what it overwrites, sound or not."""
        self._keys.delete(f"features/c/{place}/0/0/0/0")

    def _record(self, place: int) -> _Record | None:
        return _Record.from_bytes(self._keys.get(f"records/{place}"))

    def _write_record(self, place: int, record: _Record) -> None:
        self._keys.set(f"records/{place}", record.to_bytes())

    def _quarantine(self, place: int) -> None:
        content = self._keys.get(f"records/{place}")
        if content is not None and not self.read_only:
            self._keys.set(f"quarantine/{place}", content)
            self._keys.delete(f"records/{place}")


@dataclass(frozen=True, slots=True)
class _TileRecord:
    """What a record says of one tile."""

    checksum: str
    original_size: tuple[int, int]
    input_size: tuple[int, int]
    ranges: FloatArray | None


@dataclass(frozen=True, slots=True)
class _Record:
    """What stands in ``records/<plane>``."""

    plane_digest: str
    tiles: dict[int, _TileRecord]

    def to_bytes(self) -> bytes:
        tiles = {
            str(number): [
                tile.checksum,
                *tile.original_size,
                *tile.input_size,
                None if tile.ranges is None else _to_text(tile.ranges),
            ]
            for number, tile in self.tiles.items()
        }
        body = {"plane_digest": self.plane_digest, "tiles": tiles}
        # a record that was cut off or flipped must not look like one
        return json.dumps(body | {"checksum": _digest_body(body)}).encode()

    @classmethod
    def from_bytes(cls, content: bytes | None) -> _Record | None:
        if content is None:
            return None
        try:
            body = json.loads(content)
            if body.pop("checksum") != _digest_body(body):
                return None
            tiles = {
                int(number): _TileRecord(
                    checksum, (y, x), (h, w), None if r is None else _from_text(r)
                )
                for number, (checksum, y, x, h, w, r) in body["tiles"].items()
            }
            return cls(body["plane_digest"], tiles)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def _create_entry(root: zarr.Group, recipe: StackRecipe) -> None:
    """Make an entry; the recipe is written last, and two writers write the same."""
    shape = recipe.embedding_shape
    n_tiles = len(recipe.tiles)
    with suppress(zarr.errors.ContainsArrayError):
        zarr.create_array(
            store=root.store,
            name=f"{recipe.digest}/features",
            shape=(recipe.n_planes, n_tiles, *shape),
            chunks=(1, 1, *shape),
            shards=(1, n_tiles, *shape),
            dtype=recipe.storage,
            compressors=COMPRESSOR,
            filters=None,
            fill_value=0,
            dimension_names=("plane", "tile", "channel", "y", "x"),
        )
    group = root.require_group(recipe.digest)
    group.update_attributes({ATTRIBUTE: recipe.to_json()})


def _read_recipe(group: zarr.Group) -> StackRecipe | None:
    try:
        return StackRecipe.from_json(cast("dict[str, Any]", group.attrs[ATTRIBUTE]))
    except (KeyError, TypeError, ValueError):
        return None


@contextmanager
def _writing(location: str) -> Iterator[None]:
    """Turn what the file system says into words."""
    try:
        yield
    except CacheError:
        raise
    except OSError as error:
        raise CacheError(
            f"embeddings cannot be written into {location}: {error.strerror or error}; "
            "what was finished is kept"
        ) from error


def _is_alive(holder: Mapping[str, Any]) -> bool:
    try:
        age = time.time() - float(holder["time"])
        same_host = holder["host"] == socket.gethostname()
        gone = same_host and not psutil.pid_exists(int(holder["pid"]))
    except (KeyError, TypeError, ValueError):
        return False
    return age < CLAIM_SECONDS and not gone


def _read_claim(content: bytes | None) -> dict[str, Any]:
    try:
        claim = json.loads(content or b"{}")
    except ValueError:
        return {}
    return claim if isinstance(claim, dict) else {}


def _checksum(stored: npt.NDArray[Any], ranges: FloatArray | None) -> str:
    digest = xxhash.xxh3_64(np.ascontiguousarray(stored).data)
    if ranges is not None:
        digest.update(np.ascontiguousarray(ranges).data)
    return digest.hexdigest()


def _digest_body(body: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _to_text(ranges: FloatArray) -> str:
    return base64.b64encode(ranges.astype("<f4").tobytes()).decode()


def _from_text(text: str) -> FloatArray:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(-1, 2)
