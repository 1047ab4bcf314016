"""Images with the labels a model is to learn, and how they are divided.

Images of one group (a patient, an animal, a volume) are never on both sides: what is
validated must not have been seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.images import ArrayLike, PlaneSource
from napari_samseg.core.settings import ImageSettings, TuneSettings

__all__ = ["LabelledImage", "LabelledPlane", "count_held_out", "distinct", "divide"]

PlaneIndex = tuple[int, ...]

# Planes between those trained on and those validated on, as a share of all: next to
# each other they are nearly the same.
GAP = 0.05
# A volume of fewer labelled planes is not divided into blocks.
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


@dataclass(frozen=True, slots=True)
class LabelledPlane:
    """A plane with objects.

    Attributes
    ----------
    image : int
        Position in the list of images.
    plane : tuple of int
    group : str
    n_objects : int
    """

    image: int
    plane: PlaneIndex
    group: str
    n_objects: int


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


def count_held_out(n_objects: int, share: float) -> int:
    """Return how many objects of a plane are validated on, where it has both sides."""
    return min(max(1, round(share * n_objects)), n_objects - 1)


def divide(
    planes: Sequence[LabelledPlane], settings: TuneSettings, seed: int
) -> tuple[list[LabelledPlane], list[LabelledPlane], str]:
    """Divide planes into those to train on and those to validate on.

    By the groups that are named; else by group, if there are two or more; else the end
    of the only volume, with a gap before it; else the planes stay whole and both sides
    get them: then their objects are to be divided.

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
    how : str
        "none", "groups", "planes" or "objects".

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
    if len(planes) >= MIN_BLOCKS:
        n_held_out = max(1, round(share * len(planes)))
        end = len(planes) - n_held_out
        gap = max(1, math.ceil(GAP * len(planes)))
        return planes[: end - gap], planes[end:], "planes"
    return planes, planes, "objects"


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
        size = sizes[groups[i]]
        if abs(total + size - wanted) < abs(total - wanted):
            chosen.add(groups[i])
            total += size
    if not chosen:
        # each has more than is wanted: what is learned from should have most
        chosen = {min(groups, key=lambda group: sizes[group])}
    return chosen
