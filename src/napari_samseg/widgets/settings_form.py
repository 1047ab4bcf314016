"""A form made from a frozen settings class: one row per setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QSpinBox,
    QWidget,
)

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.settings import SettingInfo, describe
from napari_samseg.widgets.dock_panel import make_column, make_form
from napari_samseg.widgets.number_box import NumberBox

__all__ = ["SettingsForm", "align_labels", "stack_forms"]

UNBOUNDED = 2**31 - 1


class SettingsForm(QWidget):
    """Edits an instance of a settings class.

    Parameters
    ----------
    settings : dataclass instance
        Made with `core.settings.setting`: titles, help, bounds and choices come
        from there.
    names : sequence of str, optional
        The settings to show, all by default.
    suggestions : mapping of str to sequence of str, optional
        Values offered for a setting that takes any text.
    named : mapping of str to mapping of str to value, optional
        The only values offered for a setting, by what they are called.
    """

    changed = Signal(object)
    refused = Signal(str)

    def __init__(
        self,
        settings: Any,
        *,
        names: Sequence[str] | None = None,
        suggestions: Mapping[str, Sequence[str]] | None = None,
        named: Mapping[str, Mapping[str, Any]] | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._settings = settings
        self._readers: dict[str, Callable[[], Any]] = {}
        self._writers: dict[str, Callable[[Any], None]] = {}
        self._rows: dict[str, tuple[QLabel, QWidget]] = {}
        form = make_form(self)
        for info in describe(settings):
            if names is None or info.name in names:
                if named and info.name in named:
                    editor = self._named_combo(info, named[info.name])
                else:
                    editor = self._editor(info, (suggestions or {}).get(info.name, ()))
                editor.setToolTip(info.help)
                label = QLabel(info.title)
                label.setToolTip(info.help)
                form.addRow(label, editor)
                self._rows[info.name] = label, editor
        self.set_settings(settings)

    @property
    def settings(self) -> Any:
        """The settings as last accepted."""
        return self._settings

    def set_settings(self, settings: Any) -> None:
        """Show other settings, without a signal."""
        self._settings = settings
        for name, write in self._writers.items():
            write(getattr(settings, name))

    def show_row(self, name: str, visible: bool) -> None:
        """Show the editor of a setting only where there is something to choose."""
        for widget in self._rows[name]:
            widget.setVisible(visible)

    def _editor(self, info: SettingInfo, suggestions: Sequence[str]) -> QWidget:
        if info.choices or suggestions:
            return self._combo(info, info.choices or suggestions)
        if isinstance(info.default, bool):
            return self._check_box(info)
        if isinstance(info.default, int | float):
            return self._spin_box(info)
        return self._line(info)

    def _combo(self, info: SettingInfo, choices: Sequence[str]) -> QWidget:
        combo = QComboBox()
        combo.addItems(list(choices))
        combo.setEditable(not info.choices)
        combo.setMinimumContentsLength(6)
        self._readers[info.name] = combo.currentText
        self._writers[info.name] = _silently(combo, combo.setCurrentText)
        combo.textActivated.connect(self._read)
        return combo

    def _named_combo(self, info: SettingInfo, values: Mapping[str, Any]) -> QWidget:
        combo = QComboBox()
        for name, value in values.items():
            combo.addItem(name, value)

        def write(value: Any) -> None:
            combo.setCurrentIndex(combo.findData(value))

        self._readers[info.name] = combo.currentData
        self._writers[info.name] = _silently(combo, write)
        combo.activated.connect(self._read)
        return combo

    def _check_box(self, info: SettingInfo) -> QWidget:
        box = QCheckBox()
        self._readers[info.name] = box.isChecked
        self._writers[info.name] = _silently(box, box.setChecked)
        box.toggled.connect(self._read)
        return box

    def _spin_box(self, info: SettingInfo) -> QWidget:
        whole = isinstance(info.default, int)
        box = QSpinBox() if whole else NumberBox()
        cast = int if whole else float
        box.setMinimum(cast(-UNBOUNDED if info.minimum is None else info.minimum))
        # Qt counts with 32 bits and a sign
        most = UNBOUNDED if info.maximum is None else min(info.maximum, UNBOUNDED)
        box.setMaximum(cast(most))
        if info.unit:
            box.setSuffix(f" {info.unit}")
        # Qt shows it in place of the minimum, without the unit
        box.setSpecialValueText(info.least)
        box.setKeyboardTracking(False)
        self._readers[info.name] = box.value
        self._writers[info.name] = _silently(box, box.setValue)
        box.valueChanged.connect(self._read)
        # scrolling through a panel must not change what lies under the pointer
        box.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        return box

    def _line(self, info: SettingInfo) -> QWidget:
        line = QLineEdit()
        is_text = isinstance(info.default, str)
        if not is_text:
            line.setPlaceholderText("automatic; or numbers such as 0, 2")

        def read() -> Any:
            return line.text() if is_text else _read_numbers(line.text())

        def write(value: Any) -> None:
            numbers = "" if value is None else ", ".join(str(v) for v in value)
            line.setText(str(value) if is_text else numbers)

        self._readers[info.name] = read
        self._writers[info.name] = _silently(line, write)
        line.editingFinished.connect(self._read)
        return line

    def _read(self, *_: Any) -> None:
        try:
            values = {name: read() for name, read in self._readers.items()}
            settings = dataclasses.replace(self._settings, **values)
        except SettingsError as error:
            self.refused.emit(str(error))
            self.set_settings(self._settings)
            return
        if settings != self._settings:
            self._settings = settings
            self.changed.emit(settings)


def align_labels(*forms: SettingsForm, others: Sequence[QLabel] = ()) -> None:
    """Let the editors of forms that stand below each other begin at one place."""
    labels = [label for form in forms for label, _ in form._rows.values()]
    labels += others
    width = max(label.sizeHint().width() for label in labels)
    for label in labels:
        label.setMinimumWidth(width)


def stack_forms(*forms: SettingsForm) -> QWidget:
    """Return a part in which forms stand below each other, their labels aligned."""
    align_labels(*forms)
    return make_column(*forms)


def _silently(editor: QWidget, write: Callable[[Any], None]) -> Callable[[Any], None]:
    def quiet(value: Any) -> None:
        blocked = editor.blockSignals(True)
        write(value)
        editor.blockSignals(blocked)

    return quiet


def _read_numbers(text: str) -> tuple[int, ...] | None:
    parts = text.replace(",", " ").split()
    if not all(part.isdigit() for part in parts):
        raise SettingsError(f"{text!r} is not a list of numbers such as 0, 2")
    return tuple(int(part) for part in parts) or None
