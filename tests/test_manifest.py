"""The manifest names things that exist: npe2 drops in silence what it does not know."""

from __future__ import annotations

import fnmatch
from importlib import metadata, resources

import numpy as np
import pytest
import yaml

# napari offers no public list of the menus that plugins may add to
from napari._app_model.constants import MenuId
from npe2 import PluginManifest
from npe2.manifest.utils import import_python_name
from pydantic import BaseModel

from napari_samseg.adapters.plugin_settings import SOURCES, PluginSettings
from napari_samseg.core.settings import describe


@pytest.fixture(scope="module")
def raw():
    text = resources.files("napari_samseg").joinpath("napari.yaml").read_text()
    return yaml.safe_load(text)


@pytest.fixture(scope="module")
def manifest(raw):
    return PluginManifest(**raw)


def unknown_keys(raw, parsed, where="napari.yaml"):
    """Yield the place of each key in the file that its model has no field for."""
    if isinstance(parsed, BaseModel):
        fields = type(parsed).model_fields
        by_alias = {field.alias: name for name, field in fields.items() if field.alias}
        for key, value in raw.items():
            name = key if key in fields else by_alias.get(key)
            if name is None:
                yield f"{where}.{key}"
            else:
                yield from unknown_keys(value, getattr(parsed, name), f"{where}.{key}")
    elif isinstance(parsed, dict):
        for key, value in raw.items():
            yield from unknown_keys(value, parsed[key], f"{where}.{key}")
    elif isinstance(parsed, list):
        for i, (value, item) in enumerate(zip(raw, parsed, strict=True)):
            yield from unknown_keys(value, item, f"{where}[{i}]")


def test_every_key_means_something(raw, manifest):
    assert list(unknown_keys(raw, manifest)) == []


def test_a_misspelt_key_would_be_found(raw):
    misspelt = yaml.safe_load(yaml.safe_dump(raw))
    misspelt["contributions"]["configuration"] = {}
    misspelt["contributions"]["configurations"]["cache"]["order"] = 1
    assert set(unknown_keys(misspelt, PluginManifest(**misspelt))) == {
        "napari.yaml.contributions.configurations.cache.order",
        "napari.yaml.contributions.configuration",
    }


def test_every_command_is_a_callable_of_this_package(manifest):
    for command in manifest.contributions.commands:
        assert command.python_name.startswith("napari_samseg."), command.id
        assert callable(import_python_name(command.python_name)), command.id


def test_every_reference_to_a_command_is_to_one_that_exists(manifest):
    contributions = manifest.contributions
    known = {command.id for command in contributions.commands}
    used = {item.command for item in contributions.widgets}
    used |= {item.command for item in contributions.sample_data}
    for items in contributions.menus.values():
        used |= {item.command for item in items}
    for readers_or_writers in (contributions.readers, contributions.writers):
        used |= {item.command for item in readers_or_writers or []}
    assert used == known


def test_every_menu_can_be_contributed_to(manifest):
    allowed = {str(menu) for menu in MenuId.contributables()}
    assert {"napari/layers/segment", "napari/layers/annotate"} == set(
        manifest.contributions.menus
    )
    assert set(manifest.contributions.menus) <= allowed


def test_every_file_pattern_matches_a_file(manifest):
    patterns = [
        pattern
        for reader in manifest.contributions.readers or []
        for pattern in reader.filename_patterns
    ]
    patterns += [
        f"*{extension}"
        for writer in manifest.contributions.writers or []
        for extension in writer.filename_extensions
    ]
    for pattern in patterns:
        assert fnmatch.fnmatch(pattern.replace("*", "image"), pattern)


def test_preferences_and_settings_are_the_same(manifest):
    configurations = manifest.contributions.configurations
    described = {info.name: info for info in describe(PluginSettings)}
    places = {(group, key): name for name, (_, group, key) in SOURCES.items()}
    stored = {
        (group, key): entry
        for group, configuration in configurations.items()
        for key, entry in configuration.properties.items()
    }
    assert set(stored) == set(places)
    for place, entry in stored.items():
        info = described[places[place]]
        assert entry.default == info.default, place
        assert tuple(entry.enum or ()) == info.choices, place
        assert entry.minimum == info.minimum, place
        assert entry.maximum == info.maximum, place


def test_the_hub_finds_what_it_asks_for(manifest):
    package = metadata.metadata("napari-samseg")
    classifiers = package.get_all("Classifier")
    assert manifest.name == package["Name"]
    assert "Framework :: napari" in classifiers
    systems = [c for c in classifiers if c.startswith("Operating System ::")]
    assert systems == ["Operating System :: OS Independent"]
    links = dict(url.split(", ") for url in package.get_all("Project-URL"))
    assert links["Source"].count("/") == 4, "the hub reads github.com/user/repository"
    assert {"Segmentation", "Annotation"} <= set(manifest.categories)


@pytest.mark.parametrize("key", ["coins", "cell", "tissue"])
def test_sample_data_that_come_along_open_offline(manifest, key):
    (sample,) = (s for s in manifest.contributions.sample_data if s.key == key)
    (command,) = (c for c in manifest.contributions.commands if c.id == sample.command)
    ((data, attributes, kind),) = import_python_name(command.python_name)()
    assert kind == "image"
    assert attributes["name"]
    assert data.dtype == np.uint8
    assert data.std() > 10
