"""What a session holds, and what can be asked of it without changing anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_samseg.adapters.prompt_layers import PromptLayers
from napari_samseg.adapters.read_layers import ImageView
from napari_samseg.adapters.write_layers import LayerLabels
from napari_samseg.core.annotation import Annotation
from napari_samseg.core.annotation_file import AnnotationHeader
from napari_samseg.core.errors import LayerError
from napari_samseg.core.painting import PlaneKey
from napari_samseg.core.settings import ImageSettings, ModelSettings, TileSettings
from napari_samseg.widgets.autosaver import Autosaver
from napari_samseg.widgets.commit_target import CommitTarget
from napari_samseg.widgets.object_colors import ObjectColors
from napari_samseg.widgets.plane_masks import PlaneMasks
from napari_samseg.widgets.plane_on_view import PlaneOnView
from napari_samseg.widgets.prompt_preview import PromptPreview
from napari_samseg.widgets.questions import Questions
from napari_samseg.widgets.stores import store_of
from napari_samseg.widgets.waiting_steps import WaitingSteps

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels

    from napari_samseg.core.models.protocol import PromptableModel
    from napari_samseg.core.types import MaskPrediction
    from napari_samseg.widgets.canvas_tools import CanvasTools

__all__ = ["SessionState"]


class SessionState:
    """The parts of a session: what is on view, prompts, masks, target, history.

    `widgets.live_session.LiveSession` sets them to work.

    Attributes
    ----------
    viewer : Viewer
    image : Image
    annotation : Annotation
        The history.
    layers : PromptLayers
        Show prompts and preview.
    overlap : str
        What a commit does to labels already there: ``keep``, ``replace``, or
        ``ask`` the person at the panel.
    class_id : int or None
        Class given to objects as they are committed.
    several : bool
        Each positive click or box starts an object, instead of refining one.
    hover_enabled : bool
        Preview what a click under the pointer would give.
    tools : CanvasTools or None
        What draws prompts with the mouse.
    is_open : bool
        It has not been closed.
    """

    changed = Signal()
    progressed = Signal(object)
    reported = Signal(str, bool)
    closed = Signal()

    def __init__(self, viewer: Viewer, image: Image) -> None:
        from napari.layers import Image as ImageLayer

        if not isinstance(image, ImageLayer) or image not in viewer.layers:
            raise LayerError(f"{image} is not an image layer of this viewer")
        self.viewer = viewer
        self.image = image
        self.annotation = Annotation()
        self.overlap = "keep"
        self.class_id: int | None = None
        self._shown = PlaneOnView(viewer, image)
        self.layers = PromptLayers(viewer, image)
        self.several = False
        self.hover_enabled = True
        self.tools: CanvasTools | None = None
        self._object_colors = ObjectColors(self.annotation)
        self._model: PromptableModel | ModelSettings | None = None
        self._masks = PlaneMasks(lambda: store_of(image))
        self._preview = PromptPreview(
            self.annotation, self._shown, self.layers, self._masks, self._colors
        )
        self._target = CommitTarget(self.annotation)
        self._autosaver = Autosaver(self.annotation, self._header, self._report_error)
        self._waiting = WaitingSteps()
        self._holders: set[int] = set()
        self._panels: list[Questions] = []
        self.is_open = True

    @property
    def plane(self) -> PlaneKey | None:
        """The plane on view; None where the viewer shows none."""
        return self._shown.plane

    @property
    def view(self) -> ImageView:
        """The image at the resolution level of `image_settings`."""
        return self._shown.view

    @property
    def image_settings(self) -> ImageSettings:
        """Contrast, channels and resolution level."""
        return self._shown.settings

    @property
    def target(self) -> Labels | None:
        """The Labels layer for commits; None makes a new one when needed."""
        return self._target.layer

    @property
    def prediction(self) -> MaskPrediction | None:
        """Masks of the prompts on the plane on view, as previewed."""
        return self._masks.prediction

    @property
    def tile_settings(self) -> TileSettings:
        """How planes larger than the model's input are cut."""
        return self._masks.tile_settings

    @property
    def is_encoded(self) -> bool:
        """Whether the plane on view is encoded, so that masks come at once."""
        return self._preview.is_encoded

    def point_on_plane(self, position: Sequence[float]) -> npt.NDArray[np.float64]:
        """Turn a position on the canvas into (y, x) pixels of the plane on view."""
        self._require_plane()
        return self._shown.point(position)

    def hover(self, point_yx: npt.NDArray[np.float64] | None) -> None:
        """Preview the object that a click at a point would give; None ends that.

        Only where no object waits for a commit, and only once the plane is
        encoded: moving the mouse never starts long work.
        """
        self._preview.hover(point_yx)

    def report(self, message: str, *, is_error: bool = False) -> None:
        """Tell the person something, in the panel and if need be as a notification."""
        self.reported.emit(message, is_error)

    @property
    def can_cancel(self) -> bool:
        """Whether something runs that `cancel` stops."""
        return self._masks.is_encoding

    @property
    def n_waiting(self) -> int:
        """How many steps, a commit first, wait for masks."""
        return len(self._waiting)

    @property
    def questions(self) -> Questions | None:
        """Who is asked where a commit leaves a choice: the panel opened last."""
        return self._panels[-1] if self._panels else None

    @property
    def autosave_file(self) -> Path | None:
        """Where the annotation is saved after every step; None before the first."""
        return self._autosaver.path

    def _require_plane(self) -> PlaneKey:
        if not self.is_open:
            raise LayerError("this session is closed: open another one")
        return self._shown.require()

    def _require_target(self) -> LayerLabels:
        if self._target.labels is None:
            active = self.viewer.layers.selection.active
            layer = self._target.make(self.viewer, self.image, self.view)
            self.layers.raise_above(layer)
            if active in self.viewer.layers:
                self.viewer.layers.selection.active = active
        labels = self._target.labels
        if labels is None:
            raise LayerError("there is no Labels layer to commit into")
        return labels

    def _colors(self, object_ids: list[int]) -> npt.NDArray[np.uint8]:
        """RGB of objects as napari will show them once committed."""
        return self._object_colors.pick(object_ids, self.target, self.class_id)

    def _header(self) -> AnnotationHeader:
        model = self._model
        name = model.model if isinstance(model, ModelSettings) else "a loaded model"
        return AnnotationHeader(
            self.image.name, tuple(self.view.shape), name, self.image_settings
        )

    def _report_error(self, message: str) -> None:
        self.report(message, is_error=True)
