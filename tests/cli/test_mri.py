"""The command that prepares MRI volumes."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from napari_samseg.cli import app


@pytest.fixture
def run():
    runner = CliRunner()

    def call(*arguments):
        result = runner.invoke(app, ["prepare-mri", *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    return call


def test_a_part_of_a_real_volume_is_prepared(run, tmp_path, shared_data):
    names = ["patient19_FLAIR_MNI", "patient19_lesions_MNI"]
    for name in names:
        whole = nibabel.load(shared_data / f"mri_ms_lesions/{name}.nii.gz")
        nibabel.save(whole.slicer[::4, ::4, ::4], tmp_path / f"{name}.nii.gz")
    image, lesions = (tmp_path / f"{name}.nii.gz" for name in names)
    out = tmp_path / "out"
    call = (image, "--out", out, "--mask", lesions, "--brain-mask", "--strip")
    status, output, errors = run(*call)
    assert status == 0, errors
    assert f"wrote {out / 'patient19_FLAIR_MNI_prepared.json'}" in output
    before = nibabel.load(lesions)
    after = nibabel.load(out / "patient19_lesions_MNI_prepared.nii.gz")
    np.testing.assert_array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))
    np.testing.assert_array_equal(after.affine, before.affine)
    status, _, errors = run(*call)
    assert status == 2
    assert "is there already" in errors
    status, _, errors = run(tmp_path / "none.nii.gz", "--out", out)
    assert status == 2
    assert "there is no file" in errors
