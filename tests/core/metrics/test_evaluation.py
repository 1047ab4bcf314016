from __future__ import annotations

import numpy as np
import pytest

from napari_samseg.core.metrics.evaluation import Evaluation, score_class_sample


def test_samples_without_a_class_count_where_all_are_pooled() -> None:
    first = np.array([[1, 1, 0, 0], [0, 0, 0, 0]]), np.array([[1, 0, 0, 0], [0] * 4])
    second = np.full((2, 4), 2), np.full((2, 4), 2)

    def pooled(*classes: tuple[int, ...]) -> dict[str, float]:
        samples = [
            score_class_sample(str(i), found, true, of, (1, 1))
            for i, (of, (found, true)) in enumerate(
                zip(classes, (first, second), strict=True)
            )
        ]
        return Evaluation(tuple(samples)).pooled("1")

    # the classes that each sample has, or those of all of them
    assert pooled((1,), (2,)) == pooled((1, 2), (1, 2))
    assert pooled((1,), (2,))["specificity"] == pytest.approx(14 / 15)
