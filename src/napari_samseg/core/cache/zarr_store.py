"""A store of embeddings in zarr; see `napari_samseg.core.cache.layout`."""

from __future__ import annotations

import os
from collections.abc import Iterator

from zarr.abc.store import Store

from napari_samseg.core.cache.entry import StackEntry
from napari_samseg.core.cache.keys import StoreKeys, open_keys
from napari_samseg.core.cache.layout import (
    FEATURES,
    KIND,
    METADATA,
    check_schema,
    entry_digests,
    entry_documents,
    open_features,
    read_about,
    read_recipe,
    recipe_of,
    root_document,
)
from napari_samseg.core.cache.recipe import StackRecipe
from napari_samseg.core.errors import CacheError, DamagedStoreError, NewerStoreError

__all__ = ["EmbeddingStore", "StackEntry"]

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
        self._open_root()

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
        self, recipe: StackRecipe, sample: tuple[tuple[int, ...], str] | None = None
    ) -> StackEntry | None:
        """Return the entry of a stack; made if need be, None where only reading.

        Parameters
        ----------
        recipe : StackRecipe
        sample : (plane, plane_digest), optional
            Index of a plane and `digest_array` of its pixels, by which a stack is
            found that was moved or renamed. Choose one with something in it: the
            black border of one stack equals that of another.

        Returns
        -------
        StackEntry or None
            The entry with this recipe. If there is none, or its sample has other
            pixels, one that differs only in the names of image and model, with these
            pixels in the sample. Its `recipe` is then that one's.

        Raises
        ------
        DamagedStoreError
            If only reading, and the entry is damaged; a writer puts it right.
        CacheError
            If the store is out of reach, or cannot be written.
        """
        exact = self._open_entry(recipe)
        if sample is not None and (exact is None or not _agrees(exact, sample)):
            moved = self._find_by_content(recipe, sample)
            if moved is not None:
                return moved
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
        stored = recipe_of(features, digest)
        if stored is None and write:
            self._write_documents(recipe)
        return StackEntry(stored or recipe, features, self.keys(digest))

    def _find_by_content(
        self, recipe: StackRecipe, sample: tuple[tuple[int, ...], str]
    ) -> StackEntry | None:
        for digest, other in self._readable():
            if not recipe.suits(other) or digest == recipe.digest:
                continue
            entry = self._open_entry(other)
            if entry is not None and _agrees(entry, sample):
                return entry
        return None

    def _write_documents(self, recipe: StackRecipe) -> None:
        """Write the metadata of an entry; two writers write the same."""
        for name, document in entry_documents(recipe).items():
            self.keys(recipe.digest).set(name, document)

    def _open_root(self) -> None:
        document = self._keys.get(METADATA)
        try:
            about = None if document is None else read_about(document)
        except DamagedStoreError as error:
            raise self._damaged() from error
        if about is not None and about.get("kind") == KIND:
            check_schema(about, f"the store in {self.location}")
        elif self.digests():
            raise self._damaged()
        elif document is not None:
            raise CacheError(f"{self.location} is something else than embeddings")
        elif self._keys.names():
            raise CacheError(
                f"{self.location} holds other files: choose a store, or a new or empty "
                "folder"
            )
        elif self.read_only:
            raise CacheError(f"there is no store of embeddings in {self.location}")
        else:
            self._keys.set(METADATA, root_document())

    def _damaged(self) -> DamagedStoreError:
        return DamagedStoreError(f"the store in {self.location} is damaged: {REPAIR}")


def _agrees(entry: StackEntry, sample: tuple[tuple[int, ...], str]) -> bool:
    plane, plane_digest = sample
    return entry.plane_digest(plane) == plane_digest
