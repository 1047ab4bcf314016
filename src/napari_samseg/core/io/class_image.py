"""Semantic labels from files, also from pictures that were painted or resaved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.io.label_image import holds_palette_labels, open_label_image

__all__ = [
    "FINDER",
    "ClassImage",
    "GreyLevels",
    "count_levels",
    "grey_classes",
    "is_picture",
    "mask_table",
    "picture_classes",
    "picture_note",
    "read_class_image",
    "read_mask_image",
    "snap_note",
    "snap_table",
]

# What makes objects of classes, wherever somebody reads of it.
FINDER = "`napari-samseg instances` (Labels to instances in napari)"
# The brightest value of a picture of a mask is no less; below are classes or ids.
PICTURE_MAX = 200
# Levels of a picture are further apart: nearer ones are one level and its noise.
LEVEL_GAP = 16
# A picture of a mask has no more levels.
MAX_LEVELS = 8
# Share of the pixels with a value that lie within patches of it, if it is a level: a
# flat place in a smooth edge is an accident.
SOLID_SHARE = 0.02
# Share of patches that noise around the levels of a picture may make up.
NOISE_SHARE = 0.1
# Share of the pixels off the levels that lie between their neighbours if smoothing
# made them; objects with ids are at the lower or upper end of theirs.
RAMP_SHARE = 0.5
# Shares of all pixels in patches and near levels, and of those above 0 near levels, of
# any picture of a mask; photographs have less.
PATCH_SHARE = 0.1
NEAR_SHARE = 0.5
NEAR_SHARE_INSIDE = 0.05
# JPEG leaves patches that are nearly, but not quite black.
NEARLY_BLACK = 4
# A value with few patches or none, such as thin membranes have, is a level if it has
# this share of the pixels and stands out among those off the other levels.
THIN_SHARE = 0.005
THIN_ALONE = 0.9
THIN_ABOVE_OTHERS = 2


@dataclass(frozen=True, slots=True, eq=False)
class ClassImage:
    """Semantic labels, and what was done to get them.

    Attributes
    ----------
    classes : (Y, X) or (Z, Y, X) unsigned integer
    values : tuple of int
        Value in the file of each class, 0 to K; the class itself if the file holds
        classes.
    n_snapped : int
        Pixels whose value lay between those of classes.
    has_palette : bool
        The classes are the indices of a palette.
    """

    classes: npt.NDArray[Any]
    values: tuple[int, ...]
    n_snapped: int = 0
    has_palette: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class GreyLevels:
    """How the values 0..255 lie in the planes of an image; of pieces, these are added.

    Attributes
    ----------
    counts : (256,) int64
        Pixels that have each value.
    solid : (256,) int64
        Of these, pixels that equal their 3 x 3 neighbourhood.
    ramp : (256,) int64
        Of these, pixels with both darker and brighter ones in their neighbourhood.
    """

    counts: npt.NDArray[np.int64]
    solid: npt.NDArray[np.int64]
    ramp: npt.NDArray[np.int64]

    def __add__(self, other: GreyLevels) -> GreyLevels:
        """Return the levels of two pieces together."""
        return GreyLevels(
            self.counts + other.counts,
            self.solid + other.solid,
            self.ramp + other.ramp,
        )

    def count_between(self, values: Sequence[int]) -> int:
        """Count the pixels that have none of some values."""
        return int(self.counts.sum() - self.counts[list(values)].sum())


def read_class_image(path: Path) -> ClassImage:
    """Read semantic labels from any file that images are read from.

    8-bit pictures of masks, grey or RGB with equal channels, whose values are spread
    over 0..255 (0, 127, 255 of AxonDeepSeg; 0, 255 of ImageJ), become classes 0, 1, 2
    in the order of their values, see `picture_classes`. All other labels stay as they
    are, indices of a palette among them.

    Parameters
    ----------
    path : Path
        See `napari_samseg.core.io.image_file.open_image_file`.

    Raises
    ------
    MissingFileError, InvalidImageError
        If there is no such image.
    InvalidLabelsError
        If it holds colours, or real numbers that are not whole.
    """
    array, has_palette = _read(path), holds_palette_labels(path)
    image = None if has_palette else picture_classes(array)
    if image is not None:
        return image
    values = tuple(np.unique(array).tolist())
    return ClassImage(array, values, has_palette=has_palette)


def read_mask_image(path: Path) -> ClassImage:
    """Read a mask of one class: 0, and 1 where it is.

    Parameters
    ----------
    path : Path
        8-bit pictures are cut at half of their maximum, see `mask_table`; of all
        other labels, what is above 0 is the mask. Errors as in `read_class_image`.
    """
    array, has_palette = _read(path), holds_palette_labels(path)
    is_shades = _may_be_picture(array) and not has_palette
    table = mask_table(count_levels(array)) if is_shades else None
    if table is None:
        mask = (array > 0).astype(np.uint8)
        return ClassImage(mask, (0, 1), has_palette=has_palette)
    top = int(array.max())
    n_snapped = int(((array > 0) & (array < top)).sum())
    return ClassImage(table[array], (0, top), n_snapped)


def _read(path: Path) -> npt.NDArray[Any]:
    with open_label_image(path) as labels:
        return np.asarray(labels[...])


def picture_classes(array: npt.NDArray[Any]) -> ClassImage | None:
    """Give each pixel of a picture of a mask the class of the nearest level.

    Smoothing, resizing or JPEG leave values between those of the classes along
    edges; each of these goes to the nearest value of which there are solid patches.

    Parameters
    ----------
    array : (..., Y, X) integer

    Returns
    -------
    ClassImage or None
        0 and the maximum are always classes. None where the values are themselves
        classes or ids.
    """
    if not _may_be_picture(array):
        return None
    levels = count_levels(array)
    values = grey_classes(levels)
    if values is None:
        return None
    return ClassImage(snap_table(values)[array], values, levels.count_between(values))


def snap_table(values: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Return the class of each grey level: the position of the nearest of `values`."""
    levels = np.arange(256)[:, np.newaxis]
    nearest: npt.NDArray[Any] = np.abs(levels - np.asarray(values)).argmin(axis=1)
    return nearest.astype(np.uint8)


