"""Before a training: why its result may not be worth the time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from napari_samseg.core.amounts import count_things
from napari_samseg.core.instances.components import label_components
from napari_samseg.core.io.class_image import is_picture
from napari_samseg.core.io.label_doubts import MOST_CLASSES, looks_natural
from napari_samseg.core.settings import TuneSettings
from napari_samseg.core.training.class_planes import ClassPlanes
from napari_samseg.core.training.images import (
    LabelledImage,
    LabelledPlane,
    divide,
)
from napari_samseg.core.training.survey import read_labels

__all__ = ["training_doubts"]

# A mean over fewer objects is off by several hundredths by luck.
FEW_OBJECTS = 5
# A person paints an object in one piece, or two where something lies across it.
MANY_PIECES = 3
UNKNOWN = "nobody will know whether the model has become better"


def training_doubts(
    images: Sequence[LabelledImage],
    planes: Sequence[LabelledPlane],
    settings: TuneSettings,
    seed: int,
) -> list[str]:
    """Say what is likely to be wrong with what a model is to learn, and what to do.

    Parameters
    ----------
    images : sequence of LabelledImage
    planes : sequence of LabelledPlane
        Those with objects.
    settings : TuneSettings
    seed : int
        Of the division into training and validation.

    Returns
    -------
    list of str
        A sentence or two for each doubt; of labels, for the first image that gives
        cause.
    """
    return [
        *_label_doubts(images, planes, settings.min_area),
        *_validation_doubts(planes, settings, seed),
    ]


def _validation_doubts(
    planes: Sequence[LabelledPlane], settings: TuneSettings, seed: int
) -> list[str]:
    _, held_out, split = divide(planes, settings, seed)
    if split == "none":
        return [f"Nothing is held out (validation 0): {UNKNOWN}."]
    n_objects = sum(plane.n_objects for plane in held_out)
    if not n_objects:
        is_one = len(planes) == 1
        what = "one object is" if is_one else "one object on each plane are"
        doubt = f"Only {what} labelled, and none can be held out: {UNKNOWN}."
        return [f"{doubt} Label more objects, or another image."]
    doubts = []
    if split == "objects":
        scored = count_things(n_objects, "object")
        doubts.append(
            f"All is on one image: {scored} at its end will be scored, which look like "
            "those it learns from. Label a second image to know more."
        )
    if n_objects < FEW_OBJECTS:
        doubts.append(
            f"A score of {count_things(n_objects, 'object')} is mostly luck: label "
            "more."
        )
    return doubts


def _label_doubts(
    images: Sequence[LabelledImage], planes: Sequence[LabelledPlane], min_area: int
) -> list[str]:
    seen: set[int] = set()
    for at in planes:
        image = images[at.image]
        if at.image in seen or isinstance(image.labels, ClassPlanes):
            continue
        seen.add(at.image)
        doubt = _plane_doubt(image, at.plane, min_area)
        if doubt:
            return [doubt]
    return []


def _plane_doubt(image: LabelledImage, plane: tuple[int, ...], min_area: int) -> str:
    labels = read_labels(image, plane)
    if not is_picture(labels) and looks_natural(labels):
        return (
            f"The labels of {image.name} look like a photograph: each of its values is "
            "taken for one object. Choose the labels that belong to it."
        )
    ids = np.unique(labels[labels != 0])
    if not is_picture(labels) and len(ids) > MOST_CLASSES:
        return ""
    pieces = label_components(labels)
    _, first, areas = np.unique(pieces, return_index=True, return_counts=True)
    owners = labels.ravel()[first[areas >= min_area]]
    counts = [np.count_nonzero(owners == one) for one in ids.tolist()]
    if np.median(counts) < MANY_PIECES:
        return ""
    what = "mask" if len(ids) == 1 else "map of classes"
    n_pieces = sum(counts)
    return (
        f"The labels of {image.name} look like a {what}: {n_pieces} separate pieces "
        f"are taken for {count_things(len(ids), 'object')}. If each piece is an "
        "object, tick 'labels are classes'."
    )
