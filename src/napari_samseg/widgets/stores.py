"""In which store the embeddings of an image layer are kept and looked for."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from napari_samseg.adapters.plugin_settings import read_plugin_settings

if TYPE_CHECKING:
    from napari.layers import Image

__all__ = ["choose_store", "default_store", "store_of"]

# What was chosen in the Embedding panel, for as long as the layer lives.
_CHOSEN: WeakKeyDictionary[Image, str] = WeakKeyDictionary()


def default_store() -> str:
    """Return the folder of stores for which no other place was chosen."""
    return str(read_plugin_settings().cache_path / "embeddings")


def store_of(image: Image) -> str:
    """Return the folder or URL of an image layer's store."""
    return _CHOSEN.get(image) or default_store()


def choose_store(image: Image, location: str) -> None:
    """Keep the embeddings of an image layer elsewhere; empty for the default."""
    _CHOSEN[image] = location
