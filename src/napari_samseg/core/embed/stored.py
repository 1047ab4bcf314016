"""What has been encoded of an image before, for those who want to use it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_samseg.core.cache.layered import LayeredCache
from napari_samseg.core.cache.lookup import EntryFinder, find_entry
from napari_samseg.core.errors import CacheError

if TYPE_CHECKING:
    from napari_samseg.core.cache.protocol import EmbeddingCache
    from napari_samseg.core.cache.zarr_store import StackEntry
    from napari_samseg.core.models.protocol import PromptableModel
    from napari_samseg.core.planes import MeasuredPlane
    from napari_samseg.core.predict import Predictor
    from napari_samseg.core.settings import TileSettings

__all__ = ["StoredPlanes", "stored_embeddings"]


@dataclass(frozen=True, slots=True)
class StoredPlanes:
    """Where planes of an image may have been stored before.

    Attributes
    ----------
    finder : EntryFinder
    location : str
        Folder or URL of a store; there need not be any.
    name : str
        Path or name of the image.
    """

    finder: EntryFinder
    location: str
    name: str

    def behind(
        self, shared: Predictor, plane: MeasuredPlane, tiles: TileSettings
    ) -> EmbeddingCache:
        """Return the memory of a model, in front of what is stored of the image."""
        ndim = plane.source.ndim
        if plane.plane_axes != (ndim - 2, ndim - 1):
            return shared.cache  # stores hold planes of the usual axes only
        # here, as torch comes with it, which a panel that opens need not wait for
        from napari_samseg.core.embed.stack import Stack, stack_recipe

        stack = Stack(plane.source, self.name, plane.settings)
        recipe = stack_recipe(stack, shared.model, tiles)
        sample = plane.index, plane.digest
        entry = self.finder.find(self.location, recipe, sample)
        return shared.cache if entry is None else LayeredCache(shared.cache, entry)


def stored_embeddings(
    location: str | os.PathLike[str],
    name: str,
    plane: MeasuredPlane,
    model: PromptableModel,
    tile_settings: TileSettings,
) -> StackEntry:
    """Return the entry of an image in a store.

    Parameters
    ----------
    location : str or path
        Folder, zip file or URL of the store.
    name : str
        Path or name of the image; another one is found by its pixels.
    plane : MeasuredPlane
        Of the image, as it is to be seen.
    model : PromptableModel
    tile_settings : TileSettings

    Raises
    ------
    CacheError
        If there is no such entry, or the store is damaged, newer, out of reach, or
        something else.
    """
    from napari_samseg.core.embed.stack import Stack, stack_recipe

    stack = Stack(plane.source, name, plane.settings, plane.plane_axes)
    recipe = stack_recipe(stack, model, tile_settings)
    place = os.fspath(location)
    entry = find_entry(place, recipe, (plane.index, plane.digest))
    if entry is None:
        raise CacheError(
            f"{place} holds no embeddings of {name} made with this model and these "
            "settings: make them with `napari-samseg embed`, or leave the store out"
        )
    return entry
