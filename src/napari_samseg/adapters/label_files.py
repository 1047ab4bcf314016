"""Readers and writers of label files for napari's File menu."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_samseg.adapters.write_layers import SPACE_KEY
from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.io.coco import read_coco, read_json_lines
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.label_formats import (
    LABEL_FORMATS,
    ReadRequest,
    WriteRequest,
    find_format,
)
from napari_samseg.core.io.label_image import whole_numbers
from napari_samseg.core.io.nifti import is_nifti, nifti_stem, read_nifti
from napari_samseg.core.io.voxel_space import VoxelSpace

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LayerData",
    "choose_reader",
    "layer_data",
    "write_coco",
    "write_colour_png",
    "write_geojson",
    "write_jsonl",
    "write_nifti",
    "write_ome_zarr",
    "write_png",
    "write_rois",
]

LayerData = tuple[Any, dict[str, Any], str]
Meta = Mapping[str, Any]

# An image of a COCO file becomes a layer; more are a data set rather than a picture.
MOST_LAYERS = 20
# Enough of a .json file to see what it is.
HEAD_BYTES = 4096
# A volume with more values than this is an image rather than labels.
MOST_CLASSES = 64
# Every so many voxels are enough to see that most images are none.
SAMPLE_STEP = 997
COCO_READERS = {"coco": read_coco, "jsonl": read_json_lines}
COCO_KEYS = ('"images"', '"annotations"', '"categories"', '"licenses"')


def choose_reader(
    path: str | list[str],
) -> Callable[[str | list[str]], list[LayerData]] | None:
    """Return the reader of a file of objects or a volume, None if it is neither.

    A ``.json`` file is looked into: only COCO and GeoJSON are read.
    """
    paths = [path] if isinstance(path, str) else path
    return read_layers if all(_format_name(Path(p)) for p in paths) else None


def read_layers(path: str | list[str]) -> list[LayerData]:
    """Read the objects of COCO, JSON-lines or GeoJSON files, or NIfTI volumes.

    Returns
    -------
    list of (data, attributes, kind)
        A layer for each image in a file; what is known of objects becomes features.
        Of NIfTI an Image layer, or Labels where the values are those of labels.

    Raises
    ------
    SamSegError
        If a file cannot be read, or a COCO file has more images than can be shown.
    """
    found = []
    for name in [path] if isinstance(path, str) else path:
        found += _read_file(Path(name))
    return found


def write_geojson(path: str, data: Any, meta: Meta) -> list[str]:
    """Write a Labels layer as GeoJSON for QuPath."""
    return _write("geojson", path, data, meta)


def write_coco(path: str, data: Any, meta: Meta) -> list[str]:
    """Write a Labels layer as COCO."""
    return _write("coco", path, data, meta)


def write_jsonl(path: str, data: Any, meta: Meta) -> list[str]:
    """Write a Labels layer as JSON-lines of boxes and masks."""
    return _write("jsonl", path, data, meta)


def write_nifti(path: str, data: Any, meta: Meta) -> list[str]:
    """Write a Labels layer as NIfTI, oriented as the file that it was read from."""
    return _write("nifti", path, data, meta)


def write_ome_zarr(path: str, data: Any, meta: Meta) -> list[str]:
    """Write a Labels layer as OME-Zarr labels, plane by plane."""
    return _write("ome-zarr", path, data, meta)


def write_png(path: str, data: Any, meta: Meta) -> list[str]:
    """Write a Labels layer of one plane as 16-bit PNG."""
    return _write("png", path, data, meta)


def write_colour_png(path: str, data: Any, meta: Meta) -> list[str]:
    """Write a Labels layer of one plane as a picture for people."""
    return _write("colour-png", path, data, meta)


def write_rois(path: str, data: Any, meta: Meta) -> list[str]:
    """Write a Labels layer as ROIs for ImageJ."""
    return _write("roi", path, data, meta)


def _format_name(path: Path) -> str:
    suffix = path.suffix.lower()
    if is_nifti(path):
        return "nifti"
    if suffix == ".jsonl":
        return "jsonl"
    if suffix not in (".json", ".geojson") or not path.is_file():
        return ""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).decode("utf-8", errors="replace")
    if suffix == ".geojson" or '"Feature' in head:
        return "geojson"
    return "coco" if any(key in head for key in COCO_KEYS) else ""


def _read_file(path: Path) -> list[LayerData]:
    entry = find_format(path, _format_name(path))
    if entry.name == "nifti":
        return [_read_volume(path)]
    if entry.read is None:
        raise InvalidLabelsError(f"{path}: {entry.title} cannot be read")
    if entry.name in COCO_READERS:
        return _read_images(path, entry.name)
    with entry.read(path, ReadRequest()) as found:
        _show_notes(path.name, found.notes)
        return [layer_data(found, path.stem)]


def _read_volume(path: Path) -> LayerData:
    """Read a NIfTI volume, as it is stored; its orientation becomes metadata."""
    volume = read_nifti(path)
    _show_notes(path.name, volume.notes)
    attributes: dict[str, Any] = {
        "name": nifti_stem(path),
        **volume.steps,
        "metadata": _space_meta(volume.space),
    }
    if volume.channel_axis is not None:
        return volume.array, attributes | {"channel_axis": volume.channel_axis}, "image"
    if volume.is_label or _are_labels(volume.array):
        labels = whole_numbers(volume.array, path)
        # a view of the file cannot be painted on
        labels = labels if labels.flags.writeable else np.array(labels)
        return labels, attributes, "labels"
    return volume.array, attributes | {"rgb": False}, "image"


def _space_meta(space: VoxelSpace) -> dict[str, Any]:
    """Return the metadata by which a layer keeps where its voxels lie."""
    known = {
        "orientation": space.orientation or "unknown",
        "affine": space.affine.tolist(),
        "code": space.code,
    }
    return {SPACE_KEY: known}


def _are_labels(array: Any) -> bool:
    """Tell labels from intensities: few values, whole and not negative."""
    for step in (SAMPLE_STEP, 1):
        values = np.unique(array.ravel(order="K")[::step])
        if len(values) > MOST_CLASSES or (values < 0).any() or (values % 1).any():
            return False
    return True


def _read_images(path: Path, format_name: str) -> list[LayerData]:
    """Read the images of a file, of which each becomes a layer."""
    from napari_samseg.core.io.coco_labels import coco_to_labels

    # once for all: data sets are large, and napari waits
    dataset = COCO_READERS[format_name](path)
    names = list(dict.fromkeys(image.file_name for image in dataset.images))
    if len(names) > MOST_LAYERS:
        raise InvalidLabelsError(
            f"{path} has {len(names)} images, too many to be shown as layers: take one "
            f"out with `napari-samseg convert {path.name} labels.tif --image NAME`"
        )
    layers = []
    for name in names:
        found = coco_to_labels(dataset, name)
        layers.append(layer_data(found, Path(name).stem))
        _show_notes(f"{path.name}: {Path(name).stem}", found.notes)
    return layers


def layer_data(found: InstanceLabels, name: str) -> LayerData:
    """Return a Labels layer with what a file says of objects, pixels and place."""
    attributes: dict[str, Any] = {"name": name}
    if found.properties:
        attributes["features"] = _features(found.properties)
    if found.scale is not None:
        attributes["scale"] = found.scale
    if found.translation is not None:
        attributes["translate"] = found.translation
    if found.units is not None and all(map(_is_unit, found.units)):
        attributes["units"] = found.units
    if found.space is not None:
        attributes["metadata"] = _space_meta(found.space)
    return found.labels, attributes, "labels"


def _is_unit(name: str) -> bool:
    """Tell whether napari knows a unit: it refuses layers with others."""
    import pint

    try:
        pint.Unit(name)
    except (pint.PintError, AttributeError, ValueError):
        return False
    return True


def _features(properties: Mapping[int, Mapping[str, Any]]) -> pd.DataFrame:
    """Return a table with a row for each label, the background among them."""
    import pandas as pd

    rows: list[dict[str, Any]] = [{"index": 0}]
    rows += [{**known, "index": i} for i, known in sorted(properties.items())]
    return pd.DataFrame(rows)


def _write(format_name: str, path: str, data: Any, meta: Meta) -> list[str]:
    entry = LABEL_FORMATS[format_name]
    if entry.write is None:
        raise InvalidLabelsError(f"{format_name} cannot be written")
    labels = data[0] if meta.get("multiscale") else data
    found = InstanceLabels(labels, _properties_of(meta), space=_space_of(meta))
    if len(meta.get("scale", ())) == len(found.shape):
        units = tuple(str(unit) for unit in meta.get("units") or ())
        scale = tuple(float(step) for step in meta["scale"])
        found = dataclasses.replace(found, scale=scale, units=units or None)
    if len(meta.get("translate", ())) == len(found.shape):
        start = tuple(float(place) for place in meta["translate"])
        found = dataclasses.replace(found, translation=start)
    name = str(meta.get("name", Path(path).stem))
    entry.write(Path(path), found, WriteRequest(name))
    _show_notes(Path(path).name, entry.space_notes(found))
    return [path]


def _space_of(meta: Meta) -> VoxelSpace | None:
    known = (meta.get("metadata") or {}).get(SPACE_KEY)
    if known is None:
        return None
    return VoxelSpace(np.array(known["affine"], np.float64), int(known["code"]))


def _properties_of(meta: Meta) -> dict[int, dict[str, Any]]:
    """Return what the features of a layer say of each object."""
    table = meta.get("features")
    if table is None or not len(table.columns):
        return {}
    # napari takes row i for label i where no column says otherwise
    ids = table["index"] if "index" in table else range(len(table))
    rows = table.drop(columns=["index"], errors="ignore").to_dict("records")
    found = {}
    for object_id, row in zip(ids, rows, strict=True):
        known = {key: value for key, value in row.items() if value == value}
        # what the Segment panel calls the category of an object
        if "class" in known:
            known.setdefault("category", known.pop("class"))
        if object_id > 0 and known:
            found[int(object_id)] = known
    return found


def _show_notes(where: str, notes: Iterable[str]) -> None:
    from napari.utils.notifications import show_warning

    for note in notes:
        show_warning(f"{where}: {note}")
