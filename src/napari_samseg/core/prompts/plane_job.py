"""Prompts from labels, plane by plane, and what an editor makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.images import ArrayLike
from napari_samseg.core.io.label_doubts import instance_doubts
from napari_samseg.core.io.label_image import whole_numbers
from napari_samseg.core.prompts.from_labels import plane_seed, sample_prompts
from napari_samseg.core.prompts.object_index import ObjectIndex, index_objects
from napari_samseg.core.settings import PromptSettings
from napari_samseg.core.types import (
    BACKGROUND,
    FOREGROUND,
    PADDING,
    IntArray,
    PlanePrompts,
    Progress,
)

__all__ = [
    "PromptCounts",
    "SampledPrompts",
    "attach_masks",
    "join_prompts",
    "sample_plane",
    "sample_planes_steps",
    "unprompted_objects",
    "why_nothing",
]

Plane = tuple[int, ...]


@dataclass(slots=True)
class PromptCounts:
    """What was made of the labels.

    Attributes
    ----------
    n_objects : int
        Different ids.
    n_prompted : int
        Rows of all planes: an object counts in each plane that shows it.
    n_planes, n_empty : int
        All planes, and those without an object.
    n_points, n_negatives : int
    n_small : int
        Objects of a plane that were left out as too small.
    n_short, n_short_negatives : int
        Objects of a plane that got fewer points than asked for: they have too few
        pixels, or too little is around them.
    """

    n_objects: int = 0
    n_prompted: int = 0
    n_planes: int = 0
    n_empty: int = 0
    n_points: int = 0
    n_negatives: int = 0
    n_small: int = 0
    n_short: int = 0
    n_short_negatives: int = 0

    def add(self, prompts: PlanePrompts, settings: PromptSettings) -> None:
        """Count the prompts of one more plane."""
        self.n_planes += 1
        self.n_empty += not len(prompts)
        self.n_prompted += len(prompts)
        n_points = (prompts.point_labels == FOREGROUND).sum(axis=1)
        n_negatives = (prompts.point_labels == BACKGROUND).sum(axis=1)
        self.n_points += int(n_points.sum())
        self.n_negatives += int(n_negatives.sum())
        if settings.point != "none":
            self.n_short += int((n_points < settings.n_points).sum())
        self.n_short_negatives += int((n_negatives < settings.n_negatives).sum())

    def __str__(self) -> str:
        parts = [count_things(self.n_objects, "object")]
        if self.n_planes > 1:
            prompts = count_things(self.n_prompted, "prompt")
            parts.append(f"{prompts} in {self.n_planes} planes")
        for n, what in (
            (self.n_empty if self.n_planes > 1 else 0, "plane"),
            (self.n_points, "point"),
            (self.n_negatives, "negative point"),
        ):
            if n:
                with_none = " without an object" if what == "plane" else ""
                parts.append(count_things(n, what) + with_none)
        for n, what in (
            (self.n_small, "left out as too small"),
            (self.n_short, "with fewer points than asked for"),
            (self.n_short_negatives, "with fewer negative points than asked for"),
        ):
            if n:
                parts.append(f"{n} {what}")
        return ", ".join(parts)


@dataclass(slots=True, eq=False)
class SampledPrompts:
    """Prompts of planes, and which objects these planes show.

    Attributes
    ----------
    planes : dict of plane to PlanePrompts
        By position along each axis before (Y, X).
    object_ids : dict of plane to (N,) int64
        All objects of the plane, those without a prompt too.
    counts : PromptCounts
    notes : list of str
        What a person should know of the labels.
    """

    planes: dict[Plane, PlanePrompts] = field(default_factory=dict)
    object_ids: dict[Plane, IntArray] = field(default_factory=dict)
    counts: PromptCounts = field(default_factory=PromptCounts)
    notes: list[str] = field(default_factory=list)


def sample_plane(
    objects: ObjectIndex, plane: Plane, settings: PromptSettings, counts: PromptCounts
) -> tuple[PlanePrompts, ObjectIndex]:
    """Make the prompts of one plane, and count them.

    Returns
    -------
    prompts : PlanePrompts
    objects : ObjectIndex
        Those that have prompts: the others are too small.
    """
    is_small = objects.areas < settings.min_area
    counts.n_small += int(is_small.sum())
    objects = objects.select(~is_small)
    prompts = sample_prompts(objects, settings, plane_seed(settings, plane))
    counts.add(prompts, settings)
    return prompts, objects


def sample_planes_steps(
    labels: ArrayLike,
    settings: PromptSettings,
    *,
    name: str = "the labels",
    planes: Sequence[Plane] | None = None,
) -> Generator[Progress, None, SampledPrompts]:
    """Make the prompts of some planes of labels, or of all.

    Parameters
    ----------
    labels : (..., Y, X) integer, bool, or real numbers that are whole
        Planes are read when they are needed.
    settings : PromptSettings
    name : str
        What the labels are called in messages.
    planes : sequence of tuple of int, optional
        Positions along each axis before (Y, X); all of them if not given.

    Raises
    ------
    InvalidLabelsError
        If the labels are no labels, or there is no object to prompt.
    """
    sampled = SampledPrompts()
    # the plane in the middle is looked at for what all of them are
    asked = list(np.ndindex(*labels.shape[:-2])) if planes is None else list(planes)
    for done, plane in enumerate(asked):
        yield Progress("sampling planes", done, len(asked))
        ids_of_plane = _read_ids(labels, plane, name)
        if done == len(asked) // 2:
            sampled.notes += instance_doubts(ids_of_plane, name)
        index = index_objects(ids_of_plane)
        prompts, _ = sample_plane(index, plane, settings, sampled.counts)
        if len(index):
            sampled.object_ids[plane] = index.object_ids
        if len(prompts):
            sampled.planes[plane] = prompts
    ids = [prompts.object_ids for prompts in sampled.planes.values()]
    if not ids:
        raise InvalidLabelsError(
            why_nothing(name, sampled.counts, settings)
            if planes is None
            else why_nothing(f"this plane of {name}", sampled.counts, settings)
        )
    sampled.counts.n_objects = len(np.unique(np.concatenate(ids)))
    return sampled


def attach_masks(edited: PlanePrompts | None, sampled: PlanePrompts) -> PlanePrompts:
    """Give prompts that a person has edited the mask prompts they were made with.

    Parameters
    ----------
    edited : PlanePrompts or None
        Points and boxes as they are now; None where a plane has none any more.
    sampled : PlanePrompts
        What was made of the labels, with masks.

    Returns
    -------
    PlanePrompts
        Objects of `edited`, of which those with a mask have it; and objects that
        never had anything but a mask.
    """
    masks = sampled.low_res_masks
    if masks is None:
        return sampled.select(np.zeros(0, np.int64)) if edited is None else edited
    only_mask = ~(sampled.has_box | (sampled.n_points > 0))
    bare = sampled.select(only_mask)
    if edited is None or not len(edited):
        return bare
    bare = bare.select(~np.isin(bare.object_ids, edited.object_ids))
    found = np.full((len(edited), *masks.shape[1:]), np.nan, np.float32)
    place = {int(i): k for k, i in enumerate(sampled.object_ids)}
    for k, object_id in enumerate(edited.object_ids.tolist()):
        if object_id in place:
            found[k] = masks[place[object_id]]
    return join_prompts(dataclasses.replace(edited, low_res_masks=found), bare)


def join_prompts(first: PlanePrompts, second: PlanePrompts) -> PlanePrompts:
    """Put the prompts of one plane together.

    Parameters
    ----------
    first, second : PlanePrompts
        Both with mask prompts of one size, or both without. An object of `second`
        whose id is taken gets one above all others.
    """
    ids = second.object_ids.copy()
    is_taken = np.isin(ids, first.object_ids)
    above = max(first.object_ids.max(initial=0), ids.max(initial=0)) + 1
    ids[is_taken] = np.arange(above, above + is_taken.sum())
    longest = max(first.points_yx.shape[1], second.points_yx.shape[1])
    points = np.zeros((len(first) + len(second), longest, 2), np.float32)
    labels = np.full(points.shape[:2], PADDING, np.int8)
    for start, part in ((0, first), (len(first), second)):
        where = np.s_[start : start + len(part), : part.points_yx.shape[1]]
        points[where], labels[where] = part.points_yx, part.point_labels
    masks = None
    if first.low_res_masks is not None and second.low_res_masks is not None:
        masks = np.concatenate([first.low_res_masks, second.low_res_masks])
    return PlanePrompts(
        np.concatenate([first.object_ids, ids]),
        points,
        labels,
        np.concatenate([first.boxes_yx, second.boxes_yx]),
        masks,
    )


def unprompted_objects(
    object_ids: Mapping[Plane, IntArray], prompts: Mapping[Plane, PlanePrompts]
) -> dict[Plane, IntArray]:
    """Return the objects of each plane that have no prompt there, if any."""
    missing = {}
    for plane, ids in object_ids.items():
        has = prompts[plane].object_ids if plane in prompts else np.zeros(0, np.int64)
        without = np.setdiff1d(ids, has)
        if len(without):
            missing[plane] = without
    return missing


def why_nothing(name: object, counts: PromptCounts, settings: PromptSettings) -> str:
    """Say why labels have no object to prompt."""
    if counts.n_small:
        return (
            f"no object in {name} has as many pixels as the smallest that is to be "
            f"prompted, {settings.min_area}: {counts.n_small} left out"
        )
    return f"there is no object in {name}: all its pixels are 0"


def _read_ids(labels: Any, plane: Plane, name: str) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = np.asarray(labels[plane])
    if values.dtype.kind == "f":
        return whole_numbers(values, name)
    return values.astype(np.uint8) if values.dtype.kind == "b" else values
