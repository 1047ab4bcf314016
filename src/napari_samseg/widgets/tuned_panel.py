"""What a training has brought: scores, outlines before and after, and their use."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_samseg.adapters.plugin_settings import read_plugin_settings
from napari_samseg.adapters.read_layers import current_plane
from napari_samseg.adapters.tuning_layers import (
    AFTER,
    BEFORE,
    BeforeAfter,
    LabelPlace,
)
from napari_samseg.core.errors import InvalidLabelsError, LayerError, SamSegError
from napari_samseg.core.settings import ImageSettings
from napari_samseg.core.training.class_planes import ClassPlanes
from napari_samseg.core.training.images import LabelledImage
from napari_samseg.widgets.dock_panel import (
    make_combo,
    make_form,
    make_status_label,
    show_text,
)
from napari_samseg.widgets.label_pairs import LabelPairs
from napari_samseg.widgets.model_comparer import Comparison, compare_steps
from napari_samseg.widgets.model_tuner import LearningPair, Previewed, TunePlan
from napari_samseg.widgets.workers import LatestJob

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Labels

__all__ = ["TunedPanel"]

SHOWN = {
    "both": (BEFORE, AFTER),
    "green: after": (AFTER,),
    "orange: before": (BEFORE,),
    "side by side": (BEFORE, AFTER),
}
APART = "side by side"


class TunedPanel(QWidget):
    """Shows masks while a model learns, and afterwards what to do with it.

    `reported` comes with a text, and whether it is an error; `failed` with an
    exception.

    Parameters
    ----------
    viewer : Viewer
    pairs : LabelPairs
        Where the masks are to be shown, and what to compare models on.
    """

    reported = Signal(str, bool)
    failed = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer, pairs: LabelPairs) -> None:
        super().__init__()
        self._viewer, self._pairs = viewer, pairs
        self._plan: TunePlan | None = None
        self._image_settings = ImageSettings()
        self._masks: BeforeAfter | None = None
        self._hidden: list[Labels] = []
        self._comparing = LatestJob()
        self._build()
        self._use_button.clicked.connect(self.use_in_segment)
        self._compare_button.clicked.connect(self.compare)
        self._shown_box.activated.connect(self._on_shown)
        self._hide_box.toggled.connect(self._on_hide)
        self.setVisible(False)

    def _build(self) -> None:
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        self.label = make_status_label()
        self._buttons = QWidget()
        buttons = QHBoxLayout(self._buttons)
        buttons.setContentsMargins(0, 0, 0, 0)
        buttons.setSpacing(4)
        self._use_button = QPushButton("Use in Segment")
        self._use_button.setToolTip("Let the Segment panel run the new model")
        self._compare_button = QPushButton("Compare")
        self._compare_button.setToolTip(
            "Prompt both models with the labelled objects on the plane on view"
        )
        buttons.addWidget(self._use_button)
        buttons.addWidget(self._compare_button)
        self._shown_box = make_combo("Outlines of which model to show.")
        for title, which in SHOWN.items():
            self._shown_box.addItem(title, which)
        self._shown = QWidget()
        shown = make_form(self._shown)
        shown.addRow("Outlines", self._shown_box)
        self._hide_box = QCheckBox("hide labels")
        self._hide_box.setToolTip("Outlines are hard to see on what is filled")
        shown.addRow("", self._hide_box)
        for widget in (self.label, self._buttons, self._shown):
            rows.addWidget(widget)

    @property
    def masks(self) -> BeforeAfter | None:
        """The layers of outlines, of the training that began last."""
        return self._masks

    @property
    def is_comparing(self) -> bool:
        """Whether models are being compared."""
        return self._comparing.is_busy

    # -- a training ------------------------------------------------------------------

    def begin(self, plan: TunePlan, image_settings: ImageSettings) -> None:
        """Take part in a training."""
        self._plan, self._image_settings = plan, image_settings
        # of a training that is resumed, the layers may be there or not
        every = self._pairs.chosen or self._pairs.every
        places = {}
        with suppress(SamSegError):
            for pair, learning in zip(
                every, self._pairs.take(every, image_settings), strict=True
            ):
                places[learning.name] = LabelPlace.of(pair.image, pair.labels)
        if self._masks is not None:
            self._masks.show_only(BEFORE, AFTER)
        folder = read_plugin_settings().cache_path / "labels"
        self._masks = BeforeAfter(self._viewer, plan.name, places, folder)
        self._comparing.cancel()
        show_text(self.label, "")
        self.setVisible(True)
        self._refresh(is_done=False)

    def show_preview(self, preview: Previewed) -> None:
        """Show masks of the validation objects."""
        if self._masks is not None:
            self._masks.show(BEFORE if preview.is_before else AFTER, preview.planes)
            self._on_shown()
            self._refresh(is_done=False)

    def show_result(self, text: str) -> None:
        """Show what a training has brought, and offer its model."""
        show_text(self.label, text)
        self._refresh(is_done=True)

    def _refresh(self, *, is_done: bool) -> None:
        self.label.setVisible(is_done)
        self._buttons.setVisible(is_done)
        masks = self._masks
        self._shown.setVisible(masks is not None and masks.has_layers)

    def _on_shown(self) -> None:
        if self._masks is not None:
            is_apart = self._shown_box.currentText() == APART
            self._masks.show_only(*self._shown_box.currentData(), is_apart=is_apart)

    def _on_hide(self, is_on: bool) -> None:
        if is_on:
            self._hidden = [p.labels for p in self._pairs.every if p.labels.visible]
        for layer in self._hidden:
            layer.visible = not is_on

    # -- the new model ---------------------------------------------------------------

    def use_in_segment(self) -> None:
        """Let the Segment panel run the new model; it is opened if need be."""
        if self._plan is None:
            return
        # brings a panel that is open to the front
        opened = self._viewer.window.add_plugin_dock_widget(
            "napari-samseg", "Segment", tabify=True
        )
        settings = replace(self._plan.model, model=self._plan.name)
        opened[1].use_model(settings, anew=True)
        self.reported.emit(f"The Segment panel runs {self._plan.name!r} now.", False)

    def compare(self) -> None:
        """Prompt both models with the objects on the plane on view."""
        if self._plan is None:
            return
        plan = self._plan
        try:
            pair, plane = self._find_plane()
            labels = (
                ClassPlanes(pair.labels, plan.only) if plan.semantic else pair.labels
            )
            image = LabelledImage(
                pair.name, pair.source, labels, settings=pair.settings
            )
        except SamSegError as error:
            self.reported.emit(str(error), True)
            return
        self.reported.emit("Comparing ...", False)
        models = plan.model, replace(plan.model, model=plan.name)
        min_area, tiles = plan.settings.tune.min_area, plan.settings.tiles
        steps = compare_steps(
            image, plane, models, min_area, tiles, read_plugin_settings()
        )
        self._comparing.request(steps, self._on_compared, self.failed.emit)

    def _find_plane(self) -> tuple[LearningPair, tuple[int, ...]]:
        """Return chosen labels on view, and the index of their plane.

        Raises
        ------
        SamSegError
            If there are none.
        """
        chosen = [pair for pair in self._pairs.chosen if pair.image.visible]
        if not chosen:
            raise InvalidLabelsError("choose labels on an image that is on view")
        pair = chosen[0]
        (learning,) = self._pairs.take([pair], self._image_settings)
        plane = current_plane(self._viewer.dims, pair.image, learning.settings.level)
        ndim = len(learning.labels.shape)
        if plane.axes != (ndim - 2, ndim - 1):
            raise LayerError("turn the view back: models learn from planes of y and x")
        return learning, plane.index

    def _on_compared(self, comparison: Comparison) -> None:
        if self._masks is not None:
            self._masks.show(BEFORE, [comparison.before])
            self._masks.show(AFTER, [comparison.after])
            self._on_shown()
            self._refresh(is_done=True)
        self.reported.emit(str(comparison), False)

    def leave(self) -> None:
        """Stop comparing; the layers of outlines stay, where the image is."""
        self._comparing.cancel()
        self._hide_box.setChecked(False)
        if self._masks is not None:
            self._masks.show_only(*self._shown_box.currentData())
