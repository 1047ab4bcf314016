"""The settings a person keeps in napari's preferences.

Environment variables go first, so that a batch job or a shared machine can decide;
napari below 0.9 has no preferences for plugins, and then the defaults hold.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.settings import ModelSettings, check, describe, setting

__all__ = ["PluginSettings", "read_plugin_settings"]

PLUGIN = "napari-samseg"

# field of PluginSettings: environment variable, and place in napari.yaml
SOURCES = {
    "models_folder": ("SAMSEG_MODELS", "models", "folder"),
    "device": ("SAMSEG_DEVICE", "models", "device"),
    "precision": ("SAMSEG_PRECISION", "models", "precision"),
    "cache_folder": ("SAMSEG_CACHE", "cache", "folder"),
    "cache_gb": ("SAMSEG_CACHE_GB", "cache", "size_gb"),
}

_MODEL = {info.name: info for info in describe(ModelSettings)}


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """Where models and caches lie, and where a model computes."""

    models_folder: str = setting(
        "",
        "Model folder",
        "Folder of downloaded models; the user's cache folder when empty.",
    )
    device: str = setting("auto", _MODEL["device"].title, _MODEL["device"].help)
    precision: str = setting(
        _MODEL["precision"].default,
        _MODEL["precision"].title,
        _MODEL["precision"].help,
        choices=_MODEL["precision"].choices,
    )
    cache_folder: str = setting(
        "",
        "Cache folder",
        "Folder of what is kept between sessions, autosaved annotations among it; "
        "the user's cache folder when empty.",
    )
    cache_gb: float = setting(
        0.25,
        "Cache size",
        "Memory for planes that have been encoded; those used least recently leave "
        "first.",
        minimum=0.0,
        maximum=1024.0,
        unit="GB",
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def models_path(self) -> Path | None:
        """Folder of models, None for the default one."""
        return Path(self.models_folder).expanduser() if self.models_folder else None

    @property
    def cache_path(self) -> Path:
        """Folder of what is kept between sessions."""
        if self.cache_folder:
            return Path(self.cache_folder).expanduser()
        from napari_samseg.core.annotation_file import cache_folder

        return cache_folder()

    @property
    def cache_bytes(self) -> int:
        """Memory for encoded planes, in bytes."""
        return int(self.cache_gb * 1e9)


def read_plugin_settings() -> PluginSettings:
    """Read the settings: environment first, then napari's preferences.

    Raises
    ------
    SettingsError
        If a value is out of bounds or not one of its choices; the message names
        the environment variable where it comes from one.
    """
    stored = _stored_settings()
    values: dict[str, Any] = {}
    for name, (variable, group, key) in SOURCES.items():
        if variable in os.environ:
            values[name] = _from_environment(name, variable)
        elif stored is not None:
            values[name] = getattr(getattr(stored, group), key)
    return PluginSettings(**values)


def _stored_settings() -> Any:
    """Return what napari stores for this plugin, None where it stores nothing."""
    try:
        from napari.settings import get_plugin_settings
    except ImportError:  # napari below 0.9
        return None
    try:
        return get_plugin_settings(PLUGIN)
    except KeyError:  # the plugin is not enabled, as in a script
        return None


def _from_environment(name: str, variable: str) -> str | float:
    text = os.environ[variable]
    if name != "cache_gb":
        return text
    try:
        return float(text)
    except ValueError as error:
        raise SettingsError(f"{variable} must be a number, not {text!r}") from error
