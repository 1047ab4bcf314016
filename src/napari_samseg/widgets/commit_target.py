"""The Labels layer that commits go to, watched for what others do to it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_samseg.adapters.read_layers import largest_label
from napari_samseg.adapters.write_layers import LayerLabels, widen_labels
from napari_samseg.core.errors import LayerError
from napari_samseg.core.types import Progress
from napari_samseg.widgets.workers import LatestJob

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_samseg.core.annotation import Annotation

__all__ = ["CommitTarget"]

# Labels above this many values are scanned for their largest id in a thread.
SCAN_AT_ONCE = 1 << 22


class CommitTarget:
    """Where objects are painted, if a layer was chosen or made already.

    Strokes that a person paints become part of the annotation's history; when
    the layer's data is replaced, what can no longer be undone is dropped.

    Attributes
    ----------
    labels : LayerLabels or None
    """

    changed = Signal()
    progressed = Signal(object)
    reported = Signal(str)

    def __init__(self, annotation: Annotation) -> None:
        self._annotation = annotation
        self._scanning = LatestJob()
        self.labels: LayerLabels | None = None
        self.is_scanning = False

    @property
    def layer(self) -> Labels | None:
        """The layer; None while there is none."""
        return None if self.labels is None else self.labels.layer

    def choose(self, layer: Labels, shape: tuple[int, ...]) -> None:
        """Paint into a layer from now on; new ids go above those it holds.

        Raises
        ------
        LayerError
            If it cannot be edited, or does not have the shape of the image.
        """
        if tuple(layer.data.shape) != shape and not layer.multiscale:
            raise LayerError(
                f"Labels layer {layer.name!r} has shape {tuple(layer.data.shape)}, the "
                f"image has {shape}: choose another, or let a new one be made"
            )
        labels = LayerLabels(layer)
        self.drop()
        self.adopt(labels)
        if layer.data.size <= SCAN_AT_ONCE:
            self._annotation.reserve_ids(largest_label(layer.data))
        else:
            self._scan(layer.data)
        self.changed.emit()

    def adopt(self, labels: LayerLabels) -> None:
        """Paint into labels that are known to be empty."""
        self.labels = labels
        labels.layer.events.paint.connect(self._on_paint)
        labels.layer.events.data.connect(self._on_data)

    def drop(self, *, is_gone: bool = False) -> None:
        """Let the layer go; if it is gone, its commits cannot be undone any more."""
        labels, self.labels = self.labels, None
        self._scanning.cancel()
        self.is_scanning = False
        if labels is None:
            return
        labels.layer.events.paint.disconnect(self._on_paint)
        labels.layer.events.data.disconnect(self._on_data)
        if is_gone:
            self._annotation.forget_target(labels)
        self.changed.emit()

    def widen(self) -> None:
        """Convert the labels to uint32, so that larger ids fit."""
        if self.labels is not None:
            widen_labels(self.labels)

    def wait_for_ids(self) -> None:
        """Read the largest id at once, if it is still being read."""
        if self.is_scanning and self.labels is not None:
            self._scanning.cancel()
            self.is_scanning = False
            self._annotation.reserve_ids(largest_label(self.labels.layer.data))

    def _scan(self, data: Any) -> None:
        def done(largest: int) -> None:
            self.is_scanning = False
            self._annotation.reserve_ids(largest)
            self.progressed.emit(None)
            self.changed.emit()

        self.is_scanning = True
        self._scanning.request(
            _scan_steps(data),
            done,
            lambda error: self.reported.emit(str(error)),
            self.progressed.emit,
        )

    def _on_paint(self) -> None:
        labels = self.labels
        if labels is not None and not labels.is_writing:
            self._annotation.reserve_ids(int(labels.layer.selected_label))
            self._annotation.record_stroke(labels)
            self.changed.emit()

    def _on_data(self) -> None:
        labels = self.labels
        if labels is not None and not labels.is_writing:
            self._annotation.forget_target(labels)
            self._annotation.reserve_ids(largest_label(labels.layer.data))
            self.reported.emit(
                "the labels were replaced: earlier commits cannot be undone"
            )
            self.changed.emit()


def _scan_steps(data: Any) -> Generator[Progress, None, int]:
    yield Progress("reading the labels")
    return largest_label(data)
