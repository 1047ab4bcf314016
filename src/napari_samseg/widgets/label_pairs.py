"""A list of all Labels layers: which to learn from, and on which images they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QLabel,
    QWidget,
)

from napari_samseg.adapters.prompt_layers import is_own_layer
from napari_samseg.adapters.refined_layer import label_data
from napari_samseg.adapters.tuning_layers import guess_image, view_under
from napari_samseg.core.settings import ImageSettings
from napari_samseg.widgets.dock_panel import (
    fill_combo,
    make_combo,
    make_status_label,
    show_text,
)
from napari_samseg.widgets.eliding import ElidingCheckBox
from napari_samseg.widgets.model_tuner import LearningPair

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image, Labels

__all__ = ["LabelPair", "LabelPairs"]

# A stroke of the brush is many edits.
EDIT_REST_MS = 1000
LEAST_WIDTH = 90
NONE = "Add an image, and a Labels layer with some of its objects."


@dataclass(frozen=True, slots=True, eq=False)
class LabelPair:
    """Labels, and the image that they lie on."""

    labels: Labels
    image: Image


class LabelPairs(QWidget):
    """A row for each Labels layer.

    Those that lie on an image are chosen, one for each image, until somebody chooses
    otherwise. `changed` comes after a choice, and after an edit of chosen labels.

    Parameters
    ----------
    viewer : Viewer
    """

    changed = Signal()

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setColumnStretch(0, 1)
        self._grid.setColumnStretch(2, 1)
        self._hint = make_status_label()
        self._grid.addWidget(self._hint, 0, 0, 1, 3)
        self._rows: dict[Labels, tuple[QCheckBox, QLabel, QComboBox]] = {}
        self._choices: dict[int, bool] = {}
        self._watched: list[Labels] = []
        self._seen: object = None
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(EDIT_REST_MS)
        self._rest.timeout.connect(self.changed.emit)

    @property
    def every(self) -> list[LabelPair]:
        """All labels that lie on an image, chosen or not."""
        return [
            LabelPair(labels, combo.currentData())
            for labels, (_, _, combo) in self._rows.items()
            if combo.currentData() is not None
        ]

    @property
    def chosen(self) -> list[LabelPair]:
        """What to learn from."""
        return [pair for pair in self.every if self._rows[pair.labels][0].isChecked()]

    def choose(self, labels: Labels, is_chosen: bool) -> None:
        """Choose a layer or not, as a click does."""
        self._rows[labels][0].setChecked(is_chosen)

    @staticmethod
    def take(
        pairs: Sequence[LabelPair], settings: ImageSettings
    ) -> tuple[LearningPair, ...]:
        """Take from layers what a thread needs; two on one image get two names.

        Raises
        ------
        SamSegError
            If labels lie no longer on their image.
        """
        taken: list[LearningPair] = []
        for pair in pairs:
            data = label_data(pair.labels)
            view = view_under(pair.image, pair.labels, tuple(data.shape))
            name = view.name
            if any(other.name == name for other in taken):
                name = f"{name} ({pair.labels.name}, {len(taken) + 1})"
            seen = replace(settings, level=view.level)
            taken.append(LearningPair(name, view.name, view.source, data, seen))
        return tuple(taken)

    def reset_choices(self) -> None:
        """Offer the layers there are now."""
        from napari.layers import Image as ImageLayer
        from napari.layers import Labels as LabelsLayer

        layers = [layer for layer in self._viewer.layers if not is_own_layer(layer)]
        images = [layer for layer in layers if isinstance(layer, ImageLayer)]
        labels = [layer for layer in layers if isinstance(layer, LabelsLayer)]
        ids = {id(layer) for layer in labels}
        self._choices = {key: on for key, on in self._choices.items() if key in ids}
        images_before = {pair.labels: pair.image for pair in self.every}
        self._clear()
        taken: set[int] = set()
        why = ""
        # the newest first: of several on one image, that one is chosen
        for layer in reversed(labels):
            fitting, reason = guess_image(layer, images, layers)
            why = why or ("" if fitting else reason)
            image = images_before.get(layer)
            if image not in fitting:
                image = fitting[0] if fitting else None
            is_first = image is not None and id(image) not in taken
            self._add_row(layer, fitting, image, is_first=is_first)
            if self._rows[layer][0].isChecked():
                taken.add(id(image))
        has_any = bool(self.every)
        show_text(self._hint, "" if has_any else why or NONE, is_error=bool(why))
        self._hint.setVisible(not has_any)
        self._watch(labels)
        self.changed.emit()

    def leave(self) -> None:
        """Let go of all layers."""
        self._rest.stop()
        self._watch([])
        self._clear()

    # -- rows ------------------------------------------------------------------------

    def _add_row(
        self,
        labels: Labels,
        fitting: list[Image],
        image: Image | None,
        *,
        is_first: bool,
    ) -> None:
        # a long name must not push the panel out of its dock
        box = ElidingCheckBox(labels.name, LEAST_WIDTH)
        box.setToolTip(f"Learn from {labels.name!r}")
        word = QLabel("on")
        combo = make_combo("The image that these labels lie on.")
        fill_combo(combo, [(found.name, found) for found in fitting], image)
        is_chosen = self._choices.get(id(labels), is_first)
        box.setChecked(is_chosen and image is not None)
        if image is None:
            combo.addItem("no image fits", None)
        for widget in (box, combo):
            widget.setEnabled(image is not None)
        box.toggled.connect(partial(self._on_choice, id(labels)))
        combo.activated.connect(lambda _: self.changed.emit())
        self._rows[labels] = box, word, combo
        row = len(self._rows)
        for column, widget in enumerate((box, word, combo)):
            self._grid.addWidget(widget, row, column)

    def _clear(self) -> None:
        for widgets in self._rows.values():
            for widget in widgets:
                self._grid.removeWidget(widget)
                widget.setParent(None)
                widget.deleteLater()
        self._rows.clear()

    def _on_choice(self, key: int, is_on: bool) -> None:
        self._choices[key] = is_on
        self.changed.emit()

    # -- edits -----------------------------------------------------------------------

    def _watch(self, labels: list[Labels]) -> None:
        for layer in self._watched:
            layer.events.set_data.disconnect(self._on_edit)
        self._watched = labels
        for layer in labels:
            layer.events.set_data.connect(self._on_edit)
        dims = self._viewer.dims
        self._seen = dims.point, dims.order, dims.ndisplay

    def _on_edit(self) -> None:
        """Notice that labels were painted; a look at another plane is told apart."""
        dims = self._viewer.dims
        seen = dims.point, dims.order, dims.ndisplay
        if seen == self._seen:
            self._rest.start()
        self._seen = seen
