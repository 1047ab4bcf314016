"""MRI volumes made ready: what is found is what was put in."""

from __future__ import annotations

import json
import os
import stat
import sys

import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_samseg.core.errors import (
    InvalidImageError,
    InvalidLabelsError,
    MissingDependencyError,
    MissingFileError,
    OutputError,
    SettingsError,
    ToolError,
)
from napari_samseg.core.io.nifti import NiftiVolume, read_nifti, write_nifti
from napari_samseg.core.io.voxel_space import VoxelSpace
from napari_samseg.core.mri import MriJob, prepare_mri
from napari_samseg.core.mri_brain import find_brain
from napari_samseg.core.mri_itk import correct_bias, register_steps, resample
from napari_samseg.core.settings import MriSettings
from napari_samseg.core.steps import run_steps

# x runs to the left, as in most scanners' files
SPACE = VoxelSpace(
    np.array([[-4.0, 0, 0, 60], [0, 4, 0, -60], [0, 0, 4, -50], [0, 0, 0, 1]]), 1
)
PLAIN = MriSettings(bias_correction=False)


def grid_mm(shape, space):
    z, y, x = np.indices(shape)
    return np.moveaxis(np.stack([x, y, z, np.ones(shape)], -1) @ space.affine.T, -1, 0)[
        :3
    ]


def draw_head(points):
    """Draw a lopsided head with a soft rim at points (3, ...) in millimetres."""
    rng = np.random.default_rng(3)
    x, y, z = points
    rim = np.sqrt((x / 38) ** 2 + (y / 45) ** 2 + ((z - 0.1 * y) / 34) ** 2)
    tissue = np.full(x.shape, 90.0)
    for _ in range(40):
        middle, size = rng.uniform(-32, 32, 3), rng.uniform(4, 9)
        apart = ((points - middle[:, None, None, None]) ** 2).sum(0)
        tissue += rng.uniform(-60, 60) * np.exp(-apart / (2 * size**2))
    return (tissue / (1 + np.exp(20 * (rim - 1)))).astype(np.float32)


@pytest.fixture(scope="module")
def head():
    shape = (26, 30, 31)
    return NiftiVolume(draw_head(grid_mm(shape, SPACE)), SPACE)


@pytest.fixture
def files(tmp_path, head):
    """An image, a mask on its grid, and a folder to write to."""
    labels = np.zeros(head.array.shape, np.uint8)
    labels[8:14, 10:16, 9:15], labels[15:18, 18:22, 16:20] = 1, 2
    write_nifti(tmp_path / "head.nii.gz", head.array, SPACE)
    write_nifti(tmp_path / "lesions.nii.gz", labels, SPACE, is_label=True)
    return tmp_path


def job(folder, **more):
    return MriJob(folder / "head.nii.gz", folder / "out", **more)


def masks(folder):
    return (folder / "lesions.nii.gz",)


def turn(angle, move, scale=(1, 1, 1)):
    matrix = np.eye(4)
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix[:2, :2] = [[cosine, -sine], [sine, cosine]]
    matrix[:3, :3] = np.diag(scale) @ matrix[:3, :3]
    matrix[:3, 3] = move
    return matrix


@pytest.mark.parametrize(
    ("kind", "matrix"),
    [
        ("rigid", turn(0.15, (6, -5, 4))),
        ("affine", turn(-0.1, (3, 4, -4), (1.08, 0.94, 1.03))),
    ],
)
def test_a_known_move_is_found(head, kind, matrix):
    # another grid, so that nothing fits by accident
    other = VoxelSpace(np.diag([3.5, 4, 4.5, 1.0]), 1)
    other.affine[:3, 3] = (-56, -58, -52)
    points = np.concatenate([grid_mm((24, 29, 32), other), np.ones((1, 24, 29, 32))])
    moved = np.einsum("ij,j...->i...", matrix, points)[:3]
    # as another contrast has it
    fixed = NiftiVolume(200 - draw_head(moved), other)
    found = run_steps(register_steps(head, fixed, kind))
    corners = np.array(
        [[x, y, z, 1] for x in (-30, 30) for y in (-30, 30) for z in (-30, 30)]
    )
    assert np.abs((found - matrix) @ corners.T).max() < 1.5, "less than half a voxel"


