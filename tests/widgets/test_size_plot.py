"""The histogram of sizes."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPoint
from qtpy.QtTest import QTest

from napari_samseg.widgets.size_plot import SizePlot, bin_sizes


@pytest.mark.parametrize(
    "sizes", [[1], [7, 7, 7], [1, 2], [1, 10, 100, 10**9], list(range(1, 3000))]
)
def test_every_object_is_in_a_bar(sizes):
    edges, counts = bin_sizes(np.array(sizes, np.int64))
    assert counts.sum() == len(sizes)
    assert (np.diff(edges) > 0).all()


def test_the_pointer_tells_the_numbers_of_a_bar(qtbot):
    plot = SizePlot()
    qtbot.addWidget(plot)
    plot.resize(300, 120)
    plot.show()
    assert plot.title == ""
    plot.show_sizes(np.array([10, 10, 500_000]), limits=(20, 0))
    assert plot.title == "3 objects, median 10 px"
    QTest.mouseMove(plot, QPoint(12, 100))
    qtbot.waitUntil(lambda: plot.title.startswith("2 objects of 10 to "))
    QTest.mouseMove(plot, QPoint(288, 100))
    qtbot.waitUntil(lambda: plot.title.startswith("1 object of "))
    assert not plot.grab().isNull()
    plot.show_sizes(np.zeros(0, np.int64))
    assert plot.title == ""
    assert not plot.grab().isNull()
