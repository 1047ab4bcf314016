"""Parts of a dataset share no patient, no volume and no image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_samseg.core.errors import MissingFileError, SettingsError
from napari_samseg.core.io.coco import CocoDataset, CocoImage, write_coco
from napari_samseg.core.io.coco_splits import (
    group_by,
    missing_images,
    read_splits,
    split_by_group,
    write_splits,
)

SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}


def dataset(sizes, name="P{group}_T1_slice{n}.jpg"):
    images = []
    for group, size in enumerate(sizes):
        for n in range(size):
            file_name = name.format(group=group, n=n)
            images.append(CocoImage(len(images) + 1, file_name, (4, 4)))
    items = {i.image_id: ({"object_id": i.image_id},) for i in images}
    return CocoDataset(tuple(images), items, {1: "lesion"})


@given(st.lists(st.integers(1, 30), min_size=3, max_size=20), st.integers(0, 9))
def test_no_group_is_in_two_parts(sizes, seed):
    whole = dataset(sizes)
    patient = group_by(r"^(P\d+)_")
    parts = split_by_group(whole, SHARES, group_of=patient, seed=seed)
    groups = [{patient(image) for image in part.images} for part in parts.values()]
    assert all(groups), "no part stays empty"
    assert sum(map(len, groups)) == len(sizes)
    assert sum(len(part.images) for part in parts.values()) == len(whole.images)
    for part in parts.values():
        assert part.categories == whole.categories
        assert all(part.of(i)[0]["object_id"] == i.image_id for i in part.images)
    again = CocoDataset(whole.images[::-1], whole.annotations, whole.categories)
    same = split_by_group(again, SHARES, group_of=patient, seed=seed)
    for name, part in parts.items():
        assert set(same[name].images) == set(part.images)


def test_shares_are_met_as_nearly_as_groups_allow():
    parts = split_by_group(dataset([1] * 100), SHARES)
    assert {name: len(part.images) for name, part in parts.items()} == {
        "train": 70,
        "val": 20,
        "test": 10,
    }
    other = split_by_group(dataset([1] * 100), SHARES, seed=1)
    assert set(other["val"].images) != set(parts["val"].images)


def test_planes_of_a_volume_stay_together():
    whole = dataset([9, 9, 9], name="volume{group}.nii.gz")
    parts = split_by_group(whole, {"train": 0.5, "val": 0.5})
    names = [{image.file_name for image in part.images} for part in parts.values()]
    assert names[0].isdisjoint(names[1])


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({}, "sum up to 1"),
        ({"train": 0.5}, "sum up to 1"),
        ({"train": 1.5, "val": -0.5}, "above 0"),
        (SHARES, "3 parts need as many groups, and there are 2"),
    ],
)
def test_splits_that_cannot_be_made(shares, message):
    with pytest.raises(SettingsError, match=message):
        split_by_group(dataset([3, 3]), shares, group_of=group_by(r"P\d"))


def test_groups_that_cannot_be_found():
    with pytest.raises(SettingsError, match="no regular expression"):
        group_by("(")
    with pytest.raises(SettingsError, match="matches nothing in 'P0_T1"):
        split_by_group(dataset([3]), {"all": 1.0}, group_of=group_by("sub-"))


def test_folders_of_a_dataset(tmp_path):
    parts = split_by_group(dataset([2, 2, 2]), SHARES, group_of=group_by(r"P\d"))
    write_splits(tmp_path / "split", parts)
    back = read_splits(tmp_path / "split")
    assert list(back) == ["train", "val", "test"]
    for name, part in parts.items():
        assert back[name].images == part.images
    (tmp_path / "split" / "val").rename(tmp_path / "split" / "valid")
    assert set(read_splits(tmp_path / "split")) == set(SHARES)
    write_coco(tmp_path / "one" / "data" / "annotations.json", dataset([1]))
    assert list(read_splits(tmp_path / "one")) == ["data"]
    with pytest.raises(MissingFileError, match=r"no annotations\.json"):
        read_splits(tmp_path)


def test_images_that_are_not_there_are_listed(tmp_path):
    whole = dataset([1, 1, 1])
    (tmp_path / "images").mkdir()
    (tmp_path / "P0_T1_slice0.jpg").touch()
    (tmp_path / "images" / "P2_T1_slice0.jpg").touch()
    assert missing_images(whole, tmp_path) == ["P1_T1_slice0.jpg"]
    assert np.size(missing_images(whole, tmp_path / "images")) == 2
