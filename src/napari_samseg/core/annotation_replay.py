"""Saved annotations are done again, in labels that may hold something already.

Objects get ids above those in use, classes with other names get other ids, and a
replay that fails leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence

import numpy as np

from napari_samseg.core.annotation import Annotation
from napari_samseg.core.annotation_actions import (
    Action,
    AddGesture,
    AssignClass,
    ClearPrompts,
    ObjectClass,
    SetClasses,
)
from napari_samseg.core.annotation_file import AnnotationDocument
from napari_samseg.core.annotation_records import (
    RECORD_READERS,
    RecordedCommit,
    RecordedStroke,
)
from napari_samseg.core.painting import LabelTarget, PlaneKey
from napari_samseg.core.prompts.from_geometry import Gesture
from napari_samseg.core.types import MaskPrediction, Progress

__all__ = ["PlanePredictor", "replay_annotation"]

PlanePredictor = Callable[[PlaneKey, Mapping[int, Sequence[Gesture]]], MaskPrediction]


def replay_annotation(
    document: AnnotationDocument,
    annotation: Annotation,
    target: LabelTarget,
    *,
    predict: PlanePredictor | None = None,
) -> Generator[Progress, None, None]:
    """Do again what a document records, yielding after each action.

    If an action fails, or the generator is closed before its end, what it has
    done is undone.

    Parameters
    ----------
    document : AnnotationDocument
        See `napari_samseg.core.annotation_file.read_annotation`.
    annotation : Annotation
        To which the actions are added, each of which can be undone.
    target : LabelTarget
        Where the objects are painted. Where ids are in use already, all recorded
        ones are raised above them; only a label that was taken as a prompt and
        still lies there keeps its id.
    predict : callable, optional
        Gives the masks of a plane's prompts. Without it the recorded pixels
        are painted again, for which no model is needed.
    """
    replay = _Replay(annotation, target, predict)
    total = len(document.records)
    try:
        for number, record in enumerate(document.records, 1):
            replay.repeat(RECORD_READERS[record["do"]](record))
            yield Progress("replaying the annotation", number, total)
    except BaseException:
        annotation.roll_back(replay.made)
        raise


class _Replay:
    """What recorded ids have become, and what was done so far."""

    def __init__(
        self,
        annotation: Annotation,
        target: LabelTarget,
        predict: PlanePredictor | None,
    ) -> None:
        self.made: list[Action] = []
        self._annotation = annotation
        self._target = target
        self._predict = predict
        self._offset = annotation.next_id - 1
        self._ids: dict[int, int] = {}
        self._own_classes = annotation.classes
        self._class_ids: dict[int, int] = {}

    def repeat(self, action: Action | RecordedCommit | RecordedStroke) -> None:
        """Do one recorded action."""
        n_before = len(self._annotation.actions)
        if isinstance(action, AddGesture):
            self._add_gesture(action)
        elif isinstance(action, RecordedCommit):
            self._commit(action)
        elif isinstance(action, RecordedStroke):
            self._paint(action)
        elif isinstance(action, ClearPrompts):
            self._annotation.clear_prompts(action.plane)
        elif isinstance(action, SetClasses):
            self._annotation.set_classes(self._classes(action.new))
        elif isinstance(action, AssignClass):
            self._annotation.assign_class(
                self._id(action.object_id), self._class_id(action.new)
            )
        self.made += self._annotation.actions[n_before:]

    def _id(self, recorded: int) -> int:
        return self._ids.setdefault(recorded, recorded + self._offset)

    def _class_id(self, recorded: int | None) -> int | None:
        return None if recorded is None else self._class_ids.get(recorded, recorded)

    def _add_gesture(self, action: AddGesture) -> None:
        if action.object_id not in self._ids and self._is_there(action):
            self._ids[action.object_id] = action.object_id
        self._annotation.add_gesture(
            action.plane, self._id(action.object_id), action.gesture, self._target
        )

    def _is_there(self, action: AddGesture) -> bool:
        """Whether a label taken as a prompt lies in the target, under its id."""
        mask = action.gesture.mask
        if action.gesture.kind != "label" or mask is None or not mask.any():
            return False
        y0, x0, y1, x1 = (int(v) for v in action.gesture.vertices_yx.ravel()[:4])
        region = action.plane.region((y0, x0, y1, x1))
        labels = action.plane.flatten(self._target.read(region))
        return bool((labels[mask] == action.object_id).all())

    def _commit(self, commit: RecordedCommit) -> None:
        prompts = self._annotation.prompts(commit.plane)
        ids = [self._id(i) for i in commit.prompted_ids]
        if self._predict is not None and all(i in prompts for i in ids):
            prediction = self._predict(commit.plane, {i: prompts[i] for i in ids})
        else:
            prediction = MaskPrediction(
                np.array(ids, np.int64),
                commit.crops,
                commit.boxes_yx,
                # only the crops are painted, whatever the size of the plane
                (int(commit.boxes_yx[:, 2].max()), int(commit.boxes_yx[:, 3].max())),
                np.ones(len(ids), np.float32),
                np.zeros((len(ids), 1, 1), np.float32),
            )
        painted = self._annotation.commit(
            self._target,
            commit.plane,
            prediction,
            overlap=commit.overlap,
            class_id=self._class_id(commit.class_id),
        )
        self._ids.update(zip(commit.object_ids, painted, strict=True))

    def _paint(self, stroke: RecordedStroke) -> None:
        edits = []
        for edit in stroke.edits:
            labels, where = np.unique(edit.labels, return_inverse=True)
            new = np.array([self._id(int(i)) if i > 0 else i for i in labels])
            edits.append((edit.region, new[where].reshape(edit.labels.shape)))
        self._annotation.paint_stroke(self._target, edits)

    def _classes(self, recorded: Sequence[ObjectClass]) -> list[ObjectClass]:
        """Keep the own classes, and give recorded ones of other names free ids."""
        own_ids = {row.class_id for row in self._own_classes}
        own_names = {row.name: row.class_id for row in self._own_classes}
        for row in recorded:
            if row.class_id in self._class_ids:
                continue
            new = own_names.get(row.name, row.class_id)
            if new in own_ids and row.name not in own_names:
                taken = (*self._class_ids.values(), *(r.class_id for r in recorded))
                new = max(self._annotation.next_class_id, max(taken) + 1)
            self._class_ids[row.class_id] = new
        table = {row.class_id: row for row in self._own_classes}
        for row in recorded:
            new = self._class_ids[row.class_id]
            table[new] = ObjectClass(new, row.name, row.color)
        return list(table.values())
