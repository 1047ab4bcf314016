"""How the Labels to instances panel looks: its widgets and where they stand."""

from __future__ import annotations

from qtpy.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
)

from napari_samseg.core.instances.methods import (
    INSTANCE_METHODS,
    METHOD_SETTINGS,
    TIDY_SETTINGS,
)
from napari_samseg.core.settings import InstanceSettings
from napari_samseg.widgets.dock_panel import (
    DockPanel,
    make_bar,
    make_choices,
    make_combo,
    make_form,
    make_page,
    make_status_label,
)
from napari_samseg.widgets.settings_form import SettingsForm, align_labels
from napari_samseg.widgets.size_plot import SizePlot

__all__ = ["InstancesLayout"]

NEIGHBOURS = {
    "all": 0,
    "4 (plane)": 4,
    "8 (plane)": 8,
    "6 (volume)": 6,
    "18 (volume)": 18,
    "26 (volume)": 26,
}


class InstancesLayout(DockPanel):
    """The widgets of the Labels to instances panel, connected to nothing."""

    def __init__(self) -> None:
        super().__init__()
        page, rows = make_page()
        self._choices, choices = make_choices()
        choices.addLayout(self._build_inputs())
        self._form = SettingsForm(
            InstanceSettings(), named={"connectivity": NEIGHBOURS}
        )
        choices.addWidget(self._form)
        choices.addLayout(self._build_target())
        labels = (
            *(self._input_label, self._myelin_label, self._seeds_label),
            self._target_label,
        )
        align_labels(self._form, others=labels)
        rows.addWidget(self._choices)
        rows.addLayout(self._build_actions())
        self._bar = make_bar()
        rows.addWidget(self._bar)
        rows.addWidget(self._status)
        self._counts_title = QLabel()
        rows.addWidget(self._counts_title)
        self._counts = make_status_label()
        rows.addWidget(self._counts)
        self._plot = SizePlot()
        rows.addWidget(self._plot)
        rows.addStretch(1)
        self.show_page(page)

    def _build_inputs(self) -> QFormLayout:
        self._input_box = make_combo(
            "Classes: a Labels layer, or an image of a mask with a few grey levels."
        )
        self._myelin_box = make_combo(
            "A second layer, where axons and myelin are drawn as one mask each; the "
            "layer above is then the axons."
        )
        self._input_label, self._myelin_label = QLabel("Labels"), QLabel("Myelin")
        self._seeds_box = make_combo(
            "Points that objects grow from, one on each; those with the same feature "
            "object are of one."
        )
        self._seeds_label = QLabel("Points")
        form = make_form()
        form.addRow(self._input_label, self._input_box)
        form.addRow(self._myelin_label, self._myelin_box)
        form.addRow(self._seeds_label, self._seeds_box)
        return form

    def _build_target(self) -> QFormLayout:
        self._target_box = make_combo(
            "Where the instances go. In a layer that is there, objects keep the ids "
            "they have, and Ctrl+Z takes all back at once."
        )
        form = make_form()
        self._target_label = QLabel("Into")
        form.addRow(self._target_label, self._target_box)
        return form

    def _build_actions(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(4)
        self._preview_check = QCheckBox("Preview")
        self._preview_check.setToolTip("Show the instances of the plane on view")
        self._preview_check.setChecked(True)
        self._start_button = QPushButton("Find instances")
        self._start_button.setToolTip("Of the whole plane or volume")
        self._cancel_button = QPushButton("Cancel")
        self._cancel_button.setToolTip("Stop; nothing is changed")
        row.addWidget(self._preview_check)
        row.addWidget(self._start_button, 1)
        row.addWidget(self._cancel_button)
        return row

    def show_method(self, method: str, *, has_myelin: bool) -> None:
        """Show what a method reads, and nothing else."""
        shown = {"method", *METHOD_SETTINGS[method]}
        if method in INSTANCE_METHODS:
            shown |= set(TIDY_SETTINGS)
        if has_myelin:
            # two masks say themselves which of them is the seeds
            shown.discard("seed_class")
        for name in InstanceSettings.__dataclass_fields__:
            self._form.show_row(name, name in shown)
        is_axons = method == "axon-myelin"
        for widget in (self._myelin_label, self._myelin_box):
            widget.setVisible(is_axons)
        for widget in (self._seeds_label, self._seeds_box):
            widget.setVisible(method == "points")
        self._input_label.setText("Axons" if is_axons and has_myelin else "Labels")
