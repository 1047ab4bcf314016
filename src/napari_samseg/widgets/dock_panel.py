"""What all panels are: a page that scrolls in a dock and notices when it is closed."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import (
    QApplication,
    QComboBox,
    QFormLayout,
    QLabel,
    QProgressBar,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_samseg.core.types import Progress
from napari_samseg.widgets.eliding import ElidingCombo
from napari_samseg.widgets.workers import describe_failure

__all__ = [
    "DockPanel",
    "add_section",
    "compact_combo",
    "fill_combo",
    "make_bar",
    "make_choices",
    "make_column",
    "make_combo",
    "make_form",
    "make_page",
    "make_status_label",
    "select_item",
    "show_progress",
    "show_text",
]


ERROR, DOUBT = "#ff7a70", "#f2b950"


class DockPanel(QWidget):
    """A panel in a dock of napari's window.

    napari tells a panel neither that its dock was closed nor that the window was.

    Attributes
    ----------
    is_shut : bool
        The panel was closed and has given everything back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_shut = False
        # where a panel says what goes on; its layout puts it in its place
        self._status = make_status_label()
        self._was_docked = False
        QApplication.instance().aboutToQuit.connect(self.shut)

    def show_page(self, page: QWidget, footer: QWidget | None = None) -> None:
        """Fill the panel with a page, which scrolls where it is too long.

        Parameters
        ----------
        page : QWidget
        footer : QWidget, optional
            Stays in sight below it.
        """
        self._area = area = QScrollArea()
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFrameShape(QScrollArea.Shape.NoFrame)
        area.setWidget(page)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        outer.addWidget(area, 1)
        if footer is not None:
            outer.addWidget(footer)
        self.setMinimumWidth(300)

    def scroll_to(self, widget: QWidget) -> None:
        """Bring a part of the page into sight, once it has got its place."""
        self._wanted = widget
        QTimer.singleShot(0, self._scroll)

    def _scroll(self) -> None:
        self._area.ensureWidgetVisible(self._wanted, 0, 0)
        # there is no bar to scroll back with
        self._area.horizontalScrollBar().setValue(0)

    def reset_choices(self, event: object = None) -> None:
        """Offer the layers there are now; napari calls this when they change."""
        raise NotImplementedError

    def leave(self) -> None:
        """Stop jobs and give everything back."""
        raise NotImplementedError

    def shut(self) -> None:
        """Give everything back, until the panel is docked again."""
        self.is_shut = True
        self.leave()

    def event(self, event: QEvent) -> bool:
        """Notice being docked and being closed."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is None and self._was_docked:
                self.shut()
            elif self.parent() is not None:
                self._was_docked = True
                # the dock is put into the window only after this
                QTimer.singleShot(0, self._watch_window)
                if self.is_shut:
                    self.is_shut = False
                    self.reset_choices()
        return bool(super().event(event))

    def _say(self, message: str) -> None:
        show_text(self._status, message)

    def _tell(self, message: str) -> None:
        """Say what must be noticed though the panel may be out of sight."""
        from napari.utils.notifications import show_info

        self._say(message)
        show_info(message)

    def _show_error(self, message: str) -> None:
        from napari.utils.notifications import show_warning

        show_text(self._status, message, is_error=True)
        show_warning(message)

    def _show_failure(self, error: Exception) -> None:
        """Show what ended a job."""
        self._show_error(describe_failure(error))

    def _watch_window(self) -> None:
        window: QObject = self
        while window.parent() is not None:
            window = window.parent()
        window.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Notice that the window was closed for good, while all of it still lives."""
        if event.type() == QEvent.Type.DeferredDelete:
            self.shut()
        return bool(super().eventFilter(watched, event))


def make_page() -> tuple[QWidget, QVBoxLayout]:
    """Return an empty page for `DockPanel.show_page`, and its rows."""
    page = QWidget()
    rows = QVBoxLayout(page)
    rows.setContentsMargins(8, 8, 8, 8)
    rows.setSpacing(6)
    return page, rows


