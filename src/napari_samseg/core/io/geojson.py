"""Objects as GeoJSON polygons, as QuPath reads and writes them.

Coordinates are x, y in pixels from the upper left corner of the image, not degrees.
``properties`` hold ``objectType``, ``name``, ``classification`` and ``measurements``;
``plane`` of a geometry says which plane of a volume it lies in.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.instances.outlines import Outline, fill_outlines, outlines_of
from napari_samseg.core.io.instance_labels import (
    InstanceLabels,
    PlaneObject,
    check_object_id,
    label_planes,
    number_objects,
    paint_objects,
)
from napari_samseg.core.io.json_file import plain_value, read_json, write_lines
from napari_samseg.core.overlay import object_colour

__all__ = ["read_geojson", "write_geojson"]

# QuPath keeps what it finds there; others do not mind.
ID_KEY = "object_id"
# Member of the collection: (..., Y, X) of the labels, which GeoJSON has no word for.
SHAPE_KEY = "shape"
# Names of the axes of a volume before (Y, X), by their number.
LEAD_KEYS: Mapping[int, tuple[str, ...]] = {0: (), 1: ("z",), 2: ("t", "z")}
# Coordinates beyond are degrees or micrometres gone wrong, not pixels.
LARGEST_SIDE = 1 << 20
NO_AREA = "left out: points and lines enclose no pixels"
BROKEN = "left out: the polygon is broken"
OTHER_PLANE = "left out: in another plane than that of the image"
OUTSIDE = "left out: no centre of a pixel of the image is inside"


def write_geojson(
    path: Path, instances: InstanceLabels, *, object_type: str = "annotation"
) -> None:
    """Write the objects of a label map as polygons along the edges of their pixels.

    Parameters
    ----------
    path : Path
    instances : InstanceLabels
        (Y, X), (Z, Y, X) or (T, Z, Y, X). The property ``category`` of an object
        becomes its classification, numbers among the others its measurements.
    object_type : str
        What QuPath takes them for: annotation, detection, cell or tile.

    Raises
    ------
    InvalidLabelsError
        If the labels are none, or have more axes.
    LabelOverflowError
        If an id is above 32 bits.
    """
    axes = _lead_keys(len(instances.shape) - 2)

    def lines() -> Iterator[str]:
        shape = json.dumps(list(instances.shape))
        yield f'{{"type": "FeatureCollection", "{SHAPE_KEY}": {shape}, "features": ['
        before = ""
        for index, plane in label_planes(instances.labels):
            position = dict(zip(axes, index, strict=True))
            for object_id, outlines in outlines_of(plane).items():
                check_object_id(object_id)
                if before:
                    yield f"{before},"
                feature = {
                    "type": "Feature",
                    "id": str(uuid.uuid4()),
                    "geometry": _geometry(outlines, position),
                    "properties": {"objectType": object_type}
                    | _qupath_properties(
                        object_id, instances.properties.get(object_id, {})
                    ),
                }
                before = json.dumps(feature)
        yield f"{before}]}}"

    write_lines(path, lines())


def read_geojson(path: Path, shape: Sequence[int] | None = None) -> InstanceLabels:
    """Paint the polygons of a GeoJSON file into a label map.

    Ids are those that `write_geojson` left in the file; shapes without one get the next
    above them, in the order of the file. Smaller objects lie on larger ones. What has
    no area, is broken, or lies outside or in another plane is left out and counted in
    the notes.

    Parameters
    ----------
    path : Path
    shape : sequence of int, optional
        (..., Y, X) of the image; else that in the file, else as far as shapes reach.

    Raises
    ------
    MissingFileError
        If there is no such file.
    InvalidLabelsError
        If it is something else, or neither a shape is known nor anything drawn.
    """
    features, stored = _features(read_json(path), path)
    left_out: Counter[str] = Counter()
    drawn = _drawn_features(features, left_out)
    notes = []
    wanted = tuple(shape or stored or ())
    if not wanted:
        wanted = _reach(drawn, path)
        notes.append(
            f"the file does not say how large the image is: {wanted} is as far as the "
            "shapes reach"
        )
    objects, painted = _place_shapes(drawn, wanted, left_out)
    objects, shared = number_objects(objects, "shape")
    properties = {
        item.object_id: _read_properties(feature)
        for item, feature in zip(objects, painted, strict=True)
    }
    labels, overlaps = paint_objects(objects, wanted)
    counted = [
        f"{count_things(count, 'shape')} {reason}" for reason, count in left_out.items()
    ]
    return InstanceLabels(
        labels, properties, notes=(*notes, *counted, *shared, *overlaps)
    )


def _drawn_features(
    features: Sequence[Mapping[str, Any]], left_out: Counter[str]
) -> list[tuple[Mapping[str, Any], list[Outline]]]:
    """Return the features that have an area, with their outlines; count the others."""
    drawn = []
    for feature in features:
        try:
            outlines = _outlines(feature.get("geometry"))
            _plane_index(feature, ("t", "z"))
        except (TypeError, ValueError, KeyError, OverflowError):
            left_out[BROKEN] += 1
            continue
        if outlines:
            drawn.append((feature, outlines))
        else:
            left_out[NO_AREA] += 1
    return drawn


def _place_shapes(
    drawn: Sequence[tuple[Mapping[str, Any], list[Outline]]],
    shape: tuple[int, ...],
    left_out: Counter[str],
) -> tuple[list[PlaneObject], list[Mapping[str, Any]]]:
    """Return what lies in an image, and its features; count the others."""
    axes = _lead_keys(len(shape) - 2)
    objects, painted = [], []
    for feature, outlines in drawn:
        index = _plane_index(feature, axes)
        if sum(_plane_index(feature, ("t", "z"))) != sum(index):
            left_out[OTHER_PLANE] += 1
            continue
        box, crop = fill_outlines(outlines, (shape[-2], shape[-1]))
        is_inside = all(i < n for i, n in zip(index, shape, strict=False))
        if not crop.any() or not is_inside:
            left_out[OUTSIDE] += 1
            continue
        objects.append(PlaneObject(_stored_id(feature), box, crop, index))
        painted.append(feature)
    return objects, painted


def _lead_keys(n_axes: int) -> tuple[str, ...]:
    if n_axes not in LEAD_KEYS:
        raise InvalidLabelsError(
            f"GeoJSON of QuPath holds planes, volumes and time series of volumes, not "
            f"labels with {n_axes + 2} axes"
        )
    return LEAD_KEYS[n_axes]


def _geometry(outlines: list[Outline], position: Mapping[str, int]) -> dict[str, Any]:
    polygons = [
        # the first corner again at the end; y, x becomes x, y
        [[*ring[:, ::-1].tolist(), ring[0, ::-1].tolist()] for ring in outline.rings]
        for outline in outlines
    ]
    single = len(polygons) == 1
    geometry: dict[str, Any] = {
        "type": "Polygon" if single else "MultiPolygon",
        "coordinates": polygons[0] if single else polygons,
    }
    # QuPath's -1 means all channels
    return geometry | (
        {"plane": {"c": -1, "z": 0, "t": 0} | dict(position)} if position else {}
    )


def _qupath_properties(object_id: int, known: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": str(object_id),
        "metadata": {ID_KEY: str(object_id)},
    }
    category = known.get("category")
    if category:
        # one colour for a class, in every file
        colour = object_colour(sum(str(category).encode()))
        found["classification"] = {"name": str(category), "color": list(colour)}
    measured = {key: plain_value(v) for key, v in known.items() if key != "category"}
    numbers = {k: v for k, v in measured.items() if isinstance(v, (int, float))}
    if numbers:
        found["measurements"] = numbers
    found["metadata"] |= {
        key: str(v)
        for key, v in measured.items()
        if key not in numbers and v is not None
    }
    return found


def _features(
    content: Any, path: Path
) -> tuple[list[Mapping[str, Any]], tuple[int, ...] | None]:
    """Return features, and the shape of the labels if the file names it."""
    shape = None
    features: Any = content
    if isinstance(content, dict):
        features = content.get("features", [content])
        shape = content.get(SHAPE_KEY)
    if not isinstance(features, list) or not all(
        isinstance(f, dict) and f.get("type") == "Feature" for f in features
    ):
        is_coco = isinstance(content, dict) and "annotations" in content
        kind = ", but COCO: name it .json" if is_coco else ""
        raise InvalidLabelsError(f"{path} is not GeoJSON with features{kind}")
    if not isinstance(shape, list) or not all(
        isinstance(n, int) and n > 0 for n in shape
    ):
        return features, None
    return features, tuple(shape) if len(shape) >= 2 else None


def _outlines(geometry: Any) -> list[Outline]:
    """Return the polygons of a geometry; none of one without an area.

    Raises
    ------
    TypeError, ValueError, KeyError
        If it is broken.
    """
    kind = geometry["type"]
    if kind == "GeometryCollection":
        parts = [_outlines(part) for part in geometry["geometries"]]
        return [outline for part in parts for outline in part]
    if kind not in ("Polygon", "MultiPolygon"):
        return []
    polygons = geometry["coordinates"]
    found = []
    for polygon in [polygons] if kind == "Polygon" else polygons:
        exterior, *holes = [_ring(points) for points in polygon]
        found.append(Outline(exterior, tuple(holes)))
    if not found:
        raise ValueError("no polygon")
    return found


def _ring(points: Any) -> Any:
    ring = np.array([point[:2] for point in points], np.float64)
    if ring.ndim != 2 or len(ring) < 4 or not np.isfinite(ring).all():
        raise ValueError("no ring")
    closed = np.array_equal(ring[0], ring[-1])
    return ring[: -1 if closed else None, ::-1]


def _reach(
    drawn: list[tuple[Mapping[str, Any], list[Outline]]], path: Path
) -> tuple[int, ...]:
    if not drawn:
        raise InvalidLabelsError(
            f"{path} holds no polygon and does not say how large the image is: name "
            "an image of that size"
        )
    corners = np.concatenate([o.exterior for _, outlines in drawn for o in outlines])
    size = np.maximum(np.ceil(corners.max(axis=0)), 1)
    if size.max() > LARGEST_SIDE:
        raise InvalidLabelsError(
            f"{path} has shapes at {size.max():g}: its coordinates are no pixels"
        )
    size = size.astype(int).tolist()
    lead = np.array([_plane_index(feature, ("t", "z")) for feature, _ in drawn])
    n_t, n_z = (lead.max(axis=0) + 1).tolist()
    if n_t > 1:
        return (n_t, n_z, *size)
    return (n_z, *size) if n_z > 1 else tuple(size)


def _plane_index(feature: Mapping[str, Any], axes: tuple[str, ...]) -> tuple[int, ...]:
    geometry = feature.get("geometry") or {}
    plane = geometry.get("plane")
    if not isinstance(plane, Mapping):
        return (0,) * len(axes)
    return tuple(max(0, int(plane.get(axis) or 0)) for axis in axes)


def _given(feature: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = feature.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _stored_id(feature: Mapping[str, Any]) -> int:
    """Return the id that was written into a feature, 0 if there is none."""
    metadata = _given(feature).get("metadata")
    text = metadata.get(ID_KEY) if isinstance(metadata, Mapping) else None
    return int(text) if isinstance(text, str) and text.isdecimal() else 0


def _read_properties(feature: Mapping[str, Any]) -> dict[str, Any]:
    given = _given(feature)
    metadata = given.get("metadata")
    found = dict(metadata) if isinstance(metadata, Mapping) else {}
    found.pop(ID_KEY, None)
    measured = given.get("measurements")
    if isinstance(measured, Mapping):
        found |= measured
    elif isinstance(measured, list):
        # QuPath up to 0.3
        found |= {
            m["name"]: m.get("value")
            for m in measured
            if isinstance(m, Mapping) and isinstance(m.get("name"), str)
        }
    kind = given.get("classification")
    if isinstance(kind, Mapping):
        parts = kind.get("names")
        joined = ": ".join(map(str, parts)) if isinstance(parts, list) else ""
        names = kind.get("name") or joined
        if names:
            found["category"] = str(names)
    # `write_geojson` names objects by their ids
    if given.get("name") and str(given["name"]) != str(_stored_id(feature)):
        found["name"] = str(given["name"])
    return found
