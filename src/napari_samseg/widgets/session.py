"""Prompts, masks and labels of an image layer: what the widget's buttons call.

The state lives here and not in a widget, because napari may open the same
widget twice in a viewer, and a closed panel must not lose what was drawn.
Model, encoding and decoding run in threads; layers are touched only here, on
the main thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from napari_samseg.adapters.read_layers import label_on_plane, unwrap
from napari_samseg.adapters.write_layers import add_semantic_labels
from napari_samseg.core.annotation_actions import ObjectClass
from napari_samseg.core.annotation_file import (
    read_annotation,
    write_annotation,
)
from napari_samseg.core.class_labels import semantic_labels
from napari_samseg.core.errors import (
    InvalidPromptError,
    LayerError,
)
from napari_samseg.core.painting import overlapped_labels
from napari_samseg.core.prompts.from_arrays import draw_prompts
from napari_samseg.core.prompts.from_geometry import (
    Gesture,
    check_gesture,
    label_gesture,
)
from napari_samseg.core.settings import ImageSettings, ModelSettings, TileSettings
from napari_samseg.widgets.live_session import LiveSession
from napari_samseg.widgets.questions import commit_or_ask

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_samseg.core.models.protocol import PromptableModel
    from napari_samseg.core.types import MaskPrediction

__all__ = ["Session"]


class Session(LiveSession):
    """Prompts, masks and labels of one image layer in one viewer.

    Made by `widgets.sessions.open_session`. Coordinates are (y, x) in pixels of
    the plane on view, at the resolution level of `image_settings`.

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
        self._check_free()
        drawn = draw_prompts(
            points,
            point_labels,
            boxes,
            plane_size=self.view.plane_size(plane),
            combine=combine or object_id is not None,
            refines=object_id in self.annotation.prompts(plane),
        )
        self._target.wait_for_ids()
        # a model that cannot be had leaves the history as it was
        self._masks.encode_now(plane, self.view, self.image_settings)
        for gestures in drawn:
            target_id = self.annotation.next_id if object_id is None else object_id
            for gesture in gestures:
                self.annotation.add_gesture(
                    plane, target_id, gesture, self._target.labels
                )
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
        self._check_free()
        if self._target.is_scanning:
            raise LayerError(
                "the ids in the chosen Labels layer are still being read: wait a moment"
            )
        # masks are made in the worker
        check_gesture(gesture, self.view.plane_size(plane))
        object_id = self.annotation.next_id if object_id is None else object_id
        self.annotation.add_gesture(plane, object_id, gesture, self._target.labels)
        self._after_change()
        return object_id

    def pick_label(self, layer: Labels, point_yx: Sequence[float]) -> int:
        """Take the label under a point as the mask prompt of an object.

        The layer may lie anywhere: the label is taken where the viewer shows it.
        A label of the target keeps its id, and a commit puts the refined object
        in its place; one of another layer becomes a new object.
        """
        plane = self._require_plane()
        labels = label_on_plane(
            unwrap(layer), self.image, self.view, plane, self.viewer.dims, point_yx
        )
        gesture = label_gesture(labels, point_yx)
        object_id = None
        if self._target.layer is unwrap(layer):
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
        self._check_free()
        self._target.wait_for_ids()
        if not self.annotation.prompts(plane):
            raise InvalidPromptError("there is no prompt to commit: click on an object")
        prediction = self._masks.prediction
        if self._masks.is_stale or prediction is None:
            prediction = self._predict_now()
        ids = self.annotation.commit(
            self._require_target(),
            plane,
            prediction,
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
        is_pending = self._masks.is_stale and self.plane in self.annotation.planes
        if len(self._waiting) or is_pending:
            self._waiting.add(self.request_commit, self._commit_given_up)
            if is_pending and not self._masks.is_predicting:
                self._preview.request()
            self.changed.emit()
        else:
            commit_or_ask(self, self.questions)

    def _commit_given_up(self) -> None:
        if self.tools is not None:
            self.tools.next_object()
        self.report("nothing was committed: the masks could not be had")

    def overlapped(self) -> tuple[int, ...]:
        """Ids in the target that a commit would touch."""
        labels, prediction = self._target.labels, self._masks.prediction
        if labels is None or prediction is None or self.plane is None:
            return ()
        painted = self.annotation.renumber(labels, self.plane, prediction)
        return overlapped_labels(labels, self.plane, painted)

    def clear(self) -> None:
        """Throw away the prompts on the plane on view; can be undone."""
        self._waiting.clear()
        if self._replayer.is_busy:
            self.report("an annotation is being replayed: wait a moment")
        elif self.plane is not None and self.annotation.clear_prompts(self.plane):
            self._after_change()

    def undo(self) -> bool:
        """Undo the last prompt, commit, class change or stroke; False if none."""
        if self._waiting.drop_last():
            self.changed.emit()
            return True
        return self._step(self.annotation.undo)

    def redo(self) -> bool:
        """Redo what was undone last; False if there is nothing."""
        return self._step(self.annotation.redo)

    def set_classes(self, classes: Sequence[ObjectClass]) -> None:
        """Replace the class table; objects of a class that is removed have none."""
        self._check_free()
        self.annotation.set_classes(classes)
        if self.class_id not in {row.class_id for row in self.annotation.classes}:
            self.class_id = None
        self._after_change(predict=False)

    def assign_class(self, object_id: int, class_id: int | None) -> None:
        """Give a committed object a class, or none."""
        self._check_free()
        self.annotation.assign_class(object_id, class_id)
        self._after_change(predict=False)

    @property
    def color_by_class(self) -> bool:
        """Whether the target shows objects in the colours of their classes."""
        return self._object_colors.is_by_class

    def set_color_by_class(self, is_on: bool) -> None:
        """Show objects in the colours of their classes, or in the layer's own."""
        if is_on == self.color_by_class:
            return
        self._object_colors.switch(self.target)
        self.changed.emit()

    def semantic_labels(self) -> Any:
        """Return the class id of each pixel of the target.

        Returns
        -------
        array of unsigned int
            See `core.class_labels.semantic_labels`.

        Raises
        ------
        LayerError
            If there is no target yet.
        """
        if self.target is None:
            raise LayerError("there are no labels yet: commit an object first")
        return semantic_labels(self.target.data, self.annotation.object_classes)

    def add_semantic_layer(self) -> Labels:
        """Add the semantic labels as a layer that lies on the target."""
        data = self.semantic_labels()
        layer = add_semantic_labels(
            self.viewer, self._require_target().layer, data, self.annotation.classes
        )
        self.layers.raise_above(layer)
        return layer

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write prompts, commits and classes as JSON."""
        write_annotation(path, self.annotation, self._header())

    def replay(self, path: str | os.PathLike[str]) -> None:
        """Do again what a saved annotation records, into the target.

        Labels come back pixel by pixel, without the model, and beside what the
        target holds; each step can be undone. If it fails, nothing has changed.

        Raises
        ------
        MissingFileError, InvalidPromptError
            If there is no such file, or it is damaged.
        LayerError
            If it belongs to an image of another shape.
        """
        self._check_free()
        for _ in self._replay_steps(read_annotation(path)):
            pass
        self._after_change()

    def request_replay(self, path: str | os.PathLike[str]) -> None:
        """Replay a saved annotation while the window goes on.

        Unlike `replay`, this neither waits nor raises: it reports errors.
        """
        if self._replayer.is_busy:
            self.report("an annotation is being replayed already", is_error=True)
        else:
            self._replayer.request(path)

    # -- choices -------------------------------------------------------------------

    def set_target(self, layer: Labels | None) -> None:
        """Choose the Labels layer for commits.

        Raises
        ------
        LayerError
            If it cannot be edited, has another shape or transform than the
            image, or prompts still wait for a commit.
        """
        layer = None if layer is None else unwrap(layer)
        if layer is self.target:
            return
        self._check_free()
        if self.annotation.planes:
            raise LayerError("commit or clear the prompts before changing the target")
        if layer is None:
            self._target.drop()
        else:
            self._target.choose(layer, self.view)

    def widen_target(self) -> None:
        """Convert the target to uint32, so that larger ids fit.

        Labels in zarr are copied to a new array beside them.
        """
        self._check_free()
        self._target.widen()

    @property
    def model(self) -> PromptableModel | ModelSettings | None:
        """The model, or which one is to be loaded; None before any was chosen."""
        return self._model

    def set_model(self, settings: ModelSettings, *, anew: bool = False) -> None:
        """Choose the model; it is loaded, and the plane encoded, in the background.

        Parameters
        ----------
        settings : ModelSettings
        anew : bool
            Load it again if it is in use: its file was written again.
        """
        self._use(settings, anew=anew)

    def use_model(self, model: PromptableModel) -> None:
        """Use a model that is loaded already."""
        self._use(model)

    def set_image_settings(self, settings: ImageSettings) -> None:
        """Choose contrast, channels and resolution level.

        Raises
        ------
        LayerError
            If the level changes while there are labels or prompts at another.
        """
        if settings == self.image_settings:
            return
        self._check_free()
        if settings.level != self.image_settings.level:
            if self.annotation.planes or self.target is not None:
                raise LayerError(
                    "the resolution level can only change before the first prompt: "
                    "clear the prompts, or choose a new target"
                )
            self._start_over()
        self._shown.use(settings)
        self._autosaver.start_anew()
        self._encode_anew()

    def set_tile_settings(self, settings: TileSettings) -> None:
        """Choose how planes larger than the model's input are cut."""
        if settings != self.tile_settings:
            self._check_free()
            self._masks.tile_settings = settings
            self._encode_anew()
