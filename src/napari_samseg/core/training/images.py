"""Images with the labels a model is to learn, and how they are divided.

Images of one group (a patient, an animal, a volume) are never on both sides: what is
validated must not have been seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.images import ArrayLike, PlaneSource
from napari_samseg.core.settings import ImageSettings, TuneSettings
from napari_samseg.core.types import BoolArray, IntArray

__all__ = [
    "SPLITS",
    "LabelledImage",
    "LabelledPlane",
    "count_sides",
    "describe_sides",
    "distinct",
    "divide",
]

PlaneIndex = tuple[int, ...]

# Planes between those trained on and those validated on, as a share of all: next to
# each other they are nearly the same.
GAP = 0.05
# What `divide` returns, in words.
SPLITS = {
    "none": "nothing is validated: the last weights count as the best",
    "groups": "no group (patient, animal, file) is on both sides",
    "planes": "the last planes are validated on, after a gap",
    "sections": "the last planes are validated on, after a gap; other planes of the "
    "same objects are trained on",
    "objects": "one image: the objects at one end of it are validated on",
}
# A volume of fewer labelled planes, along each of its axes, is not divided into blocks.
MIN_BLOCKS = 5


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """An image or volume, and the labels of its objects.

    Attributes
    ----------
    name : str
        For people and messages.
    source : PlaneSource
    labels : (..., Y, X) integer, array-like
        Instance labels, 0 is what has no label; read plane by plane.
    group : str
        Patient, animal or volume that it belongs to; its name if not given.
    settings : ImageSettings
        How the image is seen; its resolution level must be that of the labels.

    Raises
    ------
    InvalidLabelsError
        If the labels are not integers, or not of the image's shape.
    """

    name: str
    source: PlaneSource
    labels: ArrayLike
    group: str = ""
    settings: ImageSettings = field(default_factory=ImageSettings)

    def __post_init__(self) -> None:
        expected = self.source.level_shape(self.settings.level)
        shape, dtype = tuple(self.labels.shape), np.dtype(self.labels.dtype)
        if dtype.kind not in "biu":
            raise InvalidLabelsError(
                f"the labels of {self.name} are {dtype}: whole numbers are needed, "
                "one for each object"
            )
        if shape != expected:
            raise InvalidLabelsError(
                f"the labels of {self.name} are {shape}, the image is {expected}: "
                "they must show the same pixels"
            )
        if not self.group:
            object.__setattr__(self, "group", self.name)

    @property
    def planes(self) -> tuple[PlaneIndex, ...]:
        """Indices of all planes, labelled or not."""
        return tuple(np.ndindex(*self.labels.shape[:-2]))


@dataclass(frozen=True, slots=True, eq=False)
class LabelledPlane:
    """A plane with objects.

    Attributes
    ----------
    image : int
        Position in the list of images.
    plane : tuple of int
    group : str
    object_ids : (N,) int64
    places : (N,) int64
        Middles of the objects along the longer side of the plane, in half pixels.
    has_classes : bool
        Ids are of connected parts of this plane: in another, they are other objects.
    """

    image: int
    plane: PlaneIndex
    group: str
    object_ids: IntArray
    places: IntArray
    has_classes: bool = False

    @property
    def n_objects(self) -> int:
        """Number of objects."""
        return len(self.object_ids)

    def select(self, rows: BoolArray) -> LabelledPlane:
        """Return the plane with some of its objects."""
        return replace(self, object_ids=self.object_ids[rows], places=self.places[rows])


def distinct(images: Sequence[LabelledImage]) -> tuple[LabelledImage, ...]:
    """Return images of which no two have the same name: later ones get a number."""
    taken: set[str] = set()
    result = []
    for image in images:
        name, n = image.name, 1
        while name in taken:
            n += 1
            name = f"{image.name} ({n})"
        taken.add(name)
        result.append(replace(image, name=name))
    return tuple(result)


def count_sides(
    training: Sequence[LabelledPlane], validation: Sequence[LabelledPlane]
) -> tuple[int, int]:
    """Return how many objects are trained on, and validated on, as `divide` says."""
    n_training, n_validation = (
        sum(plane.n_objects for plane in side) for side in (training, validation)
    )
    return n_training, n_validation


def describe_sides(n_training: int, n_validation: int, split: str) -> str:
    """Say how many objects are trained on and validated on, and how they are divided.

    Parameters
    ----------
    n_training, n_validation : int
        Of `count_sides`.
    split : str
        Of `divide`.
    """
    learned = count_things(n_training, "object")
    if not n_validation:
        only = n_training == 1
        more = "Label another one" if only else "Label more images or planes"
        ways = "set `validation` above 0" if split == "none" else more.lower()
        return (
            f"train on {learned}; nothing is validated, so that nobody will know "
            f"whether the model got better: {ways} to find out"
        )
    held_out = count_things(n_validation, "object")
    return f"train on {learned}, validate on {held_out}: {SPLITS[split]}"


def divide(
    planes: Sequence[LabelledPlane], settings: TuneSettings, seed: int
) -> tuple[list[LabelledPlane], list[LabelledPlane], str]:
    """Divide planes into those to train on and those to validate on.

    By the groups that are named; else by group, if there are two or more; else the end
    of the only volume along its first axis that is long enough (of a stack in time, the
    last frames), with a gap before it; else the objects at the end of each image, at
    one place for all its planes. An object that is trained on in one plane is not
    validated on in another, unless there is no other.

    There is always something to train on; and to validate on, if a share is wanted and
    one image has two objects.

    Parameters
    ----------
    planes : sequence of LabelledPlane
    settings : TuneSettings
        Share of the objects to validate on, about (0 validates on nothing), or groups.
    seed : int
        Of the choice of groups.

    Returns
    -------
    training, validation : list of LabelledPlane
        With the objects of that side.
    how : str
        One of `SPLITS`.

    Raises
    ------
    SettingsError
        If a group that is named is not there, or all are.
    """
    planes, share = list(planes), settings.validation
    groups = sorted({plane.group for plane in planes})
    named = {name.strip() for name in settings.held_out.split(",")} - {""}
    if named:
        _check_named(named, groups)
    elif share == 0:
        return planes, [], "none"
    if len(groups) > 1:
        held_out = named or _choose_groups(planes, groups, share, seed)
        training = [plane for plane in planes if plane.group not in held_out]
        return training, [p for p in planes if p.group in held_out], "groups"
    ranks = _rank(planes)
    if ranks is None:
        return *_divide_objects(planes, share), "objects"
    n_blocks = int(ranks.max()) + 1
    gap = max(1, math.ceil(GAP * n_blocks))
    n_held_out = min(max(1, round(share * n_blocks)), n_blocks - gap - 1)
    end = n_blocks - n_held_out
    training = [p for p, rank in zip(planes, ranks, strict=True) if rank < end - gap]
    validation = [p for p, rank in zip(planes, ranks, strict=True) if rank >= end]
    unseen = _leave_out(validation, training)
    return (
        (training, unseen, "planes") if unseen else (training, validation, "sections")
    )


def _rank(planes: Sequence[LabelledPlane]) -> IntArray | None:
    """Give planes numbers along the first axis with blocks to divide, (N,) int64.

    Planes with the same number are the same section at other times, or the like.
    """
    n_axes = max(len(plane.plane) for plane in planes)
    # several images of one group are an axis, too
    places = np.zeros((len(planes), 1 + n_axes), np.int64)
    for row, plane in zip(places, planes, strict=True):
        row[: 1 + len(plane.plane)] = plane.image, *plane.plane
    for column in places.T:
        found, ranks = np.unique(column, return_inverse=True)
        if len(found) >= MIN_BLOCKS:
            return np.asarray(ranks)
    return None


def _leave_out(
    validation: Sequence[LabelledPlane], training: Sequence[LabelledPlane]
) -> list[LabelledPlane]:
    """Leave objects out of the validation that are trained on in other planes."""
    seen: dict[int, list[IntArray]] = {}
    for plane in training:
        if not plane.has_classes:
            seen.setdefault(plane.image, []).append(plane.object_ids)
    ids = {image: np.unique(np.concatenate(parts)) for image, parts in seen.items()}
    nothing = np.zeros(0, np.int64)
    left = [
        plane.select(~np.isin(plane.object_ids, ids.get(plane.image, nothing)))
        for plane in validation
    ]
    return [plane for plane in left if plane.n_objects]


def _divide_objects(
    planes: Sequence[LabelledPlane], share: float
) -> tuple[list[LabelledPlane], list[LabelledPlane]]:
    """Hold out the objects at one end of each image.

    What a model has seen of one object tells nothing of those far from it.
    """
    training: list[LabelledPlane] = []
    validation: list[LabelledPlane] = []
    for image in dict.fromkeys(plane.image for plane in planes):
        members = [plane for plane in planes if plane.image == image]
        for plane, is_held_out in zip(members, _hold_out(members, share), strict=True):
            for side, rows in ((training, ~is_held_out), (validation, is_held_out)):
                if rows.any():
                    side.append(plane.select(rows))
    return training, validation


def _hold_out(planes: Sequence[LabelledPlane], share: float) -> list[BoolArray]:
    """Return which objects of the planes of an image are held out, at least one left.

    An object is on one side in all its planes. Where planes tell only classes, so are
    parts at the same place.
    """
    places = np.concatenate([plane.places for plane in planes])
    by_place = planes[0].has_classes and len(planes) > 1
    keys = places if by_place else np.concatenate([p.object_ids for p in planes])
    found, owners = np.unique(keys, return_inverse=True)
    middles = np.bincount(owners, places) / np.bincount(owners)
    order = np.argsort(middles, kind="stable")
    n_held_out = min(max(1, round(share * len(found))), len(found) - 1)
    is_held_out = np.isin(owners, order[len(order) - n_held_out :])
    ends = np.cumsum([plane.n_objects for plane in planes])
    return np.split(is_held_out, ends[:-1])


def _check_named(named: set[str], groups: Sequence[str]) -> None:
    unknown = sorted(named - set(groups))
    if unknown:
        raise SettingsError(
            f"there is no group {', '.join(unknown)} to validate on: there are "
            f"{', '.join(groups)}"
        )
    if named == set(groups):
        raise SettingsError(
            f"nothing is left to train on: all groups ({', '.join(groups)}) are held "
            "out"
        )


def _choose_groups(
    planes: Sequence[LabelledPlane], groups: Sequence[str], share: float, seed: int
) -> set[str]:
    """Choose groups that have about a share of the objects; never all."""
    sizes = dict.fromkeys(groups, 0)
    for plane in planes:
        sizes[plane.group] += plane.n_objects
    wanted = share * sum(sizes.values())
    chosen: set[str] = set()
    total = 0
    for i in np.random.default_rng(seed).permutation(len(groups)):
        if len(chosen) == len(groups) - 1:
            break
        size = sizes[groups[i]]
        if abs(total + size - wanted) < abs(total - wanted):
            chosen.add(groups[i])
            total += size
    if not chosen:
        # each has more than is wanted: what is learned from should have most
        chosen = {min(groups, key=lambda group: sizes[group])}
    return chosen
