"""Objects of labels, checked by a model and split where it sees several.

Not one of `INSTANCE_METHODS`: those know labels alone, and this needs the image and a
model. It goes on from the labels that any of them makes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.geometry import Box
from napari_samseg.core.instances.components import Labels
from napari_samseg.core.instances.seeds import distant_peaks
from napari_samseg.core.instances.watershed import (
    distance_inside,
    flood,
    smoothed_distance,
)
from napari_samseg.core.prompts.object_index import ObjectIndex
from napari_samseg.core.refine.painting import FoundMasks, measure_agreement
from napari_samseg.core.refine.plane import (
    find_masks,
    index_parts,
    sample_part_prompts,
)
from napari_samseg.core.settings import PromptSettings
from napari_samseg.core.types import (
    BACKGROUND,
    FOREGROUND,
    PADDING,
    BoolArray,
    IntArray,
    PlanePrompts,
    Progress,
)

if TYPE_CHECKING:
    from napari_samseg.core.tiled import TiledPlane

__all__ = ["CheckedObject", "CheckedPlane", "split_by_sam"]

# Two masks that share more than this of the smaller one show the same thing.
SAME = 0.5
# A part below this share of its object is a detail of it, not an object beside others.
LEAST_SHARE = 0.05
# Middles of other parts that are told to be something else, the nearest first.
OTHERS = 4


@dataclass(frozen=True, slots=True)
class CheckedObject:
    """What a model says of one connected object.

    Attributes
    ----------
    ids : tuple of int
        In the labels that come out; several where it was split.
    verdict : str
        "whole", "split", or "disagrees": the model sees neither this object nor
        several in its place, and it stays as it was, to be looked at.
    agreement : float
        IoU of the object with the mask, or with all masks of its parts together.
    predicted_iou : float
        What the model thinks of the mask, or of those of the parts on average.
    doubt : float
        1 minus the product of these two.
    box_yx : (y0, x0, y1, x1)
    """

    ids: tuple[int, ...]
    verdict: str
    agreement: float
    predicted_iou: float
    doubt: float
    box_yx: Box


@dataclass(frozen=True, slots=True, eq=False)
class CheckedPlane:
    """Labels after a model has looked at them.

    Attributes
    ----------
    labels : (Y, X) uint32
        1 to N; every pixel that belonged to an object still does.
    objects : tuple of CheckedObject
        The most doubtful first.
    """

    labels: Labels
    objects: tuple[CheckedObject, ...]

    def __str__(self) -> str:
        verdicts = [item.verdict for item in self.objects]
        return (
            f"{count_things(len(verdicts), 'object')} checked, "
            f"{verdicts.count('split')} split, {verdicts.count('disagrees')} to look at"
        )


def split_by_sam(
    tiled: TiledPlane,
    labels: npt.NDArray[Any],
    *,
    min_distance: float = 5.0,
    smoothing: float = 1.0,
    agreement: float = 0.6,
) -> Generator[Progress, None, CheckedPlane]:
    """Check each connected object of a plane, and split those that are several.

    An object is prompted by its box, and by a point at each of its middles (peaks of
    the distance to its border) with the nearest other middles as background. It is
    split if the masks of at least two middles are different things that together fit
    it: a box says that something is one object, and is believed, points do not. Parts
    meet at its waist.

    Parameters
    ----------
    tiled : TiledPlane
    labels : (Y, X) bool or integer
        A mask, classes or instances; connected pixels of one value are an object.
    min_distance, smoothing : float
        Of middles, in pixels; see `napari_samseg.core.instances.watershed.
        split_touching`.
    agreement : float
        IoU of an object with its mask, or with those of its parts together, from which
        these are believed.

    Raises
    ------
    InvalidLabelsError
        If the labels are none, or not of the size of the plane.
    """
    as_numbers = labels.astype(np.uint8) if labels.dtype == bool else labels
    index = index_parts(as_numbers, tiled.plane.size).index
    parts: Labels = index.labels.astype(np.uint32)
    if not len(index):
        return CheckedPlane(parts, ())
    boxes = sample_part_prompts(tiled, index, PromptSettings())
    wholes = yield from find_masks(tiled, boxes)
    fits = measure_agreement(wholes, index)
    distance = smoothed_distance(parts, None, smoothing)
    peaks = distant_peaks(distance, parts, min_distance, None)
    owners, prompts = _prompt_peaks(peaks, parts)
    masks = None
    if prompts is not None:
        masks = yield from find_masks(tiled, prompts)
    objects: list[CheckedObject] = []
    seeds = np.zeros(parts.shape, np.int32)
    for i, part in enumerate(index.object_ids.tolist()):
        found = None
        if masks is not None and (owners == part).any():
            found = _Several(index, i, masks, np.flatnonzero(owners == part))
        box = _box(index, i)
        first = int(seeds.max()) + 1
        values: tuple[str, float, float]
        if found is not None and found.n > 1 and found.fit >= agreement:
            ids = found.plant(seeds, first)
            values = "split", found.fit, found.predicted_iou
        else:
            ids = (first,)
            rows, columns = slice(box[0], box[2]), slice(box[1], box[3])
            seeds[rows, columns][parts[rows, columns] == part] = first
            verdict = "whole" if fits[i] >= agreement else "disagrees"
            values = verdict, float(fits[i]), float(wholes.iou_predictions[i])
        doubt = 1 - values[1] * values[2]
        objects.append(CheckedObject(ids, *values, doubt=doubt, box_yx=box))
    # parts grow into what no mask covers, and meet at the waist
    done = _grow(seeds, parts)
    return CheckedPlane(done, tuple(sorted(objects, key=lambda item: -item.doubt)))


def _grow(seeds: npt.NDArray[np.int32], parts: Labels) -> Labels:
    """Give all pixels of an object to its parts, and none to those of a neighbour."""
    from skimage.segmentation import find_boundaries

    # touching objects are kept apart by a wall that is taken down afterwards
    wall = find_boundaries(parts, mode="outer") & (parts != 0) & (seeds == 0)
    grown = flood(-distance_inside(parts), seeds, (parts != 0) & ~wall, 2)
    left = (parts != 0) & (grown == 0)
    if left.any():
        grown = _fill_nearest(grown, parts, left)
    return grown


def _fill_nearest(grown: Labels, parts: Labels, left: BoolArray) -> Labels:
    from scipy.ndimage import distance_transform_edt

    for part in np.unique(parts[left]).tolist():
        mine = parts == part
        _, nearest = distance_transform_edt(~(mine & (grown != 0)), return_indices=True)
        todo = left & mine
        grown[todo] = grown[tuple(axis[todo] for axis in nearest)]
    return grown


def _box(index: ObjectIndex, i: int) -> Box:
    y0, x0, y1, x1 = index.boxes_yx[i].tolist()
    return y0, x0, y1, x1


def _prompt_peaks(
    peaks: IntArray, parts: Labels
) -> tuple[IntArray, PlanePrompts | None]:
    """Make a prompt of each middle of objects with several.

    Returns
    -------
    owners : (N,) int64
        Object of each prompt.
    prompts : PlanePrompts or None
        None where no object has several middles.
    """
    of = parts[tuple(peaks.T)].astype(np.int64)
    is_several = np.bincount(of, minlength=1)[of] > 1
    peaks, of = peaks[is_several], of[is_several]
    n = len(peaks)
    if not n:
        return of, None
    points = np.zeros((n, 1 + OTHERS, 2), np.float32)
    signs = np.full((n, 1 + OTHERS), PADDING, np.int8)
    for i, others in enumerate(_nearest_of_same(peaks, of)):
        points[i, 0], signs[i, 0] = peaks[i], FOREGROUND
        points[i, 1 : 1 + len(others)] = peaks[others]
        signs[i, 1 : 1 + len(others)] = BACKGROUND
    boxes = np.full((n, 4), np.nan, np.float32)
    return of, PlanePrompts(np.arange(1, n + 1), points, signs, boxes)


def _nearest_of_same(peaks: IntArray, of: IntArray) -> Iterator[IntArray]:
    for i in range(len(peaks)):
        same = np.flatnonzero((of == of[i]) & (np.arange(len(of)) != i))
        away = np.square(peaks[same] - peaks[i]).sum(axis=1)
        yield same[np.argsort(away, kind="stable")[:OTHERS]]


class _Several:
    """The different things that the middles of one object belong to."""

    def __init__(
        self, index: ObjectIndex, i: int, masks: FoundMasks, rows: IntArray
    ) -> None:
        self._box = _box(index, i)
        y0, x0, y1, x1 = self._box
        self._shape = index.labels[y0:y1, x0:x1] == index.object_ids[i]
        least = LEAST_SHARE * int(index.areas[i])
        order = rows[np.argsort(-masks.iou_predictions[rows], kind="stable")]
        self._kept: list[BoolArray] = []
        predicted: list[float] = []
        areas, outside = masks.areas, 0
        for row in order.tolist():
            inside = self._crop(masks, row)
            area = np.count_nonzero(inside)
            if area < least or any(
                np.count_nonzero(inside & kept)
                > SAME * min(area, np.count_nonzero(kept))
                for kept in self._kept
            ):
                continue
            self._kept.append(inside)
            predicted.append(float(masks.iou_predictions[row]))
            outside += int(areas[row]) - int(area)
        self.n = len(self._kept)
        union = np.any(self._kept, axis=0) if self._kept else np.zeros(0, bool)
        self.fit = int(np.count_nonzero(union)) / (int(index.areas[i]) + outside)
        self.predicted_iou = float(np.mean(predicted)) if predicted else 0.0

    def _crop(self, masks: FoundMasks, row: int) -> BoolArray:
        """Return the part of a mask that lies in the object, in the object's box."""
        inside = np.zeros(self._shape.shape, bool)
        top, left, bottom, right = masks.boxes_yx[row].tolist()
        y0, x0, y1, x1 = self._box
        rows = slice(max(top, y0), min(bottom, y1))
        columns = slice(max(left, x0), min(right, x1))
        if rows.start < rows.stop and columns.start < columns.stop:
            inside[
                rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0
            ] = masks.crops[row][
                rows.start - top : rows.stop - top,
                columns.start - left : columns.stop - left,
            ]
        return np.asarray(inside & self._shape)

    def plant(self, seeds: npt.NDArray[np.int32], first: int) -> tuple[int, ...]:
        """Paint the parts, the most certain on top, and return their ids."""
        y0, x0, y1, x1 = self._box
        ids = tuple(range(first, first + self.n))
        for part, inside in zip(reversed(ids), reversed(self._kept), strict=True):
            seeds[y0:y1, x0:x1][inside] = part
        return ids
