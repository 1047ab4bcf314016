from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from bids_datasets import draw_fibres, save
from ome_zarr_images import write_image
from PIL import Image
from scipy import ndimage

from napari_samseg.core.errors import (
    InvalidLabelsError,
    MissingFileError,
    SettingsError,
)
from napari_samseg.core.io.coco import CocoDataset, CocoImage, write_coco
from napari_samseg.core.io.coco_labels import labels_to_coco
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.ome_zarr_labels import write_ome_zarr_labels
from napari_samseg.core.training import open_files
from napari_samseg.core.training.files import TrainingFiles, open_training_files


def discs(n: int = 3, seed: int = 0) -> np.ndarray:
    """Objects far apart, (60, 90) uint16."""
    y, x = np.indices((60, 90))
    labels = np.zeros(y.shape, np.uint16)
    rng = np.random.default_rng(seed)
    for i in range(n):
        radius = rng.uniform(6, 11)
        labels[np.hypot(y - 15 - 14 * (i % 3), x - 15 - 28 * i) < radius] = 7 * i + 3
    return labels


def photograph(labels: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (60 + 90 * (labels > 0) + rng.integers(0, 20, labels.shape)).astype(np.uint8)


def read_all(files: TrainingFiles) -> dict[str, tuple[str, list[np.ndarray]]]:
    """Names, groups, and the labels of all planes."""
    with open_training_files(files) as images:
        found = {}
        for image in images:
            assert np.asarray(image.source.levels[0][..., 0]).size
            planes = [np.asarray(image.labels[plane]) for plane in image.planes]
            found[image.name] = (image.group, planes)
        return found


def test_folders_by_name_and_what_lacks_its_labels(tmp_path: Path) -> None:
    truth = {name: discs(seed=i) for i, name in enumerate(("a", "b", "c", "D", "e"))}
    for name, labels in truth.items():
        save(tmp_path / "images" / f"{name}.png", photograph(labels))
    true = tmp_path / "labels"
    true.mkdir()
    tifffile.imwrite(true / "a_labels.tif", truth["a"])
    save(true / "b-mask.png", truth["b"])
    np.save(true / "c.npy", truth["c"])
    np.save(true / "d_Seg.npy", truth["D"])
    # what follows another name is not labels of `a`
    tifffile.imwrite(true / "a_2_labels.tif", truth["b"])
    (true / "notes.txt").write_text("e is missing")
    with pytest.warns(UserWarning, match=r"^1 images have no labels.*: e\.png$"):
        found = read_all(TrainingFiles(tmp_path / "images", true))
    assert list(found) == ["D.png", "a.png", "b.png", "c.png"]
    for name, (group, (plane,)) in found.items():
        assert np.array_equal(plane, truth[Path(name).stem])
        assert group.endswith(name)


def test_images_and_labels_in_one_folder(tmp_path: Path) -> None:
    labels = discs()
    for name in ("a", "b"):
        save(tmp_path / f"{name}.png", photograph(labels))
        tifffile.imwrite(tmp_path / f"{name}_labels.tif", labels)
    found = read_all(TrainingFiles(tmp_path, tmp_path))
    assert list(found) == ["a.png", "b.png"]
    assert np.array_equal(found["b.png"][1][0], labels)


def test_no_more_files_are_open_than_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = discs()
    for i in range(9):
        save(tmp_path / "images" / f"{i}.png", photograph(np.roll(labels, i, 1)))
        save(tmp_path / "labels" / f"{i}.png", np.roll(labels, i, 1))
    made, open_now = [], []
    plain = open_files.OpenFiles.get

    def watch(self, key, opening):  # type: ignore[no-untyped-def]
        value = plain(self, key, opening)
        open_now.append(len(self._open))
        made.append(self)
        return value

    monkeypatch.setattr(open_files.OpenFiles, "get", watch)
    folders = TrainingFiles(tmp_path / "images", tmp_path / "labels")
    with open_training_files(folders) as images:
        # back and forth: closed files are opened again
        for i in (0, 8, 3, 0):
            plane = np.asarray(images[i].labels[()])
            assert np.array_equal(plane, np.roll(labels, i, 1))
    assert max(open_now) == open_files.MOST_OPEN
    assert not made[0]._open


def test_volumes_of_patients_by_a_pattern(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "mri_ms_lesions"
    for name in ("patient07", "patient19"):
        image = nibabel.load(source / f"{name}_FLAIR_MNI.nii.gz")
        truth = nibabel.load(source / f"{name}_lesions_MNI.nii.gz")
        (tmp_path / name / "t1").mkdir(parents=True)
        for what, volume in (("flair", image), ("mask", truth)):
            cut = volume.slicer[:, :, 80:84]
            nibabel.save(cut, tmp_path / name / "t1" / f"{name}_{what}.nii.gz")
    files = TrainingFiles(
        tmp_path / "*/t1/*_flair.nii.gz",
        tmp_path / "*/t1/*_mask.nii.gz",
        semantic=True,
        group=r"/(patient\d+)/",
    )
    found = read_all(files)
    assert list(found) == [
        f"{n}/t1/{n}_flair.nii.gz" for n in ("patient07", "patient19")
    ]
    for name, (group, planes) in found.items():
        assert group == name[:9]
        truth = nibabel.load(tmp_path / name.replace("flair", "mask"))
        for z, plane in enumerate(planes):
            expected, n = ndimage.label(truth.get_fdata()[..., z].T, np.ones((3, 3)))
            assert plane.max() == n
            assert np.array_equal(plane > 0, expected > 0)
    # a mask that is turned is no mask of this image
    wrong = tmp_path / "patient07/t1/patient07_mask.nii.gz"
    nibabel.save(nibabel.load(wrong).slicer[::-1], wrong)
    with pytest.raises(InvalidLabelsError, match=r"patient07_mask.*elsewhere.*convert"):
        read_all(files)


def test_coco_and_its_images(tmp_path: Path) -> None:
    truth = {f"{n}.png": discs(seed=i) for i, n in enumerate(("s1_a", "s1_b", "s2_a"))}
    images, annotations = [], {}
    for i, (name, labels) in enumerate(truth.items()):
        part = labels_to_coco(InstanceLabels(labels), name)
        images.append(CocoImage(i, name, labels.shape))
        annotations[i] = part.of(part.images[0])
        save(tmp_path / "pictures" / name, photograph(labels))
    path = tmp_path / "annotations.json"
    write_coco(path, CocoDataset(tuple(images), annotations, {1: "object"}))
    files = TrainingFiles(tmp_path / "pictures", path, group=r"s\d(?=_)")
    found = read_all(files)
    assert [group for group, _ in found.values()] == ["s1", "s1", "s2"]
    for name, (_, (plane,)) in found.items():
        assert np.array_equal(plane, truth[name])
    (tmp_path / "pictures" / "s1_b.png").unlink()
    with pytest.raises(MissingFileError, match=r"1 images of .*s1_b\.png the first"):
        read_all(files)
    with pytest.raises(SettingsError, match="objects, not classes"):
        read_all(TrainingFiles(tmp_path / "pictures", path, semantic=True))
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({"images": 3}))
    with pytest.raises(InvalidLabelsError, match=r"broken\.json"):
        read_all(TrainingFiles(tmp_path / "pictures", broken))


def test_a_bids_dataset(tmp_path: Path) -> None:
    axon, myelin = draw_fibres()
    picture = np.where(axon, 255, np.where(myelin, 127, 0)).astype(np.uint8)
    for sub in ("01", "02", "10"):
        name = f"sub-{sub}_sample-1_TEM"
        save(tmp_path / f"sub-{sub}" / "micr" / f"{name}.png", picture)
        if sub != "10":
            folder = tmp_path / "derivatives" / "labels" / f"sub-{sub}" / "micr"
            save(folder / f"{name}_seg-axonmyelin-manual.png", picture)
    files = TrainingFiles(
        tmp_path, bids_labels="seg-axonmyelin-manual", semantic=True, classes=(255,)
    )
    with pytest.warns(UserWarning, match=r"1 images have no seg-axon.*sub-10"):
        found = read_all(files)
    assert [group for group, _ in found.values()] == ["sub-01", "sub-02"]
    for _, (plane,) in found.values():
        assert np.array_equal(plane > 0, axon)
        assert plane.max() == 2
    with pytest.raises(MissingFileError, match=r"labels seg-nothing: sub-01"):
        read_all(TrainingFiles(tmp_path, bids_labels="seg-nothing"))


def test_labels_of_an_ome_zarr_image(tmp_path: Path) -> None:
    labels = np.stack([discs(seed=i) for i in range(3)])
    path = tmp_path / "volume.zarr"
    write_image(path, photograph(labels), axes="zyx", version="0.5")
    write_ome_zarr_labels(path / "labels" / "cells", InstanceLabels(labels))
    for given in (path, path / "labels" / "cells"):
        ((name, (_, planes)),) = read_all(TrainingFiles(path, given)).items()
        assert name == "volume.zarr"
        assert np.array_equal(planes, labels)


@pytest.mark.parametrize("is_soft", [False, True])
def test_classes_are_those_of_the_file(tmp_path: Path, *, is_soft: bool) -> None:
    axon, myelin = draw_fibres((120, 160))
    plain = np.where(axon, 255, np.where(myelin, 127, 0)).astype(np.uint8)
    shown = plain
    if is_soft:
        shown = ndimage.gaussian_filter(plain.astype(float), 0.8).astype(np.uint8)
    Image.fromarray(photograph(plain)).save(tmp_path / "image.png")
    # one plane of the stack lacks a class
    stack = np.stack([shown, np.where(shown > 130, 0, shown)])
    tifffile.imwrite(tmp_path / "image.tif", np.stack([photograph(plain)] * 2))
    tifffile.imwrite(tmp_path / "labels.tif", stack)
    paths = tmp_path / "image.tif", tmp_path / "labels.tif"
    chosen = TrainingFiles(*paths, semantic=True, classes=(255,))
    ((_, (first, second)),) = read_all(chosen).values()
    assert (first > 0)[axon].mean() > 0.9
    assert not (first > 0)[~axon & ~myelin].any()
    if not is_soft:
        assert np.array_equal(first > 0, axon)
        assert not second.any()
    # small class numbers are no shades of grey
    tifffile.imwrite(
        paths[1], np.stack([np.where(axon, 2, myelin).astype(np.uint8)] * 2)
    )
    ((_, planes),) = read_all(TrainingFiles(*paths, semantic=True)).values()
    assert np.array_equal(planes[0] > 0, axon | myelin)
    assert planes[0].max() == 4


def test_what_a_person_should_know(tmp_path: Path) -> None:
    mask = np.where(discs(), 255, 0).astype(np.uint8)
    save(tmp_path / "a.png", photograph(mask))
    save(tmp_path / "mask.png", mask)
    with pytest.warns(UserWarning, match=r"mask\.png looks like a picture of a mask"):
        read_all(TrainingFiles(tmp_path / "a.png", tmp_path / "mask.png"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = TrainingFiles(tmp_path / "a.png", tmp_path / "mask.png", semantic=True)
        assert read_all(files)["a.png"][1][0].max() == 3


def test_what_does_not_go_together(tmp_path: Path) -> None:
    labels = discs()
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    image, true = tmp_path / "images" / "a.png", tmp_path / "labels" / "a.png"
    save(image, photograph(labels))
    save(true, labels[:, :-1])
    gone = tmp_path / "gone"
    for given, error, words in (
        ((image, true), InvalidLabelsError, r"a\.png are \(60, 89\).* \(60, 90\)"),
        ((gone, true), MissingFileError, "no file or folder .*gone"),
        ((image, gone), MissingFileError, "no file or folder .*gone"),
        ((image.parent, true), InvalidLabelsError, "two files, or two folders"),
        ((image, None), SettingsError, "where the labels are"),
        ((image.parent / "*.png", true), InvalidLabelsError, "as many stars"),
        (
            (image.parent / "*.tif", true.parent / "*.tif"),
            MissingFileError,
            "same name",
        ),
    ):
        with pytest.raises(error, match=words):
            read_all(TrainingFiles(*given))
    save(true, labels)
    for group, words in (
        ("(", "no regular expression"),
        ("rat", "'rat' finds nothing"),
    ):
        with pytest.raises(SettingsError, match=words):
            read_all(TrainingFiles(image, true, group=group))
    np.save(true.parent / "a.npy", labels)
    with pytest.raises(InvalidLabelsError, match=r"several labels.*a\.npy, a\.png"):
        read_all(TrainingFiles(image.parent, true.parent))
    shutil.rmtree(true.parent)
    true.parent.mkdir()
    with pytest.raises(MissingFileError, match=r"no image of .* same name"):
        read_all(TrainingFiles(image.parent, true.parent))
    with pytest.raises(SettingsError, match="not said to be semantic"):
        TrainingFiles(image, true, classes=(1,))
