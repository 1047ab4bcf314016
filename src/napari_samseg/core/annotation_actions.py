"""What a person can do to an annotation: each action is done, undone and done again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from napari_samseg.core.deltas import PixelDelta
from napari_samseg.core.errors import SettingsError
from napari_samseg.core.painting import LabelTarget, PlaneKey
from napari_samseg.core.prompts.from_geometry import Gesture

__all__ = [
    "Action",
    "AddGesture",
    "AnnotationState",
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


@dataclass(slots=True, eq=False)
class AnnotationState:
    """What actions change, beside the pixels of labels.

    Attributes
    ----------
    next_id : int
        Above the ids of all objects that were committed.
    prompts : dict
        Gestures not yet committed, by plane and object id, in drawing order.
    classes : tuple of ObjectClass
        The class table.
    object_classes : dict of int to int
        Class id of each object that has one.
    """

    next_id: int = 1
    prompts: dict[PlaneKey, dict[int, list[Gesture]]] = field(default_factory=dict)
    classes: tuple[ObjectClass, ...] = ()
    object_classes: dict[int, int] = field(default_factory=dict)

    def objects(self, plane: PlaneKey) -> dict[int, list[Gesture]]:
        """Return the gestures of a plane, to be changed."""
        return self.prompts.setdefault(plane, {})

    def restore(
        self, plane: PlaneKey, gestures: Mapping[int, Sequence[Gesture]]
    ) -> None:
        """Put gestures back that were taken away."""
        objects = self.objects(plane)
        for object_id, strokes in gestures.items():
            objects[object_id] = list(strokes)

    def put_class(self, object_id: int, class_id: int | None) -> None:
        """Give an object a class, or none."""
        if class_id is None:
            self.object_classes.pop(object_id, None)
        else:
            self.object_classes[object_id] = class_id


@dataclass(frozen=True, slots=True, eq=False)
class AddGesture:
    """A gesture was drawn for an object."""

    plane: PlaneKey
    object_id: int
    gesture: Gesture
    target: LabelTarget | None

    def do(self, state: AnnotationState) -> None:
        """Apply the action, for the first time or again."""
        state.objects(self.plane).setdefault(self.object_id, []).append(self.gesture)

    def undo(self, state: AnnotationState) -> None:
        """Bring back what was before the action."""
        objects = state.objects(self.plane)
        objects[self.object_id].pop()
        if not objects[self.object_id]:
            del objects[self.object_id]


@dataclass(frozen=True, slots=True, eq=False)
class ClearPrompts:
    """The prompts of a plane were thrown away without a commit."""

    plane: PlaneKey
    removed: Mapping[int, Sequence[Gesture]]

    def do(self, state: AnnotationState) -> None:
        """Apply the action, for the first time or again."""
        state.objects(self.plane).clear()

    def undo(self, state: AnnotationState) -> None:
        """Bring back what was before the action."""
        state.restore(self.plane, self.removed)


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

    def do(self, state: AnnotationState) -> None:
        """Apply the action, for the first time or again."""
        self.delta.get().apply(self.target)
        self.settle(state)

    def settle(self, state: AnnotationState) -> None:
        """Record what a commit changes besides pixels."""
        objects = state.objects(self.plane)
        for prompted_id in self.removed:
            objects.pop(prompted_id, None)
        if self.class_id is not None:
            for object_id in self.object_ids:
                state.object_classes[object_id] = self.class_id
        state.next_id = max(state.next_id, max(self.object_ids) + 1)

    def undo(self, state: AnnotationState) -> None:
        """Bring back what was before the action."""
        self.delta.get().revert(self.target)
        state.restore(self.plane, self.removed)
        for object_id in self.object_ids:
            state.object_classes.pop(object_id, None)
        state.object_classes.update(self.old_classes)
        state.next_id = self.old_next_id


@dataclass(frozen=True, slots=True, eq=False)
class SetClasses:
    """The class table was edited."""

    old: tuple[ObjectClass, ...]
    new: tuple[ObjectClass, ...]
    # objects of classes that were removed
    unassigned: Mapping[int, int]

    def do(self, state: AnnotationState) -> None:
        """Apply the action, for the first time or again."""
        state.classes = self.new
        for object_id in self.unassigned:
            state.put_class(object_id, None)

    def undo(self, state: AnnotationState) -> None:
        """Bring back what was before the action."""
        state.classes = self.old
        state.object_classes.update(self.unassigned)


@dataclass(frozen=True, slots=True, eq=False)
class AssignClass:
    """An object was given a class, or none."""

    object_id: int
    old: int | None
    new: int | None

    def do(self, state: AnnotationState) -> None:
        """Apply the action, for the first time or again."""
        state.put_class(self.object_id, self.new)

    def undo(self, state: AnnotationState) -> None:
        """Bring back what was before the action."""
        state.put_class(self.object_id, self.old)


@dataclass(frozen=True, slots=True, eq=False)
class Stroke:
    """A person painted on the labels by hand."""

    target: LabelTarget
    deltas: tuple[PixelDelta, ...]

    def do(self, state: AnnotationState) -> None:
        """Apply the action, for the first time or again."""
        for delta in self.deltas:
            delta.get().apply(self.target)

    def undo(self, state: AnnotationState) -> None:
        """Bring back what was before the action."""
        for delta in reversed(self.deltas):
            delta.get().revert(self.target)


Action = AddGesture | ClearPrompts | Commit | SetClasses | AssignClass | Stroke


def _is_hex(digits: str) -> bool:
    return all(digit in "0123456789abcdefABCDEF" for digit in digits)
