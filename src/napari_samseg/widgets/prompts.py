"""The Prompts panel: prompts from labels, as layers to edit and as tables."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog

from napari_samseg.adapters.instance_layers import layer_array
from napari_samseg.adapters.prompt_book import KeptPrompts, kept_prompts
from napari_samseg.adapters.prompt_layers import is_own_layer
from napari_samseg.adapters.read_layers import current_plane, unwrap
from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidPromptError, LayerError, SamSegError
from napari_samseg.core.io.prompt_planes import StoredPrompts
from napari_samseg.core.prompts.plane_job import (
    SampledPrompts,
    attach_masks,
    sample_planes_steps,
    unprompted_objects,
)
from napari_samseg.core.types import PlanePrompts, Progress
from napari_samseg.widgets.dock_panel import (
    fill_combo,
    show_progress,
    show_text,
)
from napari_samseg.widgets.prompt_checks import (
    check_planes,
    describe_missing,
    read_steps,
    write_steps,
)
from napari_samseg.widgets.prompts_layout import PromptsLayout
from napari_samseg.widgets.workers import LatestJob

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Labels

__all__ = ["PromptsWidget"]

Plane = tuple[int, ...]
NO_LAYER = "Add a Labels layer of objects to begin. Labels to instances makes one."
TABLES = "Tables of prompts (*.csv *.json *.npy *.parquet);;With masks (*.npz)"
# Somebody who scrolls through a stack wants to see the prompts where they stop.
TURN_REST_MS = 100
UNREADABLE = "Nothing was changed, so that no edit is lost: "


class PromptsWidget(PromptsLayout):
    """Make prompts from the objects of a Labels layer, edit and export them.

    Parameters
    ----------
    napari_viewer : Viewer
        Injected by napari.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = unwrap(napari_viewer)
        self._labels: Labels | None = None
        # of the chosen labels; stays with their layer
        self._kept: KeptPrompts | None = None
        self._running = LatestJob()
        self._is_running = False
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(TURN_REST_MS)
        self._rest.timeout.connect(self._turn)
        self._labels_box.activated.connect(self._on_labels_chosen)
        self._form.changed.connect(self._on_settings)
        self._form.refused.connect(self._show_error)
        self._plane_button.clicked.connect(self._make_of_plane)
        self._all_button.clicked.connect(self._make_of_all)
        self._cancel_button.clicked.connect(self._cancel)
        self._export_button.clicked.connect(self._ask_export)
        self._import_button.clicked.connect(self._ask_import)
        self._restore_button.clicked.connect(self._restore)
        dims = self._viewer.dims.events
        for event in (dims.point, dims.order, dims.ndisplay):
            event.connect(self._on_dims)
        # a window that is deleted at once tells nobody else
        self.destroyed.connect(self._running.cancel)
        self._say(NO_LAYER)
        self.reset_choices()
        self._refresh()

    @property
    def is_busy(self) -> bool:
        """Whether anything runs or is about to."""
        return self._running.is_busy or self._rest.isActive()

    # -- choices -------------------------------------------------------------------

    def reset_choices(self, event: object = None) -> None:
        """Offer the layers there are now; napari calls this when they change."""
        from napari.layers import Labels as LabelsLayer

        if self.is_shut:
            return
        layers = [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, LabelsLayer) and not is_own_layer(layer)
        ]
        chosen = self._labels
        if chosen is not None and chosen not in layers:
            if self._is_running:
                self._stop()
                self._show_error(
                    f"layer {chosen.name!r} was removed: no more prompts are made"
                )
            chosen = None
        if chosen is None and layers:
            chosen = layers[-1]
        fill_combo(self._labels_box, [(v.name, v) for v in layers], chosen)
        if chosen is not self._labels:
            self._use(chosen)

    def _use(self, labels: Labels | None) -> None:
        """Go on with the prompts of another layer; those of the one before stay."""
        self._labels = labels
        self._kept = None if labels is None else kept_prompts(labels, self._viewer)
        self._say(NO_LAYER if labels is None else "")
        self._warn("")
        # the view may have moved on since the page was open
        self._turn()
        self._refresh()

    def _on_labels_chosen(self) -> None:
        labels = self._labels_box.currentData()
        if labels is not self._labels:
            self._use(labels)

    def _on_settings(self) -> None:
        self._say(NO_LAYER if self._labels is None else "")
        self._refresh()

    # -- making prompts ------------------------------------------------------------

    def _make_of_plane(self) -> None:
        try:
            self._make([self._plane()])
        except SamSegError as error:
            self._show_error(str(error))

    def _make_of_all(self) -> None:
        self._make(None)

    def _make(self, planes: list[Plane] | None) -> None:
        labels = self._labels
        if labels is None:
            self._show_error(NO_LAYER)
            return
        steps = sample_planes_steps(
            layer_array(labels),
            self._form.settings,
            name=f"layer {labels.name!r}",
            planes=planes,
        )
        is_part = planes is not None
        self._start(steps, lambda sampled: self._on_sampled(sampled, is_part))

    def _start(self, steps: Generator[Progress, None, object], on_return) -> None:
        self._is_running = True
        self._running.request(steps, on_return, self._on_failed, self._on_progress)
        self._refresh()

    def _plane(self) -> Plane:
        """Index of the plane on view.

        Raises
        ------
        LayerError
            If the viewer shows another kind of plane, or none.
        """
        assert self._labels is not None
        plane = current_plane(self._viewer.dims, self._labels)
        n = self._labels.ndim
        if plane.axes != (n - 2, n - 1):
            raise LayerError(
                "prompts lie on planes of the last two axes: put the axes on view back "
                "in their order"
            )
        return plane.index

    def _page(self) -> Plane | None:
        try:
            return None if self._labels is None else self._plane()
        except LayerError:
            return None

    def _on_sampled(self, sampled: SampledPrompts, is_part: bool) -> None:
        self._end()
        if not self._show(sampled, is_part=is_part):
            return
        text = f"{sampled.counts}."
        if self._form.settings.mask:
            text += " Masks have no layer; exported as .npz they are written, too."
        self._say(text + self._paging())
        missing = unprompted_objects(sampled.object_ids, sampled.planes)
        notes = [f"{note}." for note in sampled.notes]
        self._warn(" ".join([*notes, describe_missing(missing)]).strip())

    def _show(self, sampled: SampledPrompts, *, is_part: bool = False) -> bool:
        """Show prompts, beside those of other planes or in place of all.

        Returns whether they are shown: what cannot be read back is not thrown away.
        """
        kept = self._kept
        if kept is None:
            return False
        try:
            kept.take(sampled, self._page(), is_part=is_part)
        except SamSegError as error:
            self._show_error(f"{UNREADABLE}{error}")
            return False
        self._refresh()
        return True

    def _restore(self) -> None:
        """Put back what was there before; the next time that comes back."""
        if self._kept is None:
            return
        try:
            self._kept.restore(self._page())
        except SamSegError as error:
            self._show_error(f"{UNREADABLE}{error}")
            return
        self._warn("")
        self._say(f"The prompts from before are back.{self._paging()}")
        self._refresh()

    def _paging(self) -> str:
        if self._kept is None or not self._kept.book.is_paged:
            return ""
        return " The layers show the plane on view."

    def _on_dims(self) -> None:
        kept = self._kept
        if not self.is_shut and kept is not None and kept.book.is_paged:
            self._rest.start()

    def _turn(self) -> None:
        if self._kept is None:
            return
        try:
            self._kept.book.turn(self._page())
        except SamSegError as error:
            self._show_error(str(error))

    def _on_failed(self, error: Exception) -> None:
        self._end()
        self._show_failure(error)

    def _on_progress(self, progress: Progress) -> None:
        show_progress(self._bar, progress)
        of = f": {progress.done} of {progress.total}" if progress.total else ""
        self._say(f"{progress.stage}{of}")

    def _cancel(self) -> None:
        self._stop()
        self._say("Cancelled. What was there before stays.")

    def _stop(self) -> None:
        self._running.cancel()
        self._end()

    def _end(self) -> None:
        self._is_running = False
        self._refresh()

    # -- tables --------------------------------------------------------------------

    def read_prompts(self) -> dict[Plane, PlanePrompts]:
        """Return the prompts as edited, with the masks they were made with.

        Raises
        ------
        SamSegError
            If something that was drawn is no prompt, or there is none.
        """
        if self._kept is None or not self._kept.has_begun:
            raise InvalidPromptError("there are no prompts yet: make or import some")
        edited = self._kept.book.read()
        sampled = self._kept.sampled.planes
        if not any(p.low_res_masks is not None for p in sampled.values()):
            return edited
        whole = {p: attach_masks(edited.get(p), sampled[p]) for p in sampled}
        whole |= {p: edited[p] for p in edited if p not in sampled}
        return {p: whole[p] for p in sorted(whole) if len(whole[p])}

    def _ask_export(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Export prompts", "", TABLES)
        if name:
            path = Path(name)
            self.export(path if path.suffix else path.with_suffix(".csv"))

    def export(self, path: Path) -> None:
        """Write the prompts as they are now; the suffix chooses the kind of table."""
        try:
            planes = self.read_prompts()
        except SamSegError as error:
            self._show_error(str(error))
            return
        assert self._kept is not None
        missing = unprompted_objects(self._kept.sampled.object_ids, planes)
        n = sum(len(prompts) for prompts in planes.values())

        def on_written(_: None) -> None:
            self._end()
            self._say(f"{count_things(n, 'object')} written to {path}.")
            self._warn(describe_missing(missing))

        self._start(write_steps(path, planes), on_written)

    def _ask_import(self) -> None:
        kinds = "Tables of prompts (*.csv *.json *.npy *.npz *.parquet)"
        name, _ = QFileDialog.getOpenFileName(self, "Import prompts", "", kinds)
        if name:
            self.load(Path(name))

    def load(self, path: Path) -> None:
        """Show the prompts of a table in place of those that are there."""
        if self._labels is None:
            self._show_error(
                "Add the Labels layer that the prompts are of: they are laid on it."
            )
            return
        self._start(read_steps(path), lambda stored: self._on_read(path, stored))

    def _on_read(self, path: Path, stored: StoredPrompts) -> None:
        self._end()
        labels = self._labels
        if labels is None:
            return
        shape = tuple(int(n) for n in layer_array(labels).shape)
        try:
            n_outside = check_planes(path, stored, shape, labels.name)
        except SamSegError as error:
            self._show_error(str(error))
            return
        if not self._show(SampledPrompts(planes=stored.planes)):
            return
        n = sum(len(prompts) for prompts in stored.planes.values())
        objects, planes = (
            count_things(*of) for of in ((n, "object"), (len(stored.planes), "plane"))
        )
        self._say(f"{objects} in {planes}.{self._paging()}")
        warnings = []
        if stored.n_skipped:
            skipped = count_things(stored.n_skipped, "object")
            warnings.append(f"{skipped} without point or box.")
        if n_outside:
            outside = count_things(n_outside, "object")
            warnings.append(f"{outside} outside the labels.")
        self._warn(" ".join(warnings))

    # -- what is shown -------------------------------------------------------------

    def _refresh(self) -> None:
        runs, labels = self._is_running, self._labels
        self._choices.setEnabled(not runs)
        for button in (self._plane_button, self._import_button):
            button.setEnabled(labels is not None and not runs)
        self._all_button.setEnabled(labels is not None and not runs)
        self._all_button.setVisible(labels is not None and labels.ndim > 2)
        kept = self._kept
        has_begun = kept is not None and kept.has_begun
        self._export_button.setEnabled(has_begun and not runs)
        can_restore = kept is not None and kept.before is not None
        self._restore_button.setEnabled(can_restore and not runs)
        self._cancel_button.setEnabled(runs)
        self.show_asked(self._form.settings)
        if not runs:
            show_progress(self._bar, None)

    def _warn(self, message: str) -> None:
        show_text(self._warning, message, is_error=True)
        self._warning.setVisible(bool(message))

    def leave(self) -> None:
        """Stop the job; the prompts stay with the layer of labels."""
        self._rest.stop()
        self._running.cancel()
        self._is_running = False
        self._labels = self._kept = None
