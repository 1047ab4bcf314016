"""The prompts on the plane on view, shown, and the masks that a model makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_samseg.core.errors import InvalidPromptError
from napari_samseg.core.painting import Box, PlaneKey
from napari_samseg.core.prompts.from_geometry import Gesture
from napari_samseg.core.prompts.stray_points import describe_stray
from napari_samseg.widgets.plane_masks import DrawnMasks, PlaneMasks

if TYPE_CHECKING:
    from napari_samseg.adapters.prompt_layers import PromptLayers
    from napari_samseg.core.annotation import Annotation
    from napari_samseg.core.types import MaskPrediction
    from napari_samseg.widgets.plane_on_view import PlaneOnView

__all__ = ["PromptPreview"]

# Stands for the object under the pointer, which has no id yet.
HOVER_ID = np.iinfo(np.int64).max


class PromptPreview:
    """Asks for the masks of the prompts there are, and shows both.

    `settled` comes once the masks are those of all prompts on the plane, and `reported`
    with what a person should know of the prompts.

    Parameters
    ----------
    annotation : Annotation
        Holds the prompts.
    shown : PlaneOnView
    layers : PromptLayers
    masks : PlaneMasks
    colors : callable
        Gives the RGB (N, 3) of objects by their ids.

    Attributes
    ----------
    is_on : bool
        Somebody looks: the plane is to be encoded and prompts are to be shown.
    """

    settled = Signal()
    reported = Signal(str)

    def __init__(
        self,
        annotation: Annotation,
        shown: PlaneOnView,
        layers: PromptLayers,
        masks: PlaneMasks,
        colors: Callable[[list[int]], npt.NDArray[np.uint8]],
    ) -> None:
        self._annotation = annotation
        self._shown, self._layers, self._masks = shown, layers, masks
        self._colors = colors
        self._told_stray: set[tuple[PlaneKey, int]] = set()
        self.is_on = False
        masks.was_predicted.connect(self._on_predicted)
        masks.was_hovered.connect(self._on_hovered)

    @property
    def is_encoded(self) -> bool:
        """Whether the plane on view is encoded, so that masks come at once."""
        encoded = self._masks.encoded
        return encoded is not None and encoded.plane == self._shown.plane

    def encode(self) -> None:
        """Encode the plane on view in the background."""
        if self.is_on:
            shown = self._shown
            self._masks.encode(shown.plane, shown.view, shown.settings)

    def request(self) -> None:
        """Ask for the masks of all objects on the plane, in the background."""
        plane = self._shown.plane
        if plane is None:
            return
        prompts = _promptable(self._annotation.prompts(plane))
        if prompts:
            self._masks.request(prompts, self._colors(list(prompts)))
            if not self.is_encoded and not self._masks.is_encoding:
                # it failed, or was cancelled: what is asked for starts it again
                self.encode()
            return
        self._masks.clear()
        self._show(plane, None)
        self.settled.emit()

    def predict_now(self, plane: PlaneKey) -> MaskPrediction:
        """Encode and decode on this thread, for scripts."""
        prompts = _promptable(self._annotation.prompts(plane))
        if not prompts:
            raise InvalidPromptError(
                "there are only background points: add a foreground point or a box"
            )
        self._masks.encode_now(plane, self._shown.view, self._shown.settings)
        return self._masks.predict_now(prompts, self._colors(list(prompts)))

    def hover(self, point_yx: npt.NDArray[np.float64] | None) -> None:
        """Preview the object that a click at a point would give; None ends that."""
        plane = self._shown.plane
        if plane is None or plane in self._annotation.planes:
            return
        size = self._shown.view.plane_size(plane)
        if point_yx is None or not self.is_encoded or not _is_inside(point_yx, size):
            self._masks.hover(None, self._colors([]))
            self._show(plane, None)
            return
        gesture = Gesture("click", np.array([point_yx], np.float64))
        colors = self._colors([self._annotation.next_id])
        self._masks.hover({HOVER_ID: [gesture]}, colors)

    def show_prompts(self) -> None:
        """Show the prompts on the plane as they are now."""
        plane, view = self._shown.plane, self._shown.view
        if plane is not None and self.is_on:
            size = max(4.0, max(view.plane_size(plane)) / 64)
            prompts = self._annotation.prompts(plane)
            self._layers.show_prompts(view, plane, prompts, size)

    def clear(self) -> None:
        """Show no masks, until there are others."""
        self._show(self._shown.plane or PlaneKey(), None)

    def _show(
        self, plane: PlaneKey, picture: tuple[npt.NDArray[np.uint8], Box] | None
    ) -> None:
        if self.is_on:
            self._layers.show_preview(self._shown.view, plane, picture)

    def _on_predicted(self, drawn: DrawnMasks) -> None:
        self._show(drawn.plane, drawn.picture)
        self._tell_stray(drawn)
        self.settled.emit()

    def _tell_stray(self, drawn: DrawnMasks) -> None:
        """Say of each object once that a point lies outside its box."""
        stray = {(drawn.plane, object_id) for object_id in drawn.stray}
        new = sorted(object_id for _, object_id in stray - self._told_stray)
        if new:
            self.reported.emit(describe_stray(np.array(new)))
        # what is put right may go wrong again
        self._told_stray = stray

    def _on_hovered(self, drawn: DrawnMasks) -> None:
        is_here = drawn.plane == self._shown.plane
        if is_here and drawn.plane not in self._annotation.planes:
            self._show(drawn.plane, drawn.picture)


def _promptable(prompts: dict[int, list[Gesture]]) -> dict[int, list[Gesture]]:
    """Leave out objects that so far have only background marks."""
    return {i: g for i, g in prompts.items() if any(mark.positive for mark in g)}


def _is_inside(point_yx: npt.NDArray[np.float64], size: tuple[int, int]) -> bool:
    return bool((point_yx >= -0.5).all() and (point_yx <= np.array(size) - 0.5).all())
