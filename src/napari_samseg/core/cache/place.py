"""Where embeddings lie, and whether there is room."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from zarr.abc.store import Store

from napari_samseg.core.cache.keys import local_path
from napari_samseg.core.errors import CacheError

__all__ = ["check_room", "default_store_folder", "free_bytes"]


def default_store_folder() -> Path:
    """Return the folder of the embeddings that are kept without being asked where."""
    from napari_samseg.core.annotation_file import cache_folder

    return cache_folder() / "embeddings"


def free_bytes(location: str | os.PathLike[str] | Store) -> int | None:
    """Return the bytes that can still be written to a place.

    None where that cannot be known, as of a remote store.
    """
    path = local_path(location)
    if path is None:
        return None
    path = path.absolute()
    try:
        there = next(place for place in (path, *path.parents) if place.exists())
        return shutil.disk_usage(there).free
    except OSError:  # no permission to look
        return None


def check_room(location: str | os.PathLike[str] | Store, nbytes: int) -> None:
    """Make sure that some more bytes fit.

    Raises
    ------
    CacheError
        If they do not.
    """
    free = free_bytes(location)
    if free is not None and free < nbytes:
        raise CacheError(
            f"{location} needs {nbytes / 1e9:.2f} GB, and {free / 1e9:.2f} GB are "
            "free: make room, choose another place, or delete embeddings with "
            "`napari-samseg cache prune`"
        )
