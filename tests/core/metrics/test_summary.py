from __future__ import annotations

import math

import numpy as np
import pytest

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.metrics.summary import bootstrap_interval, extreme_samples


def test_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, 60)
    found = bootstrap_interval([*values, math.nan])
    assert found.n == 60
    assert found.mean == pytest.approx(values.mean())
    # near the normal approximation, which holds for sixty values
    half = 1.96 * values.std() / 60**0.5
    assert found.low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.2 * half)
    assert bootstrap_interval(list(values)) == bootstrap_interval(list(values))
    assert bootstrap_interval(list(values), level=0.5).low > found.low


def test_interval_of_few() -> None:
    assert bootstrap_interval([]).n == 0
    one = bootstrap_interval([0.5, math.nan])
    assert (one.mean, one.n) == (0.5, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    with pytest.raises(SettingsError, match="level"):
        bootstrap_interval([0.5], level=1.0)


def test_samples_to_look_at() -> None:
    scores = {f"s{i}": i / 10 for i in range(10)} | {"none": math.nan}
    found = extreme_samples(scores)
    assert found.best == ("s9", "s8", "s7")
    assert set(found.middle) == {"s3", "s4", "s5"} or set(found.middle) == {
        "s4",
        "s5",
        "s6",
    }
    assert found.worst == ("s0", "s1", "s2")


@pytest.mark.parametrize("count", range(7))
def test_few_samples_are_shown_once(count) -> None:
    found = extreme_samples({f"s{i}": float(i) for i in range(count)})
    shown = [*found.best, *found.middle, *found.worst]
    assert len(shown) == len(set(shown))
    assert len(shown) == min(count, 9)


def test_samples_that_are_all_as_good_are_neither_best_nor_worst() -> None:
    found = extreme_samples(dict.fromkeys("abcdef", 1.0))
    assert (found.best, found.middle, found.worst) == ((), ("a", "b", "c"), ())
