"""Frozen settings with bounds and help; forms and CLI options are built from them."""

from napari_samseg.core.settings.fields import SettingInfo, check, describe, setting
from napari_samseg.core.settings.images import (
    EmbedSettings,
    ImageSettings,
    ModelSettings,
    TileSettings,
)
from napari_samseg.core.settings.labels import (
    ConvertSettings,
    InstanceSettings,
    MriSettings,
)
from napari_samseg.core.settings.prompting import PromptSettings, RefineSettings
from napari_samseg.core.settings.training import (
    AugmentSettings,
    LoopSettings,
    LoraSettings,
    TuneSettings,
)

__all__ = [
    "AugmentSettings",
    "ConvertSettings",
    "EmbedSettings",
    "ImageSettings",
    "InstanceSettings",
    "LoopSettings",
    "LoraSettings",
    "ModelSettings",
    "MriSettings",
    "PromptSettings",
    "RefineSettings",
    "SettingInfo",
    "TileSettings",
    "TuneSettings",
    "check",
    "describe",
    "setting",
]
