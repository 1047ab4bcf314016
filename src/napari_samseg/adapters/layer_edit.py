"""Many pixels of a Labels layer change while the window lives, as one undo step."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import describe_bytes
from napari_samseg.core.errors import LayerError
from napari_samseg.core.memory import free_memory
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    from napari.layers import Labels

__all__ = ["LayerEdit"]

# Pixels that are looked at, and written where they change, before the window has its
# turn: a tenth of a second.
PIECE_PIXELS = 1 << 18

Region = tuple[slice, ...]


class LayerEdit:
    """Writes labels into a Labels layer in pieces that napari undoes as one step.

    Pixels that a person painted meanwhile stay as they are painted.

    Parameters
    ----------
    layer : Labels
    before, labels : integer arrays of its shape
        Pixels that differ between these are written where the layer still holds what
        is in `before`.
    n_changed : int
        How many differ.

    Attributes
    ----------
    n_written, n_kept : int
        Pixels that were written, and those that were painted meanwhile.
    n_steps : int
        Undo steps that it has become: strokes that are painted meanwhile end one.

    Raises
    ------
    LayerError
        If memory does not hold what napari needs to take so many pixels back.
    """

    def __init__(
        self,
        layer: Labels,
        before: npt.NDArray[Any],
        labels: npt.NDArray[Any],
        n_changed: int,
    ) -> None:
        self.n_written = self.n_kept = self.n_steps = 0
        self._layer, self._before, self._labels = layer, before, labels
        # napari remembers the place of each pixel: in as few bytes as there are
        self._index_dtype = np.min_scalar_type(max(before.shape))
        places = before.ndim * self._index_dtype.itemsize
        needed = n_changed * (places + 2 * before.dtype.itemsize)
        # the other half is for the work itself, and for other programs
        free = free_memory() // 2
        if needed > free:
            raise LayerError(
                f"{n_changed} pixels of Labels layer {layer.name!r} would change, and "
                f"to take that back again needs {describe_bytes(needed)} of memory, "
                f"where {describe_bytes(free)} may be used: let a new layer be made"
            )

    def steps(self) -> Generator[Progress, None, None]:
        """Write, on the main thread; what is closed early has been written in part.

        Raises
        ------
        LayerError
            If the layer gets other data meanwhile.
        """
        layer, data = self._layer, self._layer.data
        pieces = list(_pieces(self._before.shape))
        layer.events.paint.connect(self._count_step)
        step = ExitStack()
        step.enter_context(layer.block_history())
        n_steps = 0
        try:
            for done, where in enumerate(pieces):
                yield Progress("writing", done, len(pieces))
                if layer.data is not data:
                    raise LayerError(
                        f"Labels layer {layer.name!r} was given other data while "
                        "instances were written into it: start again"
                    )
                if self.n_steps > n_steps:
                    # the end of a stroke ends what napari holds together
                    step.close()
                    step.enter_context(layer.block_history())
                    n_steps = self.n_steps
                self._write(where)
        finally:
            # an exception that came through here would leave no step to undo
            step.close()
            layer.events.paint.disconnect(self._count_step)

    def take_back(self) -> bool:
        """Undo what was written before `steps` was closed, if nothing else goes too."""
        if self.n_steps == 1:
            self._layer.undo()
        return self.n_steps <= 1

    def _count_step(self) -> None:
        self.n_steps += 1

    def _write(self, where: Region) -> None:
        before, labels = self._before[where], self._labels[where]
        changes = labels != before
        if not changes.any():
            return
        is_as_before = np.asarray(self._layer.data[where]) == before
        self.n_kept += int((changes & ~is_as_before).sum())
        changes &= is_as_before
        places = np.nonzero(changes)
        values = labels[places].astype(before.dtype)
        self._layer.data_setitem(
            tuple(
                (i + side.start).astype(self._index_dtype)
                for i, side in zip(places, where, strict=True)
            ),
            values,
        )
        self.n_written += len(values)


def _pieces(shape: tuple[int, ...]) -> Iterator[Region]:
    """Cut an array into parts of rows, planes or volumes that are not too large."""
    axis = 0
    while axis < len(shape) - 1 and math.prod(shape[axis + 1 :]) > PIECE_PIXELS:
        axis += 1
    length = max(1, PIECE_PIXELS // math.prod(shape[axis + 1 :]))
    rest = tuple(slice(0, n) for n in shape[axis + 1 :])
    for lead in np.ndindex(shape[:axis]):
        for start in range(0, shape[axis], length):
            part = slice(start, min(start + length, shape[axis]))
            yield (*(slice(i, i + 1) for i in lead), part, *rest)
