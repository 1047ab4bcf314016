"""What is kept while a model learns: its best and its last weights, with their cards.

`napari_samseg.core.training.result` writes them; here is which, and what their cards
say of how they were made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_samseg.core.models.tuned_card import card_scores, read_card
from napari_samseg.core.models.weights import TUNED_FILE
from napari_samseg.core.training.presets import TuningPlan
from napari_samseg.core.training.result import TuneResult, write_tuned
from napari_samseg.core.training.unfinished import LAST
from napari_samseg.core.training.validation import ValidationScores

if TYPE_CHECKING:
    from napari_samseg.core.models.sam import SamModel
    from napari_samseg.core.training.images import LabelledImage

__all__ = ["KeptWeights"]


class KeptWeights:
    """The best and the last weights of a training, in its folder.

    Parameters
    ----------
    folder : Path
    images : sequence of LabelledImage
        What is trained on, for the cards.
    plan : TuningPlan

    Attributes
    ----------
    base : dict of str to str
        Name and hash of the model that it starts from.
    n_training, n_validation : int
        Objects on both sides.
    before, now, after : ValidationScores or None
        Of the model that it starts from, of the last validation, and of the best
        weights.
    step : int
        Of the best weights.
    """

    def __init__(
        self, folder: Path, images: Sequence[LabelledImage], plan: TuningPlan
    ) -> None:
        self.base: dict[str, str] = {}
        self.n_training = self.n_validation = 0
        self.before: ValidationScores | None = None
        self.now: ValidationScores | None = None
        self.after: ValidationScores | None = None
        self.step = 0
        self._folder, self._images, self._plan = folder, images, plan

    def keep_start(self, model: SamModel) -> None:
        """Write the model that it starts from as the best so far.

        Whoever learns nothing from here on has the model that was there before.
        """
        self.after = self.before
        self._write(TUNED_FILE, model, 0, self.before)

    def keep_best(self, model: SamModel, step: int) -> None:
        """Write weights whose validation was the last one, as the best."""
        self.after, self.step = self.now, step
        self._write(TUNED_FILE, model, step, self.now)

    def keep_last(self, model: SamModel, step: int) -> None:
        """Write weights as the last; as the best too, where nothing is validated."""
        self._write(LAST, model, step, self.now)
        if not self.n_validation:
            self.step = step
            self._write(TUNED_FILE, model, step, None)

    def take_up(self) -> None:
        """Read the scores and the step of the best weights from their card.

        Without a card that can be read they stay unknown.
        """
        card = read_card(self._folder / TUNED_FILE)
        kinds = ("box", "point", "box_dice", "point_dice")
        self.after = None
        try:
            scores = card_scores(card)[1]
            box, point, box_dice, point_dice = (
                float(scores.get(kind, math.nan)) for kind in kinds
            )
            step = int(card["step"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        if scores:
            self.step = step
            self.after = ValidationScores(
                box,
                point,
                box_dice,
                point_dice,
                error=math.nan,
                n_objects=self.n_validation,
            )

    def result(self, history: Sequence[Mapping[str, float]], split: str) -> TuneResult:
        """Return what there is so far.

        Parameters
        ----------
        history : sequence of dict
            A row for each validation.
        split : str
            How images were divided.
        """
        best, last = self._folder / TUNED_FILE, self._folder / LAST
        return TuneResult(
            best if best.exists() else last,
            last,
            tuple(history),
            self.before,
            self.after,
            split,
            self.step,
        )

    def _write(
        self, name: str, model: SamModel, step: int, scores: ValidationScores | None
    ) -> None:
        before = self.before
        card = {
            "base": self.base,
            "step": step,
            "images": [
                {"name": image.name, "group": image.group} for image in self._images
            ],
            "objects": {
                "training": self.n_training,
                "validation": self.n_validation,
            },
            "settings": self._plan.as_dict(),
            "scores": {
                "before": None if before is None else before.as_dict(),
                "after": None if scores is None else scores.as_dict(),
            },
            "errors": {
                "before": None if before is None else before.errors(),
                "after": None if scores is None else scores.errors(),
                "change": None if scores is None else scores.errors(before),
            },
        }
        write_tuned(self._folder / name, model, card)
