"""What is known of each object after its labels went through a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from napari_samseg.core.amounts import count_things
from napari_samseg.core.geometry import Box

__all__ = ["KEPT", "REFINED", "SPLIT", "ObjectScore", "RefineCounts", "sort_by_doubt"]

REFINED = "refined"
# Objects that are named at the end of a job: those to look at first.
N_WORST = 5
# Why an object keeps its old pixels.
KEPT = {
    "empty": "the model found nothing",
    "disagrees": "the mask is a different object",
    "covered": "other masks took its place",
}
# What objects are that a model has looked at to split them.
SPLIT = {"whole": "whole", "split": "parts of objects that were split"}


@dataclass(frozen=True, slots=True)
class ObjectScore:
    """How the refinement of one object in one plane went.

    Parts of an object that lie apart are refined by themselves; the numbers are
    means over them, weighted by their old areas.

    Attributes
    ----------
    object_id : int
    plane : tuple of int
        Position along the axes that are not in the plane.
    status : str
        "refined", or why the largest part that keeps its old pixels does so: a key of
        `KEPT`; of objects that are only split, a key of `SPLIT`, or "disagrees".
    parts, kept : int
        Parts of the object, and those that keep their old pixels.
    predicted_iou : float
        What the model thinks of its masks, 0 to 1.
    agreement : float
        IoU of the masks with the old pixels.
    visible : float
        Share of the masks that no other object got.
    doubt : float
        1 minus the product of these three: 0 where nothing speaks against the mask,
        1 where there is none.
    area_before, area_after : int
        In pixels.
    box_yx : (y0, x0, y1, x1)
        Half-open box around the old and the new pixels.
    """

    object_id: int
    plane: tuple[int, ...]
    status: str
    parts: int
    kept: int
    predicted_iou: float
    agreement: float
    visible: float
    doubt: float
    area_before: int
    area_after: int
    box_yx: Box

    @property
    def is_partly_refined(self) -> bool:
        """Whether some parts got another mask, and others keep their old pixels."""
        return self.status in KEPT and 0 < self.kept < self.parts

    @property
    def words(self) -> str:
        """What became of the old pixels, as a person would say it."""
        why = KEPT.get(self.status, self.status)
        if self.is_partly_refined:
            return f"{self.kept} of {self.parts} parts kept old pixels: {why}"
        return why


def sort_by_doubt(scores: Iterable[ObjectScore]) -> list[ObjectScore]:
    """Return scores, the most doubtful first; equal ones by plane and id."""
    return sorted(scores, key=lambda s: (-s.doubt, s.plane, s.object_id))


@dataclass(slots=True)
class RefineCounts:
    """What became of the objects of all planes.

    Attributes
    ----------
    n_planes : int
    n_prompted : int
        Objects of all planes: one counts in each plane that shows it.
    n_refined : int
        Objects of which at least one part got another mask.
    kept : Counter of str
        All others, by status: those of which no part got another mask, or that were
        only looked at.
    n_partly : int
        Of those refined, objects of which some parts keep their old pixels.
    n_kept_parts, n_parts : int
        These parts, and all parts of these objects.
    n_small : int
        Objects of a plane that got no prompt, as they are too small.
    n_changed : int
        Pixels with another label than before.
    ids : set of int
        Different objects.
    worst : list of ObjectScore
        The most doubtful ones, `N_WORST` at most.
    """

    n_planes: int = 0
    n_prompted: int = 0
    n_refined: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    n_partly: int = 0
    n_kept_parts: int = 0
    n_parts: int = 0
    n_small: int = 0
    n_changed: int = 0
    ids: set[int] = field(default_factory=set)
    worst: list[ObjectScore] = field(default_factory=list)

    def add(self, scores: Iterable[ObjectScore], n_small: int, n_changed: int) -> None:
        """Count the objects of one more plane."""
        self.n_planes += 1
        self.n_small += n_small
        self.n_changed += n_changed
        scores = tuple(scores)
        self.worst = sort_by_doubt([*self.worst, *scores])[:N_WORST]
        for score in scores:
            self.n_prompted += 1
            self.ids.add(score.object_id)
            if score.status == REFINED:
                self.n_refined += 1
            elif score.is_partly_refined:
                self.n_refined += 1
                self.n_partly += 1
                self.n_kept_parts += score.kept
                self.n_parts += score.parts
            else:
                self.kept[score.status] += 1

    def __str__(self) -> str:
        parts = [count_things(len(self.ids), "object")]
        if self.n_planes > 1:
            parts.append(
                f"{count_things(self.n_prompted, 'mask')} in {self.n_planes} planes"
            )
        split = [f"{self.kept[s]} {what}" for s, what in SPLIT.items() if self.kept[s]]
        parts += split or [f"{self.n_refined} refined"]
        if self.n_partly:
            parts.append(
                f"{self.n_partly} of them in part ({self.n_kept_parts} of "
                f"{self.n_parts} parts kept old pixels)"
            )
        for status, why in KEPT.items():
            if self.kept[status]:
                parts.append(f"{self.kept[status]} kept old pixels ({why})")
        if self.n_small:
            parts.append(f"{self.n_small} too small to prompt")
        changed = "got new ids" if split else "changed"
        parts.append(f"{count_things(self.n_changed, 'pixel')} {changed}")
        return ", ".join(parts)
