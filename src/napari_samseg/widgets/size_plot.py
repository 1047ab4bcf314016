"""A small histogram of the sizes of objects, on a logarithmic axis."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

__all__ = ["SizePlot", "bin_sizes"]

BAR, CHOSEN, AXIS = QColor("#3fa9a0"), QColor("#8be0d8"), QColor("#8a919c")
REMOVED = QColor("#c9694f")
HEIGHT = 120
LEFT, RIGHT, TOP, BOTTOM = 8, 8, 20, 20
MOST_BINS = 32
BINS_PER_DECADE = 8


def bin_sizes(
    sizes: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count sizes in bins of equal width on a logarithmic axis.

    Parameters
    ----------
    sizes : (N,) int64
        From 1; at least one.

    Returns
    -------
    edges : (K + 1,) int64
        Whole pixels: bin k holds sizes from edge k up to, without, edge k + 1.
    counts : (K,) int64
    """
    low, high = int(sizes.min()), int(sizes.max()) + 1
    n_bins = math.ceil(BINS_PER_DECADE * math.log10(high / low))
    edges = np.geomspace(low, high, min(MOST_BINS, max(1, n_bins)) + 1)
    edges = np.unique(edges.round().astype(np.int64))
    return edges, np.histogram(sizes, edges)[0].astype(np.int64)


class SizePlot(QWidget):
    """How many objects there are of which size; tells the numbers under the pointer."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes = np.zeros(0, np.int64)
        self._edges, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._limits = 0, 0
        self._hovered: int | None = None
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(HEIGHT)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Objects in each bar, from the smallest sizes on."""
        return self._counts

    @property
    def title(self) -> str:
        """What stands above the bars."""
        if not len(self._sizes):
            return ""
        if self._hovered is None:
            middle = int(np.median(self._sizes))
            return f"{len(self._sizes):,} objects, median {middle:,} px"
        k = self._hovered
        low, high = int(self._edges[k]), int(self._edges[k + 1]) - 1
        span = f"{low:,}" if high <= low else f"{low:,} to {high:,}"
        n = int(self._counts[k])
        return f"{n:,} object{'' if n == 1 else 's'} of {span} px"

    def show_sizes(
        self, sizes: npt.NDArray[np.int64], limits: tuple[int, int] = (0, 0)
    ) -> None:
        """Show other sizes.

        Parameters
        ----------
        sizes : (N,) int64
        limits : (int, int)
            Smallest and largest size that is kept, each 0 for none.
        """
        self._sizes, self._limits, self._hovered = sizes, limits, None
        if len(sizes):
            self._edges, self._counts = bin_sizes(sizes)
        else:
            self._edges = self._counts = np.zeros(0, np.int64)
        self.update()

    def sizeHint(self) -> QSize:
        """Return the size Qt is to give where it can."""
        return QSize(240, HEIGHT)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Tell the numbers of the bar under the pointer."""
        self._hover(self._bar_at(event.position().x()))

    def leaveEvent(self, event: QEvent) -> None:
        """Tell about all objects again."""
        self._hover(None)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the bars, their axis, and the limits."""
        painter = QPainter(self)
        text = self.palette().color(self.foregroundRole())
        font = painter.font()
        font.setPointSizeF(max(7.0, font.pointSizeF() - 1))
        painter.setFont(font)
        painter.setPen(text)
        area = QRectF(0, 0, self.width(), TOP - 2)
        if not len(self._counts):
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, "no objects")
            painter.end()
            return
        painter.drawText(
            area.adjusted(LEFT, 0, -RIGHT, 0), Qt.AlignmentFlag.AlignLeft, self.title
        )
        self._paint_bars(painter)
        self._paint_axis(painter, text)
        painter.end()

    def _paint_bars(self, painter: QPainter) -> None:
        painter.setPen(Qt.PenStyle.NoPen)
        floor, highest = self.height() - BOTTOM, int(self._counts.max())
        for k, n in enumerate(self._counts.tolist()):
            if not n:
                continue
            # one object beside thousands must show, too
            height = max(2.0, (floor - TOP) * n / highest)
            x0, x1 = self._x(self._edges[k]), self._x(self._edges[k + 1])
            painter.setBrush(CHOSEN if k == self._hovered else BAR)
            width = max(1.0, x1 - x0 - 1)
            painter.drawRect(QRectF(x0, floor - height, width, height))

    def _paint_axis(self, painter: QPainter, text: QColor) -> None:
        floor = self.height() - BOTTOM
        painter.setPen(QPen(AXIS, 1))
        painter.drawLine(QPointF(LEFT, floor), QPointF(self.width() - RIGHT, floor))
        low, high = int(self._edges[0]), int(self._edges[-1])
        for limit in self._limits:
            if low < limit < high:
                painter.setPen(QPen(REMOVED, 1, Qt.PenStyle.DashLine))
                x = self._x(limit)
                painter.drawLine(QPointF(x, TOP), QPointF(x, floor))
        painter.setPen(text)
        right = -math.inf
        for value, name in _ticks(low, high):
            x, width = self._x(value), painter.fontMetrics().horizontalAdvance(name)
            place = min(max(LEFT, x - width / 2), self.width() - RIGHT - width)
            painter.drawLine(QPointF(x, floor), QPointF(x, floor + 3))
            if place > right + 6:
                painter.drawText(QPointF(place, self.height() - 4), name)
                right = place + width

    def _x(self, size: float) -> float:
        low, high = math.log(self._edges[0]), math.log(self._edges[-1])
        share = (math.log(size) - low) / max(1e-9, high - low)
        return LEFT + share * (self.width() - LEFT - RIGHT)

    def _bar_at(self, x: float) -> int | None:
        if not len(self._counts):
            return None
        ends = [self._x(edge) for edge in self._edges.tolist()]
        k = int(np.searchsorted(ends, x, side="right")) - 1
        return k if 0 <= k < len(self._counts) else None

    def _hover(self, bar: int | None) -> None:
        if bar != self._hovered:
            self._hovered = bar
            self.update()


def _ticks(low: int, high: int) -> list[tuple[int, str]]:
    """Return round numbers of an axis, and what stands below them."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if high / low > 1e3 else (1, 2, 5)
    values = [m * 10**d for d in decades for m in steps if low <= m * 10**d <= high]
    if len(values) < 2:
        values = [low, high]
    return [(value, _short(value)) for value in values]


def _short(value: int) -> str:
    for factor, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{suffix}"
    return str(value)