def mask_table(levels: GreyLevels) -> npt.NDArray[np.uint8] | None:
    """Return where a mask of one class is, for each grey level.

    Edges that were smoothed are cut at half of the maximum, where they were.

    Returns
    -------
    (256,) uint8 or None
        None where all that is not 0 is the mask: the values are ids, or below 200.
    """
    present = np.flatnonzero(levels.counts)
    if not len(present) or present[-1] < PICTURE_MAX:
        return None
    if grey_classes(levels) is None and not _is_ramp(levels, [0, present[-1]]):
        return None
    table: npt.NDArray[np.uint8] = (np.arange(256) * 2 > present[-1]).astype(np.uint8)
    return table


def count_levels(picture: npt.NDArray[Any]) -> GreyLevels:
    """Count values, solid patches and ramps in each plane of (..., Y, X) uint8."""
    low, high = (_among_neighbours(picture, f) for f in (np.minimum, np.maximum))
    chosen = (
        picture.ravel(),
        picture[low == high],
        picture[(low < picture) & (picture < high)],
    )
    return GreyLevels(*(np.bincount(part, minlength=256) for part in chosen))


def _among_neighbours(picture: npt.NDArray[Any], choose: np.ufunc) -> npt.NDArray[Any]:
    """Return the least or largest value in 3 x 3 pixels, cut off at the border.

    Several times as fast as filters of scipy, for volumes of which all is looked at.
    """
    rows = picture.copy()
    choose(rows[..., 1:, :], picture[..., :-1, :], out=rows[..., 1:, :])
    choose(rows[..., :-1, :], picture[..., 1:, :], out=rows[..., :-1, :])
    found = rows.copy()
    choose(found[..., 1:], rows[..., :-1], out=found[..., 1:])
    choose(found[..., :-1], rows[..., 1:], out=found[..., :-1])
    return found


def is_picture(array: npt.NDArray[Any]) -> bool:
    """Tell whether values are grey levels of a picture rather than classes or ids."""
    return _may_be_picture(array) and grey_classes(count_levels(array)) is not None


def picture_note(path: Path | str) -> str:
    """Return what to tell of a picture of a mask that is given for instances."""
    return (
        f"{path} looks like a picture of a mask: each of its grey levels is "
        f"taken for one object; {FINDER} finds the objects"
    )


