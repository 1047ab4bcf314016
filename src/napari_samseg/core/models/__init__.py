"""Promptable models: one protocol, a few families, a zoo of published weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_samseg.core.models.weights import list_models
from napari_samseg.core.models.zoo import ZOO, PretrainedModel

if TYPE_CHECKING:
    from napari_samseg.core.models.families import (
        MODEL_FAMILIES,
        ModelFamily,
        load_model,
        load_model_steps,
    )

__all__ = [
    "MODEL_FAMILIES",
    "ZOO",
    "ModelFamily",
    "PretrainedModel",
    "list_models",
    "load_model",
    "load_model_steps",
]


def __getattr__(name: str) -> object:
    # What needs torch is imported when it is asked for: a list of models is not
    # worth seconds of start-up.
    if name in __all__:
        from napari_samseg.core.models.linking import link_triton_apart

        link_triton_apart()
        from napari_samseg.core.models import families

        return getattr(families, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
