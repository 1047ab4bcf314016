"""Instances in COCO's JSON, and in JSON-lines with a line for each image.

COCO, https://cocodataset.org/#format-data: ``images``, ``annotations`` with a
``segmentation`` (run lengths of pycocotools, or polygons), a ``bbox`` ``[x, y, width,
height]`` and a ``category_id``, and ``categories``. Four keys are ours, and ignored by
others: ``object_id`` of an annotation is the id in the label map, ``plane`` of an image
its position in a volume, ``plane_axis`` the axis across which it lies there, and
``volume`` the volume's ``shape`` and where its voxels lie, of those that say so:
``affine`` and ``code`` of NIfTI, for the axes x, y, z of the shape read backwards.

JSON-lines are what Hugging Face calls ``metadata.jsonl``: ``file_name``, ``width``,
``height``, and ``objects`` with a list for each key (``bbox``, ``category``, ``area``,
``segmentation``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.io.json_file import read_json, read_text, write_lines
from napari_samseg.core.io.voxel_space import VoxelSpace

__all__ = [
    "CocoDataset",
    "CocoImage",
    "CocoVolume",
    "join_coco",
    "read_coco",
    "read_json_lines",
    "write_coco",
    "write_json_lines",
]

Annotation = Mapping[str, Any]

# Sides beyond are a mistake, and labels of such a size fit no memory.
LARGEST_SIDE = 1 << 20
# What `write_json_lines` says of an object in a column of its own, or of its image.
NOT_COLUMNS = ("id", "image_id", "category_id")


@dataclass(frozen=True, slots=True)
class CocoVolume:
    """The volume of which an image is a plane, and where it lies in the patient.

    Attributes
    ----------
    shape : tuple of int
        (..., Y, X) in voxels.
    affine : four tuples of four float
        See `napari_samseg.core.io.voxel_space.VoxelSpace`.
    code : int
    """

    shape: tuple[int, ...]
    affine: tuple[tuple[float, ...], ...]
    code: int

    @classmethod
    def of(cls, shape: tuple[int, ...], space: VoxelSpace) -> CocoVolume:
        """Return what is to be written of a volume."""
        return cls(shape, tuple(map(tuple, space.affine.tolist())), space.code)

    @property
    def space(self) -> VoxelSpace:
        """Where its voxels lie."""
        return VoxelSpace(np.array(self.affine, np.float64), self.code)


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image, or a plane of a volume, that annotations belong to.

    Attributes
    ----------
    image_id : int
    file_name : str
    size : (int, int)
        (Y, X) in pixels.
    plane : tuple of int
        Position in a volume, along each axis before (Y, X).
    axis : int
        Of a volume (Z, Y, X) across which the plane lies.
    volume : CocoVolume or None
        Of files that were made of one whose space was known.
    """

    image_id: int
    file_name: str
    size: tuple[int, int]
    plane: tuple[int, ...] = ()
    axis: int = 0
    volume: CocoVolume | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CocoDataset:
    """Images, annotations as they stand in the file, and categories by id.

    Attributes
    ----------
    images : tuple of CocoImage
    annotations : mapping of image id to tuple of annotations
    categories : mapping of category id to name
    notes : tuple of str
        What was left out when the file was read, and how much.
    """

    images: tuple[CocoImage, ...]
    annotations: Mapping[int, tuple[Annotation, ...]]
    categories: Mapping[int, str]
    notes: tuple[str, ...] = field(default=())

    def of(self, image: CocoImage) -> tuple[Annotation, ...]:
        """Return the annotations of an image."""
        return self.annotations.get(image.image_id, ())

    def select(self, images: Iterable[CocoImage]) -> CocoDataset:
        """Return the dataset of some of the images, with all categories."""
        chosen = tuple(images)
        kept = {image.image_id: self.of(image) for image in chosen}
        return CocoDataset(chosen, kept, self.categories, self.notes)