def make_choices() -> tuple[QWidget, QVBoxLayout]:
    """Return a part for what must not change while a job runs, and its rows."""
    choices = QWidget()
    rows = QVBoxLayout(choices)
    rows.setContentsMargins(0, 0, 0, 0)
    return choices, rows


def make_column(*widgets: QWidget, spacing: int | None = None) -> QWidget:
    """Return a part in which widgets stand below each other."""
    column = QWidget()
    rows = QVBoxLayout(column)
    rows.setContentsMargins(0, 0, 0, 0)
    if spacing is not None:
        rows.setSpacing(spacing)
    for widget in widgets:
        rows.addWidget(widget)
    return column


def make_form(parent: QWidget | None = None) -> QFormLayout:
    """Return an empty form, whose editors are as wide as there is room."""
    form = QFormLayout(parent)
    form.setContentsMargins(0, 0, 0, 0)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return form


def add_section(rows: QVBoxLayout, title: str, content: QWidget) -> QCollapsible:
    """Add a part that is folded until somebody opens it."""
    section = QCollapsible(title)
    section.setDuration(0)
    section.setCollapsedIcon("\u25b6")
    section.setExpandedIcon("\u25bc")
    section.layout().setContentsMargins(0, 0, 0, 0)
    section.layout().setSpacing(0)
    section.content().layout().setContentsMargins(4, 4, 4, 4)
    section.addWidget(content)
    rows.addWidget(section)
    return section


def make_combo(tip: str) -> QComboBox:
    """Return a combo box that does not push the panel out of its dock."""
    combo = ElidingCombo()
    compact_combo(combo, tip)
    return combo


def compact_combo(combo: QComboBox, tip: str) -> None:
    """Keep a combo box from pushing the panel out of its dock."""
    combo.setToolTip(tip)
    combo.setMinimumContentsLength(8)
    combo.setSizeAdjustPolicy(
        QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
    )


def fill_combo(combo: QComboBox, items: list[tuple[str, Any]], chosen: Any) -> None:
    """Offer other items, without a signal."""
    blocked = combo.blockSignals(True)
    combo.clear()
    for name, value in items:
        combo.addItem(name, value)
    combo.blockSignals(blocked)
    select_item(combo, chosen)


def select_item(combo: QComboBox, value: Any) -> None:
    """Select the item with a value; by identity, as layers compare by content."""
    for i in range(combo.count()):
        data = combo.itemData(i)
        if data is value or (isinstance(value, str) and data == value):
            combo.setCurrentIndex(i)
            return


def make_bar() -> QProgressBar:
    """Return a thin progress bar, for `show_progress`."""
    bar = QProgressBar()
    bar.setTextVisible(False)
    bar.setFixedHeight(6)
    # what comes and goes must not move what lies below
    policy = bar.sizePolicy()
    policy.setRetainSizeWhenHidden(True)
    bar.setSizePolicy(policy)
    return bar


def show_progress(bar: QProgressBar, progress: Progress | None) -> None:
    """Show how far a job is, or hide the bar."""
    bar.setVisible(progress is not None)
    if progress is not None:
        bar.setRange(0, progress.total)
        bar.setValue(progress.done)


def make_status_label() -> QLabel:
    """Return a label for text of any length."""
    label = QLabel()
    label.setWordWrap(True)
    # a long word must not push the panel out of its dock
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.MinimumExpanding)
    label.setMinimumHeight(34)
    label.setAlignment(Qt.AlignmentFlag.AlignTop)
    return label


def show_text(
    label: QLabel, message: str, *, is_error: bool = False, is_doubt: bool = False
) -> None:
    """Write into a label of `make_status_label`."""
    color = ERROR if is_error else DOUBT
    label.setStyleSheet(f"color: {color};" if is_error or is_doubt else "")
    # a path or address has no place to break, and would be cut off
    label.setText(message.replace("/", "/\u200b"))
    label.setToolTip(message)
