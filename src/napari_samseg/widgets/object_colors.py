"""In which colours the objects of a session are shown: their own, or their classes'."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.adapters.write_layers import ClassColors, show_classes
from napari_samseg.core.annotation import Annotation

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.utils.colormaps import CyclicLabelColormap

__all__ = ["ObjectColors"]


class ObjectColors:
    """Keeps the target in step with the classes of an annotation.

    Parameters
    ----------
    annotation : Annotation
    """

    def __init__(self, annotation: Annotation) -> None:
        self._annotation = annotation
        self._by_class: ClassColors | None = None
        self._shown: tuple[Any, Any, Any] = (None, (), {})

    @property
    def is_by_class(self) -> bool:
        """Whether objects have the colours of their classes."""
        return self._by_class is not None

    def switch(self, target: Labels | None) -> None:
        """Change from the colours of the layer to those of the classes, or back."""
        if self._by_class is not None:
            self._by_class.restore()
            self._by_class = None
            return
        self._by_class = ClassColors()
        history = self._annotation
        self._by_class.show(target, history.classes, history.object_classes)

    def show(self, target: Labels | None) -> None:
        """Show the classes as they are now, in colours and in the layer's features."""
        history = self._annotation
        state = (target, history.classes, history.object_classes)
        if state == self._shown:
            return
        if self._by_class is not None:
            self._by_class.show(*state)
        if target is not None:
            if any(state[1:]) or self._shown[0] is target:
                show_classes(*state)
            self._shown = state

    def pick(
        self, object_ids: Sequence[int], target: Labels | None, class_id: int | None
    ) -> npt.NDArray[np.uint8]:
        """Return the colours (N, 3) of objects as they will be once committed.

        Parameters
        ----------
        object_ids : sequence of int
        target : Labels or None
            Where they will be; a new layer if None.
        class_id : int or None
            The class they will get.
        """
        rows = {row.class_id: row for row in self._annotation.classes}
        if self._by_class is not None and class_id in rows:
            rgb = bytes.fromhex(rows[class_id].color.removeprefix("#"))
            return np.tile(np.frombuffer(rgb, np.uint8), (len(object_ids), 1))
        colormap = _new_colormap() if target is None else target.colormap
        mapped = np.reshape(colormap.map(np.array(object_ids, np.uint32)), (-1, 4))
        return np.asarray(mapped[:, :3] * 255).astype(np.uint8)


@cache
def _new_colormap() -> CyclicLabelColormap:
    """Return what napari gives to a new Labels layer: 49 colours."""
    from napari.utils.colormaps import label_colormap

    return label_colormap(49)
