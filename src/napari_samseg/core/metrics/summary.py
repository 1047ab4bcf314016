"""What scores of samples say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from napari_samseg.core.errors import SettingsError

__all__ = ["Extremes", "Interval", "bootstrap_interval", "extreme_samples"]

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over samples, and how sure it is.

    Attributes
    ----------
    mean, low, high : float
        NaN where there is no sample, or, for the bounds, only one.
    n : int
        Samples that have a score.
    """

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Extremes:
    """Names of samples, by score.

    Attributes
    ----------
    best, middle, worst : tuple of str
        The best first; those nearest to the median; the worst first. None is in two.
    """

    best: tuple[str, ...]
    middle: tuple[str, ...]
    worst: tuple[str, ...]


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of samples, with the interval between percentiles of resampled means.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13: samples
    are drawn with replacement, 2,000 times. Samples are what varies: give one value
    for each image, volume or patient, not for each object.

    Parameters
    ----------
    values : floats
        NaN, a score that is not defined for a sample, is left out.
    level : float in 0..1
        Share of the resampled means in the interval.
    seed : int

    Raises
    ------
    SettingsError
        If `level` is out of bounds.
    """
    if not 0 < level < 1:
        raise SettingsError(f"the level of an interval is between 0 and 1, not {level}")
    array = np.asarray(values, float)
    array = array[np.isfinite(array)]
    if len(array) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(array.mean())
    if len(array) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    rng = np.random.default_rng(seed)
    means = [
        float(array[rng.integers(0, len(array), len(array))].mean())
        for _ in range(RESAMPLES)
    ]
    tail = 50 * (1 - level)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(mean, float(low), float(high), len(array))


def extreme_samples(scores: Mapping[str, float], count: int = 3) -> Extremes:
    """Choose samples to look at.

    Parameters
    ----------
    scores : mapping of name to float
        Higher is better; a sample whose score is NaN is left out.
    count : int
        How many of each, fewer where there are not enough. Samples that are all as
        good are neither: they are all in the middle.
    """
    known = {name: s for name, s in scores.items() if math.isfinite(s)}
    if len(known) > 1 and len(set(known.values())) == 1:
        return Extremes((), tuple(sorted(known)[:count]), ())
    order = sorted(known, key=lambda name: (-known[name], name))
    count = max(1, min(count, math.ceil(len(order) / 3)))
    worst = order[max(count, len(order) - count) :]
    between = order[count : len(order) - len(worst)]
    median = float(np.median(list(known.values()))) if known else 0.0
    nearest = sorted(between, key=lambda name: (abs(known[name] - median), name))
    return Extremes(tuple(order[:count]), tuple(nearest[:count]), tuple(worst[::-1]))
