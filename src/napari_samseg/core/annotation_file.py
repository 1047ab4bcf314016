"""Annotations as JSON: autosaved at every step, and loaded with checks.

The file holds what was done and not undone. Commits carry the pixels that were
painted, so that labels come back exactly and without a model; replaying with a
model predicts them again from the prompts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.annotation import (
    Action,
    AddGesture,
    Annotation,
    AssignClass,
    ClearPrompts,
    Commit,
    ObjectClass,
    SetClasses,
)
from napari_samseg.core.deltas import PixelChange
from napari_samseg.core.errors import (
    InvalidPromptError,
    MissingFileError,
    SamSegError,
)
from napari_samseg.core.painting import PlaneKey, Region
from napari_samseg.core.prompts.from_geometry import Gesture
from napari_samseg.core.settings import ImageSettings
from napari_samseg.core.types import BoolArray

__all__ = [
    "RECORD_READERS",
    "AnnotationDocument",
    "AnnotationHeader",
    "Autosave",
    "RecordedCommit",
    "RecordedStroke",
    "autosave_path",
    "cache_folder",
    "read_annotation",
    "write_annotation",
]

FORMAT = "napari-samseg annotation"
VERSION = 1
FOLDER_VARIABLE = "SAMSEG_CACHE"


@dataclass(frozen=True, slots=True)
class AnnotationHeader:
    """What an annotation was made on, and with what.

    Attributes
    ----------
    image : str
        Name of the image layer or file.
    shape : tuple of int
        Of the image at the level that was annotated, without channels.
    model : str
        Name or path of the model that made the masks.
    settings : ImageSettings
        How planes were read.
    """

    image: str
    shape: tuple[int, ...]
    model: str
    settings: ImageSettings


@dataclass(frozen=True, slots=True)
class AnnotationDocument:
    """An annotation as loaded: a header, and records that have been checked."""

    header: AnnotationHeader
    records: tuple[dict[str, Any], ...]


class Autosave:
    """Keeps the file of a growing annotation up to date.

    Each action is turned into JSON once, so that saving after every prompt
    stays cheap when there are thousands.

    Parameters
    ----------
    path : Path
        Written beside and then renamed, so that it is whole at any moment.
    header : AnnotationHeader
    """

    def __init__(self, path: Path, header: AnnotationHeader) -> None:
        self.path = path
        self.header = header
        self._saved: list[tuple[Action, str]] = []
        self._revision = 0
        # the last step may be saved while a thread still saves the one before
        self._lock = Lock()

    def save(self, actions: Sequence[Action], revision: int = 0) -> None:
        """Write all actions done and not undone (`Annotation.actions`).

        A thread that comes late with a lower `revision` than was saved already
        leaves the file as it is.
        """
        with self._lock:
            if revision >= self._revision:
                self._save(actions)
                self._revision = revision

    def _save(self, actions: Sequence[Action]) -> None:
        same = 0
        for (saved, _), action in zip(self._saved, actions, strict=False):
            if saved is not action:
                break
            same += 1
        del self._saved[same:]
        for action in actions[same:]:
            self._saved.append((action, _dump(_record(action))))
        head = _dump(
            {"format": FORMAT, "version": VERSION, **asdict(self.header)}
        ).removesuffix("}")
        body = ",\n".join(text for _, text in self._saved)
        _write_whole(self.path, f'{head},\n"actions": [\n{body}\n]}}\n')


def autosave_path(image: str, folder: Path) -> Path:
    """Return a new path for the annotation of an image, in the folder of the cache.

    The time stands in the name: an annotation never replaces an older one.
    """
    safe = "".join(c if c.isalnum() else "-" for c in image).strip("-")[:40]
    stamp = f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() // 1000 % 10**6:06d}"
    return folder / "annotations" / f"{safe or 'image'}-{stamp}.json"


def cache_folder() -> Path:
    """Return the folder of what is kept between sessions.

    The environment variable ``SAMSEG_CACHE`` names it; otherwise it is the user's.
    """
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("napari-samseg"))


def write_annotation(
    path: str | os.PathLike[str], annotation: Annotation, header: AnnotationHeader
) -> None:
    """Write an annotation as JSON, whole or not at all."""
    Autosave(Path(path), header).save(annotation.actions)


def read_annotation(path: str | os.PathLike[str]) -> AnnotationDocument:
    """Load an annotation and check every record.

    Raises
    ------
    MissingFileError
        If there is no such file.
    InvalidPromptError
        If it is not an annotation, or a record is damaged; the message says
        which.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no annotation {path}") from error
    except (ValueError, OSError) as error:
        raise InvalidPromptError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InvalidPromptError(f"{path} is not an annotation of napari-samseg")
    if content.get("version") != VERSION:
        raise InvalidPromptError(
            f"{path} is an annotation of version {content.get('version')}; this "
            f"napari-samseg reads version {VERSION}"
        )
    try:
        header = _read_header(content)
        records = content["actions"]
        if not isinstance(records, list):
            raise TypeError("actions is not a list")
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidPromptError(f"{path} has a damaged header: {error}") from error
    for number, record in enumerate(records, 1):
        try:
            RECORD_READERS[record["do"]](record)
        except (KeyError, TypeError, ValueError, IndexError, SamSegError) as error:
            raise InvalidPromptError(
                f"action {number} of {path} is damaged: {error}"
            ) from error
    return AnnotationDocument(header, tuple(records))


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


def _record(action: Action) -> dict[str, Any]:
    """Turn an action into a record."""
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


def _read_header(content: dict[str, Any]) -> AnnotationHeader:
    settings = dict(content["settings"])
    if settings.get("channels") is not None:
        settings["channels"] = tuple(settings["channels"])
    return AnnotationHeader(
        str(content["image"]),
        tuple(int(n) for n in content["shape"]),
        str(content["model"]),
        ImageSettings(**settings),
    )


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


def _dump(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"))


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
