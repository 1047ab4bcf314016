"""Commands show what is going on."""

from __future__ import annotations

import pytest
import rich.progress

from napari_samseg.cli_terminal import show_progress
from napari_samseg.core.types import Progress


def test_ctrl_c_while_drawing_ends_the_work(monkeypatch):
    running = []

    def work():
        running.append(1)
        try:
            while True:
                yield Progress("working")
        finally:
            running.pop()

    def interrupt(self, *args, **fields):
        raise KeyboardInterrupt

    monkeypatch.setattr(rich.progress.Progress, "update", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        show_progress(work())
    assert caught.tb is not None  # the steps are still referred to
    assert running == []
