"""A short score of the training by the common protocol, on held-out images."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
from pack import PackedImage
from scoring import score_plane
from torch import nn

from napari_samseg.core.contrast import normalise_plane
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.models.tiny import fold_batch_norm, prompt_prior
from napari_samseg.core.predict import Predictor
from napari_samseg.core.settings import ImageSettings, TileSettings
from napari_samseg.core.training.schedule import Score
from napari_samseg.core.types import Progress

# images of a set that are scored at most, spread over it
MOST_IMAGES = 12


class Validation:
    """The common protocol on some objects of the validation images.

    Parameters
    ----------
    images : list of PackedImage
        Those of split "val" are scored, each set with the same weight.
    objects : int
        Scored of each image at most; of a set of few images more, so that sets have
        about as many.
    clicks : sequence of int
        Corrections after which points are scored too, which takes as long again each.

    Attributes
    ----------
    figures : dict of str to float
        Mean IoU of each set by box and point, and corrected, of the last time.
    """

    def __init__(
        self, images: list[PackedImage], objects: int, *, clicks: Sequence[int] = ()
    ) -> None:
        self.clicks = clicks
        self.images: list[tuple[PackedImage, int]] = []
        by_set: dict[str, list[PackedImage]] = {}
        for image in images:
            if image.split == "val":
                by_set.setdefault(image.source.split("/")[0], []).append(image)
        for members in by_set.values():
            chosen = members[:: max(len(members) // MOST_IMAGES, 1)][:MOST_IMAGES]
            many = objects * max(MOST_IMAGES // (2 * len(chosen)), 1)
            self.images += [(image, many) for image in chosen]
        self.figures: dict[str, float] = {}

    def __call__(self, module: nn.Module) -> Generator[Progress, None, Score]:
        """Score the weights of a `TrainedModel`: mean over sets, boxes and points."""
        device = next(module.parameters()).device
        model = SamModel(
            fold_batch_norm(module.sam),
            name="trained",
            family="tiny",
            device=device,
            prior=prompt_prior,
        )
        scores: dict[str, list[float]] = {}
        for k, (image, many) in enumerate(self.images):
            yield Progress("scoring", k, len(self.images))
            # already normalised when it was packed
            plane = normalise_plane(image.pixels, ImageSettings(normalisation="none"))
            found = score_plane(
                Predictor(model),
                plane,
                image.labels[0],
                k,
                max_objects=many,
                tiles=TileSettings("whole"),
                clicks=self.clicks,
            )
            source = image.source.split("/")[0]
            for name in ("box", "point"):
                values = getattr(found.prompts, name)
                scores.setdefault(f"{source}_{name}", []).extend(values)
            if self.clicks:
                scores.setdefault(f"{source}_corrected", []).extend(found.clicks[:, -1])
        self.figures = {k: float(np.mean(v)) for k, v in scores.items() if v}
        return Score(float(np.mean(list(self.figures.values()))))
