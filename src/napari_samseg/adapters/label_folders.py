"""Reader of folders with OME-Zarr labels for napari's File menu."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from napari_samseg.adapters.label_files import LayerData, layer_data

__all__ = ["choose_folder_reader", "read_label_folders"]

# Labels of no more bytes are read whole, and can be painted on; of others, what is on
# view is read.
EDITABLE_BYTES = 1 << 28


def choose_folder_reader(
    path: str | list[str],
) -> Callable[[str | list[str]], list[LayerData]] | None:
    """Return the reader of folders with OME-Zarr labels, None for all others.

    An image with labels in it is left to readers of images.
    """
    paths = [path] if isinstance(path, str) else path
    return read_label_folders if all(_label_images(Path(p)) for p in paths) else None


def read_label_folders(path: str | list[str]) -> list[LayerData]:
    """Read label images, or all labels in a folder of them.

    Returns
    -------
    list of (data, attributes, kind)
        A Labels layer for each, with scale, units and translation, and as features
        what is known of its objects. Large ones have a pyramid, and cannot be painted
        on.

    Raises
    ------
    SamSegError
        If one of them holds no labels.
    """
    paths = [path] if isinstance(path, str) else path
    return [
        _read_label_image(folder) for name in paths for folder in _label_images(name)
    ]


def _read_label_image(folder: Path) -> LayerData:
    import zarr

    from napari_samseg.core.io.ome_zarr import open_ome_zarr
    from napari_samseg.core.io.ome_zarr_labels import read_ome_zarr_labels

    found = read_ome_zarr_labels(folder)
    _, attributes, kind = layer_data(found, folder.name.removesuffix(".zarr"))
    if found.labels.nbytes <= EDITABLE_BYTES:
        return found.labels[...], attributes, kind
    levels, _ = open_ome_zarr(zarr.open_group(folder, mode="r"))
    return levels, attributes | {"multiscale": True}, kind


def _label_images(path: str | Path) -> list[Path]:
    """Return the label images that a folder is or lists, without an import of zarr."""
    folder = Path(path)
    known = _ome_attributes(folder)
    if "multiscales" in known:
        return [folder] if "image-label" in known else []
    for place in (folder, folder / "labels"):
        names = _ome_attributes(place).get("labels")
        if isinstance(names, list):
            return [place / str(name) for name in names]
    return []


def _ome_attributes(folder: Path) -> Mapping[str, Any]:
    """Return what the metadata of zarr 3 or 2 say of a group, nothing if it is none."""
    for name in ("zarr.json", ".zattrs"):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(content, Mapping):
            continue
        known = content.get("attributes") if name == "zarr.json" else content
        known = known if isinstance(known, Mapping) else {}
        ome = known.get("ome")
        return ome if isinstance(ome, Mapping) else known
    return {}
