"""Files of a training: written beside and then renamed; what goes wrong, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from napari_samseg.core.errors import OutputError
from napari_samseg.core.whole_file import whole_file

__all__ = ["replacing", "telling_what_failed", "write_json"]


@contextmanager
def telling_what_failed(path: Path, more: str = "") -> Iterator[None]:
    """Raise `OutputError` for whatever libraries raise where a file cannot be written.

    Parameters
    ----------
    path : Path
        That is written in the ``with`` block.
    more : str
        What else to say.
    """
    from safetensors import SafetensorError

    try:
        yield
    except OutputError:  # is told already
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's is the second
        raise OutputError(
            f"{path} cannot be written ({error}): make room or choose another folder"
            f"{more}"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file as `whole_file` does, and say what went wrong in words.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    kept = "; what was there before is kept"
    with telling_what_failed(path, kept), whole_file(path) as unfinished:
        yield unfinished


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
