"""Masks of COCO's annotations, read and written: run lengths, and polygons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.instances.outlines import (
    Outline,
    fill_outlines,
    join_rings,
    outlines_of,
)
from napari_samseg.core.io.coco import Annotation
from napari_samseg.core.io.instance_labels import PlaneObject

__all__ = ["ENCODERS", "LeftOut", "decode_mask"]

# Of one run length: more bits than any image has pixels.
MOST_CHARACTERS = 9
CROWD = "of crowds left out: each stands for many objects"
BROKEN = "left out: the mask is broken"
ONLY_BOX = "left out: there is a box and no mask"
OUTSIDE = "left out: no centre of a pixel is inside"


class LeftOut(Exception):
    """Why an annotation cannot be painted."""


def decode_mask(
    item: Annotation, size: tuple[int, int]
) -> tuple[tuple[int, int, int, int], npt.NDArray[np.bool_]]:
    """Return the box (y0, x0, y1, x1) of an annotation's object, and its pixels there.

    Raises
    ------
    LeftOut
        If it cannot be painted.
    """
    if item.get("iscrowd"):
        raise LeftOut(CROWD)
    segmentation = item.get("segmentation")
    if not segmentation:
        raise LeftOut(ONLY_BOX if item.get("bbox") else BROKEN)
    if isinstance(segmentation, Mapping):
        box, crop = _decode_runs(segmentation, size)
    else:
        box, crop = fill_outlines(_polygons(segmentation), size)
    if not crop.any():
        raise LeftOut(OUTSIDE)
    return box, crop


def _decode_runs(
    runs: Mapping[str, Any], size: tuple[int, int]
) -> tuple[tuple[int, int, int, int], npt.NDArray[np.bool_]]:
    if runs.get("size") != list(size):
        raise LeftOut(BROKEN)
    counts = runs.get("counts")
    lengths = _unpack(counts) if isinstance(counts, str) else _whole(counts)
    # pycocotools would leave what no run reaches as it finds it in memory
    if lengths.min(initial=0) < 0 or lengths.sum() != size[0] * size[1]:
        raise LeftOut(BROKEN)
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    mask = flat.reshape(size, order="F")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise LeftOut(OUTSIDE)
    y0, x0, y1, x1 = int(rows[0]), int(columns[0]), int(rows[-1]), int(columns[-1])
    return (y0, x0, y1 + 1, x1 + 1), mask[y0 : y1 + 1, x0 : x1 + 1].copy()


def _whole(counts: object) -> npt.NDArray[np.int64]:
    if not isinstance(counts, list) or not all(type(n) is int for n in counts):
        raise LeftOut(BROKEN)
    try:
        return np.array(counts, np.int64)
    except OverflowError as error:
        raise LeftOut(BROKEN) from error


def _unpack(text: str) -> npt.NDArray[np.int64]:
    """Read lengths of runs from COCO's string: five bits in a character, low first.

    The sixth bit says that more follow; from the fourth on, a number is the difference
    from the one two before.
    """
    code = np.array([ord(c) - 48 for c in text], np.int64)
    if not len(code) or code.min() < 0 or code.max() > 63 or code[-1] & 32:
        raise LeftOut(BROKEN)
    ends = np.flatnonzero(code & 32 == 0)
    starts = np.append(0, ends[:-1] + 1)
    if (ends - starts).max() >= MOST_CHARACTERS:
        raise LeftOut(BROKEN)
    place = np.arange(len(code)) - np.repeat(starts, ends - starts + 1)
    numbers = np.add.reduceat((code & 31) << (5 * place), starts)
    is_negative = (code[ends] & 16) > 0
    numbers -= is_negative.astype(np.int64) << (5 * (ends - starts + 1))
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def _polygons(segmentation: Any) -> list[Outline]:
    """Read COCO's lists [x, y, x, y, ...], of which each is a part of the object."""
    rings = []
    try:
        for flat in segmentation:
            ring = np.array(flat, np.float64)
            if ring.ndim != 1 or len(ring) < 6 or len(ring) % 2:
                raise LeftOut(BROKEN)
            if not np.isfinite(ring).all():
                raise LeftOut(BROKEN)
            rings.append(Outline(ring.reshape(-1, 2)[:, ::-1]))
    except (TypeError, ValueError) as error:
        raise LeftOut(BROKEN) from error
    return rings


def _runs_of(plane: npt.NDArray[Any]) -> Callable[[PlaneObject], Any]:
    from pycocotools import mask as coco_mask

    height, width = plane.shape

    def encode(item: PlaneObject) -> dict[str, Any]:
        # only the columns of the object: the others would cost as much again each
        y0, x0, y1, x1 = item.box_yx
        strip = np.zeros((height, x1 - x0), np.uint8, order="F")
        strip[y0:y1] = item.crop
        runs = _plain_counts(strip)
        runs[0] += height * x0
        after = height * (width - x1)
        if len(runs) % 2:
            runs[-1] += after
        elif after:
            runs.append(after)
        size = [height, width]
        packed = coco_mask.frPyObjects({"size": size, "counts": runs}, *size)
        return {"size": size, "counts": packed["counts"].decode("ascii")}

    return encode


def _plain_counts(mask: npt.NDArray[np.uint8]) -> list[int]:
    """Return lengths of runs, of 0 and 1 in turn, down the columns."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    return [int(n) for n in np.diff(changes, prepend=0, append=len(flat))]


def _polygons_of(plane: npt.NDArray[Any]) -> Callable[[PlaneObject], Any]:
    found = outlines_of(plane)

    def encode(item: PlaneObject) -> list[list[int]]:
        rings = [join_rings(outline) for outline in found[item.object_id]]
        return [ring[:, ::-1].ravel().tolist() for ring in rings]

    return encode


ENCODERS: Mapping[str, Callable[[npt.NDArray[Any]], Callable[[PlaneObject], Any]]] = {
    "rle": _runs_of,
    "polygon": _polygons_of,
}
