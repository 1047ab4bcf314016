"""Files of a training: written beside and then renamed; what goes wrong, in words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from napari_samseg.core.errors import OutputError

__all__ = ["replacing", "telling_what_failed", "write_json"]


@contextmanager
def telling_what_failed(path: Path) -> Iterator[None]:
    """Raise `OutputError` for whatever libraries raise where a file cannot be written.

    Parameters
    ----------
    path : Path
        That is written in the ``with`` block.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch and safetensors have their own
        raise OutputError(
            f"{path} cannot be written ({error}): make room or choose another folder; "
            "what was there before is kept"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; what is there takes the place of `path` at the end.

    The old file stays until the new one is whole: a full disk or a power cut leaves
    one that can be read. Folders that are missing are made.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with telling_what_failed(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield unfinished
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
    finally:
        # a parent that is a file has no such file in it either
        if path.parent.is_dir():
            unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of JSON, whole or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
