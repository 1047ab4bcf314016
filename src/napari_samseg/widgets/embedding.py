"""The Embedding panel: encode a stack into a store, so that clicks need not wait."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from qtpy.compat import isalive
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog

from napari_samseg.adapters.prompt_layers import is_own_layer
from napari_samseg.adapters.read_layers import (
    ImageView,
    choose_level,
    current_plane,
    unwrap,
)
from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import LayerError, SamSegError
from napari_samseg.widgets.dock_panel import (
    fill_combo,
    select_item,
    show_progress,
    show_text,
)
from napari_samseg.widgets.embedding_layout import EmbeddingLayout
from napari_samseg.widgets.embedding_words import (
    describe_estimate,
    describe_progress,
    describe_report,
)
from napari_samseg.widgets.model_choice import ModelChoice, preferred_model
from napari_samseg.widgets.stack_encoder import EmbedPlan, StackEncoder, Survey
from napari_samseg.widgets.stores import choose_store, default_store, store_of

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image

    from napari_samseg.core.embed.job import EmbedReport
    from napari_samseg.core.types import Progress

__all__ = ["EmbeddingWidget"]

# Settings are often changed several at a time: look at what they take after the last.
CHANGE_REST_MS = 300
# The sizes of all entries take a while to add up: do so less often than planes end.
LIST_SECONDS = 20.0
STOPPED = "Stopped. What is finished stays in the store, and Start goes on from there."


class EmbeddingWidget(EmbeddingLayout):
    """Encode the planes of an image layer into a store.

    Parameters
    ----------
    napari_viewer : Viewer
        Injected by napari.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        model_settings = preferred_model()
        super().__init__(model_settings)
        self._model = ModelChoice(model_settings, self._model_box, self._device_form)
        self._viewer = unwrap(napari_viewer)
        self._image: Image | None = None
        self._view: ImageView | None = None
        self._encoder = StackEncoder()
        self._starts_when_ready = False
        self._last: Progress | None = None
        self._listed = 0.0
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(CHANGE_REST_MS)
        self._rest.timeout.connect(self._look)
        self._connect()
        # a window that is deleted at once tells nobody else
        self.destroyed.connect(self._encoder.close)
        self.reset_choices()

    def _connect(self) -> None:
        self._image_box.activated.connect(self._on_image_chosen)
        self._model.changed.connect(self._on_change)
        self._browse_button.clicked.connect(self._browse)
        self._place_line.editingFinished.connect(self._on_place)
        self._image_form.changed.connect(self._on_image_settings)
        for form in (self._tile_form, self._storage_form):
            form.changed.connect(self._on_change)
        for form in (self._tile_form, self._image_form):
            form.refused.connect(self._show_error)
        for box in (self._start_box, self._stop_box):
            box.valueChanged.connect(self._on_range)
        self._start_button.clicked.connect(self._start)
        self._pause_button.clicked.connect(self._pause)
        self._cancel_button.clicked.connect(self._cancel)
        self._store_list.reported.connect(self._on_report)
        self._store_list.changed.connect(self._on_change)
        encoder = self._encoder
        encoder.surveyed.connect(self._on_surveyed)
        encoder.progressed.connect(self._on_progress)
        encoder.recorded.connect(self._on_recorded)
        encoder.finished.connect(self._on_finished)
        encoder.failed.connect(self._on_failed)
        encoder.ended.connect(self._on_ended)
        encoder.warned.connect(self._show_error)
        dims = self._viewer.dims.events
        for event in (dims.point, dims.order, dims.ndisplay):
            event.connect(self._on_dims)

    @property
    def encoder(self) -> StackEncoder:
        """What runs in the background."""
        return self._encoder

    # -- choices -------------------------------------------------------------------

    def reset_choices(self, event: object = None) -> None:
        """Offer the layers there are now; napari calls this when they change."""
        from napari.layers import Image as ImageLayer

        if self.is_shut:
            return
        images = [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, ImageLayer) and not is_own_layer(layer)
        ]
        if self._image is not None and self._image not in images:
            self._leave_image("was removed")
        items = [(image.name, image) for image in images]
        fill_combo(self._image_box, items, self._image)
        if self._image is None:
            self._choose(images[-1] if images else None)

    def _choose(self, image: Image | None) -> None:
        """Show an image and its store."""
        self._image = self._view = None
        if image is None:
            show_text(self._estimate, "Add an image to begin.")
            self._store_list.show_store(default_store(), "")
            self._refresh()
            return
        try:
            level = choose_level(image)
            view = ImageView.of_layer(image, level)
        except SamSegError as error:
            self._show_error(str(error))
            self._refresh()
            return
        self._image = image
        image.events.data.connect(self._on_image_data)
        settings = replace(self._image_form.settings, level=level, channels=None)
        self._image_form.set_settings(settings)
        select_item(self._image_box, image)
        self._place_line.setText(store_of(image))
        self._show_view(view)

    def _show_view(self, view: ImageView) -> None:
        """Fit the choices to an image, and look at what it takes."""
        self._view = view
        n = self._n_planes
        for box, low, value, high in (
            (self._start_box, 0, 0, n - 1),
            (self._stop_box, 1, n, n),
        ):
            blocked = box.blockSignals(True)
            box.setRange(low, high)
            box.setValue(value)
            box.blockSignals(blocked)
        for widget in (self._planes_label, self._planes, self._strip):
            widget.setVisible(n > 1)
        self._image_form.show_row("channels", view.source.n_channels > 1)
        self._image_form.show_row("level", len(view.source.levels) > 1)
        self._show_strip(frozenset())
        self._store_list.show_store(self._location, view.name)
        self._on_dims()
        self._on_change()

    def _leave_image(self, why: str) -> None:
        image, self._image, self._view = self._image, None, None
        if image is None:
            return
        image.events.data.disconnect(self._on_image_data)
        if self._encoder.is_running:
            self._encoder.cancel()
            self._tell(f"Image layer {image.name!r} {why}. {STOPPED}")
        self._encoder.forget()

    @property
    def _n_planes(self) -> int:
        return 0 if self._view is None else int(np.prod(self._view.shape[:-2]))

    @property
    def _location(self) -> str:
        return default_store() if self._image is None else store_of(self._image)

    def _on_image_chosen(self) -> None:
        image = self._image_box.currentData()
        if image is not self._image:
            self._leave_image("was left")
            self._say("")
            self._choose(image)

    def _on_image_data(self) -> None:
        image = self._image
        self._leave_image("has other pixels now")
        self._choose(image)

    def _on_image_settings(self) -> None:
        level = self._image_form.settings.level
        if self._image is not None and self._view is not None:
            if level != self._view.level:
                try:
                    self._show_view(ImageView.of_layer(self._image, level))
                except SamSegError as error:
                    self._show_error(str(error))
                    kept = replace(self._image_form.settings, level=self._view.level)
                    self._image_form.set_settings(kept)
            self._on_change()

    def _browse(self) -> None:
        folder = QFileDialog.getExistingDirectory(
            self, "Choose a folder for embeddings", self._place_line.text()
        )
        if folder:
            self._place_line.setText(folder)
            self._on_place()

    def _on_place(self) -> None:
        if self._image is None or self._view is None:
            return
        text = self._place_line.text().strip() or default_store()
        self._place_line.setText(text)
        if text != store_of(self._image):
            choose_store(self._image, text)
            self._store_list.show_store(text, self._view.name)
            self._show_strip(frozenset())
            self._on_change()

    def _on_range(self) -> None:
        self._stop_box.setMinimum(self._start_box.value() + 1)
        self._start_box.setMaximum(self._stop_box.value() - 1)
        self._show_strip(self._strip.stored)
        self._on_change()

    # -- what it will take ---------------------------------------------------------

    def _on_change(self) -> None:
        """Look, once the settings rest, at what they take."""
        if self._image is None or self._encoder.is_running:
            return
        self._encoder.forget()
        show_text(self._estimate, "Estimating ...")
        self._rest.start()
        self._refresh()

    def _plan(self) -> EmbedPlan | None:
        if self._view is None:
            return None
        return EmbedPlan(
            source=self._view.source,
            name=self._view.name,
            location=self._location,
            planes=(self._start_box.value(), self._stop_box.value()),
            image_settings=self._image_form.settings,
            model_settings=self._model.settings,
            tile_settings=self._tile_form.settings,
            settings=self._storage_form.settings,
        )

    def _look(self) -> None:
        self._rest.stop()
        plan = self._plan()
        if plan is not None:
            self._encoder.look(plan)
            self._refresh()

    def _on_surveyed(self, survey: Survey) -> None:
        show_text(self._estimate, describe_estimate(survey.estimate))
        self._show_strip(survey.recorded)
        if self._starts_when_ready:
            self._encode()
        self._refresh()

    # -- the job -------------------------------------------------------------------

    def _start(self) -> None:
        """Encode, as soon as it is known what that takes."""
        if self._encoder.survey is not None:
            self._encode()
            return
        self._starts_when_ready = True
        if not self._encoder.is_surveying:
            self._look()

    def _encode(self) -> None:
        self._starts_when_ready = False
        self._last = None
        self._say("")
        self._encoder.start(self._focus())
        self._refresh()

    def _pause(self) -> None:
        if self._encoder.is_paused:
            self._encoder.resume()
            self._say("Going on ...")
        else:
            self._encoder.pause()
            done = (
                ""
                if self._last is None
                else f" at {count_things(self._last.done, 'plane')}"
            )
            self._say(f"Paused{done}.")
        self._refresh()

    def _cancel(self) -> None:
        self._starts_when_ready = False
        if self._encoder.is_running:
            self._encoder.cancel()
            self._say("Writing what is finished ...")
        else:
            self._encoder.forget()
            show_text(self._estimate, "Cancelled: Start, or any change, goes on.")
        self._refresh()

    def _on_progress(self, progress: Progress) -> None:
        show_progress(self._bar, progress)
        if self._encoder.is_running and not self._encoder.is_paused:
            self._last = progress
            self._say(describe_progress(progress))
        elif not self._encoder.is_running:
            show_text(self._estimate, f"Estimating: {describe_progress(progress)}")

    def _on_finished(self, report: EmbedReport) -> None:
        self._model_box.look_for_speed()
        text = describe_report(report)
        if report.unreadable:
            self._show_error(text)
        else:
            self._tell(text)

    def _on_failed(self, error: Exception) -> None:
        self._starts_when_ready = False
        self._show_failure(error)
        if not self._encoder.is_running:
            show_text(self._estimate, "")
            self._refresh()

    def _on_recorded(self, places: frozenset[int]) -> None:
        if not isalive(self):  # the job ends after the window
            return
        now = time.monotonic()
        if not self._strip.stored or now - self._listed > LIST_SECONDS:
            self._listed = now
            self._store_list.refresh()
        self._show_strip(places)

    def _on_ended(self, was_cancelled: bool) -> None:
        """Show what a job has left behind."""
        if not isalive(self):  # the job ends after the window
            return
        if was_cancelled and self._image is not None:
            self._say(STOPPED)
        self._store_list.refresh()
        self._on_change()
        self._refresh()

    # -- the plane on view ---------------------------------------------------------

    def _focus(self) -> tuple[int, ...] | None:
        """Index of the plane on view; None where the viewer shows none of the stack."""
        if self._image is None or self._view is None:
            return None
        try:
            plane = current_plane(self._viewer.dims, self._image, self._view.level)
        except LayerError:
            return None
        ndim = len(self._view.shape)
        return plane.index if plane.axes == (ndim - 2, ndim - 1) else None

    def _on_dims(self) -> None:
        if self.is_shut:
            return
        focus = self._focus()
        if focus is None or self._view is None:
            self._strip.show_view(None)
            return
        self._encoder.move_focus(focus)
        lengths = self._view.shape[:-2]
        self._strip.show_view(int(np.ravel_multi_index(focus, lengths)) if focus else 0)

    # -- what is shown -------------------------------------------------------------

    def _refresh(self) -> None:
        runs, stops = self._encoder.is_running, self._encoder.is_stopping
        waits = self._encoder.is_surveying
        self._choices.setEnabled(not runs)
        self._start_button.setEnabled(self._image is not None and not runs)
        self._pause_button.setEnabled(runs and not stops)
        self._pause_button.setText("Continue" if self._encoder.is_paused else "Pause")
        self._cancel_button.setEnabled(waits or (runs and not stops))
        if not (runs or waits):
            show_progress(self._bar, None)

    def _show_strip(self, recorded: frozenset[int]) -> None:
        asked = self._start_box.value(), self._stop_box.value()
        self._strip.show_planes(self._n_planes, recorded, asked)

    def _on_report(self, message: str, is_error: bool) -> None:
        if is_error:
            self._show_error(message)
        else:
            self._say(message)

    def leave(self) -> None:
        """Stop the job; what is finished is written."""
        from napari.utils.notifications import show_info

        if self._encoder.is_running and not self._encoder.is_stopping:
            show_info(f"The Embedding panel was closed. {STOPPED}")
        if self._image is not None:
            self._image.events.data.disconnect(self._on_image_data)
        self._image = self._view = None
        self._rest.stop()
        self._encoder.close()
        self._store_list.cancel()
