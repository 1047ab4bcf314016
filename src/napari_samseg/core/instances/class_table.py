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

# An object and the number of a class in its block share 64 bits.
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
        If the id of an object is above 32 bits.
    """
    counted: Counter[tuple[int, int]] = Counter()
    mask = (1 << CLASS_BITS) - 1
    for done, where in enumerate(blocks):
        yield Progress("counting classes", done, len(blocks))
        ids, values = np.asarray(labels[where]), np.asarray(classes[where])
        is_inside = ids != 0
        ids, values = ids[is_inside].astype(np.uint64), values[is_inside]
        if int(ids.max(initial=0)) >> CLASS_BITS:
            raise InvalidLabelsError("ids above 32 bits go into no table")
        # classes may be as wide as 64 bits by themselves
        numbers, names = fastremap.renumber(values, preserve_zero=False)
        pairs = (ids << np.uint64(CLASS_BITS)) | numbers.astype(np.uint64)
        found, counts = fastremap.unique(pairs, return_counts=True)
        classes_of = {number: int(value) for value, number in names.items()}
        for pair, count in zip(found.tolist(), counts.tolist(), strict=True):
            counted[pair >> CLASS_BITS, classes_of[pair & mask]] += count
    return [(*which, n) for which, n in sorted(counted.items())]


def write_class_table(path: Path, rows: ClassPixels) -> None:
    """Write a CSV with a row for each object and class in it."""
    cells = [("object", "class", "pixels"), *rows]
    write_lines(path, (",".join(map(str, row)) for row in cells))
