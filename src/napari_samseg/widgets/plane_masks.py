"""The plane on view, encoded, and the masks of its prompts, in the background.

No layer is touched here: what runs in a thread gets everything of a layer when
the job is made.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_samseg.adapters.plugin_settings import PluginSettings, read_plugin_settings
from napari_samseg.core.cache.lookup import EntryFinder
from napari_samseg.core.cache.memory import MemoryCache
from napari_samseg.core.embed.stored import StoredPlanes
from napari_samseg.core.errors import InvalidPromptError
from napari_samseg.core.painting import Box, PlaneKey, render_objects
from napari_samseg.core.planes import measure_plane
from napari_samseg.core.prompts.from_geometry import Gesture, gather_prompts
from napari_samseg.core.prompts.stray_points import find_stray
from napari_samseg.core.settings import ImageSettings, ModelSettings, TileSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.types import MaskPrediction, Progress
from napari_samseg.widgets.loaded_models import predictor_steps
from napari_samseg.widgets.workers import LatestJob

if TYPE_CHECKING:
    from napari_samseg.adapters.read_layers import ImageView
    from napari_samseg.core.models.protocol import PromptableModel
    from napari_samseg.core.predict import Predictor
    from napari_samseg.core.tiled import TiledPlane

__all__ = ["DrawnMasks", "PlaneMasks"]

HOVER_ALPHA, FILL_ALPHA = 40, 70
# Share of the memory cache that the tiles of one plane may take.
CACHE_SHARE = 0.75

Prompts = Mapping[int, Sequence[Gesture]]
Colors = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPlane:
    """A plane that a model has encoded as a whole, and maybe in tiles.

    Attributes
    ----------
    plane : PlaneKey
    tiled : TiledPlane
    shared : Predictor
        The model with the memory that all sessions share; that of `tiled` may have
        the embeddings of the image behind it.
    """

    plane: PlaneKey
    tiled: TiledPlane
    shared: Predictor


@dataclass(frozen=True, slots=True, eq=False)
class DrawnMasks:
    """Masks of a plane, and the picture of them (`core.painting.render_objects`).

    `stray` are the objects with a point outside their box.
    """

    plane: PlaneKey
    prediction: MaskPrediction
    stray: tuple[int, ...]
    picture: tuple[npt.NDArray[np.uint8], Box] | None


class PlaneMasks:
    """Encodes one plane at a time and decodes its prompts; the latest wins.

    Parameters
    ----------
    find_store : callable
        Gives the place where embeddings of the image may have been stored.

    Attributes
    ----------
    encoded : EncodedPlane or None
    prediction : MaskPrediction or None
        Masks of the prompts asked for last, once they are there.
    tile_settings : TileSettings
        How planes larger than the model's input are cut.
    is_stale : bool
        Newer prompts than those of `prediction` wait for their masks.
    """

    was_encoded = Signal()
    was_predicted = Signal(object)
    was_hovered = Signal(object)
    failed = Signal(object)
    warned = Signal(str)
    progressed = Signal(object)

    def __init__(self, find_store: Callable[[], str]) -> None:
        self._find_store = find_store
        self._finder = EntryFinder()
        self.encoded: EncodedPlane | None = None
        self.prediction: MaskPrediction | None = None
        self.is_stale = False
        self.tile_settings = TileSettings()
        self._model: PromptableModel | ModelSettings | None = None
        self._predictor: Predictor | None = None
        # until the next model is there, which may take over what this one encoded
        self._former: Predictor | None = None
        self._encoding, self._predicting = LatestJob(), LatestJob()
        self._hovering = LatestJob()
        self._tiling = LatestJob(background=True)

    @property
    def is_busy(self) -> bool:
        """Whether a plane is being encoded or prompts decoded."""
        return self._encoding.is_busy or self._predicting.is_busy

    @property
    def is_encoding(self) -> bool:
        """Whether a plane is on its way: `was_encoded` or `failed` follows."""
        return self._encoding.will_answer

    @property
    def is_predicting(self) -> bool:
        """Whether masks are on their way: `was_predicted` or `failed` follows."""
        return self._predicting.will_answer

    @property
    def is_hovering(self) -> bool:
        """Whether a preview under the pointer is being made."""
        return self._hovering.is_busy

    def use(self, model: PromptableModel | ModelSettings) -> None:
        """Choose the model for all that follows."""
        self._former = self._predictor or self._former
        self._model, self._predictor = model, None
        self.forget()

    def forget(self) -> None:
        """Drop the plane and its masks, and the jobs on them."""
        self.encoded = self.prediction = None
        self.is_stale = True
        self.cancel()

    def cancel(self) -> None:
        """Stop all jobs; what waits is dropped."""
        for job in (self._encoding, self._predicting, self._hovering, self._tiling):
            job.cancel()

    def encode(
        self, plane: PlaneKey | None, view: ImageView, settings: ImageSettings
    ) -> None:
        """Encode a plane in the background; `was_encoded` follows.

        Once it is encoded as a whole, its tiles follow.
        """
        self._encoding.cancel()
        self._tiling.cancel()
        if plane is None or self._model is None:
            self.progressed.emit(None)
            return
        self._encoding.request(
            self._encode_steps(plane, view, settings),
            self._on_encoded,
            self._on_failed,
            self.progressed.emit,
            self.warned.emit,
        )

    def encode_now(
        self, plane: PlaneKey, view: ImageView, settings: ImageSettings
    ) -> None:
        """Encode a plane on this thread, for scripts."""
        if self.encoded is None or self.encoded.plane != plane:
            self._encoding.cancel()
            self._tiling.cancel()
            self.encoded = run_steps(self._encode_steps(plane, view, settings))
            self._predictor = self.encoded.shared
            self.progressed.emit(None)

    def request(self, prompts: Prompts, colors: Colors) -> None:
        """Decode prompts in the background once the plane is encoded."""
        self.is_stale = True
        if self.encoded is not None:
            self._hovering.cancel()
            self._predicting.request(
                _predict_steps(self.encoded, prompts, colors, FILL_ALPHA),
                self._on_predicted,
                self.failed.emit,
                on_warning=self.warned.emit,
            )

    def predict_now(self, prompts: Prompts, colors: Colors) -> MaskPrediction:
        """Decode prompts on this thread, for scripts."""
        if self.encoded is None:
            raise InvalidPromptError("the plane is not encoded yet")
        self.is_stale = True
        self._predicting.cancel()
        drawn: DrawnMasks = run_steps(
            _predict_steps(self.encoded, prompts, colors, FILL_ALPHA)
        )
        self._on_predicted(drawn)
        return drawn.prediction

    def clear(self) -> None:
        """There are no prompts: no masks either."""
        self._predicting.cancel()
        self.prediction, self.is_stale = None, False

    def hover(self, prompts: Prompts | None, colors: Colors) -> None:
        """Decode what a click would give; `was_hovered` follows. None stops that."""
        if prompts is None or self.encoded is None:
            self._hovering.cancel()
        else:
            self._hovering.request(
                _hover_steps(self.encoded, prompts, colors),
                self.was_hovered.emit,
                # a preview that cannot be had is no news
                lambda error: None,
            )

    def _encode_steps(
        self, plane: PlaneKey, view: ImageView, settings: ImageSettings
    ) -> Generator[Progress, None, EncodedPlane]:
        # preferences belong to napari, hence to the main thread
        source: Predictor | PromptableModel | ModelSettings
        source = self._predictor or self._model or ModelSettings()
        stored = StoredPlanes(self._finder, self._find_store(), view.name)
        return _encode_steps(
            plane,
            view,
            settings,
            self.tile_settings,
            source,
            stored,
            read_plugin_settings(),
        )

    def _on_encoded(self, encoded: EncodedPlane) -> None:
        self.encoded = encoded
        self._predictor, self._former = encoded.shared, None
        self.progressed.emit(None)
        self.was_encoded.emit()
        self._tiling.request(
            encoded.tiled.remaining_steps(_tiles_held(encoded)),
            lambda nothing: self.progressed.emit(None),
            self._on_failed,
            self.progressed.emit,
            self.warned.emit,
        )

    def _on_failed(self, error: Exception) -> None:
        self.progressed.emit(None)
        self.failed.emit(error)

    def _on_predicted(self, drawn: DrawnMasks) -> None:
        self.prediction, self.is_stale = drawn.prediction, False
        self.was_predicted.emit(drawn)


def _encode_steps(
    plane: PlaneKey,
    view: ImageView,
    settings: ImageSettings,
    tile_settings: TileSettings,
    source: Predictor | PromptableModel | ModelSettings,
    stored: StoredPlanes,
    plugin: PluginSettings,
) -> Generator[Progress, None, EncodedPlane]:
    shared = yield from predictor_steps(source, plugin)
    from napari_samseg.core.predict import Predictor as NewPredictor
    from napari_samseg.core.tiled import TiledPlane, plan_tiles

    yield Progress("reading the plane")
    measured = measure_plane(view.source, plane.index, settings, plane_axes=plane.axes)
    cache = stored.behind(shared, measured, tile_settings)
    tiles = plan_tiles(measured.size, shared.model.input_size, tile_settings)
    tiled = TiledPlane(NewPredictor(shared.model, cache), measured, tiles)
    yield Progress("encoding the plane")
    yield from tiled.embedding_steps(tiled.whole)
    return EncodedPlane(plane, tiled, shared)


def _tiles_held(encoded: EncodedPlane) -> int:
    """Tiles of a plane that may be kept, if the cache is to hold others, too."""
    nbytes = 4 * math.prod(encoded.shared.model.embedding_shape)
    cache = encoded.shared.cache
    held = cache.max_bytes if isinstance(cache, MemoryCache) else 0
    return int(CACHE_SHARE * held / nbytes)


def _predict_steps(
    encoded: EncodedPlane, prompts: Prompts, colors: Colors, fill_alpha: int
) -> Generator[Progress, None, DrawnMasks]:
    tiled = encoded.tiled
    size = tiled.plane.size
    yield Progress("decoding")
    given = gather_prompts(prompts, size, tiled.mask_side)
    prediction = yield from tiled.predict_steps(given)
    outline = max(1, round(max(size) / 400))
    picture = render_objects(prediction, colors, fill_alpha=fill_alpha, outline=outline)
    stray = tuple(find_stray(given).tolist())
    return DrawnMasks(encoded.plane, prediction, stray, picture)


def _hover_steps(
    encoded: EncodedPlane, prompts: Prompts, colors: Colors
) -> Generator[Progress, None, DrawnMasks]:
    """Decode in tiles that are encoded: moving the mouse never starts long work."""
    ready = dataclasses.replace(encoded, tiled=encoded.tiled.without_encoding())
    return _predict_steps(ready, prompts, colors, HOVER_ALPHA)