def test_resampling_onto_the_same_grid_changes_nothing(head):
    same = resample(head, head, np.eye(4))
    np.testing.assert_allclose(same, head.array, atol=1e-3)
    labels = NiftiVolume((head.array > 50).astype(np.uint16) * 300, SPACE)
    back = resample(labels, head, np.eye(4), nearest=True)
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, labels.array)


def test_slow_changes_of_brightness_are_evened_out():
    rng = np.random.default_rng(0)
    tissue = np.where(gaussian_filter(rng.normal(size=(16, 24, 24)), 2) > 0, 150, 80)
    _, y, x = np.indices(tissue.shape)
    slope = np.exp(0.8 * (x / 23 - 0.5) + 0.5 * (y / 23 - 0.5))
    volume = NiftiVolume((tissue * slope).astype(np.float32), SPACE)
    corrected = correct_bias(volume, np.ones(tissue.shape, bool))
    spread = [
        a[tissue == 150].std() / a[tissue == 150].mean()
        for a in (volume.array, corrected)
    ]
    assert spread[1] < spread[0] / 3


def test_a_brain_inside_a_skull_is_found():
    # thick sections: millimetres count, not voxels
    space = VoxelSpace(np.diag([2.0, 2, 4, 1]), 1)
    points = grid_mm((36, 70, 70), space) - np.array([70, 70, 72])[:, None, None, None]
    radius = np.sqrt((points**2).sum(0))
    rng = np.random.default_rng(0)
    inside = radius < 44
    array = np.where(inside, 100, np.where((radius > 54) & (radius < 60), 120, 5))
    # an eye nerve between brain and skull, and a dark chamber in the middle
    x, y, z = points
    is_nerve = (np.abs(x) < 2) & (np.abs(z) < 3) & (y > 30) & (radius < 60)
    array = np.where(is_nerve, 100, array)
    array = np.where(radius < 9, 5, array) + rng.normal(0, 4, array.shape)
    found = find_brain(NiftiVolume(array.astype(np.float32), space))
    dice = 2 * (found & inside).sum() / (found.sum() + inside.sum())
    assert dice > 0.97
    assert not found[radius > 54].any()


def test_a_brain_without_a_skull_is_found(shared_data):
    path = shared_data / "mri_ms_lesions/patient07_FLAIR_MNI.nii.gz"
    whole = read_nifti(path)
    space = whole.space.cut(0, 0, 2).cut(1, 0, 2).cut(2, 0, 2)
    volume = NiftiVolume(np.array(whole.array[::2, ::2, ::2]), space)
    found, stored = find_brain(volume), volume.array != 0
    assert 2 * (found & stored).sum() / (found.sum() + stored.sum()) > 0.95


