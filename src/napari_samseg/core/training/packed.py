"""True masks of many objects on disk: one bit for each pixel of their boxes.

A training may have a million objects and go on for days, while the labels it was
started from are edited: they are copied once, small, and read from there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from napari_samseg.core.prompts.object_index import ObjectIndex
from napari_samseg.core.training.writing import telling_what_failed
from napari_samseg.core.types import BoolArray, IntArray

__all__ = ["ObjectWriter", "PackedObjects"]


@dataclass(frozen=True, slots=True, eq=False)
class PackedObjects:
    """Masks of N objects in a file.

    Attributes
    ----------
    object_ids : (N,) int64
        In the labels they come from.
    boxes_yx : (N, 4) int64
        Half-open, in pixels of the view that shows them.
    starts : (N,) int64
        Where each mask begins in the file, in bytes.
    bits : (bytes,) uint8
        Mapped into memory; only what is read takes any.
    classes : (N,) int64
        Class of each, where classes are balanced; 0 otherwise.
    """

    object_ids: IntArray
    boxes_yx: IntArray
    starts: IntArray
    bits: npt.NDArray[np.uint8]
    classes: IntArray

    def __len__(self) -> int:
        return len(self.object_ids)

    @property
    def n_bytes(self) -> int:
        """How long the file is that holds all the masks."""
        sides = self.boxes_yx[:, 2:] - self.boxes_yx[:, :2]
        return int((self.starts + -(-sides.prod(axis=1) // 8)).max(initial=0))

    def crop(self, row: int) -> BoolArray:
        """Return the mask of an object inside its box, (y, x) bool."""
        y0, x0, y1, x1 = self.boxes_yx[row].tolist()
        n_pixels = (y1 - y0) * (x1 - x0)
        start = int(self.starts[row])
        packed = np.asarray(self.bits[start : start + math.ceil(n_pixels / 8)])
        crop = np.unpackbits(packed, count=n_pixels).reshape(y1 - y0, x1 - x0)
        return crop.view(bool)

    def index(self, rows: IntArray, size: tuple[int, int]) -> ObjectIndex:
        """Return some objects of one view as samplers of prompts want them.

        They are numbered from 1, as two objects may have the same id where masks
        overlap or planes differ.

        Parameters
        ----------
        rows : (n,) int64
        size : (int, int)
            (Y, X) of the view.
        """
        labels = np.zeros(size, np.uint32)
        pixels, areas = [], []
        for number, row in enumerate(rows.tolist(), start=1):
            y0, x0, y1, x1 = self.boxes_yx[row].tolist()
            crop = self.crop(row)
            labels[y0:y1, x0:x1][crop] = number
            y, x = np.nonzero(crop)
            pixels.append((y + y0) * size[1] + x + x0)
            areas.append(len(y))
        return ObjectIndex(
            labels,
            np.arange(1, len(rows) + 1),
            self.boxes_yx[rows],
            np.array(areas, np.int64),
            np.concatenate(pixels) if pixels else np.zeros(0, np.int64),
        )


class ObjectWriter:
    """Writes masks into a file, for as long as the ``with`` block goes on.

    Parameters
    ----------
    path : Path
        Replaced if it is there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids: list[int] = []
        self._boxes: list[tuple[int, int, int, int]] = []
        self._starts: list[int] = []
        self._classes: list[int] = []
        self._end = 0

    def __enter__(self) -> ObjectWriter:
        with telling_what_failed(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with telling_what_failed(self._path):
            self._file.close()

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, objects: ObjectIndex, classes: Mapping[int, int]) -> None:
        """Write the masks of the objects of a view, and their classes by id."""
        for object_id, box in zip(
            objects.object_ids.tolist(), objects.boxes_yx.tolist(), strict=True
        ):
            y0, x0, y1, x1 = box
            packed = np.packbits(objects.labels[y0:y1, x0:x1] == object_id)
            with telling_what_failed(self._path):
                self._file.write(packed.tobytes())
            self._ids.append(object_id)
            self._boxes.append((y0, x0, y1, x1))
            self._starts.append(self._end)
            self._classes.append(classes.get(object_id, 0))
            self._end += len(packed)

    def read(self) -> PackedObjects:
        """Return what was written, once the ``with`` block has ended."""
        bits: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
        if self._end:  # an empty file cannot be mapped
            bits = np.memmap(self._path, np.uint8, "r")
        return PackedObjects(
            np.array(self._ids, np.int64),
            np.array(self._boxes, np.int64).reshape(-1, 4),
            np.array(self._starts, np.int64),
            bits,
            np.array(self._classes, np.int64),
        )
