"""The plot of a training, and what is said of it."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.training.result import TuneResult
from napari_samseg.core.training.validation import ValidationScores
from napari_samseg.widgets.training_plot import IOU, LOSS, TrainingPlot, smooth
from napari_samseg.widgets.tune_words import (
    check_name,
    describe_result,
    free_name,
    read_ids,
)

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not os.environ.get("DISPLAY"),
    reason="no display: run under Xvfb (xvfb-run pytest)",
)


def has_color(plot, color) -> bool:
    image = plot.grab().toImage()
    wanted = color.rgb()
    return any(
        image.pixel(x, y) == wanted
        for x in range(40, image.width() - 40)
        for y in range(25, image.height() - 20)
    )


def test_curves_are_drawn(qtbot):
    plot = TrainingPlot()
    qtbot.addWidget(plot)
    plot.resize(300, 150)
    assert not has_color(plot, LOSS)
    plot.start(10)
    plot.add_scores(0, 0.5, 0.6)
    for step in range(1, 6):
        plot.add_loss(step, float("nan") if step == 3 else 1.0 / step, 10)
    plot.add_scores(5, 0.7, 0.8)
    assert has_color(plot, IOU)
    plot.start(0)
    assert plot.losses == plot.scores == []


def test_a_curve_goes_on_where_it_was(qtbot):
    plot = TrainingPlot()
    qtbot.addWidget(plot)
    plot.start(10)
    plot.recall({1: 1.0, 2: 0.9, 3: 0.8}, {2: (0.5, 0.6)})
    # steps after the state that it goes on from are made again
    plot.recall({1: 1.0, 2: 0.9}, {2: (0.5, 0.6)})
    plot.add_scores(0, 0.4, 0.5)
    plot.add_loss(3, 0.7, 10)
    assert plot.losses == [(1, 1.0), (2, 0.9), (3, 0.7)]
    assert plot.scores == [(0, 0.4, 0.5), (2, 0.5, 0.6)]


def test_losses_without_scores_are_drawn(qtbot):
    plot = TrainingPlot()
    qtbot.addWidget(plot)
    plot.resize(300, 150)
    plot.start(10)
    for step in range(1, 6):
        plot.add_loss(step, 1.0 / step, 10)
    assert has_color(plot, LOSS)
    assert not has_color(plot, IOU)


def test_the_running_mean_begins_at_the_first_value():
    assert smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    rising = smooth([0.0, 1.0], weight=0.5)
    assert rising == pytest.approx([0.0, 2 / 3])


def scores(point: float, box: float = np.nan) -> ValidationScores:
    return ValidationScores(box, point, np.nan, point, 0.01, 7)


def result(before, after, split="groups", step=1, history=()) -> TuneResult:
    return TuneResult(Path("a"), Path("b"), history, before, after, split, step)


def test_a_result_in_words():
    text = describe_result(result(scores(0.48, 0.8), scores(0.55, 0.81)))
    assert text == (
        "point IoU 0.48 \u2192 0.55, box IoU 0.80 \u2192 0.81, on 7 objects of other "
        "images."
    )
    assert "box" not in describe_result(result(scores(0.4), scores(0.5)))
    one = scores(0.4), dataclasses.replace(scores(0.5), n_objects=1)
    assert "on 1 object of other images." in describe_result(result(*one))
    assert "hardly better" in describe_result(result(scores(0.4), scores(0.401)))
    assert "nobody knows" in describe_result(result(None, None, "none"))


def test_weights_that_were_kept_are_said():
    """Where no step was better, the new model is the old one: nobody shall wonder."""
    same = scores(0.48, 0.8), scores(0.48, 0.8)
    rows = [{"val_point": 0.4, "val_box": 0.8}, {"val_point": 0.3, "val_box": 0.7}]
    text = describe_result(result(*same, step=0, history=tuple(rows)))
    assert "No step made it better: mean IoU 0.64 before, 0.60 after at best" in text
    assert "on 7 objects of other images" in text
    assert "the new model has the weights that it was started from" in text
    stopped = describe_result(result(*same, step=0))
    assert "Nothing was scored since it began" in stopped
    assert "so far the new model has the weights" in stopped


def test_names_of_models():
    assert free_name("my nuclei!", set()) == "my-nuclei-tuned"
    assert free_name("a", {"a-tuned", "a-tuned-2"}) == "a-tuned-3"
    assert free_name("///", set()) == "model-tuned"
    assert free_name("nuclei of mouse 07, sec. 12", set()) == (
        "nuclei-of-mouse-07-sec-tuned"
    )
    assert check_name("a-tuned", {"b"}) == ""
    assert "already" in check_name("b", {"b"})
    for wrong in ("", "../up", "a/b", ".hidden", "end."):
        assert check_name(wrong, set())


def test_numbers_of_labels():
    assert read_ids("") == ()
    assert read_ids("1, 3 7") == (1, 3, 7)
    for wrong in ("a", "1.5", "-2", "0"):
        with pytest.raises(SettingsError, match="no numbers"):
            read_ids(wrong)
