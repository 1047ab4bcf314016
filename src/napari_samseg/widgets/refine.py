"""The Refine labels panel: rough labels through a model, and a look at each doubt."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_samseg.adapters.prompt_layers import is_own_layer
from napari_samseg.adapters.read_layers import current_plane, unwrap
from napari_samseg.adapters.refined_layer import (
    EditLock,
    add_refined,
    label_data,
    refinement_of,
)
from napari_samseg.adapters.tuning_layers import view_under
from napari_samseg.core.embed.order import select_planes
from napari_samseg.core.embed.stack import Stack
from napari_samseg.core.errors import LayerError, SamSegError
from napari_samseg.core.refine.volume import PlaneRefined
from napari_samseg.core.settings import PromptSettings
from napari_samseg.widgets.dock_panel import (
    fill_combo,
)
from napari_samseg.widgets.label_refiner import LabelRefiner, RefinePlan, TargetMade
from napari_samseg.widgets.model_choice import ModelChoice, preferred_model
from napari_samseg.widgets.refine_layout import (
    PLANE,
    VOLUME,
    RefineLayout,
)
from napari_samseg.widgets.review_panel import PROMPT_KINDS, ReviewPanel
from napari_samseg.widgets.stores import store_of

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image, Labels

    from napari_samseg.core.refine.redo import RedoneObject
    from napari_samseg.core.refine.scores import RefineCounts
    from napari_samseg.core.types import Progress

__all__ = ["RefineWidget"]

STOPPED = "Stopped. Planes that are finished stay, the others are as they were."


class RefineWidget(RefineLayout):
    """Refine a Labels layer through a model, and review the result.

    Parameters
    ----------
    napari_viewer : Viewer
        Injected by napari.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        model_settings = preferred_model()
        viewer = unwrap(napari_viewer)
        review = ReviewPanel(viewer)
        super().__init__(model_settings, review)
        self._model = ModelChoice(model_settings, self._model_box, self._device_form)
        self._viewer, self._review = viewer, review
        self._refiner = LabelRefiner()
        # of the job that runs
        self._plan: RefinePlan | None = None
        self._sources: tuple[Image, Labels] | None = None
        self._target: Labels | None = None
        self._lock = EditLock()
        self._connect()
        # a window that is deleted at once tells nobody else
        self.destroyed.connect(self._refiner.close)
        self.reset_choices()

    def _connect(self) -> None:
        for box in (self._image_box, self._labels_box, self._scope_box):
            box.activated.connect(self._on_choice)
        self._into_box.activated.connect(self._on_result)
        for form in (self._refine_form, self._image_form, self._tile_form):
            form.refused.connect(self._show_error)
        self._start_button.clicked.connect(self._start)
        self._cancel_button.clicked.connect(self._refiner.cancel)
        self._review.redo_wanted.connect(self._redo)
        self._review.refused.connect(self._show_error)
        self._review.acted.connect(lambda: self._say(""))
        refiner = self._refiner
        refiner.progressed.connect(self._on_progress)
        refiner.finished.connect(self._on_finished)
        refiner.redone.connect(self._on_redone)
        refiner.failed.connect(self._on_failed)
        refiner.warned.connect(self._show_error)
        refiner.ended.connect(self._on_ended)

    @property
    def refiner(self) -> LabelRefiner:
        """What runs in the background."""
        return self._refiner

    @property
    def review(self) -> ReviewPanel:
        """Where refined objects are looked at."""
        return self._review

    # -- choices -------------------------------------------------------------------

    def reset_choices(self, event: object = None) -> None:
        """Offer the layers there are now; napari calls this when they change."""
        from napari.layers import Image as ImageLayer
        from napari.layers import Labels as LabelsLayer

        if self.is_shut:
            return
        layers = [layer for layer in self._viewer.layers if not is_own_layer(layer)]
        images = [layer for layer in layers if isinstance(layer, ImageLayer)]
        labels = [layer for layer in layers if isinstance(layer, LabelsLayer)]
        results = [layer for layer in labels if refinement_of(layer) is not None]
        rough = [layer for layer in labels if layer not in results]
        if self._target is not None and self._target not in labels:
            self._target = None
            self._refiner.cancel()
        for combo, found in (
            (self._image_box, images),
            (self._labels_box, [*rough, *results]),
        ):
            chosen = combo.currentData()
            if chosen not in found:
                of_kind = [layer for layer in found if layer not in results] or found
                chosen = of_kind[-1] if of_kind else None
            fill_combo(combo, [(layer.name, layer) for layer in found], chosen)
        shown = self._review.layer
        if shown not in results:
            self._review.show_layer(results[-1] if results else None)
        self._offer_results(results)
        self._on_choice()

    def _offer_results(self, results: list[Labels]) -> None:
        items: list[tuple[str, Any]] = [("a new layer", None)]
        items += [(layer.name, layer) for layer in results]
        fill_combo(self._into_box, items, self._review.layer)

    def _on_choice(self) -> None:
        labels = self._labels_box.currentData()
        shape = () if labels is None else label_data(labels).shape[:-2]
        n = 1
        for length in shape:
            n *= int(length)
        chosen = self._scope_box.currentData() or PLANE
        items = [("the one on view", PLANE), (f"all {n}", VOLUME)]
        fill_combo(self._scope_box, items, chosen)
        for widget in (self._scope_label, self._scope_box):
            widget.setVisible(n > 1)
        image = self._image_box.currentData()
        if image is not None:
            n_channels = 1 if image.rgb else 2
            self._image_form.show_row("channels", n_channels > 1 and image.ndim > 2)
        self._refresh()

    def _on_result(self) -> None:
        layer = self._into_box.currentData()
        if layer is not None:
            self._review.show_layer(layer)

    # -- the job -------------------------------------------------------------------

    def _start(self) -> None:
        image, labels = self._image_box.currentData(), self._labels_box.currentData()
        if image is None or labels is None:
            return
        try:
            plan = self._make_plan(image, labels, self._into_box.currentData())
        except SamSegError as error:
            self._show_error(str(error))
            return
        self._plan, self._sources = plan, (image, labels)
        self._target = None if plan.makes_target else self._into_box.currentData()
        self._say("Starting ...")
        self._refiner.refine(plan)
        self._refresh()

    def _make_plan(
        self, image: Image, labels: Labels, target: Labels | None
    ) -> RefinePlan:
        data = label_data(labels)
        view = view_under(image, labels, tuple(data.shape))
        plane = current_plane(self._viewer.dims, image, view.level)
        settings = replace(self._image_form.settings, level=view.level)
        stack = Stack(view.source, view.name, settings, plane.axes)
        planes = (plane.index,)
        if self._scope_box.currentData() == VOLUME:
            planes = select_planes(stack.lengths)
        if target is not None:
            known = refinement_of(target)
            splits = self._refine_form.settings.split
            if labels is target or known is None or known.rough_layer is not labels:
                # other labels are no later version of these
                target = None
            elif splits and str(target.data.dtype) != "uint32":
                # there may be more objects than its ids
                target = None
            elif known.review.axes != plane.axes:
                raise LayerError(
                    f"{target.name!r} was refined in planes along other axes: turn "
                    "the view back, or choose a new layer as the result"
                )
        return RefinePlan(
            stack=stack,
            location=store_of(image),
            rough=data,
            name=labels.name,
            planes=planes,
            model_settings=self._model.settings,
            tiles=self._tile_form.settings,
            prompts=PROMPT_KINDS[self._prompt_box.currentText()],
            settings=self._refine_form.settings,
            makes_target=target is None,
        )

    def _on_progress(self, progress: Progress) -> None:
        self._bar.setVisible(True)
        self._bar.setRange(0, progress.total)
        self._bar.setValue(progress.done)
        if isinstance(progress, TargetMade):
            self._make_target(progress.labels)
        elif isinstance(progress, PlaneRefined):
            self._take_plane(progress)
        else:
            detail = progress.detail and f": {progress.detail}"
            self._say(f"{progress.stage}{detail}".capitalize())

    def _make_target(self, labels: Any) -> None:
        if self._plan is None or self._sources is None:
            return
        image, rough = self._sources
        layer = add_refined(self._viewer, image, rough, labels, self._plan.axes)
        self._target = layer
        self._review.show_layer(layer)
        # it was offered before it was known as a result
        self.reset_choices()

    def _take_plane(self, progress: PlaneRefined) -> None:
        refined, plan = progress.refined, self._plan
        known = None if self._target is None else refinement_of(self._target)
        if refined is None or known is None or plan is None:
            return
        known.review.add_plane(
            refined.plane,
            refined.scores,
            refined.labels,
            is_step=not plan.makes_target,
        )

    def _on_finished(self, counts: RefineCounts) -> None:
        self._model_box.look_for_speed()
        self._say(f"{counts}.")
        self._review.show_current()

    def _on_failed(self, error: Exception) -> None:
        self._show_failure(error)

    def _on_ended(self, was_cancelled: bool) -> None:
        if was_cancelled:
            self._say(STOPPED)
        self._plan = self._sources = self._target = None
        self._bar.setVisible(False)
        self._refresh()

    # -- one object again ----------------------------------------------------------

    def _redo(self, prompts: PromptSettings) -> None:
        """Find the object under review again."""
        known = self._review.refinement
        if known is None or self._refiner.is_running or not known.review.current:
            return
        review, score = known.review, known.review.current.score
        try:
            view = view_under(known.image, known.rough_layer, tuple(known.rough.shape))
            now = review.read_plane(score.plane)
        except SamSegError as error:
            self._show_error(str(error))
            return
        settings = replace(self._image_form.settings, level=view.level)
        plan = RefinePlan(
            stack=Stack(view.source, view.name, settings, review.axes),
            location=store_of(known.image),
            rough=known.rough,
            name=known.rough_layer.name,
            planes=(score.plane,),
            model_settings=self._model.settings,
            tiles=self._tile_form.settings,
            prompts=prompts,
            settings=self._refine_form.settings,
            makes_target=False,
        )
        self._target = self._review.layer
        others = review.scores_of(score.plane)
        self._refiner.redo(plan, now, score.object_id, others)
        self._refresh()

    def _on_redone(self, redone: RedoneObject) -> None:
        known = None if self._target is None else refinement_of(self._target)
        if known is not None:
            known.review.replace(redone.score, redone.before, redone.after)
            self._say(f"Object {redone.score.object_id} was found again.")
            self._review.show_current()

    # -- what is shown -------------------------------------------------------------

    def _refresh(self) -> None:
        runs = self._refiner.is_running
        has_both = (
            self._image_box.currentData() is not None
            and self._labels_box.currentData() is not None
        )
        self._choices.setEnabled(not runs)
        self._start_button.setEnabled(has_both and not runs)
        self._cancel_button.setEnabled(runs)
        self._review.hold(runs)
        self._lock.hold(self._target if runs else None)
        if not runs:
            self._bar.setVisible(False)
        if not has_both and not self._status.text():
            self._say("Add an image and rough labels of it to begin.")

    def leave(self) -> None:
        """Stop the job; the result and its review stay with the layer."""
        from napari.utils.notifications import show_info

        if self._refiner.is_running:
            show_info(f"The Refine labels panel was closed. {STOPPED}")
        self._refiner.close()
        self._review.show_layer(None)
        self._plan = self._sources = self._target = None
        self._lock.hold(None)
