from __future__ import annotations

import builtins
from pathlib import Path
from types import SimpleNamespace

import napari.settings
import pytest

from napari_samseg.adapters.plugin_settings import (
    SOURCES,
    PluginSettings,
    read_plugin_settings,
)
from napari_samseg.core.errors import SettingsError


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for variable, _, _ in SOURCES.values():
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def stored(monkeypatch):
    """Preferences as napari 0.9 returns them."""
    preferences = SimpleNamespace(
        models=SimpleNamespace(folder="/models", device="cpu", precision="exact"),
        cache=SimpleNamespace(folder="/cache", size_gb=2.0),
    )
    monkeypatch.setattr(
        napari.settings,
        "get_plugin_settings",
        lambda plugin: {"napari-samseg": preferences}[plugin],
        raising=False,
    )


def test_preferences_are_read(stored):
    settings = read_plugin_settings()
    assert settings == PluginSettings("/models", "cpu", "exact", "/cache", 2.0)
    assert settings.models_path == Path("/models")
    assert settings.cache_path == Path("/cache")
    assert settings.cache_bytes == 2_000_000_000


def test_the_environment_goes_first(stored, monkeypatch):
    monkeypatch.setenv("SAMSEG_MODELS", "/elsewhere")
    monkeypatch.setenv("SAMSEG_CACHE_GB", "0.5")
    settings = read_plugin_settings()
    assert settings.models_folder == "/elsewhere"
    assert settings.cache_gb == 0.5
    assert settings.device == "cpu"


def test_napari_before_0_9_has_no_preferences(monkeypatch):
    real_import = builtins.__import__

    def old_import(name, *arguments, **keywords):
        if name == "napari.settings":
            raise ImportError("cannot import name 'get_plugin_settings'")
        return real_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", old_import)
    assert read_plugin_settings() == PluginSettings()


@pytest.mark.skipif(
    not hasattr(napari.settings, "get_plugin_settings"), reason="napari below 0.9"
)
def test_what_napari_itself_stores_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(napari.settings, "_PLUGIN_SETTINGS", {})
    stored = napari.settings.get_plugin_settings("napari-samseg")
    monkeypatch.setattr(stored.models, "device", "cpu")
    assert read_plugin_settings().device == "cpu"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SAMSEG_CACHE_GB", "much", "SAMSEG_CACHE_GB must be a number"),
        ("SAMSEG_CACHE_GB", "-1", "Cache size"),
        ("SAMSEG_PRECISION", "float8", "exact"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=message):
        read_plugin_settings()
