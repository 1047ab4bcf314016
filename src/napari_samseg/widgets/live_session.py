"""What a session does by itself: it follows the viewer, and runs the model.

`widgets.session.Session` adds what a person can ask for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from psygnal import Signal
from qtpy.QtCore import QCoreApplication, QTimer

from napari_samseg.adapters.prompt_layers import PromptLayers
from napari_samseg.adapters.read_layers import (
    ImageView,
    canvas_to_data,
    choose_level,
    current_plane,
    world_to_canvas,
)
from napari_samseg.adapters.write_layers import LayerLabels
from napari_samseg.core.annotation import Annotation
from napari_samseg.core.annotation_file import AnnotationDocument, AnnotationHeader
from napari_samseg.core.annotation_replay import replay_annotation
from napari_samseg.core.errors import (
    InvalidPromptError,
    LayerError,
    SamSegError,
)
from napari_samseg.core.painting import Box, PlaneKey
from napari_samseg.core.prompts.from_geometry import Gesture
from napari_samseg.core.prompts.stray_points import describe_stray
from napari_samseg.core.settings import ImageSettings, ModelSettings, TileSettings
from napari_samseg.widgets.autosaver import Autosaver
from napari_samseg.widgets.commit_target import CommitTarget
from napari_samseg.widgets.object_colors import ObjectColors
from napari_samseg.widgets.plane_masks import DrawnMasks, PlaneMasks
from napari_samseg.widgets.replayer import Replayer
from napari_samseg.widgets.stores import store_of
from napari_samseg.widgets.waiting_steps import WaitingSteps
from napari_samseg.widgets.workers import describe_failure

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels

    from napari_samseg.core.models.protocol import PromptableModel
    from napari_samseg.core.types import MaskPrediction, Progress
    from napari_samseg.widgets.canvas_tools import CanvasTools

__all__ = ["LiveSession", "Questions"]

# Slices are passed quickly while a slider moves: encode where it rests.
SLICE_REST_MS = 150
# Stands for the object under the pointer, which has no id yet.
HOVER_ID = np.iinfo(np.int64).max
# What moves an image layer in the world, or says what its axes are.
TRANSFORMS = (
    *("scale", "translate", "rotate", "shear", "affine"),
    *("units", "axis_labels"),
)


class Questions(Protocol):
    """Who is asked where a commit leaves a choice: the panel."""

    def ask_overlap(self, touched: tuple[int, ...]) -> str | None:
        """Choose ``keep`` or ``replace`` for labels touched; None to wait."""

    def ask_widen(self, message: str) -> bool:
        """Whether to convert the labels, so that larger ids fit."""


class LiveSession:
    """Keeps the plane on view encoded, its prompts shown, and the history saved.

    Attributes
    ----------
    viewer : Viewer
    image : Image
    annotation : Annotation
        The history.
    layers : PromptLayers
        Show prompts and preview.
    view : ImageView
        The image at the resolution level of `image_settings`.
    plane : PlaneKey or None
        The plane on view; None where the viewer shows none.
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
        self.image_settings = ImageSettings(level=choose_level(image))
        self.layers = PromptLayers(viewer, image)
        self.view = ImageView.of_layer(image, self.image_settings.level)
        self.plane: PlaneKey | None = None
        self.several = False
        self.hover_enabled = True
        self.tools: CanvasTools | None = None
        self._object_colors = ObjectColors(self.annotation)
        self._model: PromptableModel | ModelSettings | None = None
        self._masks = PlaneMasks(lambda: store_of(image))
        self._target = CommitTarget(self.annotation)
        self._autosaver = Autosaver(self.annotation, self._header, self._report_error)
        self._replayer = Replayer(
            self._replay_steps, self._on_replayed, self.progressed.emit
        )
        self._waiting = WaitingSteps()
        self._holders: set[int] = set()
        self._told_stray: set[tuple[PlaneKey, int]] = set()
        self._panels: list[Questions] = []
        self._is_open = True
        self._rest = QTimer()
        self._rest.setSingleShot(True)
        self._rest.setInterval(SLICE_REST_MS)
        self._rest.timeout.connect(self._follow_view)
        self._connect()
        self._find_plane()

    # -- what goes on --------------------------------------------------------------

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
        encoded = self._masks.encoded
        return encoded is not None and encoded.plane == self.plane

    @property
    def is_busy(self) -> bool:
        """Whether something runs in the background."""
        return (
            self._masks.is_busy
            or self._target.is_scanning
            or self._autosaver.is_busy
            or self._replayer.is_busy
            or self._rest.isActive()
        )

    def wait(self, timeout: float = 60.0) -> None:
        """Let the background work finish, for scripts; seconds at most."""
        end = time.monotonic() + timeout
        while self.is_busy and time.monotonic() < end:
            QCoreApplication.processEvents()
            time.sleep(0.002)

    def point_on_plane(self, position: Sequence[float]) -> npt.NDArray[np.float64]:
        """Turn a position on the canvas into (y, x) pixels of the plane on view."""
        data = canvas_to_data(position, self.viewer.dims, self.image)
        return self.view.data_to_plane(data, self._require_plane())

    def hover(self, point_yx: npt.NDArray[np.float64] | None) -> None:
        """Preview the object that a click at a point would give; None ends that.

        Only where no object waits for a commit, and only once the plane is
        encoded: moving the mouse never starts long work.
        """
        if self.plane is None or self.plane in self.annotation.planes:
            return
        size = self.view.plane_size(self.plane)
        if point_yx is None or not self.is_encoded or not _is_inside(point_yx, size):
            self._masks.hover(None, self._colors([]))
            self._show_preview(self.plane, None)
            return
        gesture = Gesture("click", np.array([point_yx], np.float64))
        colors = self._colors([self.annotation.next_id])
        self._masks.hover({HOVER_ID: [gesture]}, colors)

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

    def after_commits(self, act: Callable[[], None]) -> None:
        """Do something once the commits that wait are done; at once if none does."""
        if len(self._waiting):
            self._waiting.add(act, act)
            self.changed.emit()
        else:
            act()

    def cancel(self) -> None:
        """Stop encoding, loading or downloading; a prompt or commit starts it again."""
        if self.can_cancel:
            self._masks.cancel()
            self._waiting.give_up()
            # what had waited is kept, but starts nothing
            self._masks.cancel()
            self.progressed.emit(None)
            self.report("Cancelled: click an object, or choose the model, to go on.")

    # -- life ----------------------------------------------------------------------

    def hold(self, holder: object) -> None:
        """Keep the session going for a widget or a script."""
        is_first = not self._holders
        self._holders.add(id(holder))
        if is_first:
            self._find_plane()
            self._encode()
        self._after_change()

    @property
    def questions(self) -> Questions | None:
        """Who is asked where a commit leaves a choice: the panel opened last."""
        return self._panels[-1] if self._panels else None

    def release(self, holder: object) -> None:
        """Give up a hold; the last one stops jobs and removes the prompt layers.

        Prompts, labels and history stay until the image or viewer is gone.
        """
        self._holders.discard(id(holder))
        if not self._holders and self._is_open:
            self._stop()

    def close(self) -> None:
        """End the session: stop jobs, save, remove the prompt layers."""
        if not self._is_open:
            return
        self._waiting.give_up()
        self._is_open = False
        self._stop()
        self._disconnect()
        self._target.close()
        self._masks.forget()
        self.annotation.close()
        self.closed.emit()

    def _connect(self) -> None:
        self._masks.was_encoded.connect(self._on_encoded)
        self._masks.was_predicted.connect(self._on_predicted)
        self._masks.was_hovered.connect(self._on_hovered)
        self._masks.failed.connect(self._on_failed)
        self._masks.warned.connect(self._report_error)
        self._masks.progressed.connect(self.progressed.emit)
        self._target.changed.connect(self.changed.emit)
        self._target.painted.connect(self._on_stroke)
        # the file keeps what was committed; the next step starts another
        self._target.forgetting.connect(self._autosaver.start_anew)
        self._target.progressed.connect(self.progressed.emit)
        self._target.reported.connect(self.report)
        dims = self.viewer.dims.events
        for event in (dims.point, dims.order, dims.ndisplay):
            event.connect(self._on_dims)
        self.viewer.layers.events.removed.connect(self._on_layer_removed)
        # napari holds a function strongly, unlike a method: the image keeps its
        # session, and nothing else does, so that both can die with the viewer
        self._keep = lambda _: self._on_image_data()
        self.image.events.data.connect(self._keep)
        for name in TRANSFORMS:
            getattr(self.image.events, name).connect(self._on_transform)
        app = QCoreApplication.instance()
        if app is not None:
            app.aboutToQuit.connect(self._stop)

    def _disconnect(self) -> None:
        dims = self.viewer.dims.events
        for event in (dims.point, dims.order, dims.ndisplay):
            event.disconnect(self._on_dims)
        self.viewer.layers.events.removed.disconnect(self._on_layer_removed)
        self.image.events.data.disconnect(self._keep)
        for name in TRANSFORMS:
            getattr(self.image.events, name).disconnect(self._on_transform)
        app = QCoreApplication.instance()
        if app is not None:
            app.aboutToQuit.disconnect(self._stop)

    def _on_dims(self) -> None:
        self._rest.start()

    def _on_transform(self) -> None:
        self.view = ImageView.of_layer(self.image, self.image_settings.level)
        self._target.follow(self.image, self.view)
        self._show_prompts()
        self._show_preview(self.plane or PlaneKey(), None)
        self._request_prediction()

    def _on_layer_removed(self, event: Any) -> None:
        if event.value is self.image:
            if self.annotation.planes:
                self.report(
                    f"image layer {self.image.name!r} was removed; its prompts are "
                    f"saved in {self.autosave_file}"
                )
            self.close()
            return
        if event.value is self.target:
            self._replayer.cancel()
        was_target = event.value is self.target
        if self._target.forget(event.value) and was_target:
            self.report("the target was removed; the next commit makes a new one")

    def _on_stroke(self) -> None:
        self._autosaver.save_soon()
        self.changed.emit()

    def _on_image_data(self) -> None:
        old_shape = self.view.shape
        try:
            level = min(self.image_settings.level, choose_level(self.image))
            self.view = ImageView.of_layer(self.image, level)
        except SamSegError as error:
            self.report(str(error), is_error=True)
            return
        if len(self.view.shape) != len(old_shape):
            # made again, with as many axes as the image, when next shown
            self.layers.remove()
        if self.view.shape != old_shape:
            self._start_over()
            self.report("the image was replaced by one of another shape: start anew")
        self.image_settings = replace(self.image_settings, level=level)
        self._encode_anew()

    def _start_over(self) -> None:
        """Begin another history: what was done cannot be undone on other planes."""
        self._replayer.cancel()
        self._autosaver.start_anew()
        self._target.close()
        self.annotation.reset()

    # -- planes and models ---------------------------------------------------------

    def _find_plane(self) -> None:
        try:
            self.plane = current_plane(
                self.viewer.dims, self.image, self.image_settings.level
            )
        except LayerError as error:
            self.plane = None
            self.report(str(error), is_error=False)

    def _follow_view(self) -> None:
        """Encode the plane on view, if it is another one than before."""
        if not self._is_open:
            return
        before = self.plane
        self._find_plane()
        if self.plane != before:
            if len(self._waiting):
                # what was drawn belongs to the plane that was on view
                after, self.plane = self.plane, before
                self._waiting.give_up()
                self.plane = after
            self._masks.forget()
            self._show_prompts()
            self._show_preview(self.plane or PlaneKey(), None)
            self._encode()
            self.changed.emit()

    def _use(
        self, model: PromptableModel | ModelSettings, *, anew: bool = False
    ) -> None:
        if anew or (model is not self._model and model != self._model):
            self._model = model
            self._masks.use(model)
            self._autosaver.start_anew()
            self._encode_anew()
        elif not self.is_encoded and not self._masks.is_encoding:
            self._encode()

    def _encode_anew(self) -> None:
        """Encode again because the image, its contrast or the model is another."""
        self._masks.forget()
        self._find_plane()
        self._encode()
        self._after_change()

    def _encode(self) -> None:
        if self._holders:
            self._masks.encode(self.plane, self.view, self.image_settings)

    def _on_encoded(self) -> None:
        self.changed.emit()
        self._request_prediction()

    def _on_failed(self, error: Exception) -> None:
        self._waiting.give_up()
        is_error = not isinstance(error, InvalidPromptError)
        self.report(describe_failure(error), is_error=is_error)

    # -- masks ---------------------------------------------------------------------

    def _request_prediction(self) -> None:
        """Ask for the masks of all objects on the plane, in the background."""
        if self.plane is None:
            return
        prompts = _promptable(self.annotation.prompts(self.plane))
        if prompts:
            self._masks.request(prompts, self._colors(list(prompts)))
            if not self.is_encoded and not self._masks.is_encoding:
                # it failed, or was cancelled: what is asked for starts it again
                self._encode()
            return
        self._masks.clear()
        self._show_preview(self.plane, None)
        self._settle()

    def _predict_now(self) -> MaskPrediction:
        """Encode and decode on this thread, for scripts."""
        # a script that asks for masks goes on from them itself
        self._waiting.give_up()
        plane = self._require_plane()
        prompts = _promptable(self.annotation.prompts(plane))
        if not prompts:
            raise InvalidPromptError(
                "there are only background points: add a foreground point or a box"
            )
        self._masks.encode_now(plane, self.view, self.image_settings)
        return self._masks.predict_now(prompts, self._colors(list(prompts)))

    def _on_predicted(self, drawn: DrawnMasks) -> None:
        self._show_preview(drawn.plane, drawn.picture)
        self._tell_stray(drawn)
        self._settle()

    def _tell_stray(self, drawn: DrawnMasks) -> None:
        """Say of each object once that a point lies outside its box."""
        stray = {(drawn.plane, object_id) for object_id in drawn.stray}
        new = sorted(object_id for _, object_id in stray - self._told_stray)
        if new:
            self.report(describe_stray(np.array(new)))
        # what is put right may go wrong again
        self._told_stray = stray

    def _on_hovered(self, drawn: DrawnMasks) -> None:
        if drawn.plane == self.plane and drawn.plane not in self.annotation.planes:
            self._show_preview(drawn.plane, drawn.picture)

    def _settle(self) -> None:
        self.changed.emit()
        self._waiting.run()

    # -- layers --------------------------------------------------------------------

    def _after_change(self, *, predict: bool = True) -> None:
        """Show, save and predict after the history has changed."""
        self._show_prompts()
        self._object_colors.show(self.target)
        self._autosaver.save_soon()
        if predict:
            self._request_prediction()
        self.changed.emit()

    def _show_preview(
        self, plane: PlaneKey, picture: tuple[npt.NDArray[np.uint8], Box] | None
    ) -> None:
        if self._holders:
            self.layers.show_preview(self.view, plane, picture)

    def _show_prompts(self) -> None:
        if self.plane is not None and self._holders:
            size = max(4.0, max(self.view.plane_size(self.plane)) / 64)
            prompts = self.annotation.prompts(self.plane)
            self.layers.show_prompts(self.view, self.plane, prompts, size)

    def _step(self, move: Callable[[], Any]) -> bool:
        try:
            self._check_free()
            action = move()
        except LayerError as error:
            self.report(str(error), is_error=True)
            return True
        if action is None:
            return False
        plane = getattr(action, "plane", None)
        if plane is not None and plane != self.plane:
            self._show_plane(plane)
        self._after_change()
        return True

    def _show_plane(self, plane: PlaneKey) -> None:
        """Bring a plane on view, so that undo is seen where it acts."""
        dims = self.viewer.dims
        middle = np.array([np.array(self.view.plane_size(plane)) / 2])
        pixel = self.view.plane_to_pixels(middle, plane)[0]
        world = self.view.matrix[:-1, :-1] @ pixel + self.view.matrix[:-1, -1]
        world = world_to_canvas(world, dims, self.image)
        offset = dims.ndim - len(world)
        lead = [axis for axis in range(len(world)) if axis not in plane.axes]
        displayed = {axis + offset for axis in plane.axes}
        if set(dims.displayed) == displayed and lead:
            dims.set_point([axis + offset for axis in lead], [world[a] for a in lead])
            self._rest.stop()
            self._follow_view()

    def _require_plane(self) -> PlaneKey:
        if not self._is_open:
            raise LayerError("this session is closed: open another one")
        if self._rest.isActive():
            self._rest.stop()
            self._follow_view()
        if self.plane is None:
            return current_plane(
                self.viewer.dims, self.image, self.image_settings.level
            )
        return self.plane

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

    # -- replay --------------------------------------------------------------------

    def _check_free(self) -> None:
        """Let nothing come between the steps of a replay, which may be undone."""
        if self._replayer.is_busy:
            raise LayerError("an annotation is being replayed: wait a moment")

    def _replay_steps(
        self, document: AnnotationDocument
    ) -> Generator[Progress, None, None]:
        """Check a document and replay it; a target made for it goes if it fails."""
        if document.header.shape != self.view.shape:
            raise LayerError(
                f"the annotation was made on an image of shape "
                f"{document.header.shape}, {self.image.name!r} has {self.view.shape}"
            )
        self._target.wait_for_ids()
        has_target = self.target is not None
        labels = self._require_target()
        try:
            yield from replay_annotation(document, self.annotation, labels)
        except BaseException:
            if not has_target:
                self._target.forget(labels.layer)
                if labels.layer in self.viewer.layers:
                    self.viewer.layers.remove(labels.layer)
            raise

    def _on_replayed(self, error: Exception | None) -> None:
        self.progressed.emit(None)
        if error is not None:
            self._report_error(f"nothing was replayed: {error}")
        self._after_change()

    # -- files ---------------------------------------------------------------------

    def _header(self) -> AnnotationHeader:
        model = self._model
        name = model.model if isinstance(model, ModelSettings) else "a loaded model"
        return AnnotationHeader(
            self.image.name, tuple(self.view.shape), name, self.image_settings
        )

    @property
    def autosave_file(self) -> Path | None:
        """Where the annotation is saved after every step; None before the first."""
        return self._autosaver.path

    def _report_error(self, message: str) -> None:
        self.report(message, is_error=True)

    def _stop(self) -> None:
        """Stop jobs, save, and take mouse, keys and prompt layers back."""
        self._rest.stop()
        self._waiting.give_up()
        self._replayer.cancel()
        self._masks.cancel()
        self._autosaver.save_now()
        self._put_tools_away()
        self.layers.remove()

    def _put_tools_away(self) -> None:
        tools, self.tools = self.tools, None
        if tools is not None:
            tools.close()


def _promptable(prompts: dict[int, list[Gesture]]) -> dict[int, list[Gesture]]:
    """Leave out objects that so far have only background marks."""
    return {i: g for i, g in prompts.items() if any(mark.positive for mark in g)}


def _is_inside(point_yx: npt.NDArray[np.float64], size: tuple[int, int]) -> bool:
    return bool((point_yx >= -0.5).all() and (point_yx <= np.array(size) - 0.5).all())
