"""Objects of labels stay as they are, but for those that a model sees as several."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import LabelOverflowError
from napari_samseg.core.instances.split_by_sam import split_by_sam
from napari_samseg.core.prompts.object_index import index_objects
from napari_samseg.core.refine.plane import RefinedPlane
from napari_samseg.core.refine.scores import ObjectScore
from napari_samseg.core.types import IntArray, Progress

if TYPE_CHECKING:
    from napari_samseg.core.settings import RefineSettings
    from napari_samseg.core.tiled import TiledPlane

__all__ = ["split_plane"]

LARGEST = int(np.iinfo(np.uint32).max)


def split_plane(
    tiled: TiledPlane,
    labels: npt.NDArray[Any],
    settings: RefineSettings,
    highest_id: int,
) -> Generator[Progress, None, RefinedPlane]:
    """Split the objects of a plane that a model sees as several.

    See `napari_samseg.core.instances.split_by_sam.split_by_sam`. Of the parts of an
    object, and of what lies apart with one value, the largest keeps the id.

    Parameters
    ----------
    tiled : TiledPlane
    labels : (Y, X) integer
        A mask, classes or instances, 0 the background.
    settings : RefineSettings
        Its `split_distance` is read.
    highest_id : int
        New objects get the ids above.

    Returns
    -------
    RefinedPlane
        Its labels are uint32. A score's status is "whole", "split", or "disagrees"
        where the model sees something else.

    Raises
    ------
    InvalidLabelsError
        If the labels are none, or not of the size of the plane.
    LabelOverflowError
        If there are more objects than 32 bits count.
    """
    checked = yield from split_by_sam(
        tiled, labels, min_distance=settings.split_distance
    )
    names = _name_parts(checked.labels, labels, highest_id)
    found = names[checked.labels].astype(np.uint32)
    index = index_objects(found)
    rows = dict(zip(index.object_ids.tolist(), range(len(index)), strict=True))
    areas = np.bincount(checked.labels.ravel(), minlength=len(names))
    scores = []
    for item in checked.objects:
        for part in item.ids:
            row = rows[int(names[part])]
            y0, x0, y1, x1 = index.boxes_yx[row].tolist()
            scores.append(
                ObjectScore(
                    object_id=int(names[part]),
                    plane=tiled.plane.index,
                    status=item.verdict,
                    parts=len(item.ids),
                    kept=int(item.verdict == "disagrees"),
                    predicted_iou=item.predicted_iou,
                    agreement=item.agreement,
                    visible=1.0,
                    doubt=item.doubt,
                    area_before=int(areas[list(item.ids)].sum()),
                    area_after=int(index.areas[row]),
                    box_yx=(y0, x0, y1, x1),
                )
            )
    scores.sort(key=lambda score: score.object_id)
    n_changed = int(np.count_nonzero(found != labels))
    return RefinedPlane(tiled.plane.index, found, tuple(scores), 0, n_changed)


def _name_parts(
    parts: npt.NDArray[np.uint32], labels: npt.NDArray[Any], highest_id: int
) -> IntArray:
    """Return the id of each part, of which 0 is the background."""
    found, first, areas = np.unique(parts, return_index=True, return_counts=True)
    values = labels.ravel()[first].astype(np.int64)[found > 0]
    areas = areas[found > 0]
    _, owners = np.unique(values, return_inverse=True)
    names = np.zeros(len(values) + 1, np.int64)
    order = np.argsort(-areas, kind="stable")
    _, largest = np.unique(owners[order], return_index=True)
    keeps = np.zeros(len(values), bool)
    keeps[order[largest]] = True
    names[1:][keeps] = values[keeps]
    n_new = int((~keeps).sum())
    if highest_id + n_new > LARGEST:
        raise LabelOverflowError(
            f"{count_things(n_new, 'new object')} above id {highest_id}, more than 32 "
            "bits hold: relabel without gaps first"
        )
    names[1:][~keeps] = highest_id + 1 + np.arange(n_new)
    return names