def test_all_steps_to_a_reference(files, head):
    matrix = turn(0.1, (5, -3, 2))
    other = VoxelSpace(np.diag([4.0, 4, 4, 1]), 4)
    other.affine[:3, 3] = (-64, -60, -52)
    points = np.concatenate([grid_mm((27, 30, 32), other), np.ones((1, 27, 30, 32))])
    moved = np.einsum("ij,j...->i...", matrix, points)[:3]
    write_nifti(files / "template.nii.gz", draw_head(moved), other)
    before = {p: p.read_bytes() for p in files.glob("*.nii.gz")}
    asked = job(files, masks=masks(files), reference=files / "template.nii.gz")
    settings = MriSettings(registration="rigid", brain_mask=True, strip=True)
    stages = []
    report = run_steps(prepare_mri(asked, settings), lambda p: stages.append(p.stage))
    assert list(dict.fromkeys(stages)) == [
        "reading",
        "finding the brain",
        "correcting the bias",
        "registering",
        "resampling",
        "writing",
    ]
    assert before == {p: p.read_bytes() for p in before}
    image, lesions, brain = (read_nifti(p) for p in report.written[:3])
    for volume in (image, lesions, brain):
        assert volume.array.shape == (27, 30, 32)
        np.testing.assert_allclose(volume.space.affine, other.affine)
        assert volume.space.code == 4
    assert lesions.is_label
    assert set(np.unique(lesions.array)) == {0, 1, 2}
    assert lesions.array.dtype == np.uint8
    inside = brain.array > 0
    # evening out takes some of the contrast of so small a head along
    assert np.corrcoef(image.array[inside], draw_head(moved)[inside])[0, 1] > 0.7
    # lesions lie where they do in the patient
    stored = read_nifti(files / "lesions.nii.gz")
    for label in (1, 2):
        middles = [
            (v.space.affine @ [*np.argwhere(v.array == label).mean(0)[::-1], 1])
            for v in (stored, lesions)
        ]
        assert np.abs(matrix @ middles[1] - middles[0]).max() < 3, "within a voxel"
    record = json.loads(report.written[-1].read_text())
    assert [s["step"] for s in record["steps"]] == [
        "find the brain",
        "correct the bias",
        "strip the skull",
        "bring to reference",
    ]
    np.testing.assert_allclose(
        record["steps"][-1]["matrix_reference_to_image_ras"], matrix, atol=1.5
    )
    assert record["settings"]["registration"] == "rigid"


def test_turned_to_ras_with_its_masks(files, head):
    settings = MriSettings(bias_correction=False, reorient=True)
    report = run_steps(prepare_mri(job(files, masks=masks(files)), settings))
    image, lesions = (read_nifti(p) for p in report.written[:2])
    assert image.space.orientation == lesions.space.orientation == "RAS"
    np.testing.assert_allclose(image.array, head.array[:, :, ::-1], rtol=1e-5)
    stored = read_nifti(files / "lesions.nii.gz").array
    np.testing.assert_array_equal(lesions.array, stored[:, :, ::-1])


def test_one_volume_of_a_series(files, head):
    series = np.stack([head.array, head.array + 1])
    write_nifti(files / "head.nii.gz", series, SPACE)
    with pytest.raises(InvalidImageError, match=r"2 volumes \(4D\).*--volume"):
        run_steps(prepare_mri(job(files), PLAIN))
    with pytest.raises(InvalidImageError, match="0 to 1, and no 2"):
        run_steps(prepare_mri(job(files, volume=2), PLAIN))
    report = run_steps(prepare_mri(job(files, volume=1), PLAIN))
    np.testing.assert_array_equal(read_nifti(report.written[0]).array, series[1])


def test_what_ends_early_leaves_nothing(files):
    steps = prepare_mri(job(files, masks=masks(files)), MriSettings())
    for progress in steps:
        if progress.stage == "writing":
            break
    steps.close()
    assert not (files / "out").exists()


def test_nothing_is_overwritten(files):
    run_steps(prepare_mri(job(files), PLAIN))
    with pytest.raises(OutputError, match="--overwrite"):
        run_steps(prepare_mri(job(files), PLAIN))
    run_steps(prepare_mri(job(files, overwrite=True), PLAIN))
    # a result of this name would be what is read
    image = (files / "out" / "head_prepared.nii.gz").rename(files / "a.nii.gz")
    again = MriJob(image, files, masks=(files / "a_prepared.nii.gz",), overwrite=True)
    write_nifti(files / "a_prepared.nii.gz", np.ones((26, 30, 31), np.uint8), SPACE)
    with pytest.raises(OutputError, match="choose another name"):
        run_steps(prepare_mri(again, PLAIN))