def snap_note(name: Path | str, n: int, values: Sequence[int]) -> list[str]:
    """Return what to tell of pixels that went to the nearest level, if any did."""
    named = ", ".join(map(str, values))
    pixels = count_things(n, "pixel")
    note = (
        f"{name}: {pixels} had values between those of the classes {named}, and went "
        "to the nearest"
    )
    return [note] if n else []


def _may_be_picture(array: npt.NDArray[Any]) -> bool:
    if array.dtype != np.uint8 or array.ndim < 2:
        return False
    return bool(array.max(initial=0) >= PICTURE_MAX)


def grey_classes(levels: GreyLevels) -> tuple[int, ...] | None:
    """Return the grey levels that are classes of a picture of a mask.

    Returns
    -------
    tuple of int or None
        In rising order, from 0; None where the values are themselves classes or ids.
    """
    present = np.flatnonzero(levels.counts)
    if not len(present) or present[-1] < PICTURE_MAX:
        return None
    values = _find_levels(levels)
    if np.array_equal(present, values):
        return tuple(values.tolist())
    if len(values) > MAX_LEVELS or not _is_ramp(levels, values):
        return None
    if _looks_natural(levels, values):
        return None
    noise = levels.solid.copy()
    noise[values] = 0
    # of ids alone nearly all have patches
    if noise.any() and np.count_nonzero(levels.solid) * 2 > len(present):
        return None
    # they follow one another, and their patches are as large as those of levels
    noise[: NEARLY_BLACK + 1] = 0
    if noise.sum() > NOISE_SHARE * levels.solid[1:].sum():
        return None
    return tuple(values.tolist())


def _looks_natural(levels: GreyLevels, values: npt.NDArray[np.int64]) -> bool:
    """Tell whether values are spread as in a photograph, or a slope."""
    at, counts = np.arange(256)[:, np.newaxis], levels.counts
    is_near = np.abs(at - values).min(axis=1) <= LEVEL_GAP
    is_near_inside = np.abs(at - values[values > 0]).min(axis=1) <= LEVEL_GAP
    n_near, n_near_inside = counts[is_near].sum(), counts[1:][is_near_inside[1:]].sum()
    is_spread = (
        n_near < NEAR_SHARE * counts.sum()
        or n_near_inside < NEAR_SHARE_INSIDE * counts[1:].sum()
    )
    is_rough = levels.solid.sum() < PATCH_SHARE * counts.sum()
    return bool(is_spread or is_rough)


def _is_ramp(levels: GreyLevels, values: Sequence[int] | npt.NDArray[Any]) -> bool:
    """Tell whether what is not one of the values is what smoothing left at edges."""
    counts, ramp = levels.counts.copy(), levels.ramp.copy()
    at = np.asarray(values, np.int64)
    counts[at] = ramp[at] = 0
    return bool(ramp.sum() >= RAMP_SHARE * counts.sum())


def _find_levels(levels: GreyLevels) -> npt.NDArray[np.int64]:
    """Return 0, all values that stand out by solid patches, and the maximum."""
    counts, solid = levels.counts, levels.solid
    present = np.flatnonzero(counts)
    is_solid = (solid > 0) & (solid >= SOLID_SHARE * counts)
    is_solid[0] = False
    found = [0]
    for value in np.argsort(-solid, kind="stable"):
        if is_solid[value] and np.abs(np.array(found) - value).min() > LEVEL_GAP:
            found.append(int(value))
    if len(present) and present[-1] - max(found) > LEVEL_GAP:
        found.append(int(present[-1]))
    thin = _find_thin(levels, found)
    return np.unique(found if thin is None else [*found, thin])


def _find_thin(levels: GreyLevels, found: list[int]) -> int | None:
    """Return the level whose parts are too thin for patches, or all but; None if none.

    The mean of two levels, which resizing leaves at straight edges, never has any.
    """
    off = levels.counts.copy()
    # what is near a level is its noise
    for value in found:
        off[max(0, value - LEVEL_GAP) : value + LEVEL_GAP + 1] = 0
    thin = int(off.argmax())
    if off[thin] < max(1, THIN_SHARE * levels.counts.sum()):
        return None
    others = np.delete(off, np.arange(max(0, thin - 2), min(256, thin + 3)))
    stands_out = levels.solid[thin] and off[thin] > THIN_ABOVE_OTHERS * others.max()
    return thin if stands_out or off[thin] > THIN_ALONE * off.sum() else None
