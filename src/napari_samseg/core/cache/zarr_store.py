"""A store of embeddings in zarr; see `napari_samseg.core.cache.layout`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Self

import zarr
from zarr.abc.store import Store

from napari_samseg.core.cache.entry import StackEntry
from napari_samseg.core.cache.keys import StoreKeys, open_keys
from napari_samseg.core.cache.layout import (
    DIGEST,
    FEATURES,
    KIND,
    METADATA,
    check_schema,
    entry_digests,
    entry_documents,
    has_sound_features,
    open_features,
    read_about,
    read_recipe,
    recipe_of,
    root_document,
)
from napari_samseg.core.cache.recipe import StackRecipe
from napari_samseg.core.errors import CacheError, DamagedStoreError, NewerStoreError

__all__ = ["EmbeddingStore", "StackEntry"]

DigestOf = Callable[[tuple[int, ...]], str | None]
REPAIR = "repair it with `napari-samseg cache repair`"


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
        If there is something else, a store of a newer version, or nothing to read;
        if the place is out of reach, or its library is missing.
    DamagedStoreError
        If it is a store, and its metadata are damaged.
    """

    def __init__(
        self, location: str | os.PathLike[str] | Store, *, write: bool = True
    ) -> None:
        self.store = open_keys(location, write=write)
        self.location = self.store.location
        self._keys = StoreKeys(self.store)
        self._opened_here = not isinstance(location, Store)
        try:
            self._open_root()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files, of which a zip file's would stay open.

        A store that was given open stays so. Entries must not be used any more.
        """
        if self._opened_here:
            self.store.close()

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written."""
        return self.store.read_only

    def digests(self) -> list[str]:
        """Return the names of all entries, those that cannot be read among them."""
        return entry_digests(self._keys)

    def recipe(self, digest: str) -> StackRecipe | None:
        """Return the recipe of an entry, None if both its copies are damaged.

        Raises
        ------
        NewerStoreError
            If a newer version wrote it.
        """
        keys = self.keys(digest)
        first = read_recipe(keys, digest, METADATA)
        return read_recipe(keys, digest, FEATURES) if first is None else first

    def recipes(self) -> dict[str, StackRecipe]:
        """Return the recipes of all entries that can be read, by digest."""
        return dict(self._readable())

    def entry(
        self, recipe: StackRecipe, digest_of: DigestOf | None = None
    ) -> StackEntry | None:
        """Return the entry of a stack; made if need be, None where only reading.

        Parameters
        ----------
        recipe : StackRecipe
        digest_of : function of a plane's index, optional
            Returns `digest_array` of its pixels, or None if it cannot be read. By
            this a stack is found that was moved or renamed. It is only asked where
            there are such entries, for the middle one of the planes that each has:
            the black border of one stack equals that of another.

        Returns
        -------
        StackEntry or None
            The entry with this recipe. If there is none, or it is of other pixels,
            one that differs only in the names of image and model and is of these.
            Its `recipe` is then that one's.

        Raises
        ------
        DamagedStoreError
            If only reading, and the entry is damaged; a writer puts it right.
        CacheError
            If the store is out of reach, or cannot be written.
        """
        exact = self._open_entry(recipe)
        if digest_of is not None:
            for entry in (exact, *self._similar(recipe)):
                if entry is not None and _agrees(entry, digest_of):
                    return entry
        if exact is not None or self.read_only:
            return exact
        self._write_documents(recipe)
        return self._open_entry(recipe)

    def open_entry(self, digest: str) -> StackEntry:
        """Return the entry with this digest.

        Raises
        ------
        DamagedStoreError
            If it is damaged.
        CacheError
            If there is none, or a newer version made it.
        """
        recipe = self.recipe(digest)
        if recipe is not None:
            entry = self._open_entry(recipe)
            if entry is not None:
                return entry
        elif not self.keys(digest).names():
            raise CacheError(f"there is no entry {digest} in {self.location}")
        raise DamagedStoreError(
            f"entry {digest} of {self.location} is damaged: {REPAIR}"
        )

    def keys(self, digest: str) -> StoreKeys:
        """Return the single keys of an entry."""
        return StoreKeys(self.store, digest)

    def delete(self, digest: str) -> None:
        """Remove an entry with all its features."""
        keys = self.keys(digest)
        # whatever is left if this is cut off must not count as finished
        keys.delete_all("records")
        keys.delete_all()

    # -- parts ---------------------------------------------------------------------

    def _readable(self) -> Iterator[tuple[str, StackRecipe]]:
        for digest in self.digests():
            try:
                recipe = self.recipe(digest)
            except NewerStoreError:
                continue
            if recipe is not None:
                yield digest, recipe

    def _open_entry(self, recipe: StackRecipe) -> StackEntry | None:
        digest, write = recipe.digest, not self.read_only
        try:
            features = open_features(self.store, recipe, write=write)
        except FileNotFoundError:
            return None
        except DamagedStoreError as error:
            if not write:
                raise DamagedStoreError(
                    f"entry {digest} of {self.location} is damaged: {REPAIR}"
                ) from error
            # the name of the folder says which recipe it was
            self._write_documents(recipe)
            features = open_features(self.store, recipe, write=write)
        if write and not self._has_sound_documents(features, recipe):
            self._write_documents(recipe)
            features = open_features(self.store, recipe, write=write)
        stored = recipe_of(features, digest)
        return StackEntry(stored or recipe, features, self.keys(digest))

    def _similar(self, recipe: StackRecipe) -> Iterator[StackEntry]:
        """Yield the entries of what may be the same image under another name."""
        for digest, other in self._readable():
            if recipe.suits(other) and digest != recipe.digest:
                entry = self._open_entry(other)
                if entry is not None:
                    yield entry

    def _has_sound_documents(
        self, features: zarr.Array[Any], recipe: StackRecipe
    ) -> bool:
        keys = self.keys(recipe.digest)
        return has_sound_features(features, recipe) and all(
            read_recipe(keys, recipe.digest, name) for name in (METADATA, FEATURES)
        )

    def _write_documents(self, recipe: StackRecipe) -> None:
        """Write the metadata of an entry; two writers write the same."""
        for name, document in entry_documents(recipe).items():
            self.keys(recipe.digest).set(name, document)

    def _open_root(self) -> None:
        document = self._keys.get(METADATA)
        if document is None:
            names = self._keys.names()
            # another writer may just be making the store, in which this comes first
            document = self._keys.get(METADATA)
            if document is None:
                self._make_root(names)
                return
        try:
            about = read_about(document)
        except DamagedStoreError as error:
            raise self._damaged() from error
        if about is not None and about.get("kind") == KIND:
            check_schema(about, f"the store in {self.location}")
        elif self.digests():
            raise self._damaged()
        else:
            raise CacheError(f"{self.location} is something else than embeddings")

    def _make_root(self, names: list[str]) -> None:
        """Make a store beside what is there, which must be nothing."""
        if any(DIGEST.fullmatch(name) for name in names):
            raise self._damaged()
        if names:
            raise CacheError(
                f"there is no store of embeddings in {self.location}, but other files: "
                "choose a store, or a new or empty folder"
            )
        if self.read_only:
            raise CacheError(f"there is no store of embeddings in {self.location}")
        self._keys.set(METADATA, root_document())

    def _damaged(self) -> DamagedStoreError:
        return DamagedStoreError(f"the store in {self.location} is damaged: {REPAIR}")


def _agrees(entry: StackEntry, digest_of: DigestOf) -> bool:
    """Tell whether an entry is of these pixels, by one of the planes that it has."""
    places = sorted(entry.recorded())
    if not places:
        return False
    plane = entry.recipe.plane_at(places[len(places) // 2])
    recorded = entry.plane_digest(plane)
    return recorded is not None and recorded == digest_of(plane)
