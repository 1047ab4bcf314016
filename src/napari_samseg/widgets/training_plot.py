"""The curves of a training while it goes on: loss, and the scores of validations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

__all__ = ["TrainingPlot", "smooth"]

LOSS, IOU, DICE = QColor("#9aa4b2"), QColor("#3ddc97"), QColor("#5aa9e6")
AXIS = QColor("#8a919c")
HEIGHT = 150
LEFT, RIGHT, TOP, BOTTOM = 34, 34, 22, 18
# The loss jumps from batch to batch: what is drawn is its running mean.
SMOOTHING = 0.9
# Scores are drawn on an axis of at least this length, so that noise looks small.
LEAST_SPAN = 0.1


def smooth(values: Sequence[float], weight: float = SMOOTHING) -> list[float]:
    """Return the running mean of values, in which the start has no part too large."""
    smoothed, total, weights = [], 0.0, 0.0
    for value in values:
        total = weight * total + value
        weights = weight * weights + 1
        smoothed.append(total / weights)
    return smoothed


class TrainingPlot(QWidget):
    """Loss over steps on the left axis, IoU and Dice on the right one."""

    def __init__(self) -> None:
        super().__init__()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(HEIGHT)
        self.start(0)

    @property
    def losses(self) -> list[tuple[int, float]]:
        """Step and loss of all points."""
        return sorted(self._losses.items())

    @property
    def scores(self) -> list[tuple[int, float, float]]:
        """Step, IoU and Dice of all validations, that before the first step too."""
        return [(step, *scores) for step, scores in sorted(self._scores.items())]

    def start(self, steps: int) -> None:
        """Begin anew, with an axis of so many steps."""
        self._steps = steps
        # by step: a training that is resumed makes some steps again
        self._losses: dict[int, float] = {}
        self._scores: dict[int, tuple[float, float]] = {}
        self.update()

    def recall(
        self, losses: Mapping[int, float], scores: Mapping[int, tuple[float, float]]
    ) -> None:
        """Show what a training that is resumed has done so far, and nothing else.

        Parameters
        ----------
        losses : mapping of step to loss
        scores : mapping of step to IoU and Dice
        """
        self._losses, self._scores = dict(losses), dict(scores)
        self.update()

    def add_loss(self, step: int, loss: float, steps: int) -> None:
        """Add the loss of a step, of so many."""
        self._steps = steps
        self._losses[step] = loss
        self.update()

    def add_scores(self, step: int, iou: float, dice: float) -> None:
        """Add the mean scores of a validation."""
        self._scores[step] = iou, dice
        self.update()

    def sizeHint(self) -> QSize:
        """Return the size Qt is to give where it can."""
        return QSize(260, HEIGHT)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw axes, curves, and what they are."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = painter.font()
        font.setPointSizeF(max(7.0, font.pointSizeF() - 1))
        painter.setFont(font)
        if not self._losses and not self._scores:
            painter.setPen(AXIS)
            painter.drawText(
                self.rect(),
                Qt.AlignmentFlag.AlignCenter,
                "loss and scores will show here",
            )
            painter.end()
            return
        self._paint_legend(painter)
        self._paint_axes(painter)
        self._paint_losses(painter)
        if self._scores:  # a training may have nothing to validate on
            self._paint_scores(painter)
        painter.end()

    # -- parts -----------------------------------------------------------------------

    def _paint_legend(self, painter: QPainter) -> None:
        parts = []
        if self._losses:
            parts.append((LOSS, f"loss {self._smoothed[-1]:.2f}"))
        if self._scores:
            _, iou, dice = self.scores[-1]
            parts += [(IOU, f"IoU {iou:.3f}"), (DICE, f"Dice {dice:.3f}")]
        x = float(LEFT)
        for color, text in parts:
            painter.setPen(color)
            painter.drawText(QPointF(x, 13), text)
            x += painter.fontMetrics().horizontalAdvance(text) + 14

    def _paint_axes(self, painter: QPainter) -> None:
        floor, right = self.height() - BOTTOM, self.width() - RIGHT
        painter.setPen(QPen(AXIS, 1))
        painter.drawLine(QPointF(LEFT, floor), QPointF(right, floor))
        steps = f"{self._steps} steps"
        width = painter.fontMetrics().horizontalAdvance(steps)
        painter.drawText(QPointF(LEFT, self.height() - 4), "0")
        painter.drawText(QPointF(right - width, self.height() - 4), steps)
        if self._losses:
            low, high = self._loss_range
            self._paint_ends(painter, LOSS, (low, high), is_left=True)
        if self._scores:
            self._paint_ends(painter, IOU, self._score_range, is_left=False)

    def _paint_ends(
        self,
        painter: QPainter,
        color: QColor,
        ends: tuple[float, float],
        *,
        is_left: bool,
    ) -> None:
        painter.setPen(color)
        x = 2 if is_left else self.width() - RIGHT + 4
        align = Qt.AlignmentFlag.AlignRight if is_left else Qt.AlignmentFlag.AlignLeft
        align |= Qt.AlignmentFlag.AlignVCenter
        for value, y in zip(ends, (self.height() - BOTTOM, TOP), strict=True):
            area = QRectF(x, y - 7, LEFT - 6, 14)
            painter.drawText(
                area, align | Qt.AlignmentFlag.AlignVCenter, f"{value:.2f}"
            )

    def _paint_losses(self, painter: QPainter) -> None:
        steps = [step for step, _ in self.losses]
        thin = QColor(LOSS)
        thin.setAlpha(70)
        painter.setPen(QPen(thin, 1))
        raw = [loss for _, loss in self.losses]
        painter.drawPolyline(self._line(steps, raw, self._loss_range))
        painter.setPen(QPen(LOSS, 1.5))
        painter.drawPolyline(self._line(steps, self._smoothed, self._loss_range))

    def _paint_scores(self, painter: QPainter) -> None:
        scores = self.scores
        steps = [step for step, _, _ in scores]
        for color, column in ((DICE, 2), (IOU, 1)):
            values = [row[column] for row in scores]
            line = self._line(steps, values, self._score_range)
            before = QPen(color, 1, Qt.PenStyle.DotLine)
            painter.setPen(before)
            end = QPointF(self.width() - RIGHT, line[0].y())
            painter.drawLine(line[0], end)
            painter.setPen(QPen(color, 2))
            painter.drawPolyline(line)
            painter.setBrush(color)
            for point in line:
                painter.drawEllipse(point, 2.0, 2.0)
            painter.setBrush(Qt.BrushStyle.NoBrush)

    # -- scales ----------------------------------------------------------------------

    @property
    def _smoothed(self) -> list[float]:
        return smooth([loss for _, loss in self.losses])

    @property
    def _loss_range(self) -> tuple[float, float]:
        values = [loss for loss in self._losses.values() if math.isfinite(loss)]
        if not values:
            return 0.0, 1.0
        # one bad batch is not to press the rest flat
        return 0.0, max(1e-6, float(np.quantile(values, 0.98)) * 1.1)

    @property
    def _score_range(self) -> tuple[float, float]:
        values = [v for pair in self._scores.values() for v in pair]
        values = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(values) - 0.02, max(values) + 0.02
        if high - low < LEAST_SPAN:
            middle = (low + high) / 2
            low, high = middle - LEAST_SPAN / 2, middle + LEAST_SPAN / 2
        return max(0.0, low), min(1.0, high)

    def _line(
        self, steps: Sequence[int], values: Sequence[float], ends: tuple[float, float]
    ) -> QPolygonF:
        width, height = self.width() - LEFT - RIGHT, self.height() - TOP - BOTTOM
        low, high = ends
        line = QPolygonF()
        for step, value in zip(steps, values, strict=True):
            if math.isfinite(value):
                share = min(1.0, max(0.0, (value - low) / (high - low)))
                x = LEFT + width * step / max(1, self._steps)
                line.append(QPointF(x, TOP + height * (1 - share)))
        return line