def test_files_that_do_not_belong_together(files, head):
    wrong = files / "wrong.nii.gz"
    asked = job(files, masks=(wrong,))
    with pytest.raises(MissingFileError, match=r"wrong\.nii"):
        run_steps(prepare_mri(asked, PLAIN))
    for array, space, message in (
        (np.ones((26, 30, 30), np.uint8), SPACE, "has the grid"),
        (np.ones((26, 30, 31), np.uint8), SPACE.cut(0, 1, 1), "they lie elsewhere"),
        (np.full((26, 30, 31), 0.5), SPACE, "apply a threshold"),
        (-np.ones((26, 30, 31), np.int16), SPACE, "below 0"),
    ):
        write_nifti(wrong, array, space)
        with pytest.raises(InvalidLabelsError, match=message):
            run_steps(prepare_mri(asked, PLAIN))
    with pytest.raises(OutputError, match="same name"):
        run_steps(prepare_mri(job(files, masks=masks(files) * 2), PLAIN))
    with pytest.raises(SettingsError, match="--brain-mask"):
        run_steps(prepare_mri(job(files), MriSettings(strip=True)))
    assert not (files / "out").exists()


def test_an_unknown_orientation_is_told(files, head):
    unknown = nibabel.Nifti1Image(head.array.T, None)
    unknown.header.set_zooms((4, 4, 4))
    nibabel.save(unknown, files / "head.nii.gz")
    settings = MriSettings(bias_correction=False, registration="none", reorient=True)
    report = run_steps(prepare_mri(job(files), settings))
    assert "does not say how it is oriented" in report.notes[0]
    assert "nothing was turned" in report.notes[1]
    again = job(files, reference=files / "lesions.nii.gz", overwrite=True)
    report = run_steps(prepare_mri(again, settings))
    assert any("left for right" in note for note in report.notes)


def test_labels_that_a_coarser_grid_loses_are_told(files):
    coarse = SPACE.cut(0, 0, 20).cut(1, 0, 20).cut(2, 0, 20)
    write_nifti(files / "coarse.nii.gz", np.ones((2, 2, 2), np.float32), coarse)
    settings = MriSettings(bias_correction=False, registration="none")
    asked = job(files, masks=masks(files), reference=files / "coarse.nii.gz")
    report = run_steps(prepare_mri(asked, settings))
    assert "labels without any voxel" in report.notes[0]


def test_what_is_equal_everywhere_has_no_brain():
    with pytest.raises(InvalidImageError, match="no brain"):
        find_brain(NiftiVolume(np.ones((3, 3, 3), np.float32), SPACE))
    dark = NiftiVolume(-np.ones((3, 3, 3), np.float32), SPACE)
    with pytest.raises(InvalidImageError, match="no voxel is positive"):
        correct_bias(dark, np.ones((3, 3, 3), bool))


# Stands in for FSL: answers each program's call with files as FSL would write them.
FSL = """#!{python}
import json, sys
from pathlib import Path
import nibabel, numpy as np
words = sys.argv[1:]
name = Path(sys.argv[0]).name
with open({log!r}, "a") as log:
    log.write(json.dumps([name, *words]) + "\\n")
if name == "bet":
    image = nibabel.load(words[0] + ".nii.gz")
    mask = (image.get_fdata() > 20).astype("u1")
    nibabel.save(nibabel.Nifti1Image(mask, image.affine), words[1] + "_mask.nii.gz")
elif name == "flirt":
    np.savetxt(words[words.index("-omat") + 1], {matrix})
elif name == "fslreorient2std":
    image = nibabel.as_closest_canonical(nibabel.load(words[0] + ".nii.gz"))
    nibabel.save(image, words[1] + ".nii.gz")
"""


