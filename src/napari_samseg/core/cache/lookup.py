"""Find what has been encoded of an image before, without getting in anyone's way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from napari_samseg.core.cache.entry import StackEntry
from napari_samseg.core.cache.keys import StoreKeys, local_path, open_keys
from napari_samseg.core.cache.layered import warn_store
from napari_samseg.core.cache.recipe import STORAGE_FORMATS, StackRecipe
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.errors import CacheError

__all__ = ["EntryFinder", "find_entry", "has_store"]

# A plane of the image and the digest of its pixels.
Sample = tuple[tuple[int, ...], str]


class EntryFinder:
    """Finds entries, and warns of a store that it cannot read only once."""

    def __init__(self) -> None:
        self._given_up: set[str] = set()

    def find(
        self, location: str, recipe: StackRecipe, sample: Sample
    ) -> StackEntry | None:
        """Return what `find_entry` does; None where that fails, with a warning.

        A store that failed is not asked again.
        """
        if location in self._given_up:
            return None
        try:
            return find_entry(location, recipe, sample)
        except Exception as error:  # noqa: BLE001 - whatever it is, work goes on
            self._given_up.add(location)
            warn_store(error)
            return None


def find_entry(location: str, recipe: StackRecipe, sample: Sample) -> StackEntry | None:
    """Return the entry where embeddings of an image would be, if there is one.

    Parameters
    ----------
    location : str
        Folder, zip file or URL of a store; there need not be any.
    recipe : StackRecipe
        In whatever form it is stored.
    sample : (plane, plane_digest)
        A plane and the digest of its pixels, by which an image is found that has
        another name now.

    Returns
    -------
    StackEntry or None
        Opened for writing where that is allowed.

    Raises
    ------
    CacheError
        If the store is damaged, newer, out of reach, or something else.
    """
    if not has_store(location):
        return None
    store = EmbeddingStore(location, write=False)
    found = _find(store, recipe, sample)
    if found is None:
        return None
    try:
        return EmbeddingStore(location).open_entry(found.recipe.digest)
    except CacheError:  # a zip file, for one
        return found


def has_store(location: str) -> bool:
    """Tell whether there is anything at a location."""
    path = local_path(location)
    if path is not None and not path.exists():
        return False
    return bool(StoreKeys(open_keys(location, write=False)).names())


def _find(
    store: EmbeddingStore, recipe: StackRecipe, sample: Sample
) -> StackEntry | None:
    plane, plane_digest = sample
    named = list(_by_name(store, recipe))
    for entry in named:
        if entry.plane_digest(plane) == plane_digest:
            return entry
    for entry in named:
        if entry.plane_digest(plane) is None:
            return entry
    # the name may be that of another image by now
    for digest, other in store.recipes().items():
        if replace(recipe, storage=other.storage).suits(other):
            entry = store.open_entry(digest)
            if entry.plane_digest(plane) == plane_digest:
                return entry
    return None


def _by_name(store: EmbeddingStore, recipe: StackRecipe) -> Iterator[StackEntry]:
    for storage in STORAGE_FORMATS:
        entry = store.entry(replace(recipe, storage=storage))
        if entry is not None:
            yield entry
