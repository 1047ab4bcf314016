"""Labels of one plane through a model: prompts, masks, and what becomes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.geometry import choose_tile
from napari_samseg.core.instances.components import label_components
from napari_samseg.core.prompts.from_labels import plane_seed, sample_prompts
from napari_samseg.core.prompts.object_index import ObjectIndex, index_objects
from napari_samseg.core.refine.painting import (
    FoundMasks,
    PartLabels,
    measure_agreement,
    paint_parts,
)
from napari_samseg.core.refine.scores import REFINED, ObjectScore
from napari_samseg.core.steps import map_steps
from napari_samseg.core.types import (
    BoolArray,
    FloatArray,
    IntArray,
    PlanePrompts,
    Progress,
)

if TYPE_CHECKING:
    from napari_samseg.core.settings import PromptSettings, RefineSettings
    from napari_samseg.core.tiled import TiledPlane

__all__ = [
    "LabelParts",
    "RefinedPlane",
    "find_masks",
    "index_parts",
    "refine_plane",
    "sample_part_prompts",
]

# Objects decoded between two looks at whether to go on: their logits are dropped then,
# and only the masks stay.
BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class RefinedPlane:
    """A plane of labels that went through a model.

    Attributes
    ----------
    plane : tuple of int
        Position along the axes that are not in the plane.
    labels : (Y, X) integer
        Of the data type they had before.
    scores : tuple of ObjectScore
        In the order of ids.
    n_small : int
        Objects that got no prompt, and keep their pixels.
    n_changed : int
        Pixels with another label than before.
    """

    plane: tuple[int, ...]
    labels: npt.NDArray[Any]
    scores: tuple[ObjectScore, ...]
    n_small: int
    n_changed: int


@dataclass(frozen=True, slots=True, eq=False)
class LabelParts:
    """The connected parts of the objects of a plane.

    Attributes
    ----------
    index : ObjectIndex
        Its labels number all parts from 1; parts too small to prompt are not in it.
    owners : (number of all parts + 1,) int64
        Object of each part; 0 of the background.
    """

    index: ObjectIndex
    owners: IntArray


def refine_plane(
    tiled: TiledPlane,
    labels: npt.NDArray[Any],
    prompts: PromptSettings,
    settings: RefineSettings,
) -> Generator[Progress, None, RefinedPlane]:
    """Prompt a model with each object of a plane, and take its masks instead.

    Parts of an object that lie apart are prompted by themselves. Where a mask is empty,
    overlaps the old pixels too little, or is lost to others, the part keeps its old
    pixels, whatever the overlap rule: no id is lost.

    Parameters
    ----------
    tiled : TiledPlane
    labels : (Y, X) integer
        Instance labels, 0 the background.
    prompts : PromptSettings
        Parts below its `min_area` keep their pixels. Mask prompts get the size that
        suits the plane.
    settings : RefineSettings

    Raises
    ------
    InvalidLabelsError
        If the labels are none, or not of the size of the plane.
    ModelMemoryError
        If memory runs out even for one object on the CPU.
    """
    parts = index_parts(labels, tiled.plane.size, prompts.min_area)
    n_all = len(np.unique(parts.owners[1:]))
    n_small = n_all - len(np.unique(parts.owners[parts.index.object_ids]))
    if not len(parts.index):
        return RefinedPlane(tiled.plane.index, labels, (), n_small, 0)
    sampled = sample_part_prompts(tiled, parts.index, prompts, settings.margin)
    masks = yield from find_masks(tiled, sampled)
    agreement = measure_agreement(masks, parts.index)
    reasons = np.full(len(masks.crops), REFINED, object)
    reasons[agreement < settings.agreement] = "disagrees"
    reasons[masks.areas == 0] = "empty"
    painted, visible = _settle(masks, parts, reasons, settings)
    refined = parts.owners[painted].astype(labels.dtype)
    scores = _score(
        tiled.plane.index, labels, refined, parts, masks, agreement, visible, reasons
    )
    n_changed = int(np.count_nonzero(refined != labels))
    return RefinedPlane(tiled.plane.index, refined, scores, n_small, n_changed)


def index_parts(
    labels: npt.NDArray[Any], plane_size: tuple[int, int], min_area: int = 1
) -> LabelParts:
    """Find the connected parts of the objects of a plane.

    Raises
    ------
    InvalidLabelsError
        If the labels are none, or not of the size of the plane.
    """
    if labels.shape != plane_size:
        raise InvalidLabelsError(
            f"the image has planes of {plane_size}, and the labels of {labels.shape}: "
            "they do not belong together"
        )
    # says what is wrong with labels in words that fit them
    objects = index_objects(labels)
    numbered = label_components(labels)
    index = index_objects(numbered)
    owners = np.zeros(len(index) + 1, np.int64)
    owners[numbered.ravel()[objects.pixels]] = objects.object_ids[objects.owners]
    return LabelParts(index.select(index.areas >= min_area), owners)


def sample_part_prompts(
    tiled: TiledPlane, index: ObjectIndex, settings: PromptSettings, margin: int = 0
) -> PlanePrompts:
    """Make the prompts of parts, with boxes moved out by a margin in pixels."""
    if settings.mask:
        side = min(tiled.mask_side, 1024)
        settings = dataclasses.replace(settings, mask_size=side)
    sampled = sample_prompts(index, settings, plane_seed(settings, tiled.plane.index))
    if not margin or not sampled.has_box.any():
        return sampled
    low = np.minimum(sampled.boxes_yx[:, :2] - margin, _middles(sampled) - 0.5)
    high = np.maximum(sampled.boxes_yx[:, 2:] + margin, _middles(sampled) + 0.5)
    low, high = np.maximum(low, 0), np.minimum(high, np.array(tiled.plane.size))
    return dataclasses.replace(sampled, boxes_yx=np.concatenate([low, high], axis=1))


def _middles(sampled: PlanePrompts) -> FloatArray:
    return np.asarray((sampled.boxes_yx[:, :2] + sampled.boxes_yx[:, 2:]) / 2)


def find_masks(
    tiled: TiledPlane, prompts: PlanePrompts
) -> Generator[Progress, None, FoundMasks]:
    """Decode many prompts in batches, of which only the masks are kept.

    Those of one tile follow each other, so that a tile is not encoded twice.

    Returns
    -------
    FoundMasks
        In the order of the prompts.
    """
    n = len(prompts)
    order = np.argsort(_tiles_of(tiled, prompts), kind="stable")
    crops = [np.zeros((0, 0), bool)] * n
    boxes, predicted = np.zeros((n, 4), np.int64), np.zeros(n, np.float32)
    for start in range(0, n, BATCH):
        rows = order[start : start + BATCH]
        stage = Progress("finding masks", start, n)
        yield stage
        found = yield from map_steps(
            tiled.predict_steps(prompts.select(rows)),
            lambda step: stage,  # noqa: B023
        )
        boxes[rows] = found.boxes_yx
        # weights that overflow give no number at all: the worst there is
        predicted[rows] = np.clip(np.nan_to_num(found.iou_predictions), 0, 1)
        for row, crop in zip(rows, found.crops, strict=True):
            crops[row] = crop
    return FoundMasks(crops, boxes, predicted)


def _tiles_of(tiled: TiledPlane, prompts: PlanePrompts) -> IntArray:
    from napari_samseg.core.prompts.framing import prompted_extents

    size = tiled.plane.size
    if len(tiled.tiles) == 1:
        return np.zeros(len(prompts), np.int64)
    extents = prompted_extents(prompts, size)
    return np.array([choose_tile(tiled.tiles, e, size) for e in extents], np.int64)


def _settle(
    masks: FoundMasks,
    parts: LabelParts,
    reasons: npt.NDArray[np.object_],
    settings: RefineSettings,
) -> tuple[PartLabels, FloatArray]:
    """Paint until no part is lost to others; those that were are marked in `reasons`.

    Each round gives at least one part its old pixels back, which nobody can take from
    it, so that there is an end.

    Returns
    -------
    painted : (Y, X) uint32
        Numbers of parts.
    visible : (N,) float32
        Share of each mask that its object got.
    """
    index = parts.index
    while True:
        is_refined = reasons == REFINED
        painted = paint_parts(masks, index, is_refined, parts.owners, settings.overlap)
        visible = np.zeros(len(masks.crops), np.float32)
        is_lost = np.zeros(len(masks.crops), bool)
        for i in np.flatnonzero(masks.areas).tolist():
            region, crop = masks.region(i), masks.crops[i]
            part = index.object_ids[i]
            left = crop & (parts.owners[painted[region]] == parts.owners[part])
            n_left = np.count_nonzero(left)
            visible[i] = n_left / np.count_nonzero(crop)
            shared = np.count_nonzero(index.labels[region][left] == part)
            iou = shared / (n_left + index.areas[i] - shared)
            is_lost[i] = is_refined[i] and (not n_left or iou < settings.agreement)
        if not is_lost.any():
            return painted, visible
        reasons[is_lost] = "covered"


def _score(
    plane: tuple[int, ...],
    before: npt.NDArray[Any],
    after: npt.NDArray[Any],
    parts: LabelParts,
    masks: FoundMasks,
    agreement: FloatArray,
    visible: FloatArray,
    reasons: npt.NDArray[np.object_],
) -> tuple[ObjectScore, ...]:
    index = parts.index
    of_part = parts.owners[index.object_ids]
    ids, rows = np.unique(of_part, return_inverse=True)
    weights = index.areas / np.bincount(rows, weights=index.areas)[rows]

    def mean(values: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(rows, weights=weights * values), np.float32)

    found = masks.areas > 0
    trust = mean(masks.iou_predictions * agreement * visible * found)
    means = [mean(v) for v in (masks.iou_predictions * found, agreement, visible)]
    old, new = index_objects(before), index_objects(after)
    old_rows = np.searchsorted(old.object_ids, ids)
    new_rows = np.searchsorted(new.object_ids, ids)
    is_kept: BoolArray = reasons != REFINED
    scores = []
    for k, object_id in enumerate(ids.tolist()):
        members = np.flatnonzero(rows == k)
        kept = members[is_kept[members]]
        largest = kept[index.areas[kept].argmax()] if len(kept) else None
        boxes = np.stack([old.boxes_yx[old_rows[k]], new.boxes_yx[new_rows[k]]])
        y0, x0 = boxes[:, :2].min(axis=0).tolist()
        y1, x1 = boxes[:, 2:].max(axis=0).tolist()
        scores.append(
            ObjectScore(
                object_id=object_id,
                plane=plane,
                status=REFINED if largest is None else str(reasons[largest]),
                parts=len(members),
                kept=len(kept),
                predicted_iou=float(means[0][k]),
                agreement=float(means[1][k]),
                visible=float(means[2][k]),
                doubt=float(np.clip(1 - trust[k], 0, 1)),
                area_before=int(old.areas[old_rows[k]]),
                area_after=int(new.areas[new_rows[k]]),
                box_yx=(y0, x0, y1, x1),
            )
        )
    return tuple(scores)