@pytest.fixture
def fsl(tmp_path, monkeypatch):
    if sys.platform == "win32":
        pytest.skip("FSL does not run on Windows")
    programs, log = tmp_path / "fsl" / "bin", tmp_path / "calls"
    programs.mkdir(parents=True)
    # 8 mm along x, in FSL's scaled voxels
    matrix = [[1, 0, 0, 8], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    text = FSL.format(python=sys.executable, log=str(log), matrix=matrix)
    for name in ("bet", "flirt", "fslreorient2std"):
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("FSLDIR", str(programs.parent))

    def calls():
        return [json.loads(line) for line in log.read_text().splitlines()]

    return programs, calls


def test_fsl_is_used_where_it_is_asked_for(files, fsl, head):
    _, calls = fsl
    write_nifti(files / "same.nii.gz", head.array, SPACE)
    settings = MriSettings(
        bias_correction=False, registration="rigid", brain_mask=True, tools="fsl"
    )
    asked = job(files, masks=masks(files), reference=files / "same.nii.gz")
    report = run_steps(prepare_mri(asked, settings))
    bet, flirt = calls()
    assert bet[3:] == ["-R", "-m", "-n"]
    assert flirt[-4:] == ["-dof", "6", "-cost", "mutualinfo"]
    stored = read_nifti(files / "lesions.nii.gz").array
    moved = read_nifti(report.written[1]).array
    # x is not flipped in a left-handed grid: two voxels of 4 mm further along it
    np.testing.assert_array_equal(moved[:, :, 2:], stored[:, :, :-2])
    assert read_nifti(report.written[2]).array.any()


def test_fsl_flips_x_of_right_handed_volumes(files, fsl, head):
    ras = NiftiVolume(head.array, VoxelSpace(np.diag([4.0, 4, 4, 1]), 1))
    labels = np.zeros(head.array.shape, np.uint8)
    labels[10, 12, 14] = 1
    for name, array in (("head", ras.array), ("same", ras.array), ("lesions", labels)):
        write_nifti(files / f"{name}.nii.gz", array, ras.space)
    settings = MriSettings(bias_correction=False, registration="affine", tools="fsl")
    asked = job(files, masks=masks(files), reference=files / "same.nii.gz")
    report = run_steps(prepare_mri(asked, settings))
    assert np.argwhere(read_nifti(report.written[1]).array).tolist() == [[10, 12, 12]]


def test_fsl_turns_axes(files, fsl, head):
    settings = MriSettings(bias_correction=False, reorient=True, tools="fsl")
    report = run_steps(prepare_mri(job(files, masks=masks(files)), settings))
    assert [call[0] for call in fsl[1]()] == ["fslreorient2std"] * 2
    assert read_nifti(report.written[1]).is_label
    np.testing.assert_allclose(
        read_nifti(report.written[0]).array, head.array[:, :, ::-1], rtol=1e-5
    )


def test_a_program_of_fsl_that_fails_or_is_missing(files, fsl):
    programs, _ = fsl
    settings = MriSettings(bias_correction=False, brain_mask=True, tools="fsl")
    (programs / "bet").write_text("#!/bin/sh\necho cannot open volume >&2\nexit 3\n")
    with pytest.raises(ToolError, match="bet failed: cannot open volume"):
        run_steps(prepare_mri(job(files), settings))
    (programs / "bet").unlink()
    with pytest.raises(MissingDependencyError, match="FSL's bet is neither"):
        run_steps(prepare_mri(job(files), settings))


def test_a_program_of_fsl_ends_when_it_is_cancelled(files, fsl):
    programs, _ = fsl
    place = files / "pid"
    (programs / "bet").write_text(f"#!/bin/sh\necho $$ > {place}\nexec sleep 60\n")
    settings = MriSettings(bias_correction=False, brain_mask=True, tools="fsl")
    steps = prepare_mri(job(files), settings)
    for progress in steps:
        if progress.stage == "FSL's bet" and place.exists():
            break
    steps.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(place.read_text()), 0)


def test_simpleitk_is_asked_for_by_name(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(MissingDependencyError, match=r"napari-samseg\[mri\]"):
        run_steps(prepare_mri(job(files), MriSettings()))
