from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.images import open_image
from napari_samseg.core.settings import TuneSettings
from napari_samseg.core.training.images import (
    LabelledImage,
    LabelledPlane,
    distinct,
    divide,
)


def plane(
    image: int,
    at: tuple[int, ...],
    group: str = "a",
    ids: Sequence[int] | np.ndarray = (1, 2, 3),
    places: Sequence[int] | None = None,
    **how: bool,
) -> LabelledPlane:
    """A plane with such objects, one beside the other."""
    where = np.arange(len(ids)) if places is None else np.array(places)
    return LabelledPlane(image, at, group, np.array(ids), where, **how)


def objects_of(side: list[LabelledPlane]) -> set[tuple[int, int]]:
    return {(p.image, int(i)) for p in side for i in p.object_ids}


def planes(groups: dict[str, list[int]]) -> list[LabelledPlane]:
    """Planes of volumes with so many objects each."""
    return [
        plane(i, (z,), group, 1000 * z + np.arange(n))
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
    training, validation, how = divide(every, TuneSettings(validation=0.2), 0)
    assert how == "objects"
    assert training[0].object_ids.tolist() == list(range(7))
    assert validation[0].object_ids.tolist() == [7, 8]
    assert divide(every, TuneSettings(validation=0), 0) == (every, [], "none")


def test_an_object_is_on_one_side_in_all_planes() -> None:
    ids = range(1, 11)
    every = [plane(0, (z,), ids=ids) for z in (0, 2)]
    every.append(plane(0, (1,), ids=range(1, 9)))  # two of them end
    # and a stack in which one crosses the gap
    stack = [plane(0, (z,), ids=(z, 99, 100 + z)) for z in range(40)]
    for volume, expected in ((every, "objects"), (stack, "planes")):
        training, validation, how = divide(volume, TuneSettings(validation=0.2), 0)
        assert how == expected
        assert validation
        assert not objects_of(training) & objects_of(validation)
    # classes have no ids that last: parts in other planes are other objects
    parts = [plane(0, (z,), ids=(1, 2), has_classes=True) for z in range(40)]
    _, validation, how = divide(parts, TuneSettings(validation=0.2), 0)
    assert (how, sum(p.n_objects for p in validation)) == ("planes", 16)
    one = [plane(0, (z,), ids=(1,)) for z in range(40)]
    training, validation, how = divide(one, TuneSettings(validation=0.2), 0)
    assert (how, len(training), len(validation)) == ("sections", 30, 8)


@pytest.mark.parametrize(("n_times", "n_sections"), [(10, 20), (2, 40), (40, 2)])
def test_a_section_is_on_one_side_at_neighbouring_times(n_times, n_sections) -> None:
    every = [
        plane(0, (t, z), ids=(1000 * t + z,))
        for t in range(n_times)
        for z in range(n_sections)
    ]
    training, validation, _ = divide(every, TuneSettings(validation=0.2), 0)
    seen = {p.plane for p in training}
    for p in validation:
        t, z = p.plane
        near = {(t + i, z + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
        assert not near & seen


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 9)),
        min_size=1,
        max_size=30,
        unique=True,
    ),
    st.integers(1, 5),
    st.floats(0.01, 0.9),
    st.integers(0, 9),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_no_side_is_empty(places, n_objects, share, seed, grouped, has_classes) -> None:
    rng = np.random.default_rng(seed)
    every = [
        plane(
            i,
            tuple(at),
            group=f"g{i}" if grouped else "g",
            ids=np.sort(rng.choice(20, n_objects, replace=False)),
            places=rng.integers(0, 9, n_objects).tolist(),
            has_classes=has_classes,
        )
        for i, *at in places
    ]
    training, validation, how = divide(every, TuneSettings(validation=share), seed)
    assert training
    assert all(p.n_objects for p in training + validation)
    by_image = {p.image: set() for p in every}
    for p in every:
        by_image[p.image] |= set(p.object_ids.tolist())
    apart = max(map(len, by_image.values())) > 1 and not has_classes
    assert validation or not (apart or how != "objects")
    sides = ({(p.image, p.plane) for p in side} for side in (training, validation))
    if how in ("planes", "groups"):
        assert not set.intersection(*sides)
    if how in ("planes", "objects") and not has_classes:
        assert not objects_of(training) & objects_of(validation)


def test_named_groups_are_held_out() -> None:
    every = planes({"rat1": [3], "rat6": [4, 2], "rat8": [10]})
    wanted = TuneSettings(held_out="rat6, rat8", validation=0)
    training, validation, how = divide(every, wanted, 0)
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
