"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["whole_file"]


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; what is there takes the place of `path` at the end.

    The old file stays until the new one is complete: a full disk, a power cut or an
    error in the ``with`` block leaves one that can be read. Folders that are missing
    are made. Several processes may write the same file: the last one counts. Of a file
    that is replaced the permissions stay, and a link goes on pointing to it.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OSError
        If it cannot be written.
    """
    path = path.resolve()
    # short: the file's own name may be as long as a disk allows
    part = path.with_name(f".{uuid.uuid4().hex[:12]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        # Windows lets only those who may write ask for that
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        if path.exists():
            part.chmod(stat.S_IMODE(path.stat().st_mode))
        part.replace(path)
    finally:
        # gone, or never there, or on a disk that takes nothing any more
        with contextlib.suppress(OSError):
            part.unlink()
