"""Scores of many samples: each one, each class, and all together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from napari_samseg.core.instances.components import label_components
from napari_samseg.core.metrics.instances import (
    AP_THRESHOLDS,
    InstanceScores,
    score_instances,
)
from napari_samseg.core.metrics.pixels import PIXEL_SCORES, PixelCounts, count_classes
from napari_samseg.core.metrics.summary import (
    Extremes,
    Interval,
    bootstrap_interval,
    extreme_samples,
)
from napari_samseg.core.metrics.surface import hausdorff_distance

__all__ = [
    "AP_SCORES",
    "INSTANCE_SCORES",
    "OBJECT",
    "Evaluation",
    "SampleScores",
    "instance_values",
    "score_class_sample",
    "score_instance_sample",
]

Labels = npt.NDArray[np.integer]

# Of instances, the one class there is: everything that is an object.
OBJECT = "object"
# Average precision at each threshold of IoU, by its name in tables.
AP_SCORES = MappingProxyType({f"ap{round(100 * t)}": t for t in AP_THRESHOLDS})
INSTANCE_SCORES = ("ap", *AP_SCORES, "pq", "sq", "rq")


@dataclass(frozen=True, slots=True, eq=False)
class SampleScores:
    """Scores of one image or volume.

    Attributes
    ----------
    name : str
    n_pixels : int
    pixels : mapping of class to PixelCounts
    hd95 : mapping of class to float
        In units of the spacing.
    instances : mapping of class to InstanceScores
        Of the objects of a class, which are its connected parts.
    """

    name: str
    n_pixels: int
    pixels: Mapping[str, PixelCounts]
    hd95: Mapping[str, float]
    instances: Mapping[str, InstanceScores]

    def values(self, class_name: str) -> dict[str, float]:
        """Return all scores of a class by name; none if it is not in this sample."""
        if class_name not in self.pixels:
            return {}
        counts = self.pixels[class_name]
        values = {name: float(getattr(counts, name)) for name in PIXEL_SCORES}
        values["hd95"] = self.hd95[class_name]
        return values | instance_values(self.instances[class_name])

    @property
    def has_classes(self) -> bool:
        """Whether the labels are classes, and no instances."""
        return OBJECT not in self.pixels

    @property
    def rank(self) -> float:
        """What samples are ranked by: panoptic quality, or the mean Dice of classes."""
        if not self.has_classes:
            return self.instances[OBJECT].panoptic_quality
        dices = [counts.dice for counts in self.pixels.values()]
        return float(np.mean(dices)) if dices else math.nan


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Scores of samples.

    Attributes
    ----------
    samples : tuple of SampleScores
    seed : int
        Of the intervals.
    """

    samples: tuple[SampleScores, ...]
    seed: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of any sample, numbers in their order."""
        names = {name for sample in self.samples for name in sample.pixels}
        return tuple(sorted(names, key=lambda name: (len(name), name)))

    def pooled(self, class_name: str) -> dict[str, float]:
        """Return scores from the pixels and objects of all samples together.

        A distance is of a sample: there is none that is pooled. In samples without a
        class, all pixels were rightly left alone.
        """
        counts = PixelCounts.pooled(
            s.pixels.get(class_name, PixelCounts(0, 0, 0, s.n_pixels))
            for s in self.samples
        )
        values = {name: float(getattr(counts, name)) for name in PIXEL_SCORES}
        parts = [
            s.instances[class_name] for s in self.samples if class_name in s.instances
        ]
        return values | (instance_values(InstanceScores.pooled(parts)) if parts else {})

    def intervals(self, class_name: str) -> dict[str, Interval]:
        """Return the mean over samples of each score, with its interval."""
        rows = [s.values(class_name) for s in self.samples if class_name in s.pixels]
        return {
            name: bootstrap_interval([row[name] for row in rows], seed=self.seed)
            for name in (rows[0] if rows else ())
        }

    @property
    def extremes(self) -> Extremes:
        """The best samples, those in the middle, and the worst."""
        return extreme_samples({sample.name: sample.rank for sample in self.samples})


def instance_values(scores: InstanceScores) -> dict[str, float]:
    """Return the scores of instances by their names in tables."""
    return {
        "ap": scores.mean_average_precision,
        **{name: scores.ap_at(threshold) for name, threshold in AP_SCORES.items()},
        "pq": scores.panoptic_quality,
        "sq": scores.segmentation_quality,
        "rq": scores.recognition_quality,
    }


def score_instance_sample(
    name: str, found: Labels, true: Labels, spacing: Sequence[float]
) -> SampleScores:
    """Score instance labels of a sample: its objects, and the pixels of all of them.

    Raises
    ------
    InvalidLabelsError, SettingsError
        If the shapes differ, or the spacing is not of this image.
    """
    counts = count_classes(found != 0, true != 0, (1,))
    distance = hausdorff_distance(found != 0, true != 0, spacing=spacing)
    return SampleScores(
        name,
        true.size,
        {OBJECT: counts[1]},
        {OBJECT: distance},
        {OBJECT: score_instances(found, true)},
    )


def score_class_sample(
    name: str,
    found: Labels,
    true: Labels,
    classes: Sequence[int],
    spacing: Sequence[float],
) -> SampleScores:
    """Score semantic labels of a sample, class by class.

    Each connected part of a class, in a volume of all its planes, is an object;
    neighbours may touch with a corner.

    Raises
    ------
    InvalidLabelsError, SettingsError
        If the shapes differ, or the spacing is not of this image.
    """
    counts = count_classes(found, true, classes)
    distances, instances = {}, {}
    for value in classes:
        masks = found == value, true == value
        distances[str(value)] = hausdorff_distance(*masks, spacing=spacing)
        instances[str(value)] = score_instances(
            *(label_components(mask, is_piece=True) for mask in masks)
        )
    return SampleScores(
        name,
        true.size,
        {str(value): counts[value] for value in classes},
        distances,
        instances,
    )
