"""Classes from arrays of any kind, read piece by piece: what they mean is settled once.

Masks come as labels, as pictures with two or three grey levels, as real numbers that
are whole, and as one mask for each class. Planes and blocks of one volume must be
understood alike, so that a sample of the whole is looked at first.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.images import ArrayLike
from napari_samseg.core.io.class_image import (
    GreyLevels,
    count_levels,
    grey_classes,
    mask_table,
    snap_note,
    snap_table,
)
from napari_samseg.core.io.label_doubts import looks_natural
from napari_samseg.core.io.label_image import grey_values, whole_numbers
from napari_samseg.core.types import Progress

__all__ = [
    "AXON",
    "MYELIN",
    "ClassSource",
    "join_masks",
    "open_classes_steps",
    "photograph_notes",
]

# Classes of axons and myelin drawn as one mask each.
MYELIN, AXON = 1, 2
# Values of a volume that are looked at to see what they mean.
SAMPLE_VALUES = 1 << 25


@dataclass(frozen=True, slots=True, eq=False)
class ClassSource:
    """Classes (Y, X) or (Z, Y, X), read where they are asked for.

    Attributes
    ----------
    name : str
        What the classes are called in messages.
    array : array-like
        bool, integer or real, with a last axis of colours if `is_colour`.
    is_colour : bool
    table : (256,) uint8 or None
        Class of each grey level of a picture.
    myelin : ClassSource or None
        A second mask of the same shape: then this one is of axons, see `join_masks`.
    notes : tuple of str
        What a person should know.
    is_sampled : bool
        Only some planes were looked at: others may hold classes that these have not,
        and would go to the nearest one.
    is_photograph : bool
        The values look like those of a photograph, which was not refused.
    """

    name: str
    array: Any
    is_colour: bool = False
    table: npt.NDArray[np.uint8] | None = None
    myelin: ClassSource | None = None
    notes: tuple[str, ...] = field(default=())
    is_sampled: bool = False
    is_photograph: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Without colours, in pixels."""
        shape = tuple(int(n) for n in self.array.shape)
        return shape[:-1] if self.is_colour else shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of what is read: unsigned where the array's is not an integer."""
        if self.table is not None or self.myelin is not None:
            return np.dtype(np.uint8)
        own: np.dtype[Any] = np.dtype(self.array.dtype)
        if own.kind == "f":
            return np.dtype(np.uint32)
        return np.dtype(np.uint8) if own.kind == "b" else own

    def __getitem__(self, key: Any, /) -> npt.NDArray[Any]:
        """Read a part.

        Raises
        ------
        InvalidLabelsError
            If it holds colours, negative numbers, or real ones that are not whole.
        """
        values: npt.NDArray[Any] = np.asarray(self.array[key])
        if self.is_colour:
            values = grey_values(values, self.name)
        if values.dtype.kind == "f":
            values = whole_numbers(values, self.name)
        elif values.dtype.kind == "b":
            values = values.astype(np.uint8)
        elif values.dtype.kind == "i" and values.size and values.min() < 0:
            raise InvalidLabelsError(
                f"{self.name} holds negative labels, {values.min()} is the lowest: 0 "
                "is the background, and classes are above"
            )
        if self.table is not None:
            values = self.table[values]
        if self.myelin is not None:
            return join_masks(values, self.myelin[key])
        return values


def join_masks(
    axon: npt.NDArray[Any], myelin: npt.NDArray[Any]
) -> npt.NDArray[np.uint8]:
    """Make one class map of a mask of axons and one of myelin.

    Parameters
    ----------
    axon, myelin : bool or integer, of one shape

    Returns
    -------
    uint8
        0 background, 1 myelin, 2 axon; what is in both is axon.
    """
    return np.where(axon, AXON, np.where(myelin, MYELIN, 0)).astype(np.uint8)


