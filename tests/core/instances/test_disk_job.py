"""Where work that memory does not hold is kept meanwhile."""

from __future__ import annotations

import zarr

from napari_samseg.core.instances.disk_job import _folder_beside


def test_scratch_is_on_the_disk_of_the_output_but_in_no_image(tmp_path):
    labels = tmp_path / "labels"
    assert _folder_beside(labels / "new.zarr") == labels
    zarr.create_group(tmp_path / "group")
    for image in ("image.zarr", "group"):
        assert _folder_beside(tmp_path / image / "labels" / "new") == tmp_path
