"""What a store is made of: the zarr metadata of its groups and arrays.

::

    store/                    zarr v3 group; attributes: kind, schema
      <recipe digest>/        group, an entry; attributes: the recipe
        features              array (planes, tiles, C, h, w); a chunk per tile, a
                              shard (one file) per plane, or per 64 tiles of a
                              plane that has more; the recipe once more
        records/<plane>       JSON, written last: digest of the plane's pixels and a
                              checksum of each tile's features
        claims/<plane>        JSON: which writer is at it, and since when
        quarantine/<plane>    records of what was found damaged
        used                  JSON: when the entry was last read or written

Every JSON text of these carries a checksum of itself. The metadata of an entry follow
from its recipe, so that they can be written again when they are damaged.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import zarr
import zarr.storage
from zarr.abc.store import Store
from zarr.codecs import BloscCodec

from napari_samseg.core.cache.checked_store import is_trouble_here
from napari_samseg.core.cache.keys import StoreKeys
from napari_samseg.core.cache.recipe import StackRecipe
from napari_samseg.core.cache.seal import sealed, unsealed
from napari_samseg.core.errors import CacheError, DamagedStoreError, NewerStoreError

__all__ = [
    "DIGEST",
    "FEATURES",
    "KIND",
    "METADATA",
    "TILES_PER_FILE",
    "check_schema",
    "entry_digests",
    "entry_documents",
    "has_sound_features",
    "open_features",
    "read_about",
    "read_recipe",
    "recipe_of",
    "root_document",
]

KIND = "napari-samseg embeddings"
SCHEMA = 1
ATTRIBUTE = "napari_samseg"
METADATA = "zarr.json"
DIGEST = re.compile("[0-9a-f]{32}")
NODES = ("group", "array")
FEATURES = f"features/{METADATA}"
_MODES: dict[bool, Literal["r", "r+"]] = {False: "r", True: "r+"}
# A shard is held in memory while it is written: 64 tiles of SAM are 128 MB in half
# precision, and a plane of 6000 x 6000 pixels has about as many.
TILES_PER_FILE = 64
# Measured on SAM features (see docs/concepts/embedding-cache.md): 0.43 of float32 in
# half precision, twice as fast to write as zstd, which saves another 2 %.
COMPRESSOR = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")


def entry_digests(keys: StoreKeys) -> list[str]:
    """Return the names of all entries, given the keys of the whole store."""
    return [name for name in keys.names() if DIGEST.fullmatch(name)]


def root_document() -> bytes:
    """Return the metadata of a store."""
    about = {"kind": KIND, "schema": SCHEMA, "version": version("napari-samseg")}
    scratch = zarr.storage.MemoryStore()
    zarr.create_group(scratch, attributes={ATTRIBUTE: sealed(about)})
    return _document(scratch, METADATA)


def entry_documents(recipe: StackRecipe) -> dict[str, bytes]:
    """Return the metadata of an entry by key, in the order to write them."""
    scratch = zarr.storage.MemoryStore()
    about: Any = {ATTRIBUTE: sealed({"schema": SCHEMA, **recipe.to_json()})}
    group = zarr.create_group(scratch, attributes=about)
    _create_features(group, recipe).update_attributes(about)
    return {key: _document(scratch, key) for key in (FEATURES, METADATA)}


def read_about(document: bytes) -> dict[str, Any] | None:
    """Return what the metadata of a group or array say of it under our name.

    Raises
    ------
    DamagedStoreError
        If they were cut off or changed. What is sound but not ours is None.
    """
    try:
        content = json.loads(document)
        attributes = content["attributes"]
        known = content["zarr_format"] == 3 and content["node_type"] in NODES
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedStoreError("the metadata are damaged") from error
    if not isinstance(attributes, dict) or ATTRIBUTE not in attributes:
        return None
    about = unsealed(attributes[ATTRIBUTE])
    if about is None or not known:
        raise DamagedStoreError("the metadata are damaged")
    return about


def read_recipe(keys: StoreKeys, digest: str, document: str) -> StackRecipe | None:
    """Read the recipe of an entry from one of its two documents.

    None if it is not there or damaged.

    Raises
    ------
    NewerStoreError
        If a newer version wrote it.
    """
    try:
        about = read_about(keys.get(document) or b"")
    except DamagedStoreError:
        return None
    return None if about is None else _parse_recipe(about, digest)


def recipe_of(features: zarr.Array[Any], digest: str) -> StackRecipe | None:
    """Return the recipe that an open array carries, None if it is damaged.

    Raises
    ------
    NewerStoreError
        If a newer version wrote it.
    """
    about = unsealed(features.attrs.get(ATTRIBUTE))
    return None if about is None else _parse_recipe(about, digest)


def _parse_recipe(about: dict[str, Any], digest: str) -> StackRecipe | None:
    check_schema(about, f"entry {digest}")
    try:
        recipe = StackRecipe.from_json(about)
    except (KeyError, TypeError, ValueError):
        return None
    return recipe if recipe.digest == digest else None


def check_schema(about: dict[str, Any], what: str) -> None:
    """Refuse what a newer version made.

    Raises
    ------
    NewerStoreError
        If the schema is unknown here.
    """
    schema = about.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise NewerStoreError(
            f"{what} was made by a newer version (schema {schema}, this one reads "
            f"{SCHEMA}): update napari-samseg"
        )


def open_features(store: Store, recipe: StackRecipe, *, write: bool) -> zarr.Array[Any]:
    """Open the array of an entry.

    Raises
    ------
    FileNotFoundError
        If there is none.
    DamagedStoreError
        If its metadata are damaged.
    """
    path = f"{recipe.digest}/features"
    try:
        features = zarr.open_array(store, path=path, mode=_MODES[write], zarr_format=3)
    except (FileNotFoundError, CacheError):
        raise
    except Exception as error:  # each field of the metadata fails in its own way
        if is_trouble_here(error):
            raise
        raise DamagedStoreError(f"the metadata of {path} are damaged") from error
    shape, chunks, shards = _shapes(recipe)
    if (features.shape, features.chunks, features.shards, features.dtype) != (
        shape,
        chunks,
        shards,
        np.dtype(recipe.storage),
    ):
        raise DamagedStoreError(f"the metadata of {path} are damaged")
    return features


def has_sound_features(features: zarr.Array[Any], recipe: StackRecipe) -> bool:
    """Tell whether the metadata of an array are those that the recipe asks for."""
    ours = features.attrs.get(ATTRIBUTE)
    found = features.metadata.to_dict() | {"attributes": {}}
    return unsealed(ours) is not None and found == _expected_metadata(recipe)


@lru_cache
def _expected_metadata(recipe: StackRecipe) -> dict[str, Any]:
    """Return the metadata of the array of a recipe, but for its attributes.

    Kept, because every writer that opens the entry asks for them.
    """
    scratch = zarr.create_group(zarr.storage.MemoryStore())
    expected = _create_features(scratch, recipe)
    return expected.metadata.to_dict() | {"attributes": {}}


def _create_features(group: zarr.Group, recipe: StackRecipe) -> zarr.Array[Any]:
    shape, chunks, shards = _shapes(recipe)
    return group.create_array(
        "features",
        shape=shape,
        chunks=chunks,
        shards=shards,
        dtype=recipe.storage,
        compressors=COMPRESSOR,
        filters=None,
        fill_value=0,
        dimension_names=("plane", "tile", "channel", "y", "x"),
    )


def _shapes(recipe: StackRecipe) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of the array, of its chunks and of its shards."""
    features, n_tiles = recipe.embedding_shape, len(recipe.tiles)
    return (
        (recipe.n_planes, n_tiles, *features),
        (1, 1, *features),
        (1, min(n_tiles, TILES_PER_FILE), *features),
    )


def _document(scratch: Store, key: str) -> bytes:
    document = StoreKeys(scratch).get(key)
    assert document is not None
    return document
