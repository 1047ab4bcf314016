"""What scores decide in a training: the learning rate, and which weights are kept."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import NamedTuple

from napari_samseg.core.settings import LoopSettings

__all__ = ["Score", "ScoreBoard", "learning_rate_at"]

# The plateau schedule: by how much a score must rise to count (as a share), after how
# many validations without that the rate falls, to what share, and for how many it then
# rests: the settings of MSSegSAM.
RISE, STALE, FALL, REST, LEAST_RATE = 1e-3, 3, 0.1, 3, 1e-7


def learning_rate_at(step: int, settings: LoopSettings) -> float:
    """Linear warm-up, then constant, or a half cosine down to `final_rate`.

    What the plateau schedule takes off comes on top.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule != "cosine":
        return settings.learning_rate
    span = max(settings.steps - settings.warmup_steps, 1)
    done = min((step - settings.warmup_steps) / span, 1.0)
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    share = settings.final_rate + (1 - settings.final_rate) * cosine
    return settings.learning_rate * share


class Score(NamedTuple):
    """What a validation says: higher is better.

    Attributes
    ----------
    value : float
    each : tuple of float
        Of each object, the same ones in the same order each time: the value is their
        mean. Without them, nothing is known of chance.
    """

    value: float
    each: tuple[float, ...] = ()

    def is_no_worse(self, other: Score) -> bool:
        """Whether this is higher, or lower by less than chance explains.

        That is one standard error of the differences between the same objects, which
        is much smaller than that of either score: objects that are hard are so for
        both. Of one object, nothing is known of chance.
        """
        if self.value > other.value:
            return True
        if len(self.each) < 2 or len(self.each) != len(other.each):
            return False
        changes = [now - then for now, then in zip(self.each, other.each, strict=True)]
        error = statistics.stdev(changes) / math.sqrt(len(changes))
        return statistics.fmean(changes) > -error


@dataclass(slots=True)
class ScoreBoard:
    """What validations have said so far."""

    start: float = -math.inf  # of the weights that it began with
    best: float = -math.inf
    best_each: tuple[float, ...] = ()  # of the objects, by the best
    best_step: int = 0
    stale: int = 0  # validations in a row that were no better
    bad: int = 0  # those since the rate fell and rested
    rest: int = 0
    factor: float = 1.0  # of the learning rate

    def note(self, scored: Score, step: int, settings: LoopSettings) -> bool:
        """Take in a score; return whether its weights are to be kept.

        Those are the last ones whose score cannot be told from the highest: of few
        objects, the highest score is mostly luck, and learning longer is better
        (Breiman's rule of one standard error, turned to the side of more steps). None
        that is no better than what the training began with is kept.
        """
        score = scored.value
        best = Score(self.best, self.best_each)
        is_kept = score > self.start and scored.is_no_worse(best)
        is_better = self.best == -math.inf or score - self.best > RISE * abs(self.best)
        self.stale = 0 if is_better else self.stale + 1
        self.bad = 0 if is_better else self.bad + 1
        if score > self.best:
            self.best, self.best_each = score, scored.each
        if is_kept:
            self.best_step = step
        if settings.schedule == "plateau":
            self._fall(settings)
        return is_kept

    def _fall(self, settings: LoopSettings) -> None:
        if self.rest:
            self.rest -= 1
            self.bad = 0
        elif self.bad > STALE:
            least = LEAST_RATE / max(settings.learning_rate, LEAST_RATE)
            self.factor = max(self.factor * FALL, least)
            self.bad, self.rest = 0, REST
