"""One object of a refined plane again, with other prompts."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError, InvalidPromptError
from napari_samseg.core.metrics.overlap import mask_iou
from napari_samseg.core.refine.plane import (
    find_masks,
    index_parts,
    sample_part_prompts,
)
from napari_samseg.core.refine.scores import REFINED, ObjectScore
from napari_samseg.core.types import BoolArray, Progress

if TYPE_CHECKING:
    from napari_samseg.core.settings import PromptSettings, RefineSettings
    from napari_samseg.core.tiled import TiledPlane

__all__ = ["RedoneObject", "redo_object"]


@dataclass(frozen=True, slots=True, eq=False)
class RedoneObject:
    """A plane in which one object was found again.

    Attributes
    ----------
    before, after : (Y, X) integer
        The plane as it was, and with the object.
    score : ObjectScore
    """

    before: npt.NDArray[Any]
    after: npt.NDArray[Any]
    score: ObjectScore


def redo_object(
    tiled: TiledPlane,
    rough: npt.NDArray[Any],
    now: npt.NDArray[Any],
    object_id: int,
    prompts: PromptSettings,
    settings: RefineSettings,
    others: Mapping[int, ObjectScore],
) -> Generator[Progress, None, RedoneObject]:
    """Prompt a model with one object of rough labels again.

    Whoever asks for one object looks at it: its mask is taken however much it differs
    from the rough one. No other object loses its last pixel.

    Parameters
    ----------
    tiled : TiledPlane
    rough : (Y, X) integer
        Labels that prompts are made from.
    now : (Y, X) integer
        Labels that the object is painted into.
    object_id : int
    prompts, settings
        See `refine_plane`.
    others : mapping of id to ObjectScore
        Of the other objects of the plane, for the overlap rule.

    Raises
    ------
    InvalidLabelsError
        If the object is not in the rough labels.
    InvalidPromptError
        If the model finds nothing, or nothing that others leave free.
    """
    parts = index_parts(rough, tiled.plane.size)
    index = parts.index
    rows = np.flatnonzero(parts.owners[index.object_ids] == object_id)
    if not len(rows):
        raise InvalidLabelsError(
            f"object {object_id} is not in the labels that were refined any more"
        )
    sampled = sample_part_prompts(tiled, index, prompts, settings.margin)
    masks = yield from find_masks(tiled, sampled.select(rows))
    found = np.zeros(now.shape, bool)
    for i, crop in enumerate(masks.crops):
        found[masks.region(i)] |= crop
    weights = index.areas[rows] / index.areas[rows].sum()
    predicted = float((masks.iou_predictions * weights).sum())
    free = found & ~_defended(now, found, object_id, predicted, settings, others)
    if not free.any():
        raise InvalidPromptError(
            f"nothing was found for object {object_id} with these prompts, or other "
            "objects have it: try others"
        )
    after = np.where(now == object_id, 0, now).astype(now.dtype)
    after[free] = object_id
    old = rough == object_id
    agreement = mask_iou(found, old)
    visible = np.count_nonzero(free) / np.count_nonzero(found)
    ys, xs = np.nonzero(free | old)
    score = ObjectScore(
        object_id=object_id,
        plane=tiled.plane.index,
        status=REFINED,
        parts=len(rows),
        kept=0,
        predicted_iou=predicted,
        agreement=agreement,
        visible=visible,
        doubt=float(np.clip(1 - predicted * agreement * visible, 0, 1)),
        area_before=int(old.sum()),
        area_after=int(free.sum()),
        box_yx=(int(ys.min()), int(xs.min()), int(ys.max()) + 1, int(xs.max()) + 1),
    )
    return RedoneObject(now, after, score)


def _defended(
    now: npt.NDArray[Any],
    found: BoolArray,
    object_id: int,
    predicted: float,
    settings: RefineSettings,
    others: Mapping[int, ObjectScore],
) -> BoolArray:
    """Pixels of a mask that stay with the objects that have them."""
    stays = np.zeros(now.shape, bool)
    area = np.count_nonzero(found)
    for other in np.unique(now[found]).tolist():
        if other in (0, object_id):
            continue
        mine = now == other
        score = others.get(other)
        is_stronger = (
            settings.overlap == "keep"
            or score is None
            or score.status != REFINED
            or (
                np.count_nonzero(mine) < area
                if settings.overlap == "smaller"
                else score.predicted_iou >= predicted
            )
        )
        if is_stronger or not (mine & ~found).any():
            stays |= mine
    return stays
