"""One history of prompts, commits and classes: undo, redo, autosave, replay.

What a person does is a list of actions, each of which can be done and undone.
Committed pixels are kept as compressed crops of the values before and after,
and beyond a budget of memory in a temporary file, so that undo has no limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from napari_samseg.core.deltas import (
    DELTA_MEMORY,
    DeltaStore,
    PixelChange,
    PixelDelta,
)
from napari_samseg.core.errors import (
    InvalidPromptError,
    LabelOverflowError,
    SettingsError,
)
from napari_samseg.core.painting import (
    Box,
    Labels,
    LabelTarget,
    PlaneKey,
    Region,
    paint_objects,
)
from napari_samseg.core.prompts.from_geometry import Gesture
from napari_samseg.core.types import MaskPrediction

__all__ = [
    "Action",
    "AddGesture",
    "Annotation",
    "AssignClass",
    "ClearPrompts",
    "Commit",
    "ObjectClass",
    "SetClasses",
    "Stroke",
]


@dataclass(frozen=True, slots=True)
class ObjectClass:
    """One row of the class table.

    Attributes
    ----------
    class_id : int
        Greater than 0; the value in semantic labels.
    name : str
    color : str
        ``#rrggbb``.
    """

    class_id: int
    name: str
    color: str

    def __post_init__(self) -> None:
        if self.class_id < 1:
            raise SettingsError("class ids start at 1: 0 is the background")
        if not self.name.strip():
            raise SettingsError(f"class {self.class_id} needs a name")
        digits = self.color.removeprefix("#")
        if len(self.color) != 7 or len(digits) != 6 or not _is_hex(digits):
            raise SettingsError(f"{self.color!r} is not a colour like #33aa55")


@dataclass(frozen=True, slots=True, eq=False)
class AddGesture:
    """A gesture was drawn for an object."""

    plane: PlaneKey
    object_id: int
    gesture: Gesture
    target: LabelTarget | None

    def do(self, annotation: Annotation) -> None:
        """Apply the action, for the first time or again."""
        annotation._objects(self.plane).setdefault(self.object_id, []).append(
            self.gesture
        )

    def undo(self, annotation: Annotation) -> None:
        """Bring back what was before the action."""
        objects = annotation._objects(self.plane)
        objects[self.object_id].pop()
        if not objects[self.object_id]:
            del objects[self.object_id]


@dataclass(frozen=True, slots=True, eq=False)
class ClearPrompts:
    """The prompts of a plane were thrown away without a commit."""

    plane: PlaneKey
    removed: Mapping[int, Sequence[Gesture]]

    def do(self, annotation: Annotation) -> None:
        """Apply the action, for the first time or again."""
        annotation._objects(self.plane).clear()

    def undo(self, annotation: Annotation) -> None:
        """Bring back what was before the action."""
        annotation._restore(self.plane, self.removed)


@dataclass(frozen=True, slots=True, eq=False)
class Commit:
    """Objects were painted into the labels and their prompts were cleared."""

    plane: PlaneKey
    removed: Mapping[int, Sequence[Gesture]]
    target: LabelTarget
    delta: PixelDelta
    object_ids: tuple[int, ...]
    prompted_ids: tuple[int, ...]
    class_id: int | None
    old_classes: Mapping[int, int]
    old_next_id: int
    overlap: str

    def do(self, annotation: Annotation) -> None:
        """Apply the action, for the first time or again."""
        self.delta.get().apply(self.target)
        self.settle(annotation)

    def settle(self, annotation: Annotation) -> None:
        """Record what a commit changes besides pixels."""
        objects = annotation._objects(self.plane)
        for prompted_id in self.removed:
            objects.pop(prompted_id, None)
        if self.class_id is not None:
            for object_id in self.object_ids:
                annotation._object_classes[object_id] = self.class_id
        annotation._next_id = max(annotation._next_id, max(self.object_ids) + 1)

    def undo(self, annotation: Annotation) -> None:
        """Bring back what was before the action."""
        self.delta.get().revert(self.target)
        annotation._restore(self.plane, self.removed)
        for object_id in self.object_ids:
            annotation._object_classes.pop(object_id, None)
        annotation._object_classes.update(self.old_classes)
        annotation._next_id = self.old_next_id


@dataclass(frozen=True, slots=True, eq=False)
class SetClasses:
    """The class table was edited."""

    old: tuple[ObjectClass, ...]
    new: tuple[ObjectClass, ...]
    # objects of classes that were removed
    unassigned: Mapping[int, int]

    def do(self, annotation: Annotation) -> None:
        """Apply the action, for the first time or again."""
        annotation._classes = self.new
        for object_id in self.unassigned:
            annotation._put_class(object_id, None)

    def undo(self, annotation: Annotation) -> None:
        """Bring back what was before the action."""
        annotation._classes = self.old
        annotation._object_classes.update(self.unassigned)


@dataclass(frozen=True, slots=True, eq=False)
class AssignClass:
    """An object was given a class, or none."""

    object_id: int
    old: int | None
    new: int | None

    def do(self, annotation: Annotation) -> None:
        """Apply the action, for the first time or again."""
        annotation._put_class(self.object_id, self.new)

    def undo(self, annotation: Annotation) -> None:
        """Bring back what was before the action."""
        annotation._put_class(self.object_id, self.old)


@dataclass(frozen=True, slots=True, eq=False)
class Stroke:
    """A person painted on the labels by hand."""

    target: LabelTarget
    deltas: tuple[PixelDelta, ...]

    def do(self, annotation: Annotation) -> None:
        """Apply the action, for the first time or again."""
        for delta in self.deltas:
            delta.get().apply(self.target)

    def undo(self, annotation: Annotation) -> None:
        """Bring back what was before the action."""
        for delta in reversed(self.deltas):
            delta.get().revert(self.target)


Action = AddGesture | ClearPrompts | Commit | SetClasses | AssignClass | Stroke


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
        self._prompts: dict[PlaneKey, dict[int, list[Gesture]]] = {}
        self._classes: tuple[ObjectClass, ...] = ()
        self._object_classes: dict[int, int] = {}
        self._next_class_id = 1
        self._next_id = next_id
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
        return self._classes

    @property
    def next_class_id(self) -> int:
        """Id that no class has had in this history, be it removed or undone."""
        return self._next_class_id

    @property
    def object_classes(self) -> dict[int, int]:
        """Class id of each object that has one."""
        return dict(self._object_classes)

    @property
    def next_id(self) -> int:
        """Smallest id above all in use, committed or with prompts."""
        pending = (i for objects in self._prompts.values() for i in objects)
        return max(self._next_id, self._floor + 1, max(pending, default=0) + 1)

    @property
    def planes(self) -> tuple[PlaneKey, ...]:
        """Planes that have prompts not yet committed."""
        return tuple(plane for plane, objects in self._prompts.items() if objects)

    def prompts(self, plane: PlaneKey) -> dict[int, list[Gesture]]:
        """Gestures not yet committed on a plane, by object id, in drawing order."""
        return {i: list(g) for i, g in self._prompts.get(plane, {}).items()}

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
        _check_fits(target, max(ids))
        pending = self.prompts(plane)
        removed = {i: pending[i] for i in prompted if i in pending}
        drawn = {
            new: removed[old]
            for new, old in zip(ids, prompted, strict=True)
            if old in removed
        }
        change = _paint(target, plane, prediction, drawn, overlap)
        action = Commit(
            plane,
            removed,
            target,
            self._deltas.keep(change),
            ids,
            tuple(prompted),
            class_id,
            {i: self._object_classes[i] for i in ids if i in self._object_classes},
            self._next_id,
            overlap,
        )
        target.write(change.region, change.after)
        action.settle(self)
        self._record(action)
        return ids

    def renumber(
        self, target: LabelTarget, plane: PlaneKey, prediction: MaskPrediction
    ) -> MaskPrediction:
        """Give objects that were prompted for other labels ids free in these."""
        pending, free = self._prompts.get(plane, {}), self.next_id
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
        if table == self._classes:
            return
        ids = {row.class_id for row in table}
        unassigned = {
            object_id: class_id
            for object_id, class_id in self._object_classes.items()
            if class_id not in ids
        }
        self._next_class_id = max(self._next_class_id, max(ids, default=0) + 1)
        self._perform(SetClasses(self._classes, table, unassigned))

    def assign_class(self, object_id: int, class_id: int | None) -> None:
        """Give an object a class, or none."""
        if class_id is not None and class_id not in {c.class_id for c in self._classes}:
            raise SettingsError(f"class {class_id} is not in the class table")
        old = self._object_classes.get(object_id)
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
        _check_fits(target, max(int(labels.max()) for _, labels in edits))
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
                action.undo(self)
        self._done = [action for action in self._done if id(action) not in unwanted]

    def undo(self) -> Action | None:
        """Undo the last action and return it; None if there is nothing left.

        An action whose labels are gone is dropped, with the error raised.
        """
        if not self._done:
            return None
        action = self._done.pop()
        action.undo(self)
        self._undone.append(action)
        return action

    def redo(self) -> Action | None:
        """Redo the action last undone and return it; None if there is none."""
        if not self._undone:
            return None
        action = self._undone.pop()
        action.do(self)
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
        classes = self._classes
        self.close()
        self._deltas = DeltaStore(self._deltas.memory_bytes)
        self._prompts.clear()
        self._object_classes.clear()
        self._used.clear()
        self._classes, self._next_id, self._floor = (), 1, 0
        self.set_classes(classes)

    def close(self) -> None:
        """Free the temporary file; nothing can be undone afterwards."""
        self._done.clear()
        self._undone.clear()
        self._deltas.close()

    def _perform(self, action: Action) -> None:
        action.do(self)
        self._record(action)

    def _record(self, action: Action) -> None:
        self._done.append(action)
        self._undone.clear()

    def _objects(self, plane: PlaneKey) -> dict[int, list[Gesture]]:
        return self._prompts.setdefault(plane, {})

    def _restore(
        self, plane: PlaneKey, gestures: Mapping[int, Sequence[Gesture]]
    ) -> None:
        objects = self._objects(plane)
        for object_id, strokes in gestures.items():
            objects[object_id] = list(strokes)

    def _put_class(self, object_id: int, class_id: int | None) -> None:
        if class_id is None:
            self._object_classes.pop(object_id, None)
        else:
            self._object_classes[object_id] = class_id


def _check_fits(target: LabelTarget, object_id: int) -> None:
    if object_id > target.max_id:
        raise LabelOverflowError(
            f"object {object_id} does not fit the labels, whose largest id is "
            f"{target.max_id}: convert them to uint32, or commit into a new layer"
        )


def _paint(
    target: LabelTarget,
    plane: PlaneKey,
    prediction: MaskPrediction,
    removed: Mapping[int, Sequence[Gesture]],
    overlap: str,
) -> PixelChange:
    """Paint objects into a copy of the labels; `removed` by the ids painted."""
    gestures = [gesture for drawn in removed.values() for gesture in drawn]
    refined = [
        i for i, drawn in removed.items() if any(g.kind == "label" for g in drawn)
    ]
    box = _hull(prediction, gestures)
    region = plane.region(box)
    before = target.read(region)
    after = plane.unflatten(
        paint_objects(
            plane.flatten(before), prediction, box, overlap=overlap, moved=refined
        )
    )
    # `isin` would take a second for a large object
    if not any((after == object_id).any() for object_id in prediction.object_ids):
        raise InvalidPromptError(
            "nothing was committed: the mask lies wholly on labels that are kept; "
            "replace them, or undo"
        )
    return PixelChange(region, before, after)


def _hull(prediction: MaskPrediction, gestures: Iterable[Gesture]) -> Box:
    """Box of all masks, and of the labels that they were refined from."""
    boxes = [
        box
        for box, crop in zip(prediction.boxes_yx, prediction.crops, strict=True)
        if crop.size
    ]
    boxes += [
        gesture.vertices_yx.ravel()[:4]
        for gesture in gestures
        if gesture.kind == "label"
    ]
    stacked = np.stack(boxes).astype(int)
    y0, x0 = stacked[:, :2].min(axis=0)
    y1, x1 = stacked[:, 2:].max(axis=0)
    return int(y0), int(x0), int(y1), int(x1)


def _is_hex(digits: str) -> bool:
    return all(digit in "0123456789abcdefABCDEF" for digit in digits)
