from __future__ import annotations

import numpy as np
import pytest

from napari_samseg.core.instances.components import label_components
from napari_samseg.core.metrics.evaluation import (
    AP_SCORES,
    Evaluation,
    SampleScores,
    score_class_sample,
)


def classes_by_hand() -> tuple[np.ndarray, np.ndarray]:
    """Class 1: a part exact, one of IoU 3/4, one made up; class 2: one missed."""
    true, found = np.zeros((2, 12, 12), np.uint8)
    true[0:2, 0:2] = found[0:2, 0:2] = 1
    true[4:6, 0:8], found[4:6, 0:6] = 1, 1  # 12 of 16
    # parts of two classes touch, and are two objects
    true[6:9, 0:4] = 2
    found[10, 10] = 1
    return found, true


def score(found: np.ndarray, true: np.ndarray, name: str = "a") -> SampleScores:
    return score_class_sample(name, found, true, (1, 2), (1,) * true.ndim)


def test_objects_of_each_class_by_hand() -> None:
    sample = score(*classes_by_hand())
    one, two = (sample.values(name) for name in ("1", "2"))
    counts = sample.instances["1"]
    assert (counts.n_true, counts.n_found) == (2, 3)
    # both match below 0.75, and one from there on
    assert [one[name] for name in AP_SCORES] == [2 / 3] * 5 + [1 / 4] * 5
    assert one["ap"] == pytest.approx((2 / 3 + 1 / 4) / 2)
    assert one["rq"] == pytest.approx(2 * 2 / (2 + 3))
    assert one["sq"] == pytest.approx((1 + 3 / 4) / 2)
    assert one["pq"] == pytest.approx(one["rq"] * one["sq"])
    assert two["ap"] == two["pq"] == 0
    # pooled with a sample in which class 2 is right
    true = classes_by_hand()[1]
    pooled = Evaluation((sample, score(true, true, "b"))).pooled("2")
    assert pooled["pq"] == pytest.approx(2 * 1 / (2 + 1))
    assert pooled["ap50"] == 0.5


def test_parts_that_touch_with_a_corner_and_through_planes_are_one_object() -> None:
    volume = np.zeros((3, 4, 3), np.uint8)
    volume[0, 0, 0], volume[1, 1, 1], volume[2, 3, 0] = 1, 1, 2
    sample = score(volume, volume)
    assert [sample.instances[name].n_true for name in ("1", "2")] == [1, 1]


@pytest.mark.slow(reason="MONAI takes half a minute to import")
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_classes_agree_with_monai() -> None:
    metrics = pytest.importorskip("monai.metrics", reason="MONAI compares the scores")
    import torch

    found, true = classes_by_hand()
    sample = score(found, true)
    one_hot = [
        torch.from_numpy(np.stack([a == 1, a == 2])[None].astype(np.float32))
        for a in (found, true)
    ]
    confusion = metrics.get_confusion_matrix(*one_hot)
    for ours, theirs in (
        ("accuracy", "accuracy"),
        ("sensitivity", "sensitivity"),
        ("specificity", "specificity"),
        ("f1", "f1 score"),
        ("iou", "threat score"),
    ):
        expected = metrics.compute_confusion_matrix_metric(theirs, confusion)[0]
        values = [sample.values(name)[ours] for name in ("1", "2")]
        assert values == pytest.approx(expected.tolist(), abs=1e-6), ours
    dice = metrics.compute_dice(*one_hot)[0].tolist()
    assert [sample.values(n)["dice"] for n in ("1", "2")] == pytest.approx(dice)
    for name in ("pq", "sq", "rq"):
        theirs = metrics.PanopticQualityMetric(2, name, reduction="none")
        # MONAI takes ids and classes
        pair = [
            torch.from_numpy(np.stack([label_components(a), a]).astype(np.int64))[None]
            for a in (found, true)
        ]
        theirs(*pair)
        expected = theirs.aggregate().flatten().tolist()
        values = np.nan_to_num([sample.values(n)[name] for n in ("1", "2")])
        assert values == pytest.approx(expected, abs=1e-5), name


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
