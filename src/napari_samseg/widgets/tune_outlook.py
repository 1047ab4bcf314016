"""What the Fine-tune panel says before a training: counts, doubts, what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from napari_samseg.widgets.dock_panel import make_status_label, show_text
from napari_samseg.widgets.tune_words import describe_counts
from napari_samseg.widgets.workers import describe_failure

if TYPE_CHECKING:
    from napari_samseg.core.training.estimate import TuneEstimate
    from napari_samseg.widgets.model_tuner import Counted

__all__ = ["TuneOutlook"]

COUNTING = "Counting ..."


class TuneOutlook:
    """Three labels, for a layout to put in their places.

    Attributes
    ----------
    counts, doubts, estimate : QLabel
    """

    def __init__(self) -> None:
        self.counts = make_status_label()
        self.counts.setMinimumHeight(18)
        self.doubts = make_status_label()
        self.estimate = make_status_label()
        self._doubts: list[str] = []
        self.clear()

    def clear(self) -> None:
        """Say nothing."""
        show_text(self.counts, "")
        self.begin()

    def begin(self) -> None:
        """Say nothing of a training to come, as one runs."""
        self._end_counting()
        self._show_doubts([])
        self._show_estimate("")

    def start_counting(self) -> None:
        """Say that an answer will come."""
        show_text(self.counts, COUNTING)

    def refuse_choices(self, message: str) -> None:
        """Say what is wrong with what was chosen."""
        show_text(self.counts, message, is_error=True)

    def show_counts(self, counted: Counted) -> None:
        """Say what there is to learn from."""
        counts = counted.n_objects, counted.n_planes, counted.n_images
        show_text(self.counts, describe_counts(*counts))
        self._show_doubts([*counted.doubts, *self._doubts])

    def add_doubt(self, doubt: str) -> None:
        """Say what else may be wrong."""
        self._show_doubts([*self._doubts, doubt])

    def show_estimate(self, estimate: TuneEstimate) -> None:
        """Say what it will take."""
        self._show_estimate(str(estimate))

    def refuse(self, error: Exception) -> None:
        """Say why there will be no training."""
        self._end_counting()
        self._show_estimate(describe_failure(error), is_error=True)

    def _end_counting(self) -> None:
        if self.counts.text() == COUNTING:
            show_text(self.counts, "")

    def _show_estimate(self, text: str, *, is_error: bool = False) -> None:
        show_text(self.estimate, text, is_error=is_error)
        self.estimate.setVisible(bool(text))

    def _show_doubts(self, doubts: Sequence[str]) -> None:
        self._doubts = list(doubts)
        show_text(self.doubts, "\n".join(self._doubts), is_doubt=True)
        self.doubts.setVisible(bool(self._doubts))
