"""How long the window waits while many pixels of a Labels layer change, and are undone.

Opens napari: on a machine without a display,
``python tests/on_display.py python benchmarks/time_layer_edit.py``.

Seconds are those of the processor in the main thread: they do not grow with what else
the machine does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_samseg.adapters.layer_edit import LayerEdit
from napari_samseg.widgets.sliced_steps import SlicedSteps

# Round cells of this many pixels across, on as many pixels of background.
CELL, RADIUS = 40, 18


def round_cells(side: int) -> np.ndarray:
    """Return labels (side, side) uint32 of cells in rows, each with an id."""
    place = np.arange(side)
    off = (place % CELL - CELL // 2) ** 2
    cells = place // CELL
    ids = cells[:, np.newaxis] * (cells[-1] + 1) + cells + 1
    is_cell = off[:, np.newaxis] + off < RADIUS**2
    return np.where(is_cell, ids, 0).astype(np.uint32)


class Turns:
    """Notes how long the window has to wait for each of its turns."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = time.thread_time()
        self._timer = QTimer()
        self._timer.timeout.connect(self._note)
        self._timer.start(0)

    def _note(self) -> None:
        now = time.thread_time()
        self.seconds.append(now - self._last)
        self._last = now

    def longest(self) -> float:
        """Return the longest so far, and end."""
        QApplication.processEvents()
        self._timer.stop()
        return max(self.seconds)


def write(layer: napari.layers.Labels, labels: np.ndarray) -> tuple[float, float]:
    """Write labels into a layer; return the seconds it took, and the longest turn."""
    before = layer.data.copy()
    n_changed = int(np.count_nonzero(before != labels))
    edit = LayerEdit(layer, before, labels, n_changed)
    ended: list[Exception | None] = []
    writing = SlicedSteps(ended.append, lambda progress: None)
    start, turns = time.thread_time(), Turns()
    writing.start(edit.steps())
    while not ended:
        QApplication.processEvents()
    took, longest = time.thread_time() - start, turns.longest()
    assert ended == [None]
    assert edit.n_steps == 1
    assert np.array_equal(layer.data, labels)
    return took, longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=8192, help="of the labels, pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    options = parser.parse_args()
    labels = round_cells(options.side)
    viewer = napari.Viewer()
    layer = viewer.add_labels(np.zeros_like(labels))
    for _ in range(20):
        QApplication.processEvents()
    seconds: dict[str, list[float]] = {
        name: [] for name in ("written", "longest wait", "undone", "redrawn alone")
    }
    for _ in range(options.repeats):
        took, longest = write(layer, labels)
        seconds["written"].append(took)
        seconds["longest wait"].append(longest)
        start = time.thread_time()
        layer.undo()
        seconds["undone"].append(time.thread_time() - start)
        assert not layer.data.any()
        start = time.thread_time()
        layer.refresh()
        seconds["redrawn alone"].append(time.thread_time() - start)
    viewer.close()
    n = int(np.count_nonzero(labels))
    print(f"{n:,} of {options.side} x {options.side} pixels change")
    for name, each in seconds.items():
        print(f"{name}: median {statistics.median(each):.3f} s, most {max(each):.3f} s")
    if options.json:
        options.json.write_text(json.dumps({"pixels": n, "seconds": seconds}))


if __name__ == "__main__":
    main()
