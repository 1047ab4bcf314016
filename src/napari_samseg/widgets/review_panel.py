"""Looking at refined objects one by one: accept, delete, find again, undo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_samseg.adapters.refined_layer import (
    ObjectMark,
    Refinement,
    refinement_of,
    show_object,
)
from napari_samseg.core.errors import SamSegError
from napari_samseg.core.refine.review import ACCEPTED, DELETED, ReviewItem
from napari_samseg.core.refine.scores import KEPT, SPLIT
from napari_samseg.core.settings import PromptSettings
from napari_samseg.widgets.dock_panel import make_combo, make_status_label, show_text

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Labels

__all__ = ["PROMPT_KINDS", "REVIEW_KEYS", "ReviewPanel"]

# What an object can become, by what a person reads.
PROMPT_KINDS: dict[str, PromptSettings] = {
    "box": PromptSettings(),
    "box and middle": PromptSettings(point="interior"),
    "middle": PromptSettings(box="none", point="interior"),
    "3 points": PromptSettings(box="none", point="farthest", n_points=3),
    "3 points, 3 beside it": PromptSettings(
        box="none", point="farthest", n_points=3, n_negatives=3
    ),
    "box, neighbours are not it": PromptSettings(n_negatives=3, negative="neighbours"),
    "its mask": PromptSettings(box="none", mask=True),
    "box and its mask": PromptSettings(mask=True),
}
# Key on the layer of refined labels, what it does, and the method of the panel.
REVIEW_KEYS: tuple[tuple[str, str, str], ...] = (
    ("A", "accept the object", "accept"),
    ("D", "delete the object from its plane", "delete"),
    ("R", "find the object again, with the prompts chosen for it", "redo"),
    ("N", "next object", "show_next"),
    ("B", "the object before", "show_previous"),
    ("Control-Z", "undo", "undo"),
    ("Control-Shift-Z", "do again", "redo_step"),
)


class ReviewPanel(QWidget):
    """The queue of a layer of refined labels.

    Parameters
    ----------
    viewer : Viewer

    Attributes
    ----------
    layer : Labels or None
        What is under review.
    """

    redo_wanted = Signal(object)
    refused = Signal(str)
    # something was done with the object on view, or another is
    acted = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.layer: Labels | None = None
        # what the keys of the layer did before
        self._keys: dict[str, Any] = {}
        self._is_held = False
        self._mark = ObjectMark(viewer)
        self._build()
        for button, act in (
            (self._accept_button, self.accept),
            (self._delete_button, self.delete),
            (self._redo_button, self.redo),
            (self._next_button, self.show_next),
            (self._previous_button, self.show_previous),
            (self._undo_button, self.undo),
            (self._again_button, self.redo_step),
        ):
            button.clicked.connect(lambda *_, act=act: act())
        self._only_box.toggled.connect(self._show_only)
        self.refresh()

    @property
    def refinement(self) -> Refinement | None:
        """What is known of the layer under review."""
        return None if self.layer is None else refinement_of(self.layer)

    def show_layer(self, layer: Labels | None) -> None:
        """Review a layer from now on; its keys are this panel's until another comes."""
        if layer is not self.layer:
            self._give_back()
            self.layer = layer
            if layer is not None:
                for key, _, method in REVIEW_KEYS:
                    act = getattr(self, method)
                    self._keys[key] = layer.bind_key(
                        key, lambda _, act=act: act(), overwrite=True
                    )
                layer.events.paint.connect(self._on_paint)
        self.refresh()

    def hold(self, is_held: bool) -> None:
        """Allow nothing while a job writes into the layer."""
        self._is_held = is_held
        self.refresh()

    def accept(self) -> None:
        """Say that the object on view is good."""
        self._act("accept")

    def delete(self) -> None:
        """Remove the object on view from its plane."""
        self._act("delete")

    def undo(self) -> None:
        """Take the last step back."""
        self._act("undo")

    def redo_step(self) -> None:
        """Do the step that was undone last again."""
        self._act("redo")

    def show_next(self) -> None:
        """Go to the next object."""
        self._act("move", 1)

    def show_previous(self) -> None:
        """Go to the object before."""
        self._act("move", -1)

    def _act(self, name: str, *values: Any) -> None:
        known = self.refinement
        if known is None or self._is_held:
            return
        self.acted.emit()
        try:
            getattr(known.review, name)(*values)
        except SamSegError as error:
            self.refused.emit(str(error))
        self.show_current()

    def redo(self) -> None:
        """Ask for the object on view again, with the prompts chosen for it."""
        if not self._is_held and self.refinement is not None:
            self.redo_wanted.emit(PROMPT_KINDS[self._redo_box.currentText()])

    def show_current(self) -> None:
        """Put the object under review in the middle of the view."""
        known, layer = self.refinement, self.layer
        if known is not None and layer is not None and known.review.current:
            item = known.review.current
            layer.selected_label = item.score.object_id
            plane = known.review.plane(item)
            show_object(self._viewer, layer, plane, item.score.box_yx)
            self._mark.show(layer, plane, item.score.box_yx)
            self._viewer.layers.selection.active = layer
        self.refresh()

    def refresh(self) -> None:
        """Show how far the review is."""
        known = self.refinement
        review = None if known is None else known.review
        item = None if review is None else review.current
        if review is None or item is None:
            self._counter.setText("<b>Review</b>")
            show_text(self._about, "Objects to look at come here, in order of doubt.")
        else:
            n = len(review.items)
            self._counter.setText(
                f"<b>Review</b>: {review.place + 1} of {n}, {review.n_open} to look at"
            )
            show_text(self._about, describe_item(item))
        for button in (
            self._accept_button,
            self._delete_button,
            self._redo_button,
            self._previous_button,
            self._next_button,
        ):
            button.setEnabled(item is not None and not self._is_held)
        can_undo = review is not None and review.can_undo
        can_redo = review is not None and review.can_redo
        self._undo_button.setEnabled(can_undo and not self._is_held)
        self._again_button.setEnabled(can_redo and not self._is_held)

    def _on_paint(self, event: Any) -> None:
        """Take what a person paints by hand for a step like any other."""
        known = self.refinement
        if known is not None:
            target: Any = known.review.target
            known.review.note_stroke(target.read_stroke(event.value))
            self.refresh()

    def _show_only(self, wanted: bool) -> None:
        if self.layer is not None:
            self.layer.show_selected_label = wanted

    def _give_back(self) -> None:
        layer, self.layer = self.layer, None
        self._mark.hide()
        if layer is not None:
            layer.events.paint.disconnect(self._on_paint)
            for key, before in self._keys.items():
                layer.bind_key(key, before, overwrite=True)
        self._keys = {}

    def _build(self) -> None:
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(4)
        self._counter = QLabel()
        self._about = make_status_label()
        self._about.setMinimumHeight(64)
        rows.addWidget(self._counter)
        rows.addWidget(self._about)
        self._previous_button = _button("Back", "The object before (B)")
        self._next_button = _button("Next", "The next object (N)")
        self._accept_button = _button("Accept", "It is good: go on to the next (A)")
        self._delete_button = _button("Delete", "Remove it from this plane (D)")
        self._undo_button = _button("Undo", "Take the last step back (Ctrl+Z)")
        self._again_button = _button("Do again", "What was undone (Ctrl+Shift+Z)")
        grid = QGridLayout()
        grid.setSpacing(4)
        for i, button in enumerate(
            (
                self._accept_button,
                self._delete_button,
                self._previous_button,
                self._next_button,
                self._undo_button,
                self._again_button,
            )
        ):
            grid.addWidget(button, *divmod(i, 2))
        rows.addLayout(grid)
        redo = QHBoxLayout()
        redo.setSpacing(4)
        self._redo_button = _button("Find again", "With these prompts (R)")
        self._redo_box = make_combo("Prompts for this object alone.")
        self._redo_box.addItems(list(PROMPT_KINDS))
        self._redo_box.setCurrentText("middle")
        redo.addWidget(self._redo_button, 1)
        redo.addWidget(self._redo_box, 1)
        rows.addLayout(redo)
        self._only_box = QCheckBox("Show only this object")
        rows.addWidget(self._only_box)


def _button(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    return button


def describe_item(item: ReviewItem) -> str:
    """Say what is known of an object under review, in a few lines."""
    score = item.score
    where = f", plane {', '.join(map(str, score.plane))}" if score.plane else ""
    lines = [f"Object {score.object_id}{where}: doubt {score.doubt:.2f}"]
    if item.state in (ACCEPTED, DELETED):
        lines[0] += f" - {item.state}"
    lines.append(
        f"predicted IoU {score.predicted_iou:.2f}, IoU with the old one "
        f"{score.agreement:.2f}; {score.area_before} px before, {score.area_after} now"
    )
    if score.status in SPLIT:
        n = score.parts
        lines.append("Whole." if n == 1 else f"One of {n} parts of what was one.")
    if score.status in KEPT:
        what = (
            "Kept its old pixels"
            if score.kept == score.parts
            else (f"{score.kept} of its {score.parts} parts kept old pixels")
        )
        lines.append(f"{what}: {KEPT[score.status]}.")
    return "\n".join(lines)
