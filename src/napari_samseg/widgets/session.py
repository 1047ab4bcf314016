"""One session per viewer and image layer: what the widget's buttons call.

The state lives here and not in a widget, because napari may open the same
widget twice in a viewer, and a closed panel must not lose what was drawn.
Model, encoding and decoding run in threads; layers are touched only here, on
the main thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from psygnal import Signal
from qtpy.QtCore import QCoreApplication, QTimer

from napari_samseg.adapters.read_layers import (
    ImageView,
    canvas_to_data,
    choose_level,
    current_plane,
    largest_label,
    plane_of_labels,
)
from napari_samseg.adapters.write_layers import (
    LayerLabels,
    PromptLayers,
    create_labels,
    show_classes,
    widen_labels,
)
from napari_samseg.core.annotation import Annotation, Commit, ObjectClass, Stroke
from napari_samseg.core.annotation_file import (
    AnnotationHeader,
    Autosave,
    autosave_path,
    cache_folder,
    read_annotation,
    replay_annotation,
    write_annotation,
)
from napari_samseg.core.errors import (
    InvalidPromptError,
    LabelOverflowError,
    LayerError,
    SamSegError,
)
from napari_samseg.core.images import read_plane
from napari_samseg.core.painting import PlaneKey, overlapped_labels, render_objects
from napari_samseg.core.prompts.from_geometry import (
    PROMPT_READERS,
    Gesture,
    gather_prompts,
    label_gesture,
    pair_prompts,
)
from napari_samseg.core.settings import ImageSettings, ModelSettings
from napari_samseg.core.types import PADDING, MaskPrediction, PlanePrompts, Progress
from napari_samseg.widgets.canvas_tools import CanvasTools
from napari_samseg.widgets.predictors import load_predictor_steps
from napari_samseg.widgets.workers import LatestJob

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels

    from napari_samseg.core.models.protocol import PromptableModel
    from napari_samseg.core.predict import Predictor
    from napari_samseg.core.types import PlaneEmbedding

__all__ = ["Session", "open_session"]

# Slices are passed quickly while a slider moves: encode where it rests.
SLICE_REST_MS = 150
# Labels above this many values are scanned for their largest id in a thread.
SCAN_AT_ONCE = 1 << 22
HOVER_ID = np.iinfo(np.int64).max

_SESSIONS: WeakKeyDictionary[Any, WeakKeyDictionary[Any, Session]] = WeakKeyDictionary()


def open_session(
    viewer: Viewer,
    image_layer: Image,
    model: str | os.PathLike[str] | PromptableModel = "default",
    *,
    device: str = "auto",
    settings: ImageSettings | None = None,
) -> Session:
    """Open the session of an image layer, the one that is open if there is one.

    Parameters
    ----------
    viewer : napari.Viewer
    image_layer : napari.layers.Image
        Any image: 2D, any plane of 3D or time, RGB, multiscale; any transform.
    model : str, path or PromptableModel
        Name in the zoo, path of a checkpoint, or a model already loaded.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps"; not used for a loaded model.
    settings : ImageSettings, optional
        Contrast, channels and resolution level.

    Returns
    -------
    Session
        Encodes the plane on view in the background.

    Raises
    ------
    LayerError
        If the layer is not an image in this viewer.
    InvalidImageError
        If it cannot be read as planes.
    """
    session = Session.of(viewer, image_layer)
    if settings is not None:
        session.set_image_settings(settings)
    if isinstance(model, str | os.PathLike):
        session.set_model(ModelSettings(model=os.fspath(model), device=device))
    else:
        session.use_model(model)
    session.hold(session)
    return session


class Questions(Protocol):
    """Who is asked where a commit leaves a choice: the panel."""

    def ask_overlap(self, touched: tuple[int, ...]) -> str | None:
        """Choose ``keep`` or ``replace`` for labels touched; None to wait."""

    def ask_widen(self, message: str) -> bool:
        """Whether to convert the labels, so that larger ids fit."""


@dataclass(slots=True, eq=False)
class _Encoded:
    """The plane on view, encoded."""

    predictor: Predictor
    plane: PlaneKey
    embedding: PlaneEmbedding


class Session:
    """Prompts, masks and labels of one image layer in one viewer.

    Made by `open_session`. Coordinates are (y, x) in pixels of the plane on
    view, at the resolution level of `image_settings`.

    Attributes
    ----------
    viewer : Viewer
    image : Image
    annotation : Annotation
        The history.
    overlap : str
        What a commit does to labels already there: ``keep``, ``replace``, or
        ``ask`` the person at the panel.
    class_id : int or None
        Class given to objects as they are committed.
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
        self.model_settings: ModelSettings | None = None
        self.layers = PromptLayers(viewer, image)
        self.view = ImageView.of_layer(image, self.image_settings.level)
        self.plane: PlaneKey | None = None
        self._target: LayerLabels | None = None
        self._prediction: MaskPrediction | None = None
        self._is_stale = False
        self._is_scanning = False
        self._waiting_act: Callable[[], None] | None = None
        self.questions: Questions | None = None
        self.tools: CanvasTools | None = None
        self._own_model: PromptableModel | None = None
        self._predictor: Predictor | None = None
        self._encoded: _Encoded | None = None
        self._encoding, self._predicting = LatestJob(), LatestJob()
        self._hovering, self._saving, self._scanning = (LatestJob() for _ in range(3))
        self._holders: set[int] = set()
        self._is_open = True
        self._autosave: Autosave | None = None
        self._rest = QTimer()
        self._rest.setSingleShot(True)
        self._rest.setInterval(SLICE_REST_MS)
        self._rest.timeout.connect(self._follow_view)
        self._connect()
        self._find_plane()

    @classmethod
    def of(cls, viewer: Viewer, image: Image) -> Session:
        """Return the session of an image layer in a viewer, new if there is none."""
        viewer, image = _unwrap(viewer), _unwrap(image)
        of_viewer = _SESSIONS.setdefault(viewer, WeakKeyDictionary())
        if image not in of_viewer or not of_viewer[image]._is_open:
            of_viewer[image] = cls(viewer, image)
        return of_viewer[image]

    # -- what a person can ask for -------------------------------------------------

    def prompt(
        self,
        points: npt.ArrayLike | None = None,
        boxes: npt.ArrayLike | None = None,
        *,
        point_labels: npt.ArrayLike | None = None,
        combine: bool = False,
        object_id: int | None = None,
    ) -> MaskPrediction:
        """Add prompts on the plane on view and wait for the masks.

        Parameters
        ----------
        points : (N, 2) float, optional
        boxes : (N, 4) float, optional
            Half-open (y0, x0, y1, x1).
        point_labels : (N,) int, optional
            1 on the object, 0 off it; all 1 when not given.
        combine : bool
            Make one object of all points and boxes; otherwise they pair by row.
        object_id : int, optional
            Object to refine with all of them, background points included.

        Returns
        -------
        MaskPrediction
            Of all objects that wait for a commit on this plane; also shown in
            the preview.

        Raises
        ------
        InvalidPromptError
            If there is no prompt, or one lies outside the plane.
        """
        plane = self._require_plane()
        size = self.view.plane_size(plane)
        refines = object_id is not None and object_id in self.annotation.prompts(plane)
        labels = point_labels
        if refines and labels is not None:
            # what the object has already makes background points meaningful
            labels = np.ones_like(np.asarray(labels))
        prompts = pair_prompts(
            points,
            labels,
            boxes,
            combine=combine or object_id is not None,
            plane_size=size,
        )
        self._wait_for_ids()
        for drawn in _as_gestures(prompts):
            target_id = self.annotation.next_id if object_id is None else object_id
            signs = None if not refines or labels is None else np.ravel(point_labels)
            for gesture in drawn if signs is None else _with_signs(drawn, signs):
                self.annotation.add_gesture(plane, target_id, gesture)
        self._after_change(predict=False)
        return self._predict_now()

    def add_gesture(self, gesture: Gesture, object_id: int | None = None) -> int:
        """Add what was drawn to an object, and ask for its mask in the background.

        Returns
        -------
        int
            Id of the object; a new one when none was given.

        Raises
        ------
        InvalidPromptError
            If the gesture lies outside the plane; nothing is added.
        LayerError
            If the viewer does not show a plane of the image.
        """
        plane = self._require_plane()
        if self._is_scanning:
            raise LayerError(
                "the ids in the chosen Labels layer are still being read: wait a moment"
            )
        PROMPT_READERS[gesture.kind](gesture, self.view.plane_size(plane))
        object_id = self.annotation.next_id if object_id is None else object_id
        self.annotation.add_gesture(plane, object_id, gesture)
        self._after_change()
        return object_id

    def pick_label(self, layer: Labels, point_yx: Sequence[float]) -> int:
        """Take the label under a point as the mask prompt of an object.

        A label of the target keeps its id, and a commit puts the refined object
        in its place; one of another layer becomes a new object.
        """
        plane = self._require_plane()
        labels = plane_of_labels(_unwrap(layer), plane)
        gesture = label_gesture(labels, point_yx)
        object_id = None
        if self._target is not None and self._target.layer is _unwrap(layer):
            y, x = (round(float(v)) for v in point_yx)
            object_id = int(labels[y, x])
        return self.add_gesture(gesture, object_id)

    def commit(self, overlap: str | None = None) -> tuple[int, ...]:
        """Paint the previewed objects into the target and clear their prompts.

        Parameters
        ----------
        overlap : str, optional
            ``keep`` or ``replace`` labels already there; `overlap` if not given.

        Returns
        -------
        tuple of int
            Ids of the objects.

        Raises
        ------
        InvalidPromptError
            If there is nothing to commit.
        LabelOverflowError
            If an id does not fit the labels; `widen_target` is the way out.
        LayerError
            If the target is gone or cannot be edited.
        """
        plane = self._require_plane()
        self._wait_for_ids()
        if not self.annotation.prompts(plane):
            raise InvalidPromptError("there is no prompt to commit: click on an object")
        if self._is_stale or self._prediction is None:
            self._predict_now()
        if self._prediction is None:
            raise InvalidPromptError("there is no mask to commit yet")
        target = self._require_target()
        ids = self.annotation.commit(
            target,
            plane,
            self._prediction,
            overlap=overlap or ("keep" if self.overlap == "ask" else self.overlap),
            class_id=self.class_id,
        )
        self._after_change()
        return ids

    def request_commit(self) -> None:
        """Commit as soon as the masks of the latest prompts are there.

        Unlike `commit`, this neither waits nor raises: it asks the person where
        there is a choice, and reports errors.
        """
        self._when_predicted(self._commit_or_ask)

    def _commit_or_ask(self) -> None:
        overlap = self.overlap
        if overlap == "ask":
            touched = self.overlapped()
            answer = "keep"
            if touched and self.questions is not None:
                answer = self.questions.ask_overlap(touched)
            if answer is None:
                return
            overlap = answer
        try:
            self.commit(overlap)
        except LabelOverflowError as error:
            if self.questions is not None and self.questions.ask_widen(str(error)):
                self.widen_target()
                self._commit_or_ask()
            else:
                self.report(str(error), is_error=True)
        except SamSegError as error:
            self.report(str(error), is_error=True)

    def _when_predicted(self, act: Callable[[], None]) -> None:
        """Call `act` once the preview belongs to the latest prompts."""
        if self._is_stale and self.plane and self.annotation.prompts(self.plane):
            self._waiting_act = act
        else:
            act()

    def overlapped(self) -> tuple[int, ...]:
        """Ids in the target that a commit would touch."""
        if self._target is None or self._prediction is None or self.plane is None:
            return ()
        return overlapped_labels(self._target, self.plane, self._prediction)

    def clear(self) -> None:
        """Throw away the prompts on the plane on view; can be undone."""
        if self.plane is not None and self.annotation.clear_prompts(self.plane):
            self._after_change()

    def undo(self) -> bool:
        """Undo the last prompt, commit, class change or stroke; False if none."""
        return self._step(self.annotation.undo)

    def redo(self) -> bool:
        """Redo what was undone last; False if there is nothing."""
        return self._step(self.annotation.redo)

    def set_classes(self, classes: Sequence[ObjectClass]) -> None:
        """Replace the class table."""
        self.annotation.set_classes(classes)
        if self.class_id not in {row.class_id for row in self.annotation.classes}:
            self.class_id = None
        self._after_change(predict=False)

    def assign_class(self, object_id: int, class_id: int | None) -> None:
        """Give a committed object a class, or none."""
        self.annotation.assign_class(object_id, class_id)
        self._after_change(predict=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write prompts, commits and classes as JSON."""
        write_annotation(path, self.annotation, self._header())

    def replay(self, path: str | os.PathLike[str]) -> None:
        """Do again what a saved annotation records, into the target.

        Labels come back pixel by pixel, without the model; each step can be
        undone.

        Raises
        ------
        MissingFileError, InvalidPromptError
            If there is no such file, or it is damaged.
        LayerError
            If it belongs to an image of another shape.
        """
        document = read_annotation(path)
        if document.header.shape != self.view.shape:
            raise LayerError(
                f"the annotation was made on an image of shape "
                f"{document.header.shape}, {self.image.name!r} has {self.view.shape}"
            )
        self._wait_for_ids()
        target = self._require_target()
        for _ in replay_annotation(document, self.annotation, target):
            pass
        self._after_change()

    # -- choices -------------------------------------------------------------------

    @property
    def target(self) -> Labels | None:
        """The Labels layer for commits; None makes a new one when needed."""
        return None if self._target is None else self._target.layer

    def set_target(self, layer: Labels | None) -> None:
        """Choose the Labels layer for commits.

        Raises
        ------
        LayerError
            If it cannot be edited, has other axes than the image, or prompts
            still wait for a commit.
        """
        layer = None if layer is None else _unwrap(layer)
        if layer is self.target:
            return
        if self.annotation.planes:
            raise LayerError("commit or clear the prompts before changing the target")
        if layer is None:
            self._drop_target()
            return
        if tuple(layer.data.shape) != self.view.shape and not layer.multiscale:
            raise LayerError(
                f"Labels layer {layer.name!r} has shape {tuple(layer.data.shape)}, the "
                f"image has {self.view.shape}: choose another, or let a new one be made"
            )
        target = LayerLabels(layer)
        self._drop_target()
        self._adopt_target(target)
        if layer.data.size <= SCAN_AT_ONCE:
            self.annotation.reserve_ids(largest_label(layer.data))
        else:
            self._scan(layer.data)
        self.changed.emit()

    def widen_target(self) -> None:
        """Convert the target to uint32, so that larger ids fit."""
        if self._target is not None:
            widen_labels(self._target)

    def set_model(self, settings: ModelSettings) -> None:
        """Choose the model; it is loaded, and the plane encoded, in the background."""
        if settings == self.model_settings and self._own_model is None:
            return
        self.model_settings, self._own_model = settings, None
        self._forget_model()

    def use_model(self, model: PromptableModel) -> None:
        """Use a model that is loaded already."""
        if model is not self._own_model:
            self.model_settings, self._own_model = None, model
            self._forget_model()

    def set_image_settings(self, settings: ImageSettings) -> None:
        """Choose contrast, channels and resolution level.

        Raises
        ------
        LayerError
            If the level changes while there are labels or prompts at another.
        """
        if settings == self.image_settings:
            return
        if settings.level != self.image_settings.level:
            if self.annotation.planes or self._target is not None:
                raise LayerError(
                    "the resolution level can only change before the first prompt: "
                    "clear the prompts, or choose a new target"
                )
            self.view = ImageView.of_layer(self.image, settings.level)
        self.image_settings = settings
        self._autosave = None
        self._forget_plane()

    # -- what goes on --------------------------------------------------------------

    @property
    def prediction(self) -> MaskPrediction | None:
        """Masks of the prompts on the plane on view, as previewed."""
        return self._prediction

    @property
    def is_encoded(self) -> bool:
        """Whether the plane on view is encoded, so that masks come at once."""
        return self._encoded is not None and self._encoded.plane == self.plane

    @property
    def is_busy(self) -> bool:
        """Whether something runs in the background."""
        jobs = (self._encoding, self._predicting, self._scanning, self._saving)
        return any(job.is_busy for job in jobs) or self._rest.isActive()

    def wait(self, timeout: float = 60.0) -> None:
        """Let the background work finish, for scripts; seconds at most."""
        import time

        end = time.monotonic() + timeout
        while self.is_busy and time.monotonic() < end:
            QCoreApplication.processEvents()
            time.sleep(0.002)

    def point_on_plane(self, position: Sequence[float]) -> npt.NDArray[np.float64]:
        """Turn a position on the canvas into (y, x) pixels of the plane on view."""
        data = canvas_to_data(position, self.viewer.dims, self.image)
        return self.view.data_to_plane(data, self._require_plane())

    def hover(self, point_yx: Sequence[float] | None) -> None:
        """Preview the object that a click at a point would give; None ends that.

        Only where no object waits for a commit, and only once the plane is
        encoded: moving the mouse never starts long work.
        """
        encoded = self._encoded
        if self.plane is None or self.annotation.prompts(self.plane):
            return
        inside = point_yx is not None and _is_inside(
            point_yx, self.view.plane_size(self.plane)
        )
        if not inside or encoded is None or encoded.plane != self.plane:
            self._hovering.cancel()
            self.layers.show_preview(self.view, self.plane, None)
            return
        gesture = Gesture("click", np.array([point_yx], np.float64))
        self._hovering.request(
            self._predict_steps(encoded, {HOVER_ID: [gesture]}, fill_alpha=40),
            self._show_hover,
            lambda error: None,
        )

    def report(self, message: str, *, is_error: bool = False) -> None:
        """Tell the person something, in the panel and if need be as a notification."""
        self.reported.emit(message, is_error)

    # -- life ----------------------------------------------------------------------

    def hold(self, holder: object) -> None:
        """Keep the session going for a widget or a script."""
        if not self._holders:
            self._find_plane()
            self._encode()
        self._holders.add(id(holder))
        self._after_change()

    def release(self, holder: object) -> None:
        """Give up a hold; the last one stops jobs and removes the prompt layers.

        Prompts, labels and history stay until the image or viewer is gone.
        """
        self._holders.discard(id(holder))
        if not self._holders and self._is_open:
            self._stop()

    def draw_on_canvas(self) -> CanvasTools:
        """Let prompts be drawn with the mouse; the same tools for all panels."""
        if self.tools is None:
            self.tools = CanvasTools(self)
        return self.tools

    def close(self) -> None:
        """End the session: stop jobs, save, remove the prompt layers."""
        if not self._is_open:
            return
        self._is_open = False
        self._stop()
        self._disconnect()
        self._drop_target(forget=False)
        self._encoded = self._predictor = self._prediction = None
        self.annotation.close()
        _SESSIONS.get(self.viewer, WeakKeyDictionary()).pop(self.image, None)
        self.closed.emit()

    def _connect(self) -> None:
        dims = self.viewer.dims.events
        for event in (dims.point, dims.order, dims.ndisplay):
            event.connect(self._on_dims)
        self.viewer.layers.events.removed.connect(self._on_layer_removed)
        self.image.events.data.connect(self._on_image_data)
        for name in TRANSFORMS:
            getattr(self.image.events, name).connect(self._on_transform)

    def _disconnect(self) -> None:
        dims = self.viewer.dims.events
        for event in (dims.point, dims.order, dims.ndisplay):
            event.disconnect(self._on_dims)
        self.viewer.layers.events.removed.disconnect(self._on_layer_removed)
        self.image.events.data.disconnect(self._on_image_data)
        for name in TRANSFORMS:
            getattr(self.image.events, name).disconnect(self._on_transform)

    def _on_dims(self) -> None:
        self._rest.start()

    def _on_transform(self) -> None:
        self.view = ImageView.of_layer(self.image, self.image_settings.level)
        self._show_prompts()
        self.layers.show_preview(self.view, self.plane or PlaneKey(), None)
        self._request_prediction()

    def _on_layer_removed(self, event: Any) -> None:
        if event.value is self.image:
            if self.annotation.planes:
                self.report(
                    f"image layer {self.image.name!r} was removed; its prompts are "
                    f"saved in {self._autosave.path if self._autosave else 'no file'}"
                )
            self.close()
        elif self._target is not None and event.value is self._target.layer:
            self._save_now()
            # the file keeps what was committed; the next step starts another
            self._autosave = None
            self._drop_target()
            self.report("the target was removed; the next commit makes a new one")

    def _on_image_data(self) -> None:
        old_shape = self.view.shape
        try:
            level = min(self.image_settings.level, choose_level(self.image))
            self.view = ImageView.of_layer(self.image, level)
        except SamSegError as error:
            self.report(str(error), is_error=True)
            return
        if self.view.shape != old_shape:
            self._save_now()
            self._autosave = None
            for plane in self.annotation.planes:
                self.annotation.clear_prompts(plane)
            self._drop_target()
            self.report("the image was replaced by one of another shape: start anew")
        self.image_settings = replace(self.image_settings, level=level)
        self._forget_plane()

    def _on_paint(self) -> None:
        target = self._target
        if target is not None and not target.is_writing:
            self.annotation.reserve_ids(int(target.layer.selected_label))
            self.annotation.record_stroke(target)
            self.changed.emit()

    def _on_target_data(self) -> None:
        target = self._target
        if target is not None and not target.is_writing:
            self.annotation.forget_target(target)
            self.report("the labels were replaced: earlier commits cannot be undone")
            self.annotation.reserve_ids(largest_label(target.layer.data))
            self.changed.emit()

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
            self._encoded = None
            self._prediction = None
            self._waiting_act = None
            self._hovering.cancel()
            self._predicting.cancel()
            self._show_prompts()
            self.layers.show_preview(self.view, self.plane or PlaneKey(), None)
            self._encode()
            self.changed.emit()

    def _forget_model(self) -> None:
        self._predictor = None
        self._autosave = None
        self._forget_plane()

    def _forget_plane(self) -> None:
        self._encoded = None
        self._find_plane()
        self._after_change(predict=False)
        self._is_stale = True
        self._encode()

    def _encode(self) -> None:
        """Encode the plane on view in the background."""
        self._encoding.cancel()
        if self.plane is None or not (self.model_settings or self._own_model):
            self.progressed.emit(None)
            return
        self._encoding.request(
            self._encode_steps(self.plane),
            self._on_encoded,
            self._on_encode_error,
            self.progressed.emit,
        )

    def _encode_steps(self, plane: PlaneKey) -> Generator[Progress, None, _Encoded]:
        # everything of a layer is taken here, on the main thread; the rest runs in
        # a worker
        return _encode_plane(
            plane,
            self.view,
            self.image_settings,
            self._predictor,
            self._own_model or self.model_settings or ModelSettings(),
        )

    def _on_encoded(self, encoded: _Encoded) -> None:
        self.progressed.emit(None)
        self._predictor = encoded.predictor
        if encoded.plane == self.plane:
            self._encoded = encoded
            self.changed.emit()
            self._request_prediction()

    def _on_encode_error(self, error: Exception) -> None:
        self.progressed.emit(None)
        self._waiting_act = None
        self.report(_message(error), is_error=True)

    # -- masks ---------------------------------------------------------------------

    def _request_prediction(self) -> None:
        """Ask for the masks of all objects on the plane, in the background."""
        encoded, plane = self._encoded, self.plane
        if plane is None:
            return
        prompts = _promptable(self.annotation.prompts(plane))
        if not prompts:
            self._predicting.cancel()
            self._prediction, self._is_stale = None, False
            self.layers.show_preview(self.view, plane, None)
            self._settle()
            return
        self._is_stale = True
        if encoded is None or encoded.plane != plane:
            return
        self._hovering.cancel()
        self._predicting.request(
            self._predict_steps(encoded, prompts),
            self._on_predicted,
            self._on_predict_error,
        )

    def _predict_steps(
        self, encoded: _Encoded, prompts: dict[int, list[Gesture]], fill_alpha: int = 70
    ) -> Generator[Progress, None, tuple[PlaneKey, MaskPrediction, Any]]:
        colors = self._colors(list(prompts))
        return _predict_plane(
            encoded, prompts, colors, fill_alpha, self.view.plane_size(encoded.plane)
        )

    def _on_predicted(self, result: tuple[PlaneKey, MaskPrediction, Any]) -> None:
        plane, prediction, drawn = result
        if plane != self.plane:
            return
        self._prediction, self._is_stale = prediction, False
        self.layers.show_preview(self.view, plane, drawn)
        self._settle()

    def _show_hover(self, result: tuple[PlaneKey, MaskPrediction, Any]) -> None:
        plane, _, drawn = result
        if plane == self.plane and not self.annotation.prompts(plane):
            self.layers.show_preview(self.view, plane, drawn)

    def _on_predict_error(self, error: Exception) -> None:
        self._waiting_act = None
        self.report(_message(error), is_error=not isinstance(error, InvalidPromptError))

    def _settle(self) -> None:
        act, self._waiting_act = self._waiting_act, None
        self.changed.emit()
        if act is not None:
            act()

    def _predict_now(self) -> MaskPrediction:
        """Encode and decode on this thread, for scripts."""
        plane = self._require_plane()
        prompts = _promptable(self.annotation.prompts(plane))
        if not prompts:
            raise InvalidPromptError(
                "there are only background points: add a foreground point or a box"
            )
        if self._encoded is None or self._encoded.plane != plane:
            self._encoding.cancel()
            self._encoded = _run(self._encode_steps(plane))
            self._predictor = self._encoded.predictor
            self.progressed.emit(None)
        self._predicting.cancel()
        result = _run(self._predict_steps(self._encoded, prompts))
        self._on_predicted(result)
        return result[1]

    # -- layers --------------------------------------------------------------------

    def _after_change(self, *, predict: bool = True) -> None:
        """Show, save and predict after the history has changed."""
        self._show_prompts()
        if self._target is not None:
            with self._target.writing():
                show_classes(
                    self._target.layer,
                    self.annotation.classes,
                    self.annotation.object_classes,
                )
        self._save_soon()
        self._is_stale = True
        if predict:
            self._request_prediction()
        self.changed.emit()

    def _show_prompts(self) -> None:
        if self.plane is not None and self._holders:
            size = max(4.0, max(self.view.plane_size(self.plane)) / 64)
            prompts = self.annotation.prompts(self.plane)
            self.layers.show_prompts(self.view, self.plane, prompts, size)

    def _step(self, move: Callable[[], Any]) -> bool:
        try:
            action = move()
        except LayerError as error:
            self.report(str(error), is_error=True)
            return True
        if action is None:
            return False
        plane = getattr(action, "plane", None)
        if plane is not None and plane != self.plane:
            self._show_plane(plane)
        if isinstance(action, Commit | Stroke):
            self.report("labels changed")
        self._after_change()
        return True

    def _show_plane(self, plane: PlaneKey) -> None:
        """Bring a plane on view, so that undo is seen where it acts."""
        dims = self.viewer.dims
        middle = np.array([np.array(self.view.plane_size(plane)) / 2])
        pixel = self.view.plane_to_pixels(middle, plane)[0]
        world = self.view.matrix[:-1, :-1] @ pixel + self.view.matrix[:-1, -1]
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
        if self._target is None:
            folder = cache_folder() / "labels"
            layer = create_labels(self.viewer, self.image, self.view, folder)
            self._adopt_target(LayerLabels(layer))
            if self.layers.layers:
                self.layers.raise_above(layer)
                self.layers.activate()
        assert self._target is not None
        return self._target

    def _adopt_target(self, target: LayerLabels) -> None:
        self._target = target
        target.layer.events.paint.connect(self._on_paint)
        target.layer.events.data.connect(self._on_target_data)

    def _drop_target(self, *, forget: bool = True) -> None:
        target, self._target = self._target, None
        self._scanning.cancel()
        self._is_scanning = False
        if target is None:
            return
        target.layer.events.paint.disconnect(self._on_paint)
        target.layer.events.data.disconnect(self._on_target_data)
        if forget and target.layer not in self.viewer.layers:
            self.annotation.forget_target(target)
        self.changed.emit()

    def _scan(self, data: Any) -> None:
        """Find the largest id of large labels in a thread."""

        def steps() -> Generator[Progress, None, int]:
            yield Progress("reading the labels")
            return largest_label(data)

        def done(largest: int) -> None:
            self._is_scanning = False
            self.annotation.reserve_ids(largest)
            self.progressed.emit(None)
            self.changed.emit()

        self._is_scanning = True
        self._scanning.request(
            steps(), done, self._on_encode_error, self.progressed.emit
        )

    def _wait_for_ids(self) -> None:
        if self._is_scanning and self._target is not None:
            self._scanning.cancel()
            self._is_scanning = False
            self.annotation.reserve_ids(largest_label(self._target.layer.data))

    def _colors(self, object_ids: list[int]) -> npt.NDArray[np.uint8]:
        """RGB of objects as napari will show them once committed."""
        from napari.utils.colormaps import label_colormap

        if object_ids == [HOVER_ID]:
            object_ids = [self.annotation.next_id]
        # what napari gives to a new Labels layer has 49 colours
        colormap = label_colormap(49) if self.target is None else self.target.colormap
        mapped = np.atleast_2d(colormap.map(np.array(object_ids, np.uint32)))
        return np.asarray(mapped[:, :3] * 255).astype(np.uint8)

    # -- files ---------------------------------------------------------------------

    def _header(self) -> AnnotationHeader:
        model = "a loaded model"
        if self.model_settings is not None:
            model = self.model_settings.model
        return AnnotationHeader(
            self.image.name, tuple(self.view.shape), model, self.image_settings
        )

    def _save_soon(self) -> None:
        """Autosave in a thread; an annotation that is empty makes no file."""
        actions = self.annotation.actions
        if self._autosave is None:
            if not actions:
                return
            self._autosave = Autosave(autosave_path(self.image.name), self._header())
        self._saving.request(
            _save_steps(self._autosave, actions), lambda _: None, self._on_save_error
        )

    def _save_now(self) -> None:
        self._saving.cancel()
        if self._autosave is not None:
            try:
                self._autosave.save(self.annotation.actions)
            except OSError as error:
                self._on_save_error(error)

    def _on_save_error(self, error: Exception) -> None:
        path: Path | str = self._autosave.path if self._autosave else "a file"
        self.report(
            f"the annotation could not be saved in {path}: {error}", is_error=True
        )

    @property
    def autosave_file(self) -> Path | None:
        """Where the annotation is saved after every step; None before the first."""
        return None if self._autosave is None else self._autosave.path

    def _stop(self) -> None:
        """Stop jobs, save, and take mouse, keys and prompt layers back."""
        self._cancel_jobs()
        self._save_now()
        if self.tools is not None:
            self.tools.close()
            self.tools = None
        self.layers.remove()

    def _cancel_jobs(self) -> None:
        self._rest.stop()
        self._waiting_act = None
        for job in (self._encoding, self._predicting, self._hovering, self._scanning):
            job.cancel()


# What moves an image layer in the world.
TRANSFORMS = ("scale", "translate", "rotate", "shear", "affine")


def _encode_plane(
    plane: PlaneKey,
    view: ImageView,
    settings: ImageSettings,
    predictor: Predictor | None,
    model: PromptableModel | ModelSettings,
) -> Generator[Progress, None, _Encoded]:
    if predictor is None and isinstance(model, ModelSettings):
        predictor = yield from load_predictor_steps(model)
    elif predictor is None:
        from napari_samseg.core.predict import Predictor as NewPredictor

        predictor = NewPredictor(model)
    yield Progress("reading the plane")
    pixels = read_plane(view.source, plane.index, settings, plane_axes=plane.axes)
    yield Progress("encoding the plane")
    embedding = yield from predictor.encode_steps(pixels)
    return _Encoded(predictor, plane, embedding)


def _predict_plane(
    encoded: _Encoded,
    prompts: dict[int, list[Gesture]],
    colors: npt.NDArray[np.uint8],
    fill_alpha: int,
    plane_size: tuple[int, int],
) -> Generator[Progress, None, tuple[PlaneKey, MaskPrediction, Any]]:
    from napari_samseg.core.predict import predict_masks

    yield Progress("decoding")
    model = encoded.predictor.model
    given = gather_prompts(prompts, plane_size, model.low_res_size)
    prediction = predict_masks(model, encoded.embedding, given)
    outline = max(1, round(max(plane_size) / 400))
    drawn = render_objects(prediction, colors, fill_alpha=fill_alpha, outline=outline)
    return encoded.plane, prediction, drawn


def _save_steps(
    autosave: Autosave, actions: tuple[Any, ...]
) -> Generator[Progress, None, None]:
    yield Progress("saving")
    autosave.save(actions)


def _run(steps: Generator[Progress, None, Any]) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def _promptable(prompts: dict[int, list[Gesture]]) -> dict[int, list[Gesture]]:
    """Leave out objects that so far have only background marks."""
    return {i: g for i, g in prompts.items() if any(mark.positive for mark in g)}


def _as_gestures(prompts: PlanePrompts) -> list[list[Gesture]]:
    """Turn paired arrays into what would have been drawn, per object."""
    objects = []
    for i in range(len(prompts)):
        gestures = [
            Gesture("click", point[np.newaxis], bool(label))
            for point, label in zip(
                prompts.points_yx[i], prompts.point_labels[i], strict=True
            )
            if label != PADDING
        ]
        if prompts.has_box[i]:
            corners = prompts.boxes_yx[i].astype(np.float64).reshape(2, 2) - 0.5
            gestures.append(Gesture("box", corners))
        objects.append(gestures)
    return objects


def _with_signs(gestures: list[Gesture], labels: npt.NDArray[Any]) -> list[Gesture]:
    signs = iter(labels[labels != PADDING])
    return [
        replace(g, positive=bool(next(signs))) if g.kind == "click" else g
        for g in gestures
    ]


def _is_inside(point_yx: Sequence[float], size: tuple[int, int]) -> bool:
    return all(-0.5 <= v <= n - 0.5 for v, n in zip(point_yx, size, strict=True))


def _message(error: Exception) -> str:
    if isinstance(error, SamSegError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _unwrap(proxied: Any) -> Any:
    """Return the object behind napari's proxy for plugins, whose identity counts."""
    return getattr(proxied, "__wrapped__", proxied)
