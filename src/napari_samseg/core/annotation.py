"""One history of prompts, commits and classes: undo, redo, autosave, replay.

What a person does is a list of actions, each of which can be done and undone.
Committed pixels are kept as compressed crops of the values before and after,
and beyond a budget of memory in a temporary file, so that undo has no limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from napari_samseg.core.annotation_actions import (
    Action,
    AddGesture,
    AnnotationState,
    AssignClass,
    ClearPrompts,
    Commit,
    ObjectClass,
    SetClasses,
    Stroke,
)
from napari_samseg.core.annotation_painting import check_fits, paint_commit
from napari_samseg.core.deltas import DELTA_MEMORY, DeltaStore, PixelChange
from napari_samseg.core.errors import InvalidPromptError, SettingsError
from napari_samseg.core.painting import Labels, LabelTarget, PlaneKey, Region
from napari_samseg.core.prompts.from_geometry import Gesture
from napari_samseg.core.types import MaskPrediction

__all__ = ["Annotation"]


class Annotation:
    """Prompts, commits and classes of one image, with unlimited undo and redo.

    Parameters
    ----------
    next_id : int
        First id to give to a new object.
    delta_memory : int
        Bytes of committed pixels held in memory for undo; the rest goes to a
        temporary file.
    """

    def __init__(self, next_id: int = 1, *, delta_memory: int = DELTA_MEMORY) -> None:
        self._done: list[Action] = []
        self._undone: list[Action] = []
        self._state = AnnotationState(next_id)
        self._next_class_id = 1
        # ids that labels hold beside our commits: undo never gives them free
        self._floor = 0
        self._used: dict[LabelTarget, int] = {}
        self._deltas = DeltaStore(delta_memory)

    @property
    def actions(self) -> tuple[Action, ...]:
        """Everything done and not undone, oldest first."""
        return tuple(self._done)

    @property
    def can_undo(self) -> bool:
        """Whether there is something to undo."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether there is something to redo."""
        return bool(self._undone)

    @property
    def classes(self) -> tuple[ObjectClass, ...]:
        """The class table."""
        return self._state.classes

    @property
    def next_class_id(self) -> int:
        """Id that no class has had in this history, be it removed or undone."""
        return self._next_class_id

    @property
    def object_classes(self) -> dict[int, int]:
        """Class id of each object that has one."""
        return dict(self._state.object_classes)

    @property
    def next_id(self) -> int:
        """Smallest id above all in use, committed or with prompts."""
        pending = (i for objects in self._state.prompts.values() for i in objects)
        return max(self._state.next_id, self._floor + 1, max(pending, default=0) + 1)

    @property
    def planes(self) -> tuple[PlaneKey, ...]:
        """Planes that have prompts not yet committed."""
        return tuple(plane for plane, objects in self._state.prompts.items() if objects)

    def prompts(self, plane: PlaneKey) -> dict[int, list[Gesture]]:
        """Gestures not yet committed on a plane, by object id, in drawing order."""
        return {i: list(g) for i, g in self._state.prompts.get(plane, {}).items()}

    def reserve_ids(self, target: LabelTarget, used: int) -> None:
        """Give new objects ids above `used`, the largest one that labels hold.

        Holds for good: undo gives free what was committed, and nothing else.
        """
        self._used[target] = max(self._used.get(target, 0), used)
        self._floor = max(self._floor, used)

    def involves(self, target: LabelTarget) -> bool:
        """Whether something on these labels can be undone or redone."""
        return any(
            isinstance(action, Commit | Stroke) and action.target is target
            for action in (*self._done, *self._undone)
        )

    def add_gesture(
        self,
        plane: PlaneKey,
        object_id: int,
        gesture: Gesture,
        target: LabelTarget | None = None,
    ) -> None:
        """Add a gesture to an object, which may be new.

        `target` is where the object is meant to go, if that is known already. If
        it goes elsewhere, its id may change (see `commit`).
        """
        if object_id < 1:
            raise InvalidPromptError("object ids start at 1: 0 is the background")
        self._perform(AddGesture(plane, object_id, gesture, target))

    def clear_prompts(self, plane: PlaneKey) -> bool:
        """Throw away the prompts of a plane; False if there were none."""
        removed = self.prompts(plane)
        if removed:
            self._perform(ClearPrompts(plane, removed))
        return bool(removed)

    def commit(
        self,
        target: LabelTarget,
        plane: PlaneKey,
        prediction: MaskPrediction,
        *,
        overlap: str = "keep",
        class_id: int | None = None,
    ) -> tuple[int, ...]:
        """Paint predicted objects into the labels and clear their prompts.

        Parameters
        ----------
        target : LabelTarget
            The labels.
        plane : PlaneKey
            Where.
        prediction : MaskPrediction
            An object that was prompted with its own label takes its place. One
            that was prompted for other labels, as undo can bring it back, gets
            a new id where its own is in use.
        overlap : str
            One of `OVERLAP_RULES`: labels already there are kept or replaced.
        class_id : int, optional
            Class given to the objects.

        Returns
        -------
        tuple of int
            Ids of the objects, as painted.

        Raises
        ------
        InvalidPromptError
            If nothing would be painted.
        LabelOverflowError
            If an id does not fit the labels' data type; nothing is written.
        """
        prompted = [int(i) for i in prediction.object_ids]
        prediction = self.renumber(target, plane, prediction)
        ids = tuple(int(i) for i in prediction.object_ids)
        if not ids or all(crop.size == 0 for crop in prediction.crops):
            raise InvalidPromptError("there is no mask to commit yet")
        check_fits(target, max(ids))
        pending = self.prompts(plane)
        removed = {i: pending[i] for i in prompted if i in pending}
        drawn = {
            new: removed[old]
            for new, old in zip(ids, prompted, strict=True)
            if old in removed
        }
        change = paint_commit(target, plane, prediction, drawn, overlap)
        action = Commit(
            plane,
            removed,
            target,
            self._deltas.keep(change),
            ids,
            tuple(prompted),
            class_id,
            {
                i: self._state.object_classes[i]
                for i in ids
                if i in self._state.object_classes
            },
            self._state.next_id,
            overlap,
        )
        target.write(change.region, change.after)
        action.settle(self._state)
        self._record(action)
        return ids

    def renumber(
        self, target: LabelTarget, plane: PlaneKey, prediction: MaskPrediction
    ) -> MaskPrediction:
        """Give objects that were prompted for other labels ids free in these."""
        pending, free = self._state.prompts.get(plane, {}), self.next_id
        ids = []
        for object_id in (int(i) for i in prediction.object_ids):
            drawn = pending.get(object_id)
            if drawn and self._is_foreign(drawn[0], target, object_id):
                object_id, free = free, free + 1
            ids.append(object_id)
        return replace(prediction, object_ids=np.array(ids, np.int64))

    def _is_foreign(self, first: Gesture, target: LabelTarget, object_id: int) -> bool:
        meant_for = next(
            (
                action.target
                for action in reversed(self._done)
                if isinstance(action, AddGesture) and action.gesture is first
            ),
            None,
        )
        return meant_for is not target and (
            object_id <= self._used.get(target, 0)
            or any(
                isinstance(action, Commit)
                and action.target is target
                and object_id in action.object_ids
                for action in self._done
            )
        )

    def set_classes(self, classes: Iterable[ObjectClass]) -> None:
        """Replace the class table; objects of a class that is removed have none.

        Raises
        ------
        SettingsError
            If two rows share an id or a name.
        """
        table = tuple(classes)
        for values in ([c.class_id for c in table], [c.name for c in table]):
            if len(set(values)) != len(values):
                raise SettingsError("each class needs an id and a name of its own")
        if table == self._state.classes:
            return
        ids = {row.class_id for row in table}
        unassigned = {
            object_id: class_id
            for object_id, class_id in self._state.object_classes.items()
            if class_id not in ids
        }
        self._next_class_id = max(self._next_class_id, max(ids, default=0) + 1)
        self._perform(SetClasses(self._state.classes, table, unassigned))

    def assign_class(self, object_id: int, class_id: int | None) -> None:
        """Give an object a class, or none."""
        if class_id is not None and class_id not in {
            c.class_id for c in self._state.classes
        }:
            raise SettingsError(f"class {class_id} is not in the class table")
        old = self._state.object_classes.get(object_id)
        if old != class_id:
            self._perform(AssignClass(object_id, old, class_id))

    def record_stroke(
        self, target: LabelTarget, changes: Sequence[PixelChange]
    ) -> None:
        """Take note of what a person has painted on the labels by hand."""
        self.reserve_ids(target, max(int(change.after.max()) for change in changes))
        deltas = tuple(self._deltas.keep(change) for change in changes)
        self._record(Stroke(target, deltas))

    def paint_stroke(
        self, target: LabelTarget, edits: Sequence[tuple[Region, Labels]]
    ) -> None:
        """Paint on the labels as a person did by hand before.

        Parameters
        ----------
        target : LabelTarget
            The labels.
        edits : sequence of (region, integer array)
            Painted one after the other; -1 leaves what is there.

        Raises
        ------
        LabelOverflowError
            If a label does not fit the labels' data type; nothing is written.
        """
        check_fits(target, max(int(labels.max()) for _, labels in edits))
        changes = []
        for region, labels in edits:
            before = target.read(region)
            after = np.where(labels < 0, before, labels).astype(before.dtype)
            target.write(region, after)
            changes.append(PixelChange(region, before, after))
        self.record_stroke(target, changes)

    def roll_back(self, actions: Iterable[Action]) -> None:
        """Undo some of the latest actions, newest first, and forget them.

        What was drawn in between stays: undo leaves alone what has changed since.
        """
        unwanted = {id(action) for action in actions}
        for action in reversed(self._done):
            if id(action) in unwanted:
                action.undo(self._state)
        self._done = [action for action in self._done if id(action) not in unwanted]

    def undo(self) -> Action | None:
        """Undo the last action and return it; None if there is nothing left.

        An action whose labels are gone is dropped, with the error raised.
        """
        if not self._done:
            return None
        action = self._done.pop()
        action.undo(self._state)
        self._undone.append(action)
        return action

    def redo(self) -> Action | None:
        """Redo the action last undone and return it; None if there is none."""
        if not self._undone:
            return None
        action = self._undone.pop()
        action.do(self._state)
        self._done.append(action)
        return action

    def forget_target(self, target: LabelTarget) -> None:
        """Drop commits and strokes on labels that were removed or replaced.

        Prompts that wait for a commit and classes stay, and so do the ids that
        were given.
        """
        kept: list[Action] = []
        spent: set[int] = set()
        for action in reversed(self._done):
            if isinstance(action, Commit) and action.target is target:
                strokes = action.removed.values()
                spent.update(id(gesture) for drawn in strokes for gesture in drawn)
            elif isinstance(action, Stroke) and action.target is target:
                continue
            elif not (isinstance(action, AddGesture) and id(action.gesture) in spent):
                kept.append(action)
        self._done = kept[::-1]
        self._undone = []
        self._used.pop(target, None)

    def reset(self) -> None:
        """Start anew with the same class table, as for another image."""
        classes = self._state.classes
        self.close()
        self._deltas = DeltaStore(self._deltas.memory_bytes)
        self._state = AnnotationState()
        self._used.clear()
        self._floor = 0
        self.set_classes(classes)

    def close(self) -> None:
        """Free the temporary file; nothing can be undone afterwards."""
        self._done.clear()
        self._undone.clear()
        self._deltas.close()

    def _perform(self, action: Action) -> None:
        action.do(self._state)
        self._record(action)

    def _record(self, action: Action) -> None:
        self._done.append(action)
        self._undone.clear()
