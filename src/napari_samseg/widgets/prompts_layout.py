"""How the Prompts panel looks: its widgets and where they stand."""

from __future__ import annotations

from qtpy.QtWidgets import (
    QGridLayout,
    QLabel,
    QPushButton,
)

from napari_samseg.core.settings import PromptSettings
from napari_samseg.widgets.dock_panel import (
    DockPanel,
    make_bar,
    make_choices,
    make_combo,
    make_form,
    make_page,
    make_status_label,
)
from napari_samseg.widgets.settings_form import SettingsForm

__all__ = ["PromptsLayout"]


class PromptsLayout(DockPanel):
    """The widgets of the Prompts panel, connected to nothing."""

    def __init__(self) -> None:
        super().__init__()
        page, rows = make_page()
        self._choices, choices = make_choices()
        self._labels_box = make_combo("Instance labels: each id is an object.")
        form = make_form()
        form.addRow("Labels", self._labels_box)
        choices.addLayout(form)
        self._form = SettingsForm(PromptSettings())
        choices.addWidget(self._form)
        rows.addWidget(self._choices)
        rows.addLayout(self._build_actions())
        self._bar = make_bar()
        rows.addWidget(self._bar)
        rows.addWidget(self._status)
        self._warning = make_status_label()
        rows.addWidget(self._warning)
        hint = QLabel(
            "The layers of boxes and points can be edited: what is drawn anew is an "
            "object of its own unless its feature <i>object</i> says otherwise. Export "
            "writes them as they are then."
        )
        hint.setWordWrap(True)
        rows.addWidget(hint)
        rows.addStretch(1)
        self.show_page(page)

    def _build_actions(self) -> QGridLayout:
        self._plane_button = QPushButton("This plane")
        self._plane_button.setToolTip("Make prompts of the objects on view")
        self._all_button = QPushButton("All planes")
        self._all_button.setToolTip("Make prompts of the objects of each plane")
        self._cancel_button = QPushButton("Cancel")
        self._cancel_button.setToolTip("Stop; the prompts made before stay")
        self._export_button = QPushButton("Export ...")
        self._export_button.setToolTip("Write the prompts into a table, as edited")
        self._import_button = QPushButton("Import ...")
        self._import_button.setToolTip("Show the prompts of a table")
        self._restore_button = QPushButton("Restore")
        self._restore_button.setToolTip(
            "Put back the prompts, with their edits, that were there before the last "
            "ones were made or imported"
        )
        grid = QGridLayout()
        grid.setSpacing(4)
        grid.addWidget(self._plane_button, 0, 0, 1, 2)
        grid.addWidget(self._all_button, 0, 2, 1, 2)
        grid.addWidget(self._cancel_button, 0, 4, 1, 2)
        grid.addWidget(self._import_button, 1, 0, 1, 2)
        grid.addWidget(self._export_button, 1, 2, 1, 2)
        grid.addWidget(self._restore_button, 1, 4, 1, 2)
        return grid

    def show_asked(self, settings: PromptSettings) -> None:
        """Show the settings that mean something beside the others."""
        has_points, n = settings.point != "none", settings.n_negatives
        shown = {
            "jitter": settings.box == "jittered-box",
            "n_points": has_points,
            "grid": settings.point == "grid",
            "negative": n > 0,
            "ring": n > 0 and settings.negative == "ring",
            "mask_size": settings.mask,
        }
        for name, is_shown in shown.items():
            self._form.show_row(name, is_shown)
