"""Planes of a volume: ranges, axes, empty ones."""

from __future__ import annotations

import numpy as np
import pytest

from napari_samseg.core.errors import (
    InvalidImageError,
    InvalidLabelsError,
    SettingsError,
)
from napari_samseg.core.io.coco_labels import coco_to_labels, labels_to_coco
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.nifti import read_nifti
from napari_samseg.core.io.nifti_labels import write_nifti_labels
from napari_samseg.core.io.plane_cut import cut_planes, read_slice
from napari_samseg.core.io.voxel_space import VoxelSpace
from napari_samseg.core.settings import ConvertSettings

# x runs to the left, y to the front, z to the head
LAS = VoxelSpace(np.diag([-2.0, 3, 4, 1]), 1)


@pytest.fixture
def found():
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[2, 3:5, 4:6] = 1
    labels[5, 5, 5] = labels[5, 8, 9] = 2
    return InstanceLabels(labels, scale=LAS.spacing, space=LAS)


def test_without_a_choice_all_stays(found):
    assert cut_planes(found, ConvertSettings()) is found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2:7:2", (2, 4, 6)),
        (":3", (0, 1, 2)),
        ("7", (7,)),
        ("-1", (7,)),
    ],
)
def test_ranges(found, text, expected):
    cut = cut_planes(found, ConvertSettings(slices=text))
    assert cut.cut.numbers == expected
    np.testing.assert_array_equal(cut.labels, found.labels[list(expected)])


@pytest.mark.parametrize("axis", ["z", "y", "x", "coronal", "sagittal"])
def test_every_axis_through_coco_and_back(found, axis):
    settings = ConvertSettings(axis=axis, drop_empty=True)
    cut = cut_planes(found, settings)
    assert all(plane.any() for plane in cut.labels)
    assert "planes empty: left out" in cut.notes[-1]
    coco = labels_to_coco(cut, "v.nii.gz", parts=True)
    back = coco_to_labels(coco, shape=found.shape)
    np.testing.assert_array_equal(back.labels, found.labels)


def test_parts_are_annotations_of_one_object(found):
    plane = InstanceLabels(found.labels[5])
    whole, parts = (labels_to_coco(plane, "p", parts=on) for on in (False, True))
    assert [len(d.annotations[1]) for d in (whole, parts)] == [1, 2]
    assert {item["object_id"] for item in parts.annotations[1]} == {2}
    assert sum(item["area"] for item in parts.annotations[1]) == 2
    np.testing.assert_array_equal(coco_to_labels(parts).labels, found.labels[5])


def test_a_part_of_a_volume_lies_where_it_did(tmp_path, found):
    cut = cut_planes(found, ConvertSettings(axis="y", slices="3:9:2"))
    assert cut.labels.shape == (3, 8, 10)
    assert cut.scale == (6, 4, 2)
    write_nifti_labels(tmp_path / "p.nii", cut)
    part = read_nifti(tmp_path / "p.nii")
    np.testing.assert_array_equal(part.array, found.labels[:, 3:9:2])
    np.testing.assert_allclose(
        part.space.affine @ [1, 2, 1, 1], LAS.affine @ [1, 3 + 2 * 2, 1, 1]
    )


def test_planes_with_gaps_are_no_volume(tmp_path, found):
    labels = found.labels.copy()
    labels[3, 0, 0] = 1
    gaps = cut_planes(
        InstanceLabels(labels, space=LAS), ConvertSettings(drop_empty=True)
    )
    assert gaps.cut.numbers == (2, 3, 5)
    with pytest.raises(InvalidLabelsError, match="keep the empty planes"):
        write_nifti_labels(tmp_path / "p.nii", gaps)


def test_wrong_choices(found):
    with pytest.raises(InvalidLabelsError, match="no plane is left"):
        cut_planes(found, ConvertSettings(slices="20:30"))
    with pytest.raises(InvalidLabelsError, match="that is not empty"):
        cut_planes(found, ConvertSettings(slices=":2", drop_empty=True))
    with pytest.raises(InvalidLabelsError, match=r"a volume \(Z, Y, X\)"):
        cut_planes(InstanceLabels(found.labels[0]), ConvertSettings(slices="1"))
    with pytest.raises(InvalidLabelsError, match="--like"):
        cut_planes(InstanceLabels(found.labels), ConvertSettings(axis="axial"))
    unknown = InstanceLabels(found.labels, space=VoxelSpace(LAS.affine))
    with pytest.raises(InvalidImageError, match="orientation"):
        cut_planes(unknown, ConvertSettings(axis="axial"))
    with pytest.raises(SettingsError, match="not one of"):
        ConvertSettings(axis="w")
    for text in ("a", "1:2:0", "1:2:3:4", "1-2", "5:1:-1"):
        with pytest.raises(SettingsError, match="from:to:step"):
            read_slice(text)
