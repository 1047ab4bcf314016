"""Label maps to COCO's annotations, and back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.instances.components import label_components
from napari_samseg.core.io.coco import (
    Annotation,
    CocoDataset,
    CocoImage,
    CocoVolume,
)
from napari_samseg.core.io.coco_masks import ENCODERS, LeftOut, decode_mask
from napari_samseg.core.io.instance_labels import (
    InstanceLabels,
    PlaneObject,
    check_object_id,
    label_planes,
    number_objects,
    paint_objects,
    plane_objects,
)
from napari_samseg.core.io.json_file import plain_value

__all__ = ["choose_images", "coco_to_labels", "labels_to_coco"]

DEFAULT_CATEGORY = "object"
# Keys that COCO or `labels_to_coco` give a meaning of their own.
KNOWN_KEYS = (
    "id",
    "image_id",
    "object_id",
    "category_id",
    "segmentation",
    "bbox",
    "area",
    "iscrowd",
)
MOST_NAMED = 12


def labels_to_coco(
    instances: InstanceLabels,
    file_name: str,
    *,
    masks: str = "rle",
    parts: bool = False,
    default_category: str = DEFAULT_CATEGORY,
) -> CocoDataset:
    """Return the annotations of a label map; of a volume, an image for each plane.

    Parameters
    ----------
    instances : InstanceLabels
        The property ``category`` of an object names its category; others go along, and
        so do the numbers of `categories`.
    file_name : str
        Of the image that the labels belong to.
    masks : "rle" or "polygon"
        Compressed run lengths, or polygons along the edges of pixels. COCO's polygons
        know no holes: a cut of no width leads to each. Both are exact.
    parts : bool
        Each connected part of an object in a plane (8 neighbours) has an annotation
        of its own, with the id of the object.
    default_category : str
        Of objects without one.

    Raises
    ------
    InvalidLabelsError
        If the labels are none.
    LabelOverflowError
        If an id is above 32 bits.
    SettingsError
        If `masks` is something else.
    """
    if masks not in ENCODERS:
        raise SettingsError(
            f"masks are written as {' or '.join(ENCODERS)}, not {masks!r}"
        )
    categories = dict(instances.categories)
    names = {name: number for number, name in reversed(categories.items())}
    images, kept = [], {}
    cut = instances.cut
    volume = (
        None
        if instances.space is None
        else CocoVolume.of(instances.volume_shape, instances.space)
    )
    for number, (index, plane) in enumerate(label_planes(instances.labels), start=1):
        size = (plane.shape[0], plane.shape[1])
        place = index if cut is None else (cut.numbers[index[0]],)
        axis = 0 if cut is None else cut.axis
        images.append(CocoImage(number, file_name, size, place, axis, volume))
        pieces = label_components(plane, 8) if parts else plane
        mask_of = ENCODERS[masks](pieces)
        items = []
        for item in plane_objects(pieces, index):
            y0, x0, y1, x1 = item.box_yx
            object_id = int(plane[y0:y1, x0:x1][item.crop][0])
            check_object_id(object_id)
            properties = dict(instances.properties.get(object_id, {}))
            category = str(properties.pop("category", None) or default_category)
            if category not in names:
                names[category] = max(categories, default=0) + 1
                categories[names[category]] = category
            more = {k: plain_value(v) for k, v in properties.items()}
            items.append(
                {k: v for k, v in more.items() if k not in KNOWN_KEYS}
                | {
                    "object_id": object_id,
                    "category_id": names[category],
                    "segmentation": mask_of(item),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(item.crop.sum()),
                    "iscrowd": 0,
                }
            )
        kept[number] = tuple(items)
    return CocoDataset(tuple(images), kept, categories or {1: default_category})


def choose_images(dataset: CocoDataset, name: str | None = None) -> list[CocoImage]:
    """Choose the image, or the planes of one volume, that make one label map.

    Parameters
    ----------
    dataset : CocoDataset
    name : str, optional
        File name, or its end. Not needed where all is one image or volume.

    Raises
    ------
    InvalidLabelsError
        If it is not in the dataset, or several images come into question.
    """
    found = [
        image for image in dataset.images if name is None or image.file_name == name
    ] or [image for image in dataset.images if image.file_name.endswith(name or "")]
    files = list(dict.fromkeys(image.file_name for image in found))
    planes = Counter((image.file_name, image.plane) for image in found)
    sizes = {
        (image.size, len(image.plane), image.axis, image.volume) for image in found
    }
    if not found:
        raise InvalidLabelsError(
            f"there is no image {name!r} among {_names(dataset.images)}"
            if name is not None
            else "there are no images in the file"
        )
    if len(files) > 1:
        raise InvalidLabelsError(
            f"there are {len(files)} images, of which a label map shows one: name it "
            f"({_names(found)})"
        )
    if len(sizes) > 1 or max(planes.values()) > 1:
        raise InvalidLabelsError(
            f"the {len(found)} images called {files[0]!r} are not the planes of one "
            "volume: they have different sizes or places, or no plane of their own"
        )
    return found


def coco_to_labels(
    dataset: CocoDataset,
    name: str | None = None,
    shape: tuple[int, ...] | None = None,
) -> InstanceLabels:
    """Paint the annotations of one image, or of the planes of one volume.

    Ids are those of ``object_id``; annotations without one get the next above them, in
    the order of the file. Smaller objects lie on larger ones, see
    `napari_samseg.core.io.instance_labels.paint_objects`. What cannot be painted is
    left out and counted in the notes: crowds, broken masks, boxes alone.

    Parameters
    ----------
    dataset : CocoDataset
    name : str, optional
        File name of the image, or its end, where there are several.
    shape : tuple of int, optional
        Of the image. Without it a volume whose shape is not in the file ends with the
        last plane there.

    Returns
    -------
    InstanceLabels
        With the categories of the whole dataset, and the space of the volume if the
        file has it.

    Raises
    ------
    InvalidLabelsError
        If no or several images come into question.
    LabelOverflowError
        If there are more objects than 32 bits count.
    """
    images = choose_images(dataset, name)
    axis, volume = images[0].axis, images[0].volume
    stack = _stack_shape(images, shape if volume is None else volume.shape)
    left_out: Counter[str] = Counter()
    properties: dict[int, dict[str, Any]] = {}
    objects = []
    painted = []
    for image in images:
        for item in dataset.of(image):
            try:
                box, crop = decode_mask(item, image.size)
            except LeftOut as reason:
                left_out[str(reason)] += 1
                continue
            painted.append(item)
            stored = _stored_id(item)
            objects.append(PlaneObject(stored, box, crop, image.plane))
    objects, shared = number_objects(objects, "annotation")
    for drawn, item in zip(objects, painted, strict=True):
        properties[drawn.object_id] = _properties(item, dataset.categories)
    labels, notes = paint_objects(objects, stack)
    counted = [
        f"{count_things(count, 'annotation')} {reason}"
        for reason, count in left_out.items()
    ]
    categories = _all_categories(dataset)
    shared += [
        f"{n} categories are called {name!r}: their objects are taken for one"
        for name, n in Counter(categories.values()).items()
        if n > 1
    ]
    n_missing = math.prod(stack[:-2]) - len(images)
    if n_missing:
        counted.append(
            f"{count_things(n_missing, 'plane')} of the volume not in the file, and "
            "left empty"
        )
    whole = np.ascontiguousarray(np.moveaxis(labels, 0, axis)) if axis else labels
    space = None if volume is None else volume.space
    if volume is not None and whole.shape != volume.shape:
        counted.append(
            f"the planes do not fit the volume of shape {volume.shape} that the file "
            "names: where it lies is left out"
        )
        space = None
    return InstanceLabels(
        whole,
        properties,
        notes=(*dataset.notes, *counted, *shared, *notes),
        space=space,
        categories=categories,
        image_name=images[0].file_name,
        **({} if space is None else space.steps(whole.ndim)),
    )


def _all_categories(dataset: CocoDataset) -> dict[int, str]:
    """Return the categories of a file, and those that it numbers and does not name."""
    used = {
        item["category_id"]
        for image in dataset.images
        for item in dataset.of(image)
        if isinstance(item.get("category_id"), int)
    }
    unnamed = {number: str(number) for number in sorted(used - set(dataset.categories))}
    return {**dataset.categories, **unnamed}


def _stack_shape(
    images: list[CocoImage], shape: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Return the shape of the stack of all planes, the axis across them first."""
    lead = np.array([image.plane for image in images], int).reshape(len(images), -1)
    least = lead.max(axis=0) + 1
    axis, size = images[0].axis, images[0].size
    if shape is not None and len(shape) == len(least) + 2:
        moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
        if moved[-2:] == size and (least <= moved[:-2]).all():
            return moved
    return (*least.tolist(), *size)


def _properties(item: Annotation, categories: Mapping[int, str]) -> dict[str, Any]:
    more = {key: value for key, value in item.items() if key not in KNOWN_KEYS}
    category = item.get("category_id")
    if isinstance(category, int):
        more["category"] = categories.get(category, str(category))
    return more


def _stored_id(item: Annotation) -> int:
    """Return the id of an annotation in the label map, 0 if there is none."""
    value = item.get("object_id")
    return value if type(value) is int and value > 0 else 0


def _names(images: Iterable[CocoImage]) -> str:
    names = list(dict.fromkeys(image.file_name for image in images))
    more = ", ..." if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
