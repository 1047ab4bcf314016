"""Finds the instances of a whole layer, and brings them into the viewer."""

from __future__ import annotations

import weakref
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_samseg.adapters.instance_layers import (
    add_instances,
    check_target,
    relative_spacing,
)
from napari_samseg.adapters.layer_edit import LayerEdit
from napari_samseg.adapters.plugin_settings import read_plugin_settings
from napari_samseg.adapters.write_layers import array_on_disk
from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import SamSegError
from napari_samseg.core.types import Progress
from napari_samseg.widgets.instance_steps import (
    Answer,
    ClassInputs,
    edit_steps,
    run_steps,
)
from napari_samseg.widgets.sliced_steps import SlicedSteps
from napari_samseg.widgets.workers import LatestJob

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

    from napari_samseg.core.instances.class_source import ClassSource
    from napari_samseg.core.settings import InstanceSettings

__all__ = ["InstanceJob"]


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """Where instances come from and go to; layers may be gone when they are found."""

    source_of: weakref.ref[Image | Labels]
    target: Labels | None
    method: str


class InstanceJob:
    """Runs one search at a time: in a thread, and what layers need in slices.

    Signals: `progressed` with a `Progress`; `found`, when the result is about to be
    shown; `finished` with the `Answer` and what a
    person is told of where it went; `failed` with the error.

    Parameters
    ----------
    viewer : ViewerModel

    Attributes
    ----------
    is_running : bool
        A result will be taken.
    """

    progressed = Signal(object)
    found = Signal()
    finished = Signal(object, str)
    failed = Signal(object)

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._finding = LatestJob()
        self._writing = SlicedSteps(self._on_written, self.progressed.emit)
        self._edit: LayerEdit | None = None
        self._answer: Answer | None = None
        self._order: _Order | None = None
        self._told = ""
        self.is_running = False

    @property
    def is_busy(self) -> bool:
        """Whether anything runs, be it only to its end."""
        return self._finding.is_busy or self._writing.is_busy

    def start(
        self,
        layer: Image | Labels,
        target: Labels | None,
        inputs: ClassInputs,
        source: ClassSource | None,
        settings: InstanceSettings,
    ) -> None:
        """Find the instances of a layer, into another one or a new one.

        Raises
        ------
        LayerError
            If they cannot be written into the other one.
        """
        asked = (inputs, source, settings, relative_spacing(layer))
        if target is not None:
            check_target(target, layer)
            steps = edit_steps(*asked, target.data)
        else:
            name = f"{layer.name}-instances"

            def make_out(shape: tuple[int, ...]) -> Any:
                return array_on_disk(shape, _labels_folder(), name)

            steps = run_steps(*asked, make_out, _labels_folder)
        order = _Order(weakref.ref(layer), target, settings.method)
        self._finding.request(
            steps,
            lambda answer: self._on_found(answer, order),
            self._on_failed,
            self.progressed.emit,
        )
        self.is_running = True

    def stop(self) -> None:
        """Stop; what was written until then is an undo step of the layer."""
        self.is_running = False
        self._finding.cancel()
        self._writing.cancel()

    def cancel(self) -> str:
        """Stop, take back what was written, and return what a person is told."""
        was_writing = self._writing.is_busy
        self.stop()
        edit = self._edit
        self._edit = self._answer = None
        if was_writing and edit is not None and not edit.take_back():
            return (
                f"Cancelled: {count_things(edit.n_written, 'pixel')} written into "
                f"{self._order.target.name!r}, where you painted meanwhile; "
                f"{_how_to_take_back(edit)}"
            )
        return "Cancelled. Nothing was changed."

    def _on_found(self, answer: Answer, order: _Order) -> None:
        layer = order.source_of()
        if layer is None:
            self.is_running = False
            return
        self.found.emit()
        self._order, self._answer = order, answer
        if answer.edit is None:
            # a turn of its own, as what is shown for `found` takes one
            self._writing.start(self._add_steps(layer))
            return
        edit = answer.edit
        try:
            self._edit = LayerEdit(
                order.target, edit.before, edit.labels, edit.n_changed
            )
        except SamSegError as error:
            self._on_failed(error)
            return
        self._writing.start(self._edit.steps())

    def _add_steps(self, layer: Image | Labels) -> Generator[Progress, None, None]:
        yield Progress("adding the layer")
        result = self._answer.result
        is_map = result.found.n_pixels is not None
        made = add_instances(
            self._viewer,
            layer,
            result.found.labels,
            result.sizes,
            kind=self._order.method if is_map else "instances",
        )
        self._answer.keep()
        self._told = f"Layer {made.name!r} was added."

    def _on_written(self, error: Exception | None) -> None:
        if error is not None:
            self._on_failed(error)
            return
        edit, answer = self._edit, self._answer
        self._edit = self._answer = None
        if edit is not None:
            name = self._order.target.name
            self._told = f"Written into {name!r}; {_how_to_take_back(edit)}"
            if edit.n_kept:
                self._told += (
                    f" {count_things(edit.n_kept, 'pixel')} that you painted there "
                    "meanwhile stayed as painted."
                )
        self.is_running = False
        self.finished.emit(answer, self._told)

    def _on_failed(self, error: Exception) -> None:
        self._edit = self._answer = None
        self.is_running = False
        self.failed.emit(error)


def _labels_folder() -> Path:
    """Return where labels go that memory does not hold; takes long the first time."""
    return read_plugin_settings().cache_path / "labels"


def _how_to_take_back(edit: LayerEdit) -> str:
    times = f", {edit.n_steps} times," if edit.n_steps > 1 else ""
    return f"Ctrl+Z there{times} takes it back."
