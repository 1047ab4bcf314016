"""A strip that shows which planes of a stack are in the store."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from qtpy.QtCore import QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_samseg.core.amounts import count_things

__all__ = ["PlaneStrip"]

STORED, ASKED, LEFT_OUT = QColor("#3fa96b"), QColor("#6d7480"), QColor("#474c55")
ON_VIEW = QColor("#ffffff")
HEIGHT = 14


class PlaneStrip(QWidget):
    """One cell per plane, or as many as there are pixels: green where it is stored.

    A white line marks the plane on view.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stored = np.zeros(0, bool)
        self._range = 0, 0
        self._on_view: int | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(HEIGHT)

    @property
    def stored(self) -> frozenset[int]:
        """Places of the planes that are shown as stored."""
        return frozenset(np.flatnonzero(self._stored).tolist())

    def show_planes(
        self, n: int, stored: Iterable[int], asked: tuple[int, int]
    ) -> None:
        """Show a stack of `n` planes, of which a half-open range is asked for."""
        self._stored = np.zeros(n, bool)
        self._stored[[place for place in stored if place < n]] = True
        self._range = asked
        self.setToolTip(
            f"In the store (green): {np.count_nonzero(self._stored)} of "
            f"{count_things(n, 'plane')}"
        )
        self.update()

    def show_view(self, place: int | None) -> None:
        """Mark the plane on view; None where no plane is."""
        if place != self._on_view:
            self._on_view = place
            self.update()

    def sizeHint(self) -> QSize:
        """Return the size Qt is to give where it can."""
        return QSize(200, HEIGHT)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw runs of planes that look the same as one rectangle each."""
        n = len(self._stored)
        if not n:
            return
        painter = QPainter(self)
        painter.setPen(Qt.PenStyle.NoPen)
        places = np.arange(n)
        is_asked = (places >= self._range[0]) & (places < self._range[1])
        kinds = np.where(self._stored, 2, is_asked.astype(int))
        starts = np.flatnonzero(np.diff(kinds, prepend=-1))
        width, height = self.width() / n, self.height()
        for start, stop in zip(starts, [*starts[1:], n], strict=True):
            painter.setBrush((LEFT_OUT, ASKED, STORED)[kinds[start]])
            # a run of one plane in thousands must show, too
            shown = max(1.0, (stop - start) * width)
            painter.drawRect(QRectF(start * width, 2, shown, height - 4))
        if self._on_view is not None and self._on_view < n:
            painter.setBrush(ON_VIEW)
            middle = (self._on_view + 0.5) * width
            painter.drawRect(QRectF(middle - 1, 0, 2, height))
        painter.end()
