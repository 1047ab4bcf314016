"""The first prompt of each object in a batch, and its true mask.

Prompts and targets are those of the package (`core.prompts`, `core.training.targets`);
here they are put from the finer labels of crops onto the model's canvas. Corrections
come later, from what was wrong: `napari_samseg.core.training.prompted`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from napari_samseg.core.prompts.from_labels import (
    BOX_JITTER,
    sample_interior_point,
    sample_jittered_box,
    sample_random_point,
)
from napari_samseg.core.prompts.object_index import ObjectIndex
from napari_samseg.core.training.prompted import FramePrompts
from napari_samseg.core.training.targets import ObjectTargets, window_targets

# labels of crops are so many times as fine as their pixels
FINE = 2
# how often lone points are in the middle, and boxes are drawn without error
CENTRES, TIGHT = 0.25, 0.15
# objects decoded together where the whole canvas is shown: their surroundings are cut
# to the largest of them
TOGETHER = 8
# places that are looked at for one without objects, and pixels around a point there
TRIES, EMPTY_AROUND = 6, 5

Random = np.random.Generator
Float = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class CropObjects:
    """Objects of a crop in its finer labels, and crop pixels in a pixel of the image.

    An image scaled up has prompts at its own pixels: `scale` says how far apart.
    """

    found: ObjectIndex
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class PromptGroup:
    """Objects with one kind of first prompt, decoded together.

    Attributes
    ----------
    crops : (N,) int64 tensor
        Crop of each object.
    prompts : FramePrompts
        In pixels of the canvas.
    targets : ObjectTargets
        As fractions of the canvas.
    """

    crops: torch.Tensor
    prompts: FramePrompts
    targets: ObjectTargets

    @property
    def kind(self) -> str:
        """Name of the first prompt, as figures are named in logs."""
        return "point" if self.prompts.boxes_xyxy is None else "box"


def draw_groups(
    rng: Random,
    shown: list[CropObjects],
    size: int,
    offset_yx: tuple[int, int],
    canvas: int,
) -> list[PromptGroup]:
    """Prompt one half of the objects by boxes and the other by points.

    Parameters
    ----------
    rng : numpy.random.Generator
    shown : list of CropObjects
        Of each crop.
    size : int
        Side of the crops, in pixels.
    offset_yx : (int, int)
        Place of the crops on the canvas.
    canvas : int
        Side of the canvas. Where a crop fills it, its objects are divided by size into
        groups of their own, for only what is around them is decoded.
    """
    place = _Place(size, offset_yx, canvas)
    if size == canvas:
        return [
            _join([_prompt(rng, part, crop, place, by_box=bool(k % 2))])
            for crop, objects in enumerate(shown)
            for k, part in enumerate(_by_size(rng, objects))
        ]
    groups = []
    for by_box in (True, False):
        parts = []
        for crop, objects in enumerate(shown):
            rows = (np.arange(len(objects.found)) + crop) % 2 == int(by_box)
            if rows.any():
                half = CropObjects(objects.found.select(rows), objects.scale)
                parts.append(_prompt(rng, half, crop, place, by_box=by_box))
        if parts:
            groups.append(_join(parts))
    return groups


@dataclass(frozen=True, slots=True, eq=False)
class NothingPrompts:
    """Prompts where there is no object, all of one kind, and the crop of each."""

    crops: torch.Tensor
    prompts: FramePrompts


def draw_nothing(
    rng: Random,
    shown: list[tuple[int, npt.NDArray[np.int32]]],
    size: int,
    offset_yx: tuple[int, int],
) -> list[NothingPrompts]:
    """Prompt places where nothing is, by points and by boxes.

    Parameters
    ----------
    rng : numpy.random.Generator
    shown : list of (int, (FINE Y, FINE X) int32)
        Number and finer labels of each crop; what has no label is no object.
    size : int
        Side of the crops, in pixels.
    offset_yx : (int, int)
        Place of the crops on the canvas.
    """
    corner = np.array(offset_yx[::-1], np.float32)
    points: list[tuple[int, Float]] = []
    boxes: list[tuple[int, Float]] = []
    for crop, labels in shown:
        by_box = bool(rng.integers(2))
        found = _empty_box(rng, labels, by_box=by_box)
        if found is None:
            continue
        y0, x0, y1, x1 = found / FINE
        if by_box:
            boxes.append((crop, np.array([x0, y0, x1 - 1, y1 - 1])))
        else:
            points.append((crop, np.array([(x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2])))
    groups = []
    for rows, is_box in ((points, False), (boxes, True)):
        if not rows:
            continue
        n, width = len(rows), 4 if is_box else 2
        place = torch.from_numpy(np.stack([at for _, at in rows]).astype(np.float32))
        place = place + torch.from_numpy(np.tile(corner, width // 2))
        where = place.new_zeros((n, 0, 2)) if is_box else place[:, None]
        prompts = FramePrompts(
            where, where.new_ones(where.shape[:2]), place if is_box else None
        )
        groups.append(NothingPrompts(torch.tensor([c for c, _ in rows]), prompts))
    return groups


def _empty_box(
    rng: Random, labels: npt.NDArray[np.int32], *, by_box: bool
) -> npt.NDArray[np.int64] | None:
    """Find a box without labels, as large as an object or just around a point."""
    side = len(labels)
    least, most = np.log(8 * FINE), np.log(0.5 * side)
    for _ in range(TRIES):
        lengths = np.full(2, EMPTY_AROUND * FINE)
        if by_box:
            length = np.exp(rng.uniform(least, most))
            lengths = (length * np.exp(rng.uniform(-0.4, 0.4, 2))).astype(np.int64)
        low = rng.integers(0, np.maximum(side - lengths, 1))
        high = np.minimum(low + lengths, side)
        if not labels[low[0] : high[0], low[1] : high[1]].any():
            return np.concatenate([low, high])
    return None


def _by_size(rng: Random, objects: CropObjects) -> list[CropObjects]:
    """Divide objects into two halves at random, and each by size."""
    found = objects.found
    if not len(found):
        return []
    parts: list[CropObjects] = []
    lengths = (found.boxes_yx[:, 2:] - found.boxes_yx[:, :2]).max(axis=1, initial=0)
    order = np.argsort(lengths, kind="stable")
    first = int(rng.integers(2))
    halves = [order[first::2], order[1 - first :: 2]]
    n_parts = -(-len(order) // (2 * TOGETHER))
    for several in zip(*(np.array_split(h, n_parts) for h in halves), strict=True):
        parts += [CropObjects(found.select(rows), objects.scale) for rows in several]
    return [part for part in parts if len(part.found)]


@dataclass(frozen=True, slots=True)
class _Place:
    size: int
    offset_yx: tuple[int, int]
    canvas: int

    @property
    def corner_xy(self) -> npt.NDArray[np.float32]:
        return np.array(self.offset_yx[::-1], np.float32)


def _prompt(
    rng: Random, objects: CropObjects, crop: int, place: _Place, *, by_box: bool
) -> PromptGroup:
    found, n = objects.found, len(objects.found)
    corner = torch.from_numpy(place.corner_xy)
    boxes = None
    points = np.zeros((n, 0, 2), np.float32)
    if by_box:
        boxes = torch.from_numpy(_boxes(rng, objects, place.size))
        boxes = boxes + corner.repeat(2)
    else:
        points = _points(rng, objects)[:, None]
    prompts = FramePrompts(
        torch.from_numpy(points) + corner, torch.ones(points.shape[:2]), boxes
    )
    labels = found.labels
    masks = [
        labels[y0:y1, x0:x1] == i
        for (y0, x0, y1, x1), i in zip(
            found.boxes_yx.tolist(), found.object_ids, strict=True
        )
    ]
    side = FINE * place.size
    targets = window_targets(masks, found.boxes_yx, (side, side), side, clicks=True)
    windows = targets.windows_xyxy * (place.size / place.canvas)
    return PromptGroup(
        torch.full((n,), crop),
        prompts,
        ObjectTargets(
            windows + corner.repeat(2) / place.canvas,
            targets.masks,
            spots_xy=targets.spots_xy,
        ),
    )


def _boxes(rng: Random, objects: CropObjects, size: int) -> Float:
    """Return boxes (N, 4) in xy, with their last pixel, as SAM counts them."""
    jitter = 0.0 if rng.random() < TIGHT else BOX_JITTER
    drawn = sample_jittered_box(objects.found, rng, jitter=jitter).boxes_yx / FINE
    # cut at the border, as they are in a whole image
    y0, x0, y1, x1 = np.clip(drawn, 0, size).T
    # the last pixel of the image, as large as the scale, ends at the box
    s = objects.scale
    return np.stack([x0, y0, x1 - s, y1 - s], axis=1).astype(np.float32)


def _points(rng: Random, objects: CropObjects) -> Float:
    """Return a pixel of each object, its middle or any, (N, 2) in xy."""
    found = objects.found
    anywhere = sample_random_point(found, rng).points_yx[:, 0]
    middle = sample_interior_point(found, rng).points_yx[:, 0]
    is_middle = rng.random((len(found), 1)) < CENTRES
    fine = np.where(is_middle, middle, anywhere) + rng.uniform(0, 1, (len(found), 2))
    # an integer is the centre of a pixel of the image, as large as the scale
    return (fine[:, ::-1] / FINE - 0.5 * objects.scale).astype(np.float32)


def _join(parts: list[PromptGroup]) -> PromptGroup:
    prompts, targets = [p.prompts for p in parts], [p.targets for p in parts]
    boxes = [p.boxes_xyxy for p in prompts if p.boxes_xyxy is not None]
    spots = [t.spots_xy for t in targets if t.spots_xy is not None]
    return PromptGroup(
        torch.cat([p.crops for p in parts]),
        FramePrompts(
            torch.cat([p.points_xy for p in prompts]),
            torch.cat([p.labels for p in prompts]),
            torch.cat(boxes) if boxes else None,
        ),
        ObjectTargets(
            torch.cat([t.windows_xyxy for t in targets]),
            torch.cat([t.masks for t in targets]),
            spots_xy=torch.cat(spots),
        ),
    )
