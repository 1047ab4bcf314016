"""Every way from semantic labels to instance labels, by name."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import UnknownNameError
from napari_samseg.core.instances.components import check_semantic, label_components
from napari_samseg.core.instances.membranes import (
    cells_from_membranes,
    instances_from_contours,
)
from napari_samseg.core.instances.tidy import (
    count_pixels,
    drop_at_border,
    drop_by_size,
    fill_holes,
    keep_ids,
    relabel,
)
from napari_samseg.core.instances.watershed import grow_seeds, split_touching
from napari_samseg.core.settings import InstanceSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.types import Progress

__all__ = [
    "INSTANCE_METHODS",
    "METHOD_SETTINGS",
    "TIDY_SETTINGS",
    "Instances",
    "find_instances",
    "find_instances_steps",
]

Spacing = Sequence[float] | None
Found = tuple[npt.NDArray[np.uint32], int]
Method = Callable[[npt.NDArray[Any], InstanceSettings, Spacing], Found]


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
    """

    labels: Any
    n_objects: int
    n_unassigned: int
    n_too_small: int = 0
    n_too_large: int = 0
    n_at_border: int = 0

    def __str__(self) -> str:
        parts = [f"{self.n_objects} objects"]
        for n, what in (
            (self.n_too_small, "too small"),
            (self.n_too_large, "too large"),
            (self.n_at_border, "at the border"),
        ):
            if n:
                parts.append(f"{n} {what} removed")
        if self.n_unassigned:
            parts.append(f"{self.n_unassigned} pixels belong to none")
        return ", ".join(parts)


def find_instances(
    classes: npt.NDArray[Any],
    settings: InstanceSettings | None = None,
    *,
    spacing: Spacing = None,
    before: npt.NDArray[Any] | None = None,
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

    Raises
    ------
    UnknownNameError
        If there is no such method.
    InvalidLabelsError, SettingsError
        If the labels are none, or a setting does not fit them.
    """
    settings = InstanceSettings() if settings is None else settings
    return run_steps(
        find_instances_steps(classes, settings, spacing=spacing, before=before)
    )


def find_instances_steps(
    classes: npt.NDArray[Any],
    settings: InstanceSettings,
    *,
    spacing: Spacing = None,
    before: npt.NDArray[Any] | None = None,
) -> Generator[Progress, None, Instances]:
    """Do what `find_instances` does, step by step."""
    if settings.method not in INSTANCE_METHODS:
        raise UnknownNameError(
            f"there is no method {settings.method!r} to find instances; there are: "
            f"{', '.join(INSTANCE_METHODS)}"
        )
    classes = check_semantic(classes)
    yield Progress(f"finding instances: {settings.method}")
    labels, n_unassigned = INSTANCE_METHODS[settings.method](classes, settings, spacing)
    found: npt.NDArray[Any] = labels
    if settings.fill_holes:
        yield Progress("filling holes")
        found = fill_holes(found)
    yield Progress("putting instances in order")
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
    )


def _components(
    classes: npt.NDArray[Any], settings: InstanceSettings, spacing: Spacing
) -> Found:
    return label_components(classes, settings.connectivity or None), 0


def _watershed(
    classes: npt.NDArray[Any], settings: InstanceSettings, spacing: Spacing
) -> Found:
    labels = split_touching(
        classes,
        spacing=spacing,
        smoothing=settings.smoothing,
        min_distance=None if settings.h else settings.min_distance,
        h=settings.h or None,
        connectivity=settings.connectivity or None,
    )
    return labels, 0


def _seeded(
    classes: npt.NDArray[Any], settings: InstanceSettings, spacing: Spacing
) -> Found:
    """Grow components of the seed class into everything that is not background."""
    is_seed = classes == settings.seed_class
    return grow_seeds(
        is_seed,
        classes != 0,
        spacing=spacing,
        connectivity=settings.connectivity or None,
    )


def _membranes(
    classes: npt.NDArray[Any], settings: InstanceSettings, spacing: Spacing
) -> Found:
    cells = cells_from_membranes(
        classes,
        spacing=spacing,
        smoothing=settings.smoothing,
        min_distance=None if settings.h else settings.min_distance,
        h=settings.h or None,
        into_membranes=settings.into_membranes,
    )
    return cells, 0


def _contours(
    classes: npt.NDArray[Any], settings: InstanceSettings, spacing: Spacing
) -> Found:
    return instances_from_contours(classes)


INSTANCE_METHODS: dict[str, Method] = {
    "components": _components,
    "watershed": _watershed,
    "axon-myelin": _seeded,
    "membranes": _membranes,
    "contours": _contours,
}

# What each method reads of the settings, and what is done after all of them.
METHOD_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "components": ("connectivity",),
    "watershed": ("connectivity", "smoothing", "min_distance", "h"),
    "axon-myelin": ("connectivity", "seed_class"),
    "membranes": ("smoothing", "min_distance", "h", "into_membranes"),
    "contours": (),
}
TIDY_SETTINGS = ("fill_holes", "clear_border", "min_size", "max_size")
