"""Labels that are probably not what they are taken for: classes, or a photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastremap
import numpy as np
import numpy.typing as npt

from napari_samseg.core.instances.components import label_components
from napari_samseg.core.io.class_image import FINDER, is_picture, picture_note

__all__ = ["instance_doubts", "looks_natural", "middle_plane"]

# In a photograph there are no fewer values, and so many pixels beside another one: of
# real ones 29 % and more, of maps of classes and objects 6 % at most.
PHOTOGRAPH_VALUES = 16
PHOTOGRAPH_SHARE = 0.2
# A map of classes has no more values, each in so many pieces of so many pixels: those
# of instances are one piece each, but for branches and what was painted roughly.
MOST_CLASSES = 8
MANY_PIECES = 20
PIECE_PIXELS = 10


def looks_natural(values: npt.NDArray[Any]) -> bool:
    """Tell whether values (..., Y, X) are those of a photograph rather than labels."""
    here, beside = values[..., :-1], values[..., 1:]
    n_differ = np.count_nonzero((here != 0) & (beside != 0) & (here != beside))
    if n_differ <= PHOTOGRAPH_SHARE * np.count_nonzero(values):
        return False
    return len(fastremap.unique(_native(values))) >= PHOTOGRAPH_VALUES


def middle_plane(labels: Any) -> npt.NDArray[Any]:
    """Return the plane in the middle of labels (..., Y, X), which stands for all."""
    middle = tuple(int(n) // 2 for n in labels.shape[:-2])
    return np.asarray(labels[middle] if middle else labels[...])


def instance_doubts(plane: npt.NDArray[Any], name: Path | str) -> list[str]:
    """Return a note if a plane that is given for instances looks like something else.

    Parameters
    ----------
    plane : (Y, X) bool or integer
    name : Path or str
        What the labels are called in the note.

    Returns
    -------
    list of str
        One note, or none: a picture of a mask, a photograph, a map of classes.
    """
    if plane.dtype.kind not in "iub" or not plane.size or plane.min() < 0:
        # said by whoever reads them
        return []
    if is_picture(plane):
        return [picture_note(name)]
    if looks_natural(plane):
        note = (
            f"{name} looks like a photograph, not like labels: neighbouring pixels "
            "differ nearly everywhere, and each of its values is taken for one object. "
            f"Give the labels, or make some, as with a threshold and {FINDER}"
        )
        return [note]
    return _class_doubts(plane, name)


def _class_doubts(plane: npt.NDArray[Any], name: Path | str) -> list[str]:
    ids = fastremap.unique(_native(plane))
    ids = ids[ids != 0]
    if not 0 < len(ids) <= MOST_CLASSES:
        return []
    pieces = label_components(plane)
    areas = np.bincount(pieces.ravel())
    owners = np.zeros(len(areas), ids.dtype)
    owners[pieces.ravel()] = plane.ravel()
    owners[areas < PIECE_PIXELS] = 0
    counts = [int(np.count_nonzero(owners == one)) for one in ids.tolist()]
    if np.median(counts) < MANY_PIECES:
        return []
    what = "mask" if len(ids) == 1 else "map of classes"
    named = ", ".join(map(str, ids.tolist()))
    found = ", ".join(map(str, counts))
    note = (
        f"{name} looks like a {what}: {named} in {found} pieces, each taken for one "
        f"object. {FINDER} finds the objects; `evaluate --classes all` scores "
        "classes, `semantic: true` lets `finetune` learn their parts"
    )
    return [note]


def _native(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return values in the byte order of this machine, which libraries ask for."""
    values = values.view(np.uint8) if values.dtype == bool else values
    return values.astype(values.dtype.newbyteorder("="), copy=False)
