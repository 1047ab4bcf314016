"""The Labels to instances panel: classes become objects, previewed on the plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_samseg.adapters.instance_layers import (
    InstancePreview,
    plane_window,
    relative_spacing,
)
from napari_samseg.adapters.prompt_layers import is_own_layer
from napari_samseg.adapters.read_layers import current_plane, unwrap
from napari_samseg.core.painting import PlaneKey
from napari_samseg.widgets.class_layers import ClassLayers
from napari_samseg.widgets.dock_panel import (
    fill_combo,
    show_progress,
    show_text,
)
from napari_samseg.widgets.instance_job import InstanceJob
from napari_samseg.widgets.instance_steps import Answer, Preview, preview_steps
from napari_samseg.widgets.instances_layout import InstancesLayout
from napari_samseg.widgets.workers import LatestJob, describe_failure

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image, Labels

    from napari_samseg.core.instances.class_source import ClassSource
    from napari_samseg.core.instances.volume_job import SizedInstances
    from napari_samseg.core.types import Progress

__all__ = ["InstancesWidget"]

# Sliders and spin boxes give many values: look at the plane after the last.
PREVIEW_REST_MS = 150
# Longest side of the part of a plane that is previewed.
PREVIEW_SIDE = 2048
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
        self._layers = ClassLayers()
        self._target: Labels | None = None
        # what the values of the layers mean, until these have others
        self._source: ClassSource | None = None
        self._preview = InstancePreview(self._viewer)
        self._previewing = LatestJob()
        self._job = InstanceJob(self._viewer)
        # the result is on view: the preview would hide it
        self._is_resting = False
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(PREVIEW_REST_MS)
        self._rest.timeout.connect(self._look)
        self._connect()
        # a window that is deleted at once tells nobody else
        self.destroyed.connect(self._previewing.cancel)
        self.destroyed.connect(self._job.stop)
        self._use(None, None)
        self.reset_choices()

    def _connect(self) -> None:
        self._input_box.activated.connect(self._on_input_chosen)
        self._myelin_box.activated.connect(self._on_input_chosen)
        self._seeds_box.activated.connect(
            lambda: self._layers.use_seeds(self._seeds_box.currentData())
        )
        self._layers.repainted.connect(self._on_pixels)
        self._layers.reseeded.connect(self._on_seeds)
        self._job.progressed.connect(self._on_progress)
        self._job.found.connect(self._make_room)
        self._job.finished.connect(self._on_finished)
        self._job.failed.connect(self._on_failed)
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
        jobs = self._previewing, self._job
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
        used = self._layers.source, self._layers.myelin
        gone = [layer for layer in used if layer and layer not in layers]
        if self._target is not None and self._target not in layers:
            gone.append(self._target)
            self._target = None
        for layer in gone:
            self._stop_because(f"layer {layer.name!r} was removed")
        chosen = self._layers.source if self._layers.source in layers else None
        if chosen is None:
            # a photograph is no mask: images are for a person to choose
            labels = [layer for layer in layers if isinstance(layer, LabelsLayer)]
            chosen = labels[-1] if labels else None
        myelin = self._layers.myelin if self._layers.myelin in layers else None
        named = [(layer.name, layer) for layer in layers]
        first = [] if chosen is not None else [("choose a layer ...", None)]
        fill_combo(self._input_box, first + named, chosen)
        fill_combo(self._myelin_box, [("in the same layer", None), *named], myelin)
        if chosen is not self._layers.source or myelin is not self._layers.myelin:
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
        seeds = self._layers.seeds
        if seeds not in layers:
            seeds = layers[-1] if layers else None
        first = [] if seeds is not None else [("add a Points layer ...", None)]
        named = [(layer.name, layer) for layer in layers]
        fill_combo(self._seeds_box, first + named, seeds)
        if seeds is not self._layers.seeds:
            self._layers.use_seeds(seeds)

    def _on_seeds(self) -> None:
        if self._settings.method == "points":
            self._is_resting = False
            self._ask_preview()

    def _fill_targets(self) -> None:
        from napari.layers import Labels as LabelsLayer

        inputs = (self._layers.source, self._layers.myelin)
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
        self._preview.remove()
        self._layers.use(source, myelin)
        if source is None:
            self._say(NO_LAYER)
        self._forget()
        self._refresh()
        self._ask_preview()

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
        if source is self._layers.source and myelin is self._layers.myelin:
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
        wanted = self._preview_check.isChecked() and not self._job.is_running
        if wanted and self._layers.source is not None:
            self._rest.start()

    def _look(self) -> None:
        layer = self._layers.source
        if layer is None or self.is_shut:
            return
        try:
            shown = current_plane(self._viewer.dims, layer)
            plane = PlaneKey(shown.index, (min(shown.axes), max(shown.axes)))
            box = plane_window(layer, plane, PREVIEW_SIDE)
            inputs = self._layers.inputs(self._settings.method)
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
        if self._layers.source is None or self._is_resting:
            return
        self._source = preview.source
        found = preview.result.found
        self._preview.show(
            self._layers.source, preview.plane, preview.box, found.labels
        )
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

    def _start(self) -> None:
        """Find the instances of the whole layer."""
        layer = self._layers.source
        if layer is None:
            self._show_error(NO_LAYER)
            return
        self._rest.stop()
        self._previewing.cancel()
        try:
            inputs = self._layers.inputs(self._settings.method)
            self._job.start(layer, self._target, inputs, self._source, self._settings)
        # whatever it is, a slot of Qt must not raise it
        except Exception as error:  # noqa: BLE001
            self._show_failure(error)
            return
        self._say("Starting ...")
        self._refresh()

    def _cancel(self) -> None:
        self._say(self._job.cancel())
        self._refresh()
        self._ask_preview()

    def _on_progress(self, progress: Progress) -> None:
        show_progress(self._bar, progress)
        text = progress.stage
        if progress.total:
            text += f": {progress.done} of {progress.total}"
        self._say(text)

    def _make_room(self) -> None:
        """Show the result alone."""
        self._is_resting = True
        self._preview.remove()

    def _on_finished(self, answer: Answer, told: str) -> None:
        self._refresh()
        result = answer.result
        self._say(" ".join((told, *answer.source.notes, *result.found.notes)))
        self._show_counts("All", result)

    def _on_failed(self, error: Exception) -> None:
        self._refresh()
        self._show_failure(error)

    def _stop_because(self, why: str) -> None:
        if self._job.is_running:
            self._job.cancel()
            self._show_error(f"{why}: the search for instances was stopped")
            self._refresh()

    # -- what is shown -------------------------------------------------------------

    def _refresh(self) -> None:
        runs = self._job.is_running
        self._choices.setEnabled(not runs)
        self._start_button.setEnabled(self._layers.source is not None and not runs)
        self._cancel_button.setEnabled(runs)
        self.show_method(
            self._settings.method, has_myelin=self._layers.myelin is not None
        )
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
        # without an input nothing is looked at any more
        self._layers.use(None, None)
        self._layers.use_seeds(None)
        self._target = self._source = None
        self._rest.stop()
        self._previewing.cancel()
        self._job.cancel()
        self._preview.remove()
