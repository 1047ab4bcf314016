"""What goes wrong when the files of a training are written, in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_samseg.core.errors import OutputError

__all__ = ["telling_what_failed"]


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
