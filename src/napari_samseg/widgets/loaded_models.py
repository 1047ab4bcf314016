"""Models in use, shared by all panels and sessions that ask for the same one."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from napari_samseg.adapters.plugin_settings import PluginSettings
from napari_samseg.core.cache.memory import MemoryCache
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    from napari_samseg.core.models.protocol import PromptableModel
    from napari_samseg.core.predict import Predictor

__all__ = ["LOADED", "predictor_steps"]

# By settings, and when a checkpoint was written.
LOADED: WeakValueDictionary[tuple[ModelSettings, int], Predictor] = (
    WeakValueDictionary()
)


def predictor_steps(
    source: Predictor | PromptableModel | ModelSettings, plugin: PluginSettings
) -> Generator[Progress, None, Predictor]:
    """Load a model with the planes it has encoded, or take the one in use.

    torch is imported here, in the worker's thread, and not before.
    """
    if isinstance(source, ModelSettings):
        path = Path(source.model)
        # a checkpoint written again under its old name is another model
        key = source, path.stat().st_mtime_ns if path.is_file() else 0
        # one look only: what nobody uses any more is gone at any moment
        loaded = LOADED.get(key)
        if loaded is not None:
            return loaded
        yield Progress("loading torch")
    from napari_samseg.core.predict import Predictor as NewPredictor

    if isinstance(source, NewPredictor):
        return source
    cache = MemoryCache(plugin.cache_bytes)
    if not isinstance(source, ModelSettings):
        return NewPredictor(source, cache)
    from napari_samseg.core.models import load_model_steps

    model = yield from load_model_steps(
        source.model,
        device=source.device,
        precision=source.precision,
        folder=plugin.models_path,
    )
    predictor = NewPredictor(model, cache)
    LOADED[key] = predictor
    return predictor
