"""Annotations as JSON: autosaved at every step, and loaded with checks.

The file holds what was done and not undone. Commits carry the pixels that were
painted, so that labels come back exactly and without a model; replaying with a
model predicts them again from the prompts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from napari_samseg.core.annotation import Annotation
from napari_samseg.core.annotation_actions import Action
from napari_samseg.core.annotation_records import RECORD_READERS, record_action
from napari_samseg.core.errors import (
    InvalidPromptError,
    MissingFileError,
    SamSegError,
)
from napari_samseg.core.settings import ImageSettings
from napari_samseg.core.whole_file import whole_file

__all__ = [
    "AnnotationDocument",
    "AnnotationHeader",
    "Autosave",
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
            self._saved.append((action, _dump(record_action(action))))
        head = _dump(
            {"format": FORMAT, "version": VERSION, **asdict(self.header)}
        ).removesuffix("}")
        body = ",\n".join(text for _, text in self._saved)
        text = f'{head},\n"actions": [\n{body}\n]}}\n'
        with whole_file(self.path) as part:
            part.write_text(text, encoding="utf-8")


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


def _dump(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"))
