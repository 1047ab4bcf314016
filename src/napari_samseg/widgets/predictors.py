"""Loaded models, shared by all sessions that ask for the same one."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    from napari_samseg.core.predict import Predictor

__all__ = ["load_predictor_steps"]

Key = tuple[ModelSettings, int]

_LOADED: WeakValueDictionary[Key, Predictor] = WeakValueDictionary()


def load_predictor_steps(
    settings: ModelSettings,
) -> Generator[Progress, None, Predictor]:
    """Load a model with the planes it has encoded, or take the one in use.

    torch is imported here, in the worker's thread, and not before.
    """
    path = Path(settings.model)
    # a checkpoint written again under its old name is another model
    key = settings, path.stat().st_mtime_ns if path.is_file() else 0
    predictor = _LOADED.get(key)
    if predictor is not None:
        return predictor
    yield Progress("loading torch")
    from napari_samseg.core.models import load_model_steps
    from napari_samseg.core.predict import Predictor

    model = yield from load_model_steps(
        settings.model, device=settings.device, precision=settings.precision
    )
    predictor = Predictor(model)
    _LOADED[key] = predictor
    return predictor