def open_classes_steps(
    array: ArrayLike,
    name: str,
    *,
    is_colour: bool = False,
    is_image: bool = False,
    is_mask: bool = False,
    refuses: bool = True,
    samples: bool = False,
    myelin: ClassSource | None = None,
) -> Generator[Progress, None, ClassSource]:
    """Find out what the values of an array mean.

    Parameters
    ----------
    array : (Y, X) or (Z, Y, X) array-like, with a last axis of colours if `is_colour`
    name : str
        What it is called in messages.
    is_colour : bool
        Colours are refused unless they are all grey.
    is_image : bool
        Nobody has said yet that these are labels: a photograph is refused, and grey
        levels far apart, such as 0, 127 and 255, are taken for classes 0, 1, 2.
    is_mask : bool
        There is one class: pictures of it are cut at half of their maximum.
    refuses : bool
        Refuse a photograph, and what is empty; otherwise `is_photograph` tells.
    samples : bool
        Do for a preview: the grey levels of a large picture are found in some of its
        planes, rather than in all.
    myelin : ClassSource, optional
        A second mask of the same shape: then the array is a mask of axons.

    Raises
    ------
    InvalidLabelsError
        If it holds no classes; says what to do.
    """
    source = ClassSource(name, array, is_colour)
    if len(source.shape) not in (2, 3):
        raise InvalidLabelsError(
            f"{name} has {len(source.shape)} axes {source.shape}, and instances are "
            "found in a plane (Y, X) or a volume (Z, Y, X): take out one time point"
        )
    if myelin is not None and myelin.shape != source.shape:
        raise InvalidLabelsError(
            f"{name} has shape {source.shape}, and {myelin.name} {myelin.shape}: they "
            "are not masks of one image"
        )
    counted: GreyLevels | None = None
    n_seen = n_photographs = 0
    pieces = list(_sample(source.shape))
    for done, piece in enumerate(pieces):
        yield Progress(f"looking at {name}", done, len(pieces))
        values = source[piece]
        if values.any():
            n_seen += 1
            # nobody asks it of labels that are known to be some
            n_photographs += (is_image or not refuses) and looks_natural(values)
        if is_image and values.dtype == np.uint8:
            piece_levels = count_levels(values)
            counted = piece_levels if counted is None else counted + piece_levels
    is_whole = not _rest(source.shape, pieces)
    is_sampled = counted is not None and samples and not is_whole
    if counted is not None and not samples:
        counted = yield from _count_rest(source, pieces, counted)
    levels = None if counted is None else grey_classes(counted)
    looks_so = levels is None and n_photographs * 2 > n_seen
    if refuses:
        _check_classes(name, is_empty=not n_seen and is_whole, is_photograph=looks_so)
    table, notes = _explain(counted, name, is_mask=is_mask or myelin is not None)
    if myelin is not None:
        notes += myelin.notes
        is_sampled = is_sampled or myelin.is_sampled
        looks_so = looks_so or myelin.is_photograph
    return ClassSource(
        name, array, is_colour, table, myelin, tuple(notes), is_sampled, looks_so
    )


def _check_classes(name: str, *, is_empty: bool, is_photograph: bool) -> None:
    if is_empty:
        raise InvalidLabelsError(
            f"{name} is empty: all its pixels are 0, which is the background"
        )
    if is_photograph:
        raise InvalidLabelsError(
            f"{name} looks like a photograph, not like classes: neighbouring pixels "
            "differ nearly everywhere. Apply a threshold first, or choose a mask"
        )


def photograph_notes(name: str, *, as_is: bool) -> list[str]:
    """Return what to tell of classes in a file that look like a photograph.

    Parameters
    ----------
    name : str
        What they are called.
    as_is : bool
        They are to be worked on all the same.

    Raises
    ------
    InvalidLabelsError
        If they are not.
    """
    seen = f"{name} looks like a photograph, not like classes: neighbouring pixels "
    if as_is:
        return [f"{seen}differ nearly everywhere, and each value is taken for a class"]
    raise InvalidLabelsError(
        f"{seen}differ nearly everywhere. Apply a threshold first, or choose a mask; "
        "--as-is takes each value for a class"
    )


def _explain(
    counted: GreyLevels | None, name: str, *, is_mask: bool
) -> tuple[npt.NDArray[np.uint8] | None, list[str]]:
    """Return the class of each grey level, if it is one, and what to tell of it."""
    if counted is None:
        return None, []
    levels, notes = grey_classes(counted), list[str]()
    table = None if levels is None else snap_table(levels)
    if levels is not None:
        notes += snap_note(name, counted.count_between(levels), levels)
    return (mask_table(counted) if is_mask else table), notes


def _sample(shape: Sequence[int]) -> list[tuple[slice, ...]]:
    """Return planes spread over a volume, as many as there is patience for."""
    if len(shape) == 2:
        rows = max(1, SAMPLE_VALUES // max(1, shape[1]))
        middle = max(0, (shape[0] - rows) // 2)
        return [(slice(middle, middle + rows),)]
    n_planes = max(1, min(shape[0], SAMPLE_VALUES // max(1, math.prod(shape[1:]))))
    places = np.linspace(0, shape[0] - 1, n_planes).round().astype(int)
    return [(slice(int(z), int(z) + 1),) for z in np.unique(places)]


def _rest(
    shape: Sequence[int], seen: list[tuple[slice, ...]]
) -> list[tuple[slice, ...]]:
    """Return what a sample leaves out, in parts of one plane."""
    starts = [piece[0].start for piece in seen] + [shape[0]]
    stops = [0] + [min(piece[0].stop, shape[0]) for piece in seen]
    gaps = list(zip(stops, starts, strict=True))
    rows = max(1, SAMPLE_VALUES // max(1, shape[-1]))
    if len(shape) == 2:
        return [
            (slice(row, min(row + rows, stop)),)
            for start, stop in gaps
            for row in range(start, stop, rows)
        ]
    return [
        (slice(z, z + 1), slice(row, row + rows))
        for start, stop in gaps
        for z in range(start, stop)
        for row in range(0, shape[1], rows)
    ]


def _count_rest(
    source: ClassSource, seen: list[tuple[slice, ...]], counted: GreyLevels
) -> Generator[Progress, None, GreyLevels]:
    """Add the grey levels of all that a sample leaves out."""
    rest = _rest(source.shape, seen)
    for done, piece in enumerate(rest):
        yield Progress(f"counting the grey levels of {source.name}", done, len(rest))
        counted += count_levels(source[piece])
    return counted
