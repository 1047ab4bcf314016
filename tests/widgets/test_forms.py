"""The form made from settings, and the table of classes."""

from __future__ import annotations

import dataclasses

import pytest
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QLineEdit, QListWidget, QSpinBox

from napari_samseg.core.annotation_actions import ObjectClass
from napari_samseg.core.settings import (
    ImageSettings,
    InstanceSettings,
    LoopSettings,
    ModelSettings,
)
from napari_samseg.core.training.presets import PLAN_PARTS, PRESETS
from napari_samseg.widgets.class_table import ClassTable
from napari_samseg.widgets.settings_form import SettingsForm


@pytest.fixture
def form(qtbot):
    form = SettingsForm(ImageSettings())
    qtbot.addWidget(form)
    return form


def collect(signal):
    values = []
    signal.connect(values.append)
    return values


def test_every_setting_has_an_editor_with_its_bounds_and_help(form):
    low = form.findChild(QDoubleSpinBox)
    assert (low.minimum(), low.maximum(), low.value()) == (0, 100, 0.1)
    assert low.toolTip() == "This percentile of the intensities becomes black."
    (contrast, scope, colours) = form.findChildren(QComboBox)
    shown = [contrast.itemText(i) for i in range(contrast.count())]
    assert shown == ["percentile", "minmax", "standard", "none"]
    assert colours.currentText() == "grey"
    assert scope.currentText() == "plane"
    assert form.findChild(QSpinBox).minimum() == 0


def test_editing_gives_new_settings(form):
    changed = collect(form.changed)
    form.findChildren(QComboBox)[0].textActivated.emit("minmax")
    assert changed == []  # nothing changed yet: the box still shows percentile
    form.findChildren(QComboBox)[0].setCurrentText("minmax")
    form.findChildren(QComboBox)[0].textActivated.emit("minmax")
    form.findChild(QSpinBox).setValue(2)
    assert changed == [
        ImageSettings(normalisation="minmax"),
        ImageSettings(normalisation="minmax", level=2),
    ]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_what_is_not_edited_stays_as_it_was(qtbot, preset):
    """A rate of 2e-4 is not 0.00, however small, once another row is edited."""
    for part in PLAN_PARTS:
        before = getattr(PRESETS[preset], part)
        form = SettingsForm(before)
        qtbot.addWidget(form)
        form._read()
        assert form.settings == before
    loop = PRESETS[preset].loop
    form = SettingsForm(loop)
    qtbot.addWidget(form)
    form.findChild(QSpinBox).setValue(7)
    assert form.settings == dataclasses.replace(loop, steps=7)


def test_small_numbers_are_shown_and_typed(qtbot):
    form = SettingsForm(LoopSettings(learning_rate=2e-5), names=["learning_rate"])
    qtbot.addWidget(form)
    rate = form.findChild(QDoubleSpinBox)
    assert rate.text() == "2e-05"
    rate.stepUp()
    assert form.settings.learning_rate == 2.1e-5
    assert rate.text() == "2.1e-05"
    for typed, value in (("3e-4", 3e-4), ("0.0005", 5e-4), ("0,25", 0.25)):
        rate.selectAll()
        qtbot.keyClicks(rate, typed)
        qtbot.keyClick(rate, "\r")
        assert form.settings.learning_rate == value
    # what is no number, or out of bounds, is not taken
    for typed in ("fast", "7"):
        rate.selectAll()
        qtbot.keyClicks(rate, typed)
        qtbot.keyClick(rate, "\r")
        assert 0 <= form.settings.learning_rate <= 1
    assert rate.value() == form.settings.learning_rate


@pytest.mark.parametrize("rate", [1 / 3000, 2e-4, 0.1 + 0.2, 1.0])
def test_a_number_that_is_looked_at_stays_as_it_was(qtbot, rate):
    form = SettingsForm(LoopSettings(learning_rate=rate), names=["learning_rate"])
    qtbot.addWidget(form)
    changed = collect(form.changed)
    box = form.findChild(QDoubleSpinBox)
    box.selectAll()
    qtbot.keyClick(box, "\r")
    box.interpretText()
    assert float(box.text()) == box.value() == rate
    assert changed == []
    assert form.settings.learning_rate == rate


def test_channels_are_typed_as_numbers(form):
    changed, refused = collect(form.changed), collect(form.refused)
    line = next(e for e in form.findChildren(QLineEdit) if e.placeholderText())
    line.setText("2, 0")
    line.editingFinished.emit()
    assert changed == [ImageSettings(channels=(2, 0))]
    line.setText("red")
    line.editingFinished.emit()
    assert "red" in refused[0]
    assert line.text() == "2, 0"
    line.setText("")
    line.editingFinished.emit()
    assert form.settings == ImageSettings()


def test_settings_that_contradict_each_other_are_refused(form):
    refused = collect(form.refused)
    form.findChildren(QDoubleSpinBox)[0].setValue(100)
    assert "must be below" in refused[0]
    assert form.findChildren(QDoubleSpinBox)[0].value() == 0.1


def test_names_and_suggestions(qtbot):
    form = SettingsForm(
        ModelSettings(), names=("device",), suggestions={"device": ("auto", "cpu")}
    )
    qtbot.addWidget(form)
    (device,) = form.findChildren(QComboBox)
    device.setEditText("cuda:1")
    device.textActivated.emit("cuda:1")
    assert form.settings == ModelSettings(device="cuda:1")


def test_the_class_table(qtbot):
    table = ClassTable()
    qtbot.addWidget(table)
    edited, chosen = collect(table.edited), collect(table.chosen)
    table.add()
    assert edited[-1] == (ObjectClass(1, "class 1", "#e69f00"),)
    assert chosen == [1]
    table.show_classes((*edited[-1], ObjectClass(4, "axon", "#123456")), 4, 6)
    assert edited[-1] == (ObjectClass(1, "class 1", "#e69f00"),)
    rows = table.findChild(QListWidget)
    assert rows.currentRow() == 1
    rows.item(1).setText("dendrite")
    assert edited[-1][1] == ObjectClass(4, "dendrite", "#123456")
    table.remove()
    assert edited[-1] == (ObjectClass(1, "class 1", "#e69f00"),)
    table.add()
    assert edited[-1][-1].class_id == 6
    rows.setCurrentRow(0)
    assert chosen[-1] == 1


@pytest.mark.parametrize("name", ["", "   "])
def test_a_blank_class_name_is_refused(qtbot, name):
    table = ClassTable()
    qtbot.addWidget(table)
    table.show_classes([ObjectClass(1, "axon", "#123456")], 1, 2)
    edited, refused = collect(table.edited), collect(table.refused)
    rows = table.findChild(QListWidget)
    rows.item(0).setText(name)
    assert edited == []
    assert refused == ["class 1 needs a name"]
    assert (rows.item(0).text(), rows.currentRow()) == ("axon", 0)


def test_a_least_value_can_be_a_word(qtbot):
    form = SettingsForm(InstanceSettings(), names=["min_size", "max_size"])
    qtbot.addWidget(form)
    smallest, largest = form.findChildren(QSpinBox)
    assert (smallest.text(), largest.text()) == ("0 px", "no limit")
    largest.setValue(30)
    assert largest.text() == "30 px"
