"""Lines between objects: from membranes and contours to objects, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.segmentation import expand_labels, find_boundaries

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.instances.components import (
    Labels,
    check_semantic,
    label_components,
)
from napari_samseg.core.instances.outlines import outlines_of
from napari_samseg.core.instances.watershed import split_touching

__all__ = [
    "boundaries_of",
    "cells_from_membranes",
    "contours_of",
    "instances_from_contours",
    "membranes_of",
]


def cells_from_membranes(
    membranes: npt.NDArray[Any],
    *,
    spacing: Sequence[float] | None = None,
    min_distance: float | None = None,
    h: float | None = None,
    smoothing: float = 1.0,
    into_membranes: bool = False,
    notes: list[str] | None = None,
) -> Labels:
    """Return what membranes enclose, cells with gaps in their membrane among them.

    Parameters
    ----------
    membranes : (Y, X) or (Z, Y, X) bool or integer
        Anything but 0 is membrane.
    spacing, min_distance, h, smoothing, notes
        See `napari_samseg.core.instances.watershed.split_touching`, which closes the
        gaps.
    into_membranes : bool
        Let cells grow until they meet in the middle of the membrane.

    Returns
    -------
    uint32
    """
    inside = check_semantic(membranes) == 0
    # through a corner of two membrane pixels nothing flows
    cells = split_touching(
        inside,
        spacing=spacing,
        min_distance=min_distance,
        h=h,
        smoothing=smoothing,
        connectivity=1,
        notes=notes,
    )
    if not into_membranes:
        return cells
    grown = expand_labels(cells, max(membranes.shape), spacing or 1)
    return np.asarray(grown, np.uint32)


def instances_from_contours(contours: npt.NDArray[Any]) -> tuple[Labels, int]:
    """Return what closed outlines enclose, the outlines themselves included.

    Each pixel of an outline belongs to the nearest object it encloses.

    Parameters
    ----------
    contours : (Y, X) bool or integer
        Outlines, of any thickness; anything but 0.

    Returns
    -------
    labels : (Y, X) uint32
    n_unassigned : int
        Pixels of outlines that enclose nothing, which stay 0: they are open.

    Raises
    ------
    InvalidLabelsError
        If it is no plane.
    """
    if contours.ndim != 2:
        raise InvalidLabelsError(
            f"outlines lie in a plane (Y, X), not in {contours.shape}: convert a "
            "volume plane by plane"
        )
    lines = check_semantic(contours) != 0
    # what is connected to the border of the plane is outside
    parts = label_components(np.pad(~lines, 1, constant_values=True), 4)
    inner = np.where(parts == parts[0, 0], 0, parts)[1:-1, 1:-1]
    objects = label_components(inner, 4)
    thickness = int(np.ceil(ndimage.distance_transform_edt(lines).max(initial=0))) + 1
    grown = expand_labels(objects, 2 * thickness)
    labels = np.where(lines | (objects != 0), grown, 0).astype(np.uint32)
    return labels, int((lines & (labels == 0)).sum())


def boundaries_of(
    labels: npt.NDArray[Any], mode: str = "thick"
) -> npt.NDArray[np.bool_]:
    """Return the pixels at the border of objects.

    Parameters
    ----------
    labels : (Y, X) or (Z, Y, X) integer
    mode : "thick", "inner" or "outer"
        On both sides of the border, inside, or outside.
    """
    return np.asarray(find_boundaries(check_semantic(labels), mode=mode), bool)


def membranes_of(
    labels: npt.NDArray[Any], *, inward: int = 1, outward: int = 4
) -> npt.NDArray[np.bool_]:
    """Return membranes as a network is trained on: a band around each border.

    Each object is eroded and dilated, and what lies between is membrane.

    Parameters
    ----------
    labels : (Y, X) or (Z, Y, X) integer
        Of a volume, each plane for itself.
    inward, outward : int
        Steps of erosion and of dilation, in pixels along the axes of the plane.
    """
    labels = check_semantic(labels)
    if labels.ndim == 3:
        planes = [membranes_of(p, inward=inward, outward=outward) for p in labels]
        return np.stack(planes) if planes else np.zeros(labels.shape, bool)
    inner = boundaries_of(labels, "inner")
    band = inner.copy()
    if inward > 1:
        band |= ndimage.binary_dilation(inner, iterations=inward - 1) & (labels != 0)
    if inward == 0:
        band &= False
    if outward:
        outer = boundaries_of(labels, "outer") & (labels == 0)
        if outward > 1:
            outer = ndimage.binary_dilation(outer, iterations=outward - 1)
        band |= outer & (labels == 0)
    return band


def contours_of(
    labels: npt.NDArray[Any],
) -> dict[int, list[npt.NDArray[np.float64]]]:
    """Return the outlines of each object of a plane, holes included.

    Parameters
    ----------
    labels : (Y, X) integer

    Returns
    -------
    dict of id to list of (N, 2) float64
        Closed polygons of (y, x) in pixels, along the edges of the object's pixels:
        an integer is the centre of a pixel.
    """
    return {
        object_id: [
            np.concatenate([ring, ring[:1]]) - 0.5
            for outline in outlines
            for ring in outline.rings
        ]
        for object_id, outlines in outlines_of(check_semantic(labels)).items()
    }
