"""Steps that the window takes in slices."""

from __future__ import annotations

import os
import sys

import pytest
from qtpy.QtCore import QCoreApplication, QEvent

from napari_samseg.widgets.sliced_steps import SlicedSteps

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not os.environ.get("DISPLAY"),
    reason="no display: run under Xvfb (xvfb-run pytest)",
)


def test_nothing_is_cancelled_once_the_timer_is_gone(qtbot):
    """As napari closes, Qt may delete a timer before the panel that stops its job."""
    ended = []
    steps = SlicedSteps(ended.append, lambda progress: None)
    steps.start(iter(()))
    qtbot.waitUntil(lambda: not steps.is_busy, timeout=5000)
    steps._timer.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    with pytest.raises(RuntimeError, match="deleted"):
        steps._timer.stop()
    steps.cancel()
    assert ended == [None]
