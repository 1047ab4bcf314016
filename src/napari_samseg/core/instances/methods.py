"""Every way from semantic labels to instance labels, by name."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import SettingsError, UnknownNameError
from napari_samseg.core.instances.class_source import AXON, MYELIN
from napari_samseg.core.instances.components import check_semantic, label_components
from napari_samseg.core.instances.membranes import (
    cells_from_membranes,
    instances_from_contours,
    membranes_of,
)
from napari_samseg.core.instances.seed_points import Seeds, grow_points
from napari_samseg.core.instances.seeds import pixel_side
from napari_samseg.core.instances.tidy import (
    count_pixels,
    drop_at_border,
    drop_by_size,
    fill_holes,
    keep_ids,
    relabel,
)
from napari_samseg.core.instances.watershed import (
    check_spacing,
    grow_seeds,
    split_touching,
)
from napari_samseg.core.settings import InstanceSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.types import Progress

__all__ = [
    "INSTANCE_METHODS",
    "METHOD_SETTINGS",
    "SEMANTIC_METHODS",
    "TIDY_SETTINGS",
    "Instances",
    "find_instances",
    "find_instances_steps",
    "seed_options",
]

Spacing = Sequence[float] | None


class Found(NamedTuple):
    """Objects, foreground pixels that belong to none, and what to tell of them."""

    labels: npt.NDArray[np.uint32]
    n_unassigned: int = 0
    notes: tuple[str, ...] = ()


Method = Callable[[npt.NDArray[Any], InstanceSettings, Spacing, Seeds | None], Found]
SemanticMethod = Callable[[npt.NDArray[Any], InstanceSettings], npt.NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """Instance labels, and what did not get into them.

    Attributes
    ----------
    labels : (Y, X) or (Z, Y, X) uint32 or wider
        A numpy array, or one on disk that was written block by block.
    n_objects : int
    n_unassigned : int
        Foreground pixels that belong to no object.
    n_too_small, n_too_large, n_at_border : int
        Objects that were removed.
    n_removed_pixels : int
        Of these objects together.
    notes : tuple of str
        What a person should know of how objects were found.
    n_pixels : int or None
        Of a map of one class that was made of objects; None where objects were found.
    """

    labels: Any
    n_objects: int
    n_unassigned: int
    n_too_small: int = 0
    n_too_large: int = 0
    n_at_border: int = 0
    n_removed_pixels: int = 0
    notes: tuple[str, ...] = ()
    n_pixels: int | None = None

    def __str__(self) -> str:
        if self.n_pixels is not None:
            pixels = count_things(self.n_pixels, "pixel")
            return f"{pixels} of {count_things(self.n_objects, 'object')}"
        parts = [count_things(self.n_objects, "object")]
        for n, what in (
            (self.n_too_small, "too small"),
            (self.n_too_large, "too large"),
            (self.n_at_border, "at the border"),
        ):
            if n:
                parts.append(f"{n} {what} removed")
        if self.n_removed_pixels:
            gone = count_things(self.n_removed_pixels, "pixel")
            parts.append(f"{gone} removed with them")
        if self.n_unassigned:
            verb = "belongs" if self.n_unassigned == 1 else "belong"
            parts.append(f"{count_things(self.n_unassigned, 'pixel')} {verb} to none")
        return ", ".join(parts)


def find_instances(
    classes: npt.NDArray[Any],
    settings: InstanceSettings | None = None,
    *,
    spacing: Spacing = None,
    before: npt.NDArray[Any] | None = None,
    seeds: Seeds | None = None,
) -> Instances:
    """Turn semantic labels into instance labels and put them in order.

    Parameters
    ----------
    classes : (Y, X) or (Z, Y, X) bool or integer
        0 is background. What the values mean depends on the method.
    settings : InstanceSettings, optional
    spacing : sequence of float, optional
        Size of a pixel along each axis; 1 if not given.
    before : integer, of the same shape, optional
        Instance labels made earlier: objects that are still there keep their ids.
    seeds : Seeds, optional
        For the method ``points``.

    Raises
    ------
    UnknownNameError
        If there is no such method.
    InvalidLabelsError, SettingsError
        If the labels are none, or a setting does not fit them.
    InvalidPromptError
        If seeds are asked for and not there, or lie outside.
    """
    settings = InstanceSettings() if settings is None else settings
    return run_steps(
        find_instances_steps(
            classes, settings, spacing=spacing, before=before, seeds=seeds
        )
    )


def find_instances_steps(
    classes: npt.NDArray[Any],
    settings: InstanceSettings,
    *,
    spacing: Spacing = None,
    before: npt.NDArray[Any] | None = None,
    seeds: Seeds | None = None,
) -> Generator[Progress, None, Instances]:
    """Do what `find_instances` does, step by step."""
    method = settings.method
    if method not in METHOD_SETTINGS:
        raise UnknownNameError(
            f"there is no method {method!r} to find instances; there are: "
            f"{', '.join(METHOD_SETTINGS)}"
        )
    classes = check_semantic(classes)
    # whether the method measures distances or not
    check_spacing(spacing, classes.ndim)
    if method in SEMANTIC_METHODS:
        yield Progress(f"making a map of one class: {method}")
        mask = SEMANTIC_METHODS[method](classes, settings)
        n_objects, n_pixels = len(count_pixels(classes)[0]), int(np.count_nonzero(mask))
        return Instances(mask.astype(np.uint32), n_objects, 0, n_pixels=n_pixels)
    yield Progress(f"finding instances: {method}")
    found_by = INSTANCE_METHODS[method]
    labels, n_unassigned, notes = found_by(classes, settings, spacing, seeds)
    found: npt.NDArray[Any] = labels
    if settings.fill_holes:
        yield Progress("filling holes")
        found = fill_holes(found)
    yield Progress("putting instances in order")
    n_inside = int(np.count_nonzero(found))
    found, n_small = drop_by_size(found, settings.min_size)
    found, n_large = drop_by_size(found, 0, settings.max_size or None)
    n_border = 0
    if settings.clear_border:
        found, n_border = drop_at_border(found)
    found = relabel(found) if before is None else keep_ids(found, before)
    return Instances(
        found,
        len(count_pixels(found)[0]),
        n_unassigned,
        n_small,
        n_large,
        n_border,
        n_inside - int(np.count_nonzero(found)),
        notes,
    )


def _components(
    classes: npt.NDArray[Any],
    settings: InstanceSettings,
    spacing: Spacing,
    seeds: Seeds | None,
) -> Found:
    labels = label_components(classes, settings.connectivity or None)
    if classes.max(initial=0) != AXON or not (classes == MYELIN).any():
        return Found(labels)
    note = (
        f"components of the classes {MYELIN} and {AXON} are objects each for itself; "
        "where these are myelin and axons, the method axon-myelin makes one object of "
        "each axon with its myelin"
    )
    return Found(labels, 0, (note,))


def _watershed(
    classes: npt.NDArray[Any],
    settings: InstanceSettings,
    spacing: Spacing,
    seeds: Seeds | None,
) -> Found:
    notes: list[str] = []
    labels = split_touching(
        classes,
        spacing=spacing,
        smoothing=settings.smoothing,
        connectivity=settings.connectivity or None,
        notes=notes,
        **seed_options(settings, spacing),
    )
    return Found(labels, 0, tuple(notes))


def seed_options(
    settings: InstanceSettings, spacing: Spacing
) -> dict[str, float | None]:
    """Return how seeds are chosen, in units of `spacing`, for `split_touching`."""
    pixel = pixel_side(spacing)
    if settings.h:
        return {"min_distance": None, "h": settings.h * pixel}
    return {"min_distance": settings.min_distance * pixel, "h": None}


def _seeded(
    classes: npt.NDArray[Any],
    settings: InstanceSettings,
    spacing: Spacing,
    seeds: Seeds | None,
) -> Found:
    """Grow components of the seed class into everything that is not background."""
    is_seed = classes == settings.seed_class
    labels, n_unassigned = grow_seeds(
        is_seed,
        classes != 0,
        spacing=spacing,
        connectivity=settings.connectivity or None,
    )
    return Found(labels, n_unassigned)


def _membranes(
    classes: npt.NDArray[Any],
    settings: InstanceSettings,
    spacing: Spacing,
    seeds: Seeds | None,
) -> Found:
    notes: list[str] = []
    cells = cells_from_membranes(
        classes,
        spacing=spacing,
        smoothing=settings.smoothing,
        into_membranes=settings.into_membranes,
        notes=notes,
        **seed_options(settings, spacing),
    )
    return Found(cells, 0, tuple(notes))


def _contours(
    classes: npt.NDArray[Any],
    settings: InstanceSettings,
    spacing: Spacing,
    seeds: Seeds | None,
) -> Found:
    return Found(*instances_from_contours(classes))


def _points(
    classes: npt.NDArray[Any],
    settings: InstanceSettings,
    spacing: Spacing,
    seeds: Seeds | None,
) -> Found:
    return Found(*grow_points(classes, seeds, spacing))


def _mask(
    labels: npt.NDArray[Any], settings: InstanceSettings
) -> npt.NDArray[np.bool_]:
    return np.asarray(labels != 0)


def _boundaries(
    labels: npt.NDArray[Any], settings: InstanceSettings
) -> npt.NDArray[np.bool_]:
    if not settings.inward and not settings.outward:
        raise SettingsError(
            "boundaries of no width: let them reach into the objects, or out of them"
        )
    return membranes_of(labels, inward=settings.inward, outward=settings.outward)


INSTANCE_METHODS: dict[str, Method] = {
    "components": _components,
    "watershed": _watershed,
    "axon-myelin": _seeded,
    "membranes": _membranes,
    "contours": _contours,
    "points": _points,
}

# The way back: every way from instance labels to a map of one class.
SEMANTIC_METHODS: dict[str, SemanticMethod] = {
    "mask": _mask,
    "boundaries": _boundaries,
}

# What each method reads of the settings, and what is done after those that find
# objects.
METHOD_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "components": ("connectivity",),
    "watershed": ("connectivity", "smoothing", "min_distance", "h"),
    "axon-myelin": ("connectivity", "seed_class"),
    "membranes": ("smoothing", "min_distance", "h", "into_membranes"),
    "contours": (),
    "points": (),
    "mask": (),
    "boundaries": ("inward", "outward"),
}
TIDY_SETTINGS = ("fill_holes", "clear_border", "min_size", "max_size")
