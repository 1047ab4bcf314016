"""Segment Anything for microscopy, EM and medical images in napari.

The names below are the scripting interface. They are looked up when first used,
so that importing the package loads neither torch, zarr nor napari.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_samseg.core.embed.api import embed
    from napari_samseg.core.models import load_model
    from napari_samseg.core.refine.api import refine
    from napari_samseg.core.segment import segment
    from napari_samseg.core.settings import (
        ImageSettings,
        ModelSettings,
        TileSettings,
    )
    from napari_samseg.core.training.api import finetune
    from napari_samseg.core.types import MaskPrediction, PlanePrompts
    from napari_samseg.widgets.sessions import open_session

__all__ = [
    "ImageSettings",
    "MaskPrediction",
    "ModelSettings",
    "PlanePrompts",
    "TileSettings",
    "embed",
    "finetune",
    "load_model",
    "open_session",
    "refine",
    "segment",
]

_HOMES = {
    "ImageSettings": "core.settings",
    "MaskPrediction": "core.types",
    "ModelSettings": "core.settings",
    "PlanePrompts": "core.types",
    "TileSettings": "core.settings",
    "embed": "core.embed.api",
    "finetune": "core.training.api",
    "load_model": "core.models",
    "open_session": "widgets.sessions",
    "refine": "core.refine.api",
    "segment": "core.segment",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("napari-samseg")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