def read_coco(path: Path) -> CocoDataset:
    """Read a COCO file; masks are decoded when they are asked for.

    Annotations of images that are not in the file are left out and counted.

    Raises
    ------
    MissingFileError
        If there is no such file.
    InvalidLabelsError
        If it is something else, or an image has no id of its own or no size.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise InvalidLabelsError(
            f"{path} is not COCO: it has no list of images{_other_kind(content)}"
        )
    images = [_read_image(item, path) for item in content["images"]]
    grouped: dict[int, list[Annotation]] = {image.image_id: [] for image in images}
    if len(grouped) < len(images):
        raise InvalidLabelsError(f"{path}: two images have the same id")
    n_lost = 0
    for item in _entries(content, "annotations", path):
        image_id = item.get("image_id") if isinstance(item, dict) else None
        if isinstance(image_id, int) and image_id in grouped:
            grouped[image_id].append(item)
        else:
            n_lost += 1
    lost = count_things(n_lost, "annotation")
    notes = (f"{lost} left out: the file does not hold the image",) if n_lost else ()
    categories = {
        item["id"]: str(item.get("name", item["id"]))
        for item in _entries(content, "categories", path)
        if isinstance(item, dict) and isinstance(item.get("id"), int)
    }
    kept = {image_id: tuple(items) for image_id, items in grouped.items()}
    return CocoDataset(tuple(images), kept, categories, notes)


def write_coco(path: Path, dataset: CocoDataset) -> None:
    """Write a COCO file, whose annotations are numbered from 1."""

    def lines() -> Iterator[str]:
        yield '{"info": {"description": "napari-samseg"}, "licenses": [],'
        categories = [
            {"id": number, "name": name, "supercategory": ""}
            for number, name in dataset.categories.items()
        ]
        yield f'"categories": {json.dumps(categories)},'
        yield '"images": ['
        yield from _parted(_image_entry(image) for image in dataset.images)
        yield '],\n"annotations": ['
        items = [
            (image, item) for image in dataset.images for item in dataset.of(image)
        ]
        yield from _parted(
            {**item, "id": number, "image_id": image.image_id}
            for number, (image, item) in enumerate(items, start=1)
        )
        yield "]}"

    write_lines(path, lines())


def read_json_lines(path: Path) -> CocoDataset:
    """Read boxes and masks from JSON-lines, a line for each image.

    Raises
    ------
    MissingFileError
        If there is no such file.
    InvalidLabelsError
        If a line is no JSON object, or its lists have different lengths.
    """
    names: dict[str, int] = {}
    images, kept = [], {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidLabelsError(f"{where} is not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise InvalidLabelsError(f"{where} is not a JSON object")
        images.append(_read_image({**entry, "id": number}, where))
        kept[number] = tuple(_read_columns(entry.get("objects") or {}, names, where))
    categories = {number: name for name, number in names.items()}
    return CocoDataset(tuple(images), kept, categories)


def write_json_lines(path: Path, dataset: CocoDataset) -> None:
    """Write boxes and masks as JSON-lines, a line for each image."""
    first = ("object_id", "bbox", "area", "segmentation", "iscrowd")

    def lines() -> Iterator[str]:
        for image in dataset.images:
            items = dataset.of(image)
            # what else is known, such as a score, in columns of its own
            keys = dict.fromkeys((*first, *(key for item in items for key in item)))
            for key in (*NOT_COLUMNS, "category"):
                keys.pop(key, None)
            objects = {key: [item.get(key) for item in items] for key in keys}
            objects["category"] = [
                dataset.categories.get(item.get("category_id", 0)) for item in items
            ]
            entry = _image_entry(image)
            del entry["id"]
            yield json.dumps({**entry, "objects": objects})

    write_lines(path, lines())


def join_coco(datasets: Iterable[CocoDataset]) -> CocoDataset:
    """Make one dataset of several, with images and categories numbered anew."""
    names: dict[str, int] = {}
    images: list[CocoImage] = []
    kept, notes = {}, list[str]()
    for dataset in datasets:
        notes += dataset.notes
        numbers = {
            old: names.setdefault(name, len(names) + 1)
            for old, name in dataset.categories.items()
        }
        for image in dataset.images:
            number = len(images) + 1
            kept[number] = tuple(
                {**item, "category_id": numbers.get(item.get("category_id", 0), 0)}
                for item in dataset.of(image)
            )
            images.append(replace(image, image_id=number))
    categories = {number: name for name, number in names.items()}
    return CocoDataset(tuple(images), kept, categories, tuple(notes))


def _entries(content: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    entries = content.get(key) or []
    if not isinstance(entries, list):
        raise InvalidLabelsError(f"{path} is not COCO: its {key} are no list")
    return entries


def _read_image(item: Any, where: object) -> CocoImage:
    try:
        height, width = int(item["height"]), int(item["width"])
        image_id, plane = int(item["id"]), tuple(map(int, item.get("plane", ())))
        axis = int(item.get("plane_axis", 0))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidLabelsError(
            f"{where}: an image needs an id, a height and a width, which are whole "
            f"numbers; there is {item!r:.120}"
        ) from error
    if height < 1 or width < 1:
        raise InvalidLabelsError(f"{where}: image {image_id} has no pixels")
    if max(height, width) > LARGEST_SIDE:
        raise InvalidLabelsError(
            f"{where}: image {image_id} has {height} x {width} pixels, too many for "
            "an image"
        )
    if min(plane, default=0) < 0:
        raise InvalidLabelsError(f"{where}: image {image_id} has a plane below 0")
    if axis not in (0, 1, 2) or (axis and len(plane) != 1):
        raise InvalidLabelsError(f"{where}: image {image_id} is no plane of a volume")
    name = str(item.get("file_name", ""))
    volume = _read_volume(item.get("volume"), f"{where}: image {image_id}")
    return CocoImage(image_id, name, (height, width), plane, axis, volume)


def _read_volume(known: Any, where: str) -> CocoVolume | None:
    # others may mean something else by this key
    if not isinstance(known, dict) or "affine" not in known:
        return None
    try:
        affine = np.array(known["affine"], np.float64)
        shape, code = tuple(map(int, known["shape"])), int(known["code"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidLabelsError(f"{where}: its volume is {known!r:.120}") from error
    is_affine = affine.shape == (4, 4) and np.isfinite(affine).all()
    if not is_affine or not np.linalg.det(affine) or min(shape, default=0) < 1:
        raise InvalidLabelsError(f"{where}: its volume is {known!r:.120}")
    return CocoVolume.of(shape, VoxelSpace(affine, code))


def _image_entry(image: CocoImage) -> dict[str, Any]:
    height, width = image.size
    entry: dict[str, Any] = {
        "id": image.image_id,
        "file_name": image.file_name,
        "width": width,
        "height": height,
    }
    entry |= {"plane": list(image.plane)} if image.plane else {}
    entry |= {"plane_axis": image.axis} if image.axis else {}
    if image.volume is not None:
        volume = image.volume
        entry["volume"] = {
            "shape": list(volume.shape),
            "affine": [list(row) for row in volume.affine],
            "code": volume.code,
        }
    return entry


def _read_columns(
    objects: Any, names: dict[str, int], where: str
) -> Iterator[Annotation]:
    """Yield annotations from lists, of which each holds one key of all of them."""
    columns = objects if isinstance(objects, dict) else {}
    lengths = {
        len(values) if isinstance(values, list) else -1 for values in columns.values()
    }
    if not isinstance(objects, dict) or len(lengths) > 1 or -1 in lengths:
        raise InvalidLabelsError(
            f"{where}: objects must have lists of one length, such as "
            '{"bbox": [[x, y, width, height]], "category": ["cell"]}'
        )
    for row in zip(*columns.values(), strict=True):
        item = dict(zip(columns, row, strict=True))
        name = item.pop("category", None)
        if name is not None:
            item["category_id"] = names.setdefault(str(name), len(names) + 1)
        yield {key: value for key, value in item.items() if value is not None}


def _parted(entries: Iterable[Any]) -> Iterator[str]:
    """Yield entries of a JSON list, a line for each."""
    before = None
    for entry in entries:
        if before is not None:
            yield f"{before},"
        before = json.dumps(entry)
    if before is not None:
        yield before


def _other_kind(content: Any) -> str:
    if isinstance(content, dict) and "features" in content:
        return ", but it is GeoJSON: name it .geojson"
    if isinstance(content, list):
        return ", but it is a list"
    return ""
