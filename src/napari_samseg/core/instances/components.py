"""Semantic labels to instance labels by what touches: connected components."""

from __future__ import annotations

from typing import Any

import cc3d
import fastremap
import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError, SettingsError

__all__ = ["axes_of", "check_semantic", "label_components", "neighbourhood"]

# Neighbours of a pixel by the number of axes and of the axes along which a neighbour
# may differ at once.
NEIGHBOURS = {(2, 1): 4, (2, 2): 8, (3, 1): 6, (3, 2): 18, (3, 3): 26}

Labels = npt.NDArray[np.uint32]


def neighbourhood(ndim: int, connectivity: int | None = None) -> int:
    """Return how many neighbours a pixel has.

    Parameters
    ----------
    ndim : int
        2 or 3.
    connectivity : int, optional
        Either axes along which a neighbour may differ at once (1 to `ndim`), as in
        scikit-image, or the number of neighbours itself (4, 8; 6, 18, 26). All
        neighbours if not given.

    Raises
    ------
    SettingsError
        If there is no such neighbourhood.
    """
    known = {n for (axes, _), n in NEIGHBOURS.items() if axes == ndim}
    if connectivity is None:
        return max(known)
    if connectivity in known:
        return connectivity
    if (ndim, connectivity) in NEIGHBOURS:
        return NEIGHBOURS[ndim, connectivity]
    raise SettingsError(
        f"connectivity {connectivity} is not one of "
        f"{', '.join(str(n) for n in sorted(known))} in {ndim} dimensions"
    )


def axes_of(n_neighbours: int, ndim: int) -> int:
    """Return along how many axes at once a neighbour may differ."""
    return next(
        axes for (d, axes), n in NEIGHBOURS.items() if (d, n) == (ndim, n_neighbours)
    )


def check_semantic(
    classes: npt.NDArray[Any], *, is_piece: bool = False
) -> npt.NDArray[Any]:
    """Make sure that an array holds classes or ids in a plane or volume.

    Parameters
    ----------
    classes : array
    is_piece : bool
        Of a volume, which may end 3 or 4 pixels wide and is no picture for that.

    Returns
    -------
    (Y, X) or (Z, Y, X) bool or integer
        The array, in the byte order of this machine.

    Raises
    ------
    InvalidLabelsError
        If it holds real numbers, negative ones, colours, or has other axes.
    """
    if classes.dtype.kind == "f":
        raise InvalidLabelsError(
            "labels are whole numbers, and these are real ones "
            f"({classes.dtype}): round them, or apply a threshold first"
        )
    if classes.dtype.kind not in "iub":
        raise InvalidLabelsError(f"labels are whole numbers, not {classes.dtype}")
    may_be_colours = classes.ndim == 3 and classes.shape[2] in (3, 4) and not is_piece
    if may_be_colours and min(classes.shape[:2]) > 16:
        raise InvalidLabelsError(
            f"an array of shape {classes.shape} looks like an RGB picture: labels have "
            "one value for each pixel, so choose one channel"
        )
    if classes.ndim not in (2, 3):
        raise InvalidLabelsError(
            f"labels are a plane (Y, X) or a volume (Z, Y, X), not {classes.shape}"
        )
    if classes.dtype.kind == "i" and classes.size and classes.min() < 0:
        raise InvalidLabelsError(
            f"labels must not be negative, and the lowest is {classes.min()}"
        )
    # libraries do not know the byte order of other machines, in which ImageJ writes
    return classes.astype(classes.dtype.newbyteorder("="), copy=False)


def label_components(
    classes: npt.NDArray[Any],
    connectivity: int | None = None,
    *,
    is_piece: bool = False,
) -> Labels:
    """Give each connected component an id of its own.

    Neighbours belong together if they have the same value, so that a map of several
    classes is taken apart class by class, and an instance map into connected parts.

    Parameters
    ----------
    classes : (Y, X) or (Z, Y, X) bool or integer
        0 is background.
    connectivity : int, optional
        See `neighbourhood`.
    is_piece : bool
        See `check_semantic`.

    Returns
    -------
    uint32
        Ids from 1 in the order in which components begin, row by row.

    Raises
    ------
    InvalidLabelsError
        See `check_semantic`.
    SettingsError
        If there is no such neighbourhood.
    """
    classes = check_semantic(classes, is_piece=is_piece)
    n_neighbours = neighbourhood(classes.ndim, connectivity)
    if classes.size == 0:
        return np.zeros(classes.shape, np.uint32)
    if classes.dtype == bool:
        # the library (cc3d 4.1.1) reads beyond the end of small masks of bool
        classes = classes.astype(np.uint8)
    if classes.dtype.kind == "i":
        # what is not negative means the same without a sign
        classes = classes.astype(classes.dtype.str.replace("i", "u"))
    # the library takes no array that is read-only, as pictures from files are
    classes = np.require(classes, requirements=["C", "W"])
    label: Any = cc3d.connected_components  # its types know literal numbers only
    labels = label(classes, connectivity=n_neighbours, out_dtype=np.uint32)
    # the library numbers components in an order of its own
    ordered: Labels = fastremap.renumber(labels, in_place=True)[0]
    return ordered.astype(np.uint32, copy=False)
