"""A queue of refined objects to look at, and what was decided about each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.deltas import DeltaStore, PixelChange, PixelDelta
from napari_samseg.core.painting import LabelTarget, PlaneKey
from napari_samseg.core.refine.scores import ObjectScore, sort_by_doubt

__all__ = ["ACCEPTED", "DELETED", "OPEN", "Review", "ReviewItem"]

OPEN, ACCEPTED, DELETED = "open", "accepted", "deleted"

# Plane and object.
Key = tuple[tuple[int, ...], int]


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """One object of one plane, and whether it was looked at.

    Attributes
    ----------
    score : ObjectScore
    state : str
        "open", "accepted" or "deleted".
    """

    score: ObjectScore
    state: str = OPEN

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.score.plane, self.score.object_id


@dataclass(frozen=True, slots=True)
class _Step:
    """What an action changed: items and pixels."""

    before: tuple[ReviewItem, ...]
    after: tuple[ReviewItem, ...]
    changes: tuple[PixelDelta, ...]


class Review:
    """Refined objects, the most doubtful first, over labels that it changes.

    Each action is one step that can be undone, with the pixels that it changed; pixels
    that somebody else has changed since stay.

    Parameters
    ----------
    target : LabelTarget
        The refined labels.
    size_yx : (int, int)
        Of a plane, in pixels.
    axes : (int, int)
        The axes of the labels that are rows and columns of a plane.
    """

    def __init__(
        self, target: LabelTarget, size_yx: tuple[int, int], axes: tuple[int, int]
    ) -> None:
        self.target, self.size_yx, self.axes = target, size_yx, axes
        self._place = 0
        self._items: list[ReviewItem] = []
        self._places: dict[Key, int] = {}
        # planes that are not in the queue yet: to sort it for each would take long
        self._waiting: dict[tuple[int, ...], list[ReviewItem]] = {}
        self._deltas = DeltaStore()
        self._done: list[_Step] = []
        self._undone: list[_Step] = []

    @property
    def items(self) -> Sequence[ReviewItem]:
        """All objects; the order stays while they are looked at."""
        self._arrange()
        return self._items

    @property
    def place(self) -> int:
        """Position in `items` of the object to look at."""
        self._arrange()
        return self._place

    @place.setter
    def place(self, place: int) -> None:
        self._arrange()
        self._place = place

    @property
    def current(self) -> ReviewItem | None:
        """The object to look at; None without any."""
        return self.items[self.place] if self.items else None

    @property
    def n_open(self) -> int:
        """Objects about which nothing was decided yet."""
        return sum(item.state == OPEN for item in self.items)

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to undo."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to do again."""
        return bool(self._undone)

    def plane(self, item: ReviewItem) -> PlaneKey:
        """Where an object lies in the labels."""
        return PlaneKey(item.score.plane, self.axes)

    def read_plane(self, index: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return a copy of a plane of the labels, (Y, X)."""
        key = PlaneKey(index, self.axes)
        return key.flatten(self.target.read(key.region((0, 0, *self.size_yx))))

    def scores_of(self, index: tuple[int, ...]) -> dict[int, ObjectScore]:
        """Scores of the objects of a plane that are still there, by id."""
        return {
            item.score.object_id: item.score
            for item in self.items
            if item.score.plane == index and item.state != DELETED
        }

    def add_plane(
        self,
        index: tuple[int, ...],
        scores: Iterable[ObjectScore],
        labels: npt.NDArray[Any],
        *,
        is_step: bool,
    ) -> None:
        """Write a refined plane, and queue its objects in place of older ones.

        Parameters
        ----------
        index : tuple of int
        scores : iterable of ObjectScore
        labels : (Y, X) integer
        is_step : bool
            The pixels can be put back; the first refinement of a plane into labels
            made for it need not be.
        """
        changes = self._write(index, self.read_plane(index), labels)
        self._waiting[index] = [ReviewItem(score) for score in scores]
        if is_step:
            self._record(_Step((), (), changes))

    def move(self, by: int) -> None:
        """Go on by so many objects, round at the ends."""
        if self.items:
            self.place = (self.place + by) % len(self._items)

    def go_to_next_open(self) -> None:
        """Go to the next object that nothing was decided about, if there is one."""
        n = len(self.items)
        for i in range(1, n + 1):
            if self._items[(self.place + i) % n].state == OPEN:
                self.place = (self.place + i) % n
                return

    def accept(self) -> None:
        """Say that the current object is good, and go on to the next."""
        self._decide(ACCEPTED, ())
        self.go_to_next_open()

    def delete(self) -> None:
        """Remove the current object from its plane, and go on to the next."""
        if self.current is None:
            return
        score = self.current.score
        before = self.read_plane(score.plane)
        after = np.where(before == score.object_id, 0, before)
        self._decide(DELETED, self._write(score.plane, before, after))
        self.go_to_next_open()

    def replace(
        self, score: ObjectScore, before: npt.NDArray[Any], after: npt.NDArray[Any]
    ) -> None:
        """Take an object that was found again; it is still to be looked at.

        Parameters
        ----------
        score : ObjectScore
            Of an object in the queue.
        before, after : (Y, X) integer
            Its plane, without and with the change.
        """
        self._arrange()
        place = self._places[score.plane, score.object_id]
        old = self._items[place]
        new = ReviewItem(score)
        changes = self._write(score.plane, before, after)
        self._put((new,))
        self._record(_Step((old,), (new,), changes))
        self.place = place

    def note_stroke(self, changes: Iterable[PixelChange]) -> None:
        """Take what a person painted by hand for a step."""
        kept = tuple(self._deltas.keep(change) for change in changes)
        if kept:
            self._record(_Step((), (), kept))

    def undo(self) -> None:
        """Take the last step back, and go to its object."""
        if self._done:
            step = self._done.pop()
            for delta in reversed(step.changes):
                delta.get().revert(self.target)
            self._go_through(step, step.before)
            self._undone.append(step)

    def redo(self) -> None:
        """Do the step that was undone last again."""
        if self._undone:
            step = self._undone.pop()
            for delta in step.changes:
                delta.get().apply(self.target)
            self._go_through(step, step.after)
            self._done.append(step)

    def _arrange(self) -> None:
        """Queue the objects of planes that were added since."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        at = self._items[self._place] if self._items else None
        kept = [item for item in self._items if item.score.plane not in waiting]
        items = [*kept, *(item for plane in waiting.values() for item in plane)]
        by_key = {item.key: item for item in items}
        ordered = sort_by_doubt(item.score for item in items)
        self._items = [by_key[s.plane, s.object_id] for s in ordered]
        self._places = {item.key: i for i, item in enumerate(self._items)}
        # whoever has begun to look stays where they are
        has_begun = any(item.state != OPEN for item in kept)
        self._place = self._places.get(at.key, 0) if at and has_begun else 0

    def _go_through(self, step: _Step, items: tuple[ReviewItem, ...]) -> None:
        self._put(items)
        if items and items[0].key in self._places:
            self.place = self._places[items[0].key]

    def _decide(self, state: str, changes: tuple[PixelDelta, ...]) -> None:
        old = self.current
        if old is None:
            return
        new = replace(old, state=state)
        self._put((new,))
        self._record(_Step((old,), (new,), changes))

    def _put(self, items: tuple[ReviewItem, ...]) -> None:
        self._arrange()
        for item in items:
            # a plane that was refined again may have lost it
            if item.key in self._places:
                self._items[self._places[item.key]] = item

    def _record(self, step: _Step) -> None:
        self._done.append(step)
        self._undone.clear()

    def _write(
        self,
        index: tuple[int, ...],
        before: npt.NDArray[Any],
        after: npt.NDArray[Any],
    ) -> tuple[PixelDelta, ...]:
        """Write what differs between two states of a plane, and keep it for undo."""
        ys, xs = np.nonzero(before != after)
        if not len(ys):
            return ()
        y0, x0, y1, x1 = ys.min(), xs.min(), ys.max() + 1, xs.max() + 1
        key = PlaneKey(index, self.axes)
        change = PixelChange(
            key.region((int(y0), int(x0), int(y1), int(x1))),
            key.unflatten(before[y0:y1, x0:x1]),
            key.unflatten(after[y0:y1, x0:x1]),
        )
        change.apply(self.target)
        return (self._deltas.keep(change),)
