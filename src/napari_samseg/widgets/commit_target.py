"""The Labels layer that commits go to, watched for what others do to it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_samseg.adapters.plugin_settings import read_plugin_settings
from napari_samseg.adapters.read_layers import ImageView, largest_label
from napari_samseg.adapters.write_layers import (
    LayerLabels,
    create_labels,
    move_labels,
    widen_labels,
)
from napari_samseg.core.errors import LayerError
from napari_samseg.core.types import Progress
from napari_samseg.widgets.workers import LatestJob

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

    from napari_samseg.core.annotation import Annotation

__all__ = ["CommitTarget"]

# Labels above this many values are scanned for their largest id in a thread.
SCAN_AT_ONCE = 1 << 22


class CommitTarget:
    """Where objects are painted, if a layer was chosen or made already.

    Strokes that a person paints become part of the annotation's history, on
    earlier targets too while something on them can be undone; when a layer's
    data is replaced, what can no longer be undone is dropped.

    Attributes
    ----------
    labels : LayerLabels or None
    is_scanning : bool
        The ids in the layer are not known yet.
    """

    changed = Signal()
    painted = Signal()
    progressed = Signal(object)
    reported = Signal(str)
    # commits are about to leave the history for good
    forgetting = Signal()

    def __init__(self, annotation: Annotation) -> None:
        self._annotation = annotation
        self._scanning = LatestJob()
        self._watched: dict[Labels, LayerLabels] = {}
        self._made: Labels | None = None
        self._shape: tuple[int, ...] = ()
        self._is_widening = False
        self.labels: LayerLabels | None = None
        self.is_scanning = False

    @property
    def layer(self) -> Labels | None:
        """The layer; None while there is none."""
        return None if self.labels is None else self.labels.layer

    def choose(self, layer: Labels, view: ImageView) -> None:
        """Paint into a layer from now on; new ids go above those it holds.

        Raises
        ------
        LayerError
            If it cannot be edited or read, or does not lie on the image pixel
            by pixel.
        """
        labels = self._watched.get(layer) or LayerLabels(layer)
        _check_place(layer, view)
        is_small = layer.data.size <= SCAN_AT_ONCE
        largest = _largest_label(layer) if is_small else 0
        self.drop()
        self._use(labels, view.shape)
        self._annotation.reserve_ids(labels, largest)
        if not is_small:
            self._scan(labels)
        self.changed.emit()

    def make(self, viewer: ViewerModel, image: Image, view: ImageView) -> Labels:
        """Add a Labels layer for an image, and paint into it."""
        folder = read_plugin_settings().cache_path / "labels"
        layer = create_labels(viewer, image, view, folder)
        self._made = layer
        self._use(LayerLabels(layer), view.shape)
        return layer

    def follow(self, image: Image, view: ImageView) -> None:
        """Keep labels that were made for an image on it when it moves.

        Other layers are a person's to place: they are told.
        """
        layer = self.layer
        if layer is None or view.is_under(layer):
            return
        if layer is self._made:
            move_labels(layer, image, view)
        else:
            self.reported.emit(
                f"image layer {image.name!r} moved, and Labels layer {layer.name!r} "
                "did not: give it the same transform, or choose another target"
            )

    def drop(self) -> None:
        """Let the layer go; it is still watched while its commits can be undone."""
        self._stop_scan()
        if self.labels is not None:
            self.labels = None
            self.changed.emit()

    def forget(self, layer: Labels) -> bool:
        """Drop what was done on a layer that is gone; False if nothing was."""
        labels = self._watched.pop(layer, None)
        if labels is None:
            return False
        _disconnect(labels, self)
        if labels is self.labels:
            self.drop()
        if self._annotation.involves(labels):
            self.forgetting.emit()
        self._annotation.forget_target(labels)
        return True

    def close(self) -> None:
        """Let all layers go."""
        self.drop()
        for labels in self._watched.values():
            _disconnect(labels, self)
        self._watched.clear()

    def widen(self) -> None:
        """Convert the labels to uint32, so that larger ids fit."""
        labels = self.labels
        if labels is not None:
            self._is_widening = True
            try:
                widen_labels(labels, read_plugin_settings().cache_path / "labels")
            finally:
                self._is_widening = False

    def wait_for_ids(self) -> None:
        """Read the largest id at once, if it is still being read.

        Raises
        ------
        LayerError
            If the labels cannot be read; the layer is let go.
        """
        labels = self.labels
        if self.is_scanning and labels is not None:
            self._stop_scan()
            try:
                self._annotation.reserve_ids(labels, _largest_label(labels.layer))
            except LayerError:
                self.drop()
                raise

    def _use(self, labels: LayerLabels, shape: tuple[int, ...]) -> None:
        self.labels, self._shape = labels, shape
        if labels.layer not in self._watched:
            self._watched[labels.layer] = labels
            labels.layer.events.paint.connect(self._on_paint)
            labels.layer.events.data.connect(self._on_data)

    def _scan(self, labels: LayerLabels) -> None:
        def done(largest: int) -> None:
            self._annotation.reserve_ids(labels, largest)
            self._stop_scan()
            self.changed.emit()

        def fail(error: Exception) -> None:
            self.drop()
            self.reported.emit(_unreadable(labels.layer, error))

        self.is_scanning = True
        self._scanning.request(
            _scan_steps(labels.layer.data), done, fail, self.progressed.emit
        )

    def _stop_scan(self) -> None:
        if self.is_scanning:
            self._scanning.cancel()
            self.is_scanning = False
            self.progressed.emit(None)

    def _on_paint(self, event: Any) -> None:
        labels = self._watched[event.source]
        changes = labels.read_stroke(event.value)
        if labels is self.labels or self._annotation.involves(labels):
            self._annotation.record_stroke(labels, changes)
            self.painted.emit()

    def _on_data(self, event: Any) -> None:
        if self._is_widening:
            return
        labels = self._watched[event.source]
        if self._annotation.involves(labels):
            self.forgetting.emit()
            self._annotation.forget_target(labels)
            self.reported.emit(
                "the labels were replaced: earlier commits cannot be undone"
            )
        if labels is self.labels:
            self._read_new_ids(labels)
        self.changed.emit()

    def _read_new_ids(self, labels: LayerLabels) -> None:
        layer = labels.layer
        if tuple(layer.data.shape) != self._shape:
            self.drop()
            self.reported.emit(
                f"Labels layer {layer.name!r} no longer has the shape of the image: "
                "choose another target, or let a new one be made"
            )
        elif layer.data.size > SCAN_AT_ONCE:
            self._scan(labels)
        else:
            try:
                self._annotation.reserve_ids(labels, _largest_label(layer))
            except LayerError as error:
                self.drop()
                self.reported.emit(str(error))


def _disconnect(labels: LayerLabels, target: CommitTarget) -> None:
    labels.layer.events.paint.disconnect(target._on_paint)
    labels.layer.events.data.disconnect(target._on_data)


def _check_place(layer: Labels, view: ImageView) -> None:
    way_out = "or let a new one be made"
    if tuple(layer.data.shape) != view.shape:
        raise LayerError(
            f"Labels layer {layer.name!r} has shape {tuple(layer.data.shape)}, the "
            f"image has {view.shape}: choose another, {way_out}"
        )
    if not view.is_under(layer):
        raise LayerError(
            f"Labels layer {layer.name!r} does not lie on the image: its scale, "
            "translation, rotation, shear or affine differs. Give it the transform "
            f"of the image, {way_out}"
        )


def _largest_label(layer: Labels) -> int:
    try:
        return largest_label(layer.data)
    except Exception as error:  # any store can be behind the layer
        raise LayerError(_unreadable(layer, error)) from error


def _unreadable(layer: Labels, error: Exception) -> str:
    return (
        f"the ids in Labels layer {layer.name!r} cannot be read ({error}): choose "
        "another target, or let a new Labels layer be made"
    )


def _scan_steps(data: Any) -> Generator[Progress, None, int]:
    yield Progress("reading the labels")
    return largest_label(data)
