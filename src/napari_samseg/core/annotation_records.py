"""Actions as records of a JSON file, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.annotation_actions import (
    Action,
    AddGesture,
    AssignClass,
    ClearPrompts,
    Commit,
    ObjectClass,
    SetClasses,
)
from napari_samseg.core.deltas import PixelChange
from napari_samseg.core.painting import PlaneKey, Region
from napari_samseg.core.prompts.from_geometry import Gesture
from napari_samseg.core.types import BoolArray

__all__ = [
    "RECORD_READERS",
    "RecordedCommit",
    "RecordedEdit",
    "RecordedStroke",
    "record_action",
]


@dataclass(frozen=True, slots=True, eq=False)
class RecordedCommit:
    """A commit as it stands in a file."""

    plane: PlaneKey
    object_ids: tuple[int, ...]
    prompted_ids: tuple[int, ...]
    boxes_yx: npt.NDArray[np.int64]
    crops: tuple[BoolArray, ...]
    overlap: str
    class_id: int | None


@dataclass(frozen=True, slots=True, eq=False)
class RecordedEdit:
    """One region of a stroke as it stands in a file; -1 where it left labels."""

    region: Region
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RecordedStroke:
    """A stroke as it stands in a file."""

    edits: tuple[RecordedEdit, ...]


def record_action(action: Action) -> dict[str, Any]:
    """Turn an action into a record, of what JSON can hold."""
    if isinstance(action, AddGesture):
        return {
            "do": "prompt",
            "plane": asdict(action.plane),
            "object": action.object_id,
            **_record_gesture(action.gesture),
        }
    if isinstance(action, Commit):
        return {
            "do": "commit",
            "plane": asdict(action.plane),
            "overlap": action.overlap,
            "class": action.class_id,
            "objects": _record_objects(action),
        }
    if isinstance(action, ClearPrompts):
        return {"do": "clear", "plane": asdict(action.plane)}
    if isinstance(action, SetClasses):
        return {"do": "classes", "classes": [asdict(c) for c in action.new]}
    if isinstance(action, AssignClass):
        return {"do": "class", "object": action.object_id, "class": action.new}
    return {"do": "stroke", "edits": [_record_edit(d.get()) for d in action.deltas]}


def _record_gesture(gesture: Gesture) -> dict[str, Any]:
    record: dict[str, Any] = {
        "kind": gesture.kind,
        "vertices_yx": np.round(gesture.vertices_yx, 3).tolist(),
        "positive": gesture.positive,
    }
    if gesture.mask is not None:
        record["runs"] = _runs(gesture.mask)
    return record


def _record_objects(commit: Commit) -> list[dict[str, Any]]:
    after = commit.plane.flatten(commit.delta.after.get())
    y, x = (commit.delta.region[axis].start for axis in commit.plane.axes)
    records = []
    for object_id, prompted_id in zip(
        commit.object_ids, commit.prompted_ids, strict=True
    ):
        mask = after == object_id
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if len(rows) == 0:
            box, crop = (0, 0, 0, 0), mask[:0, :0]
        else:
            box = (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
            crop = mask[box[0] : box[2], box[1] : box[3]]
        in_plane = [int(v) for v in np.add(box, (y, x, y, x))]
        records.append(
            {
                "id": object_id,
                "prompted": prompted_id,
                "box_yx": in_plane,
                "runs": _runs(crop),
            }
        )
    return records


def _record_edit(change: PixelChange) -> dict[str, Any]:
    edited = change.before != change.after
    labels = np.where(edited, change.after.astype(np.int64), -1).ravel()
    starts = np.flatnonzero(np.diff(labels, prepend=labels[0] - 1))
    return {
        "region": [[int(side.start), int(side.stop)] for side in change.region],
        "lengths": np.diff(starts, append=labels.size).tolist(),
        "labels": labels[starts].tolist(),
    }


def _read_plane(record: dict[str, Any]) -> PlaneKey:
    plane = record["plane"]
    rows, columns = (int(axis) for axis in plane["axes"])
    return PlaneKey(tuple(int(i) for i in plane["index"]), (rows, columns))


def _read_prompt(record: dict[str, Any]) -> AddGesture:
    vertices = np.array(record["vertices_yx"], np.float64)
    mask = None
    if "runs" in record:
        y0, x0, y1, x1 = (int(v) for v in vertices.ravel()[:4])
        mask = _unpack_runs(record["runs"], (y1 - y0, x1 - x0))
    gesture = Gesture(record["kind"], vertices, bool(record["positive"]), mask)
    return AddGesture(_read_plane(record), int(record["object"]), gesture, None)


def _read_commit(record: dict[str, Any]) -> RecordedCommit:
    objects = record["objects"]
    boxes = np.array([item["box_yx"] for item in objects], np.int64).reshape(-1, 4)
    if len(boxes) == 0:
        raise ValueError("a commit without objects")
    crops = tuple(
        _unpack_runs(item["runs"], (int(y1 - y0), int(x1 - x0)))
        for item, (y0, x0, y1, x1) in zip(objects, boxes, strict=True)
    )
    ids = tuple(int(item["id"]) for item in objects)
    prompted = tuple(int(item["prompted"]) for item in objects)
    class_id = record.get("class")
    return RecordedCommit(
        _read_plane(record),
        ids,
        prompted,
        boxes,
        crops,
        str(record["overlap"]),
        None if class_id is None else int(class_id),
    )


def _read_clear(record: dict[str, Any]) -> ClearPrompts:
    return ClearPrompts(_read_plane(record), {})


def _read_classes(record: dict[str, Any]) -> SetClasses:
    return SetClasses((), tuple(ObjectClass(**row) for row in record["classes"]), {})


def _read_class(record: dict[str, Any]) -> AssignClass:
    class_id = record["class"]
    new = None if class_id is None else int(class_id)
    return AssignClass(int(record["object"]), None, new)


def _read_stroke(record: dict[str, Any]) -> RecordedStroke:
    edits = []
    for edit in record["edits"]:
        region = tuple(slice(int(start), int(stop)) for start, stop in edit["region"])
        labels = np.repeat(
            np.asarray(edit["labels"], np.int64), np.asarray(edit["lengths"], np.int64)
        )
        shape = [side.stop - side.start for side in region]
        edits.append(RecordedEdit(region, labels.reshape(shape)))
    if not edits:
        raise ValueError("a stroke without pixels")
    return RecordedStroke(tuple(edits))


RECORD_READERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "prompt": _read_prompt,
    "commit": _read_commit,
    "clear": _read_clear,
    "classes": _read_classes,
    "class": _read_class,
    "stroke": _read_stroke,
}


def _runs(mask: BoolArray) -> list[int]:
    """Lengths of runs of equal pixels in row order, the first of background."""
    flat = np.concatenate([[False], mask.ravel(), [True]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    lengths: list[int] = np.diff(np.concatenate([[0], edges])).tolist()
    # the sentinel closes the last run of background; a run of mask has no end there
    if mask.size and mask.ravel()[-1]:
        lengths.append(mask.size - sum(lengths))
    return lengths


def _unpack_runs(runs: Sequence[int], shape: tuple[int, int]) -> BoolArray:
    lengths = np.asarray(runs, np.int64)
    if min(shape) < 0 or (lengths < 0).any() or lengths.sum() != shape[0] * shape[1]:
        raise ValueError(f"runs of {lengths.sum()} pixels for a box of {shape}")
    values = np.arange(len(lengths)) % 2 == 1
    return np.asarray(np.repeat(values, lengths), bool).reshape(shape)
