"""The Labels to instances panel: classes become objects, previewed on the plane."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_samseg.adapters.instance_layers import (
    InstancePreview,
    add_instances,
    check_target,
    layer_array,
    plane_window,
    relative_spacing,
    seeds_of,
    write_instances,
)
from napari_samseg.adapters.plugin_settings import read_plugin_settings
from napari_samseg.adapters.prompt_layers import is_own_layer
from napari_samseg.adapters.read_layers import current_plane, is_colour, unwrap
from napari_samseg.adapters.write_layers import array_on_disk
from napari_samseg.core.errors import SamSegError
from napari_samseg.core.painting import PlaneKey
from napari_samseg.widgets.dock_panel import (
    fill_combo,
    show_progress,
    show_text,
)
from napari_samseg.widgets.instance_steps import (
    ClassInputs,
    Edit,
    Preview,
    edit_steps,
    preview_steps,
    run_steps,
)
from napari_samseg.widgets.instances_layout import InstancesLayout
from napari_samseg.widgets.workers import LatestJob, describe_failure

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image, Labels, Points

    from napari_samseg.core.instances.class_source import ClassSource
    from napari_samseg.core.instances.volume_job import SizedInstances
    from napari_samseg.core.types import Progress

__all__ = ["InstancesWidget"]

# Sliders and spin boxes give many values: look at the plane after the last.
PREVIEW_REST_MS = 150
# Longest side of the part of a plane that is previewed.
PREVIEW_SIDE = 2048
# Of a Points layer: all that says where its points are, and of which objects.
SEED_EVENTS = ("data", "features", "scale", "translate", "rotate", "shear", "affine")
NO_LAYER = (
    "Add a Labels layer to begin: a mask, a map of classes, or membranes. An image of "
    "a mask does, too."
)


class InstancesWidget(InstancesLayout):
    """Turn the semantic labels of a layer into instance labels.

    Parameters
    ----------
    napari_viewer : Viewer
        Injected by napari.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = unwrap(napari_viewer)
        self._input: Image | Labels | None = None
        self._myelin: Image | Labels | None = None
        self._seeds: Points | None = None
        self._target: Labels | None = None
        self._watched: list[Image | Labels] = []
        # what the values of the layers mean, until these have others
        self._source: ClassSource | None = None
        self._preview = InstancePreview(self._viewer)
        self._previewing, self._running = LatestJob(), LatestJob()
        # the whole is being worked on, and its result will be taken
        self._is_running = False
        # the result is on view: the preview would hide it
        self._is_resting = False
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(PREVIEW_REST_MS)
        self._rest.timeout.connect(self._look)
        self._connect()
        # a window that is deleted at once tells nobody else
        for job in (self._previewing, self._running):
            self.destroyed.connect(job.cancel)
        self._use(None, None)
        self.reset_choices()

    def _connect(self) -> None:
        self._input_box.activated.connect(self._on_input_chosen)
        self._myelin_box.activated.connect(self._on_input_chosen)
        self._seeds_box.activated.connect(
            lambda: self._use_seeds(self._seeds_box.currentData())
        )
        self._target_box.activated.connect(self._on_target_chosen)
        self._form.changed.connect(self._on_settings)
        self._form.refused.connect(self._show_error)
        self._preview_check.toggled.connect(self._on_preview_asked)
        self._start_button.clicked.connect(self._start)
        self._cancel_button.clicked.connect(self._cancel)
        dims = self._viewer.dims.events
        for event in (dims.point, dims.order, dims.ndisplay):
            event.connect(self._on_dims)

    @property
    def is_busy(self) -> bool:
        """Whether anything runs or is about to."""
        jobs = self._previewing, self._running
        return self._rest.isActive() or any(job.is_busy for job in jobs)

    # -- choices -------------------------------------------------------------------

    def reset_choices(self, event: object = None) -> None:
        """Offer the layers there are now; napari calls this when they change."""
        from napari.layers import Image as ImageLayer
        from napari.layers import Labels as LabelsLayer

        if self.is_shut:
            return
        layers = [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, ImageLayer | LabelsLayer) and not is_own_layer(layer)
        ]
        gone = [v for v in (self._input, self._myelin) if v and v not in layers]
        if self._target is not None and self._target not in layers:
            gone.append(self._target)
            self._target = None
        for layer in gone:
            self._stop_because(f"layer {layer.name!r} was removed")
        chosen = self._input if self._input in layers else None
        if chosen is None:
            # a photograph is no mask: images are for a person to choose
            labels = [layer for layer in layers if isinstance(layer, LabelsLayer)]
            chosen = labels[-1] if labels else None
        myelin = self._myelin if self._myelin in layers else None
        named = [(layer.name, layer) for layer in layers]
        first = [] if chosen is not None else [("choose a layer ...", None)]
        fill_combo(self._input_box, first + named, chosen)
        fill_combo(self._myelin_box, [("in the same layer", None), *named], myelin)
        if chosen is not self._input or myelin is not self._myelin:
            self._use(chosen, myelin)
        self._fill_seeds()
        self._fill_targets()

    def _fill_seeds(self) -> None:
        from napari.layers import Points as PointsLayer

        layers = [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, PointsLayer) and not is_own_layer(layer)
        ]
        seeds = self._seeds
        if seeds not in layers:
            seeds = layers[-1] if layers else None
        first = [] if seeds is not None else [("add a Points layer ...", None)]
        named = [(layer.name, layer) for layer in layers]
        fill_combo(self._seeds_box, first + named, seeds)
        if seeds is not self._seeds:
            self._use_seeds(seeds)

    def _use_seeds(self, seeds: Points | None) -> None:
        """Grow objects from other points from now on."""
        if self._seeds is not None:
            for name in SEED_EVENTS:
                self._seeds.events[name].disconnect(self._on_seeds)
        self._seeds = seeds
        if seeds is not None:
            for name in SEED_EVENTS:
                seeds.events[name].connect(self._on_seeds)
        self._on_seeds()

    def _on_seeds(self) -> None:
        if self._settings.method == "points":
            self._is_resting = False
            self._ask_preview()

    def _fill_targets(self) -> None:
        from napari.layers import Labels as LabelsLayer

        inputs = (self._input, self._myelin)
        targets = [
            (layer.name, layer)
            for layer in self._viewer.layers
            if isinstance(layer, LabelsLayer)
            and not is_own_layer(layer)
            and layer not in inputs
        ]
        if self._target in inputs:
            self._target = None
        fill_combo(self._target_box, [("a new layer", None), *targets], self._target)

    def _use(
        self, source: Image | Labels | None, myelin: Image | Labels | None
    ) -> None:
        """Look at other layers from now on."""
        self._unwatch()
        self._preview.remove()
        self._input, self._myelin = source, myelin
        for layer in (source, myelin):
            if layer is not None:
                layer.events.data.connect(self._on_pixels)
                if hasattr(layer.events, "paint"):
                    layer.events.paint.connect(self._on_pixels)
                self._watched.append(layer)
        if source is None:
            self._say(NO_LAYER)
        self._forget()
        self._refresh()
        self._ask_preview()

    def _unwatch(self) -> None:
        for layer in self._watched:
            layer.events.data.disconnect(self._on_pixels)
            if hasattr(layer.events, "paint"):
                layer.events.paint.disconnect(self._on_pixels)
        self._watched.clear()

    def _forget(self) -> None:
        """Drop what is known of the pixels."""
        self._source = None
        self._is_resting = False
        self._previewing.cancel()
        show_text(self._counts, "")
        self._counts_title.setText("")
        self._plot.hide()

    def _on_input_chosen(self) -> None:
        source = self._input_box.currentData()
        myelin = self._myelin_box.currentData()
        if source is self._input and myelin is self._myelin:
            return
        self._say("")
        self._use(source, None if myelin is source else myelin)
        self.reset_choices()

    def _on_target_chosen(self) -> None:
        self._target = self._target_box.currentData()

    def _on_pixels(self) -> None:
        """Look again at pixels that somebody has painted or replaced."""
        self._source = None
        if not self._is_resting:
            self._ask_preview()

    def _on_settings(self) -> None:
        self._is_resting = False
        self._refresh()
        self._ask_preview()

    def _on_preview_asked(self, is_asked: bool) -> None:
        self._is_resting = False
        if is_asked:
            self._ask_preview()
        else:
            self._rest.stop()
            self._previewing.cancel()
            self._preview.remove()

    # -- the preview ---------------------------------------------------------------

    def _on_dims(self) -> None:
        if not self.is_shut and not self._is_resting:
            self._ask_preview()

    def _ask_preview(self) -> None:
        """Preview, once the settings rest."""
        wanted = self._preview_check.isChecked() and not self._is_running
        if wanted and self._input is not None:
            self._rest.start()

    def _look(self) -> None:
        layer = self._input
        if layer is None or self.is_shut:
            return
        try:
            shown = current_plane(self._viewer.dims, layer)
            plane = PlaneKey(shown.index, (min(shown.axes), max(shown.axes)))
            box = plane_window(layer, plane, PREVIEW_SIDE)
            inputs = self._inputs(layer)
        # whatever it is, a slot of Qt must not raise it
        except Exception as error:  # noqa: BLE001
            self._on_no_preview(error)
            return
        self._previewing.request(
            preview_steps(
                inputs,
                self._source,
                plane,
                box,
                self._settings,
                relative_spacing(layer),
            ),
            self._on_previewed,
            self._on_no_preview,
        )

    def _on_previewed(self, preview: Preview) -> None:
        if self._input is None or self._is_resting:
            return
        self._source = preview.source
        found = preview.result.found
        self._preview.show(self._input, preview.plane, preview.box, found.labels)
        where = "This plane by itself" if preview.plane.index else "Preview"
        if preview.is_part:
            where += f", its middle {PREVIEW_SIDE} px"
        self._say(" ".join((*preview.source.notes, *found.notes)))
        self._show_counts(where, preview.result)

    def _on_no_preview(self, error: Exception) -> None:
        """Say why there is no preview; nothing has gone wrong that must be noticed."""
        self._preview.remove()
        self._forget()
        show_text(self._status, describe_failure(error), is_error=True)

    # -- the job -------------------------------------------------------------------

    @property
    def _settings(self) -> Any:
        return self._form.settings

    def _inputs(self, layer: Image | Labels) -> ClassInputs:
        method = self._settings.method
        myelin = self._myelin if method == "axon-myelin" else None
        inputs = _class_inputs(layer, None if myelin is None else _class_inputs(myelin))
        if method == "points" and self._seeds is not None:
            return replace(inputs, seeds=seeds_of(self._seeds, layer))
        return inputs

    def _start(self) -> None:
        """Find the instances of the whole layer."""
        layer = self._input
        if layer is None:
            self._show_error(NO_LAYER)
            return
        self._rest.stop()
        self._previewing.cancel()
        spacing = relative_spacing(layer)
        try:
            asked = (self._inputs(layer), self._source, self._settings)
            if self._target is not None:
                check_target(self._target, layer)
        # whatever it is, a slot of Qt must not raise it
        except Exception as error:  # noqa: BLE001
            self._show_failure(error)
            return
        if self._target is not None:
            steps = edit_steps(*asked, spacing, self._target.data)
        else:
            folder, name = read_plugin_settings().cache_path / "labels", layer.name

            def make_out(shape: tuple[int, ...]) -> Any:
                return array_on_disk(shape, folder, f"{name}-instances")

            steps = run_steps(*asked, spacing, make_out, folder)
        # the layers may be gone, or others chosen, when the answer comes
        to = weakref.ref(layer), self._target
        self._running.request(
            steps,
            lambda found: self._on_found(found, *to),
            self._on_failed,
            self._on_progress,
        )
        self._is_running = True
        self._say("Starting ...")
        self._refresh()

    def _cancel(self) -> None:
        self._is_running = False
        self._running.cancel()
        self._say("Cancelled. Nothing was changed.")
        self._refresh()
        self._ask_preview()

    def _on_progress(self, progress: Progress) -> None:
        show_progress(self._bar, progress)
        text = progress.stage
        if progress.total:
            text += f": {progress.done} of {progress.total}"
        self._say(text)

    def _on_found(
        self,
        answered: tuple[ClassSource, SizedInstances | Edit],
        source_of: weakref.ref[Image | Labels],
        target: Labels | None,
    ) -> None:
        (source, answer), layer = answered, source_of()
        self._is_running, self._is_resting = False, True
        self._preview.remove()
        if layer is None:
            return
        if isinstance(answer, Edit):
            result = answer.result
            try:
                write_instances(target, answer.places, answer.values)
            except SamSegError as error:
                self._on_failed(error)
                return
            written = f"Written into {target.name!r}; Ctrl+Z there takes it back."
        else:
            result = answer
            found = result.found
            kind = "instances" if found.n_pixels is None else self._settings.method
            made = add_instances(
                self._viewer, layer, found.labels, result.sizes, kind=kind
            )
            written = f"Layer {made.name!r} was added."
        self._refresh()
        self._say(" ".join((written, *source.notes, *result.found.notes)))
        self._show_counts("All", result)

    def _on_failed(self, error: Exception) -> None:
        self._is_running = False
        self._refresh()
        self._show_failure(error)

    def _stop_because(self, why: str) -> None:
        if self._is_running:
            self._is_running = False
            self._running.cancel()
            self._show_error(f"{why}: the search for instances was stopped")
            self._refresh()

    # -- what is shown -------------------------------------------------------------

    def _refresh(self) -> None:
        runs = self._is_running
        self._choices.setEnabled(not runs)
        self._start_button.setEnabled(self._input is not None and not runs)
        self._cancel_button.setEnabled(runs)
        self.show_method(self._settings.method, has_myelin=self._myelin is not None)
        if not runs:
            show_progress(self._bar, None)

    def _show_counts(self, where: str, result: SizedInstances) -> None:
        self._counts_title.setText(f"<b>{where}</b>")
        show_text(self._counts, str(result.found))
        limits = self._settings.min_size, self._settings.max_size
        self._plot.show_sizes(result.sizes, limits)
        self._plot.setVisible(len(result.sizes) > 0 and result.found.n_pixels is None)

    def leave(self) -> None:
        """Stop the job; nothing is changed."""
        self._is_running = False
        self._unwatch()
        # without an input nothing is looked at any more
        self._input = self._myelin = self._target = self._source = None
        self._use_seeds(None)
        self._rest.stop()
        self._previewing.cancel()
        self._running.cancel()
        self._preview.remove()


def _class_inputs(
    layer: Image | Labels, myelin: ClassInputs | None = None
) -> ClassInputs:
    from napari.layers import Image as ImageLayer

    return ClassInputs(
        layer_array(layer),
        f"layer {layer.name!r}",
        is_colour(layer),
        isinstance(layer, ImageLayer),
        myelin,
    )
