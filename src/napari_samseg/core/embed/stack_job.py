"""From an image and settings to a stack in a store: what a command or a button runs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from napari_samseg.core.cache.keys import check_place
from napari_samseg.core.cache.place import check_room, default_store_folder
from napari_samseg.core.chosen_model import model_steps
from napari_samseg.core.embed.order import PlaneOrder, select_planes
from napari_samseg.core.embed.stack import Stack
from napari_samseg.core.errors import CacheError, DamagedStoreError
from napari_samseg.core.settings import EmbedSettings, ModelSettings, TileSettings
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    from napari_samseg.core.cache.recipe import StackRecipe
    from napari_samseg.core.cache.zarr_store import EmbeddingStore, StackEntry
    from napari_samseg.core.embed.job import EmbedReport
    from napari_samseg.core.embed.stack import EmbedEstimate, PlaneIndex
    from napari_samseg.core.models.protocol import PromptableModel

__all__ = ["StackJob"]


class StackJob:
    """Encodes a stack with a model into a store.

    Parameters
    ----------
    stack : Stack
    model : ModelSettings or PromptableModel
        Which model to load, or one that is loaded.
    location : str, optional
        Folder or URL of the store; the cache folder's if not given.
    planes : (start, stop), optional
        Half-open, in C order over the axes that are not in the plane; all of them
        if not given.
    tile_settings : TileSettings, optional
    settings : EmbedSettings, optional
    models_folder : Path, optional
        Where downloaded models lie.
    owner : str, optional
        Jobs of the same owner do not keep planes from each other: for those that
        somebody else has given different planes.

    Attributes
    ----------
    order : PlaneOrder
        The planes; its focus may be moved while they are encoded.
    entry : StackEntry or None
        What has been encoded so far, once the job has looked; None if nothing has.

    Raises
    ------
    SettingsError
        If there is no such plane.
    """

    def __init__(
        self,
        stack: Stack,
        model: ModelSettings | PromptableModel,
        *,
        location: str | None = None,
        planes: tuple[int, int | None] = (0, None),
        tile_settings: TileSettings | None = None,
        settings: EmbedSettings | None = None,
        models_folder: Path | None = None,
        owner: str | None = None,
    ) -> None:
        self.stack = stack
        self.location = str(default_store_folder()) if location is None else location
        self.planes = select_planes(stack.lengths, *planes)
        self.order = PlaneOrder(self.planes)
        self.entry: StackEntry | None = None
        self.settings = EmbedSettings() if settings is None else settings
        self.tile_settings = TileSettings() if tile_settings is None else tile_settings
        self._model = model
        self._models_folder = models_folder
        self._owner = owner
        # of planes by which stores are asked for the image, again and again
        self._digests: dict[PlaneIndex, str | None] = {}

    def check_place(self) -> None:
        """Say at once where nothing can be written: loading a model takes a while.

        Raises
        ------
        CacheError
            If the place is a zip file.
        """
        check_place(self.location)

    def estimate_steps(self) -> Generator[Progress, None, EmbedEstimate]:
        """Tell what the job will take, and write nothing.

        Raises
        ------
        SamSegError
            If the model cannot be had, or something else lies in the store's place.
        """
        from napari_samseg.core.embed.stack import estimate_steps

        model = yield from self._model_steps()
        recipe = self._recipe(model)
        entry = self.entry = self._find_entry(recipe)
        return (
            yield from estimate_steps(model, recipe, self.planes, entry, self.location)
        )

    def embed_steps(self) -> Generator[Progress, None, EmbedReport]:
        """Encode what is missing; see `napari_samseg.core.embed.job.embed_stack`.

        May be called again when it has ended, to go on: one run of a job at a time.

        Raises
        ------
        CacheError
            If the store cannot be written, or there is too little room for what is
            missing.
        SamSegError
            If the model cannot be had.
        """
        from napari_samseg.core.cache.health import sweep, unfinished_files
        from napari_samseg.core.embed.job import embed_stack

        self.check_place()
        estimate = yield from self.estimate_steps()
        check_room(self.location, estimate.nbytes)
        model = yield from self._model_steps()
        store = self._open_store()
        entry = self.entry = self._make_entry(store, self._recipe(model))
        if self._owner is not None:
            entry.claim_as(self._owner)
        keys = store.keys(entry.recipe.digest)
        unfinished = unfinished_files(keys)
        # an earlier run has taken planes that it did not finish
        self.order.restart()
        report = yield from embed_stack(
            self.stack,
            model,
            entry,
            self.location,
            self.order,
            skip_unreadable=self.settings.unreadable == "skip",
        )
        # the planes are safe, whatever comes of it
        with suppress(CacheError):
            sweep(keys, unfinished)
        return report

    def _model_steps(self) -> Generator[Progress, None, PromptableModel]:
        if isinstance(self._model, ModelSettings):
            self._model = yield from model_steps(self._model, self._models_folder)
        return self._model

    def _recipe(self, model: PromptableModel) -> StackRecipe:
        from napari_samseg.core.embed.stack import stack_recipe

        return stack_recipe(
            self.stack, model, self.tile_settings, self.settings.storage
        )

    def _find_entry(self, recipe: StackRecipe) -> StackEntry | None:
        """Return what has been encoded so far, None if there is no store or entry."""
        from napari_samseg.core.cache.lookup import has_store
        from napari_samseg.core.cache.zarr_store import EmbeddingStore

        if not has_store(self.location):
            return None
        store = EmbeddingStore(self.location, write=False)
        with suppress(DamagedStoreError):  # whoever writes puts it right
            return store.entry(recipe, self._digest_of)
        return None

    def _open_store(self) -> EmbeddingStore:
        from napari_samseg.core.cache.zarr_store import EmbeddingStore

        store = EmbeddingStore(self.location)
        if store.read_only:
            raise CacheError(
                f"{self.location} can only be read: choose another place for the "
                "embeddings"
            )
        return store

    def _make_entry(self, store: EmbeddingStore, recipe: StackRecipe) -> StackEntry:
        entry = store.entry(recipe, self._digest_of)
        assert entry is not None  # a store that can be written makes it
        return entry

    def _digest_of(self, plane: PlaneIndex) -> str | None:
        """Return the digest of the pixels of a plane, None if it cannot be read."""
        from napari_samseg.core.planes import digest_plane

        if plane not in self._digests:
            stack = self.stack
            self._digests[plane] = digest_plane(
                stack.source, plane, stack.settings, stack.plane_axes
            )
        return self._digests[plane]
