"""Of which class the pixels of each object are, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import fastremap
import numpy as np

from napari_samseg.core.errors import InvalidLabelsError, OutputError
from napari_samseg.core.images import ArrayLike
from napari_samseg.core.io.json_file import write_lines
from napari_samseg.core.io.output import check_output_file
from napari_samseg.core.types import Progress

__all__ = ["check_table_path", "class_pixels_steps", "write_class_table"]

# An object and a class share 64 bits.
CLASS_BITS = 32

ClassPixels = list[tuple[int, int, int]]


def check_table_path(
    path: Path, inputs: Iterable[Path | None], *, overwrite: bool
) -> None:
    """Raise `OutputError` unless a table can be written there."""
    if path.suffix.lower() != ".csv":
        raise OutputError(f"a table of objects is a .csv, not {path.name!r}")
    check_output_file(path, inputs=tuple(inputs), overwrite=overwrite)


def class_pixels_steps(
    labels: ArrayLike, classes: ArrayLike, blocks: Sequence[tuple[slice, ...]]
) -> Generator[Progress, None, ClassPixels]:
    """Count the pixels of each class in each object, block by block.

    Parameters
    ----------
    labels, classes : bool or integer, of one shape
    blocks : sequence of tuple of slice
        Together all of them.

    Returns
    -------
    list of (object, class, pixels)
        In the order of the objects, and in each of the classes.

    Raises
    ------
    InvalidLabelsError
        If a class or an object is above 32 bits.
    """
    counted: Counter[int] = Counter()
    for done, where in enumerate(blocks):
        yield Progress("counting classes", done, len(blocks))
        ids, values = np.asarray(labels[where]), np.asarray(classes[where])
        is_inside = ids != 0
        ids, values = (part[is_inside].astype(np.uint64) for part in (ids, values))
        if int(max(ids.max(initial=0), values.max(initial=0))) >> CLASS_BITS:
            raise InvalidLabelsError("classes above 32 bits go into no table")
        pairs = (ids << np.uint64(CLASS_BITS)) | values
        found, counts = fastremap.unique(pairs, return_counts=True)
        counted.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    mask = (1 << CLASS_BITS) - 1
    return [(p >> CLASS_BITS, p & mask, n) for p, n in sorted(counted.items())]


def write_class_table(path: Path, rows: ClassPixels) -> None:
    """Write a CSV with a row for each object and class in it."""
    cells = [("object", "class", "pixels"), *rows]
    write_lines(path, (",".join(map(str, row)) for row in cells))
