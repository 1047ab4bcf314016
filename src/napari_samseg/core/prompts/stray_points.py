"""Foreground points that lie outside the box of their own object."""

from __future__ import annotations

import warnings

import numpy as np

from napari_samseg.core.types import FOREGROUND, IntArray, PlanePrompts

__all__ = ["PromptWarning", "describe_stray", "find_stray", "warn_stray"]

# Objects that a message names.
NAMED = 10


class PromptWarning(UserWarning):
    """Prompts contradict each other, and a model has to choose."""


def find_stray(prompts: PlanePrompts) -> IntArray:
    """Return the ids of objects with a foreground point outside their own box.

    A pixel reaches half a pixel around its centre, and a point on the edge of the box
    is inside. Boxes of mask prompts do not count: nobody drew them.
    """
    low = prompts.boxes_yx[:, np.newaxis, :2] - 0.5
    high = prompts.boxes_yx[:, np.newaxis, 2:] - 0.5
    points = prompts.points_yx
    outside = ((points < low) | (points > high)).any(axis=2)
    outside &= prompts.point_labels == FOREGROUND
    # without a box, nothing compares
    stray: IntArray = prompts.object_ids[outside.any(axis=1) & ~prompts.has_mask]
    return stray


def describe_stray(object_ids: IntArray) -> str:
    """Say which objects have such points, and what to do."""
    ids = object_ids.tolist()
    names = ", ".join(map(str, ids[:NAMED])) + ", ..." * (len(ids) > NAMED)
    has = "object {} has" if len(ids) == 1 else "objects {} have"
    return (
        f"{has.format(names)} a point outside the box: a model takes the box for all "
        "of the object, so draw it around the point, or remove the point"
    )


def warn_stray(prompts: PlanePrompts) -> None:
    """Warn of all objects with such points at once.

    Warns
    -----
    PromptWarning
    """
    stray = find_stray(prompts)
    if len(stray):
        warnings.warn(describe_stray(stray), PromptWarning, stacklevel=3)
