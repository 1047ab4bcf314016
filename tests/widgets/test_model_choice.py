"""The box of models: what each is good for, how large and how fast it is."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from qtpy.QtWidgets import QApplication, QWidget

from napari_samseg.core.models.speed import remember_speed
from napari_samseg.core.models.weights import TUNED_FILE
from napari_samseg.core.models.zoo import ZOO
from napari_samseg.widgets.dock_panel import make_form, select_item
from napari_samseg.widgets.model_choice import MODEL_LIST, ModelLine, add_model_rows

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not os.environ.get("DISPLAY"),
    reason="no display: run under Xvfb (xvfb-run pytest)",
)


@pytest.fixture
def panel(qtbot, tmp_path, monkeypatch):
    monkeypatch.setenv("SAMSEG_MODELS", str(tmp_path / "models"))
    panel = QWidget()
    form = make_form()
    panel.setLayout(form)
    panel.models = add_model_rows(form)
    panel.line = panel.findChild(ModelLine)
    panel.resize(340, 120)
    qtbot.addWidget(panel)
    panel.show()
    return panel


def test_the_line_tells_use_size_and_speed(panel, model):
    models, line = panel.models, panel.line
    assert line.text().startswith("Nuclei, cells, axons")
    assert "10.5 MB, not timed yet" in line.text()
    remember_speed(model, 0.123)
    models.look_for_speed()
    assert "10.5 MB, 0.12 s a plane here" in line.text()
    select_item(models, "vit_b_lm")
    assert line.text() == (
        "micro-sam: cells and nuclei in light microscopy, ViT-B. Downloads about "
        "375 MB once"
    )


def test_a_download_and_a_file(panel, tmp_path):
    models, line = panel.models, panel.line
    select_item(models, "vit_b")
    assert "Downloads 375 MB once" in line.text()
    file = tmp_path / "models" / ZOO["vit_b"].checkpoint.file_name
    file.parent.mkdir()
    file.write_bytes(bytes(2_000_000))
    MODEL_LIST.changed.emit()
    assert models.currentData() == "vit_b"
    assert "2 MB, not timed yet" in line.text()
    # of a checkpoint file there is nothing to say but its name
    models.insertItem(0, "mine.pth", "/somewhere/mine.pth")
    select_item(models, "/somewhere/mine.pth")
    assert line.text() == ""
    assert not line.isVisible()
    MODEL_LIST.changed.emit()
    assert models.currentData() == "/somewhere/mine.pth"


def test_a_chosen_model_that_went_stays_chosen(panel, tmp_path):
    """What the box shows and what runs would differ otherwise."""
    models = panel.models
    folder = tmp_path / "models" / "tuned" / "mine"
    folder.mkdir(parents=True)
    (folder / TUNED_FILE).write_bytes(bytes(1000))
    models.insertItem(0, "other.pth", "/somewhere/other.pth")
    models.refresh()
    select_item(models, "mine")
    shutil.rmtree(folder)
    models.refresh()
    assert models.currentData() == "mine"
    models.refresh()
    assert models.currentData() == "mine"
    select_item(models, "default")
    models.refresh()
    assert models.findData("/somewhere/other.pth") >= 0


def test_the_open_list_has_two_lines_for_each_model(panel, model, qtbot):
    remember_speed(model, 0.123)
    models = panel.models
    models.showPopup()
    view = models.view()
    qtbot.waitUntil(view.isVisible, timeout=5000)
    assert view.width() > 400
    plain = view.visualRect(models.model().index(models.count() - 1, 0)).height()
    for row in range(models.count() - 1):
        index = models.model().index(row, 0)
        assert view.sizeHintForIndex(index).height() >= 2 * panel.fontMetrics().height()
        assert view.visualRect(index).height() > 1.4 * plain
    folder = os.environ.get("SAMSEG_SCREENSHOTS")
    if folder:
        QApplication.processEvents()
        Path(folder).mkdir(parents=True, exist_ok=True)
        view.window().grab().save(str(Path(folder) / "model-list.png"))
    models.hidePopup()


def test_no_window_of_its_own_is_shown(qtbot, tmp_path, monkeypatch):
    from qtpy.QtCore import QEvent, QObject

    monkeypatch.setenv("SAMSEG_MODELS", str(tmp_path / "models"))

    class Watch(QObject):
        shown = 0

        def eventFilter(self, watched, event):
            if isinstance(watched, ModelLine) and event.type() == QEvent.Type.Show:
                self.shown += watched.isWindow()
            return False

    watch = Watch()
    QApplication.instance().installEventFilter(watch)
    try:
        form = make_form()
        models = add_model_rows(form)
        QApplication.processEvents()
        panel = QWidget()
        panel.setLayout(form)
        qtbot.addWidget(panel)
        panel.show()
        qtbot.waitExposed(panel)
        assert panel.findChild(ModelLine).isVisible()
    finally:
        QApplication.instance().removeEventFilter(watch)
    assert watch.shown == 0
    assert models.currentData() == "default"


def test_names_of_any_kind_leave_the_panel_its_width(panel, tmp_path):
    models, line = panel.models, panel.line
    weights = tmp_path / "models" / "tuned" / "mine" / "best.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(bytes(1000))
    base = "<b>" + 80 * "C2C12_"
    card = {"base": {"name": base, "weights": ""}, "step": 3}
    weights.with_suffix(".json").write_text(json.dumps(card))
    MODEL_LIST.changed.emit()
    select_item(models, "mine")
    QApplication.processEvents()
    assert base in line.text()
    assert panel.width() == 340
    assert panel.minimumSizeHint().width() <= 340


def test_a_name_is_not_looked_up_while_the_list_is_open(panel, model, qtbot):
    models = panel.models
    models.showPopup()
    qtbot.waitUntil(models.view().isVisible, timeout=5000)
    remember_speed(model, 0.123)
    models.look_for_speed()
    assert "not timed yet" in panel.line.text()
    models.hidePopup()
    models.look_for_speed()
    assert "0.12 s a plane" in panel.line.text()
