"""Models in use, shared by all panels and sessions that ask for the same one."""

from __future__ import annotations

import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from napari_samseg.adapters.plugin_settings import PluginSettings
from napari_samseg.core.cache.memory import MemoryCache
from napari_samseg.core.chosen_model import model_steps
from napari_samseg.core.models.weights import tuned_models
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.steps import map_steps
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    from napari_samseg.core.cache.protocol import EmbeddingCache
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
        # a tuned model goes by its name
        tuned = tuned_models(plugin.models_path)
        path = tuned.get(source.model, Path(source.model))
        # a checkpoint written again under its old name is another model
        key = source, path.stat().st_mtime_ns if path.is_file() else 0
        # one look only: what nobody uses any more is gone at any moment
        loaded = LOADED.get(key)
        if loaded is not None:
            return loaded
    from napari_samseg.core.predict import Predictor as NewPredictor

    if isinstance(source, NewPredictor):
        return source
    if not isinstance(source, ModelSettings):
        return NewPredictor(source, MemoryCache(plugin.cache_bytes))
    steps = model_steps(source, plugin.models_path)
    model = yield from map_steps(steps, _comfort)
    predictor = NewPredictor(model, _planes_of(model, plugin))
    LOADED[key] = predictor
    return predictor


def _comfort(step: Progress) -> Progress:
    """Say of what takes long before torch is there that it does so only once."""
    return step if "torch" in sys.modules else replace(step, detail="first time only")


def _planes_of(model: PromptableModel, plugin: PluginSettings) -> EmbeddingCache:
    """Return the planes that a model of the same encoder has encoded.

    A model of which only the decoder was tuned need not encode them again.
    """
    for other in tuple(LOADED.values()):
        if other.model.encoder_digest == model.encoder_digest:
            return other.cache
    return MemoryCache(plugin.cache_bytes)
