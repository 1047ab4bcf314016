from __future__ import annotations

import numpy as np
import pytest

from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.images import open_image
from napari_samseg.core.settings import TuneSettings
from napari_samseg.core.training.images import (
    LabelledImage,
    LabelledPlane,
    distinct,
    divide,
)


def planes(groups: dict[str, list[int]]) -> list[LabelledPlane]:
    """Planes of volumes with so many objects each."""
    return [
        LabelledPlane(i, (z,), group, n)
        for i, (group, counts) in enumerate(groups.items())
        for z, n in enumerate(counts)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_on_both_sides(seed: int) -> None:
    every = planes({"a": [3, 3], "b": [4], "c": [10], "d": [2, 2, 2], "e": [5]})
    training, validation, how = divide(every, TuneSettings(validation=0.25), seed)
    assert how == "groups"
    seen, held_out = {p.group for p in training}, {p.group for p in validation}
    assert seen
    assert held_out
    assert not seen & held_out
    assert seen | held_out == set("abcde")


@pytest.mark.parametrize("seed", range(5))
def test_the_larger_part_is_learned_from(seed: int) -> None:
    every = planes({"large": [15], "small": [5]})
    training, _, _ = divide(every, TuneSettings(validation=0.2), seed)
    assert [p.group for p in training] == ["large"]
    every = planes({"a": [16], "b": [4]} | {f"c{i}": [2] for i in range(10)})
    training, validation, _ = divide(every, TuneSettings(validation=0.2), seed)
    assert 6 <= sum(p.n_objects for p in validation) <= 10
    assert training


def test_a_volume_is_divided_into_blocks_with_a_gap() -> None:
    training, validation, how = divide(
        planes({"a": [1] * 40}), TuneSettings(validation=0.2), 0
    )
    assert how == "planes"
    assert [p.plane[0] for p in validation] == list(range(32, 40))
    assert [p.plane[0] for p in training] == list(range(30))


def test_what_cannot_be_divided_is_divided_by_objects() -> None:
    every = planes({"a": [9]})
    assert divide(every, TuneSettings(validation=0.2), 0) == (every, every, "objects")
    assert divide(every, TuneSettings(validation=0), 0) == (every, [], "none")


def test_named_groups_are_held_out() -> None:
    every = planes({"rat1": [3], "rat6": [4, 2], "rat8": [10]})
    settings = TuneSettings(held_out="rat6, rat8", validation=0)
    training, validation, how = divide(every, settings, 0)
    assert ({p.group for p in training}, how) == ({"rat1"}, "groups")
    assert {p.group for p in validation} == {"rat6", "rat8"}
    with pytest.raises(SettingsError, match=r"no group rat9 .* are rat1, rat6, rat8"):
        divide(every, TuneSettings(held_out="rat9"), 0)
    with pytest.raises(SettingsError, match="nothing is left to train on"):
        divide(every, TuneSettings(held_out="rat1,rat6,rat8"), 0)


def test_labels_must_fit() -> None:
    source = open_image(np.zeros((4, 6), np.uint8))
    with pytest.raises(InvalidLabelsError, match=r"photo are \(4, 5\).* \(4, 6\)"):
        LabelledImage("photo", source, np.zeros((4, 5), int))
    with pytest.raises(InvalidLabelsError, match="whole numbers"):
        LabelledImage("photo", source, np.zeros((4, 6)))


def test_names_are_made_distinct() -> None:
    source, labels = open_image(np.zeros((4, 6), np.uint8)), np.zeros((4, 6), int)
    names = ("a", "a (2)", "a", "b", "a")
    images = [LabelledImage(name, source, labels) for name in names]
    found = distinct(images)
    assert [image.name for image in found] == ["a", "a (2)", "a (3)", "b", "a (4)"]
    # one name is taken for one patient or animal, so that nothing leaks
    assert [image.group for image in found] == list(names)
