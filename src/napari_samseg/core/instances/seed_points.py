"""Points that a person gives, one or more to an object: checked, then grown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidPromptError
from napari_samseg.core.instances.tidy import count_pixels
from napari_samseg.core.instances.watershed import watershed_from_points
from napari_samseg.core.types import BoolArray

__all__ = ["Seeds", "grow_points"]


@dataclass(frozen=True, slots=True, eq=False)
class Seeds:
    """Points that objects grow from.

    Attributes
    ----------
    points : (N, D) float
        In pixels of the labels; an integer is the centre of one.
    ids : (N,) int64
        Object of each, from 1; several may have the same.
    """

    points: npt.NDArray[np.float64]
    ids: npt.NDArray[np.int64]


def grow_points(
    classes: npt.NDArray[Any], seeds: Seeds | None, spacing: Sequence[float] | None
) -> tuple[npt.NDArray[np.uint32], int, tuple[str, ...]]:
    """Grow points into everything that is not background.

    Parameters
    ----------
    classes : (Y, X) or (Z, Y, X) bool or integer
    seeds : Seeds or None
    spacing : sequence of float, optional
        Size of a pixel along each axis; 1 if not given.

    Returns
    -------
    labels : uint32, of the same shape
    n_unassigned : int
        Foreground pixels that no point reaches.
    notes : tuple of str
        Which points came to nothing, and why.

    Raises
    ------
    InvalidPromptError
        If there are no seeds, or some lie outside.
    """
    if seeds is None:
        raise InvalidPromptError(
            "the method points grows objects from points: give a file with --seeds, or "
            "a Points layer"
        )
    _check_places(seeds.points, classes.shape)
    if len(seeds.points) and not _on_foreground(classes, seeds.points).any():
        raise InvalidPromptError(
            f"of {count_things(len(seeds.points), 'point')} none lies on an object, "
            "and on background nothing grows: put each on its object"
        )
    labels, n_unassigned = watershed_from_points(
        classes, seeds.points, ids=seeds.ids, spacing=spacing
    )
    return labels, n_unassigned, _describe_lost(classes, seeds, labels)


def _check_places(points: npt.NDArray[np.float64], shape: tuple[int, ...]) -> None:
    if points.shape[1:] != (len(shape),):
        raise InvalidPromptError(
            f"points with {points.shape[-1]} coordinates do not lie in labels of "
            f"shape {shape}"
        )
    is_inside = np.all((points >= -0.5) & (points <= np.array(shape) - 0.5), axis=1)
    if not is_inside.all():
        first = np.flatnonzero(~is_inside)[0]
        raise InvalidPromptError(
            f"{np.count_nonzero(~is_inside)} of {count_things(len(points), 'point')} "
            f"outside labels of shape {shape}, such as {points[first].tolist()}: "
            "are they points of another image, or in micrometres?"
        )


def _on_foreground(
    classes: npt.NDArray[Any], points: npt.NDArray[np.float64]
) -> BoolArray:
    """Tell which points lie on something."""
    places = np.rint(points).astype(np.int64)
    places = np.clip(places, 0, np.array(classes.shape) - 1)
    return np.asarray(classes[tuple(places.T)] != 0)


def _describe_lost(
    classes: npt.NDArray[Any], seeds: Seeds, labels: npt.NDArray[Any]
) -> tuple[str, ...]:
    is_off = ~_on_foreground(classes, seeds.points)
    n_off = int(np.count_nonzero(is_off))
    ids = np.unique(seeds.ids[~is_off])
    n_lost = len(np.setdiff1d(ids, count_pixels(labels)[0]))
    notes = []
    if n_off:
        notes.append(
            f"{n_off} of {count_things(len(seeds.points), 'point')} on background, "
            "where nothing grows: put each on its object"
        )
    if n_lost:
        notes.append(
            f"{n_lost} of {count_things(len(ids), 'object')} got no pixels: points of "
            "others lie at the same place, and the first counts"
        )
    return tuple(notes)
