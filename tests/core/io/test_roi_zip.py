"""ROIs as ImageJ reads them."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from roifile import ROI_TYPE, roiread

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.instances.outlines import Outline, fill_outlines
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.roi_zip import write_roi_zip


def fill(roi, shape):
    """Paint a ROI by the even-odd rule, as ImageJ does with its paths."""
    found = roi.coordinates(multi=True)
    rings = found if isinstance(found, list) else [found]
    mask = np.zeros(shape, bool)
    for ring in rings:
        (y0, x0, y1, x1), part = fill_outlines([Outline(ring[:, ::-1])], shape)
        mask[y0:y1, x0:x1] ^= part
    return mask


def test_real_neurons(tmp_path, shared_data):
    neurons = tifffile.imread(shared_data / "em_fib25_neuroproof/gt_bodies.tif")[:2]
    write_roi_zip(tmp_path / "n.zip", InstanceLabels(neurons))
    back = np.zeros(neurons.shape, neurons.dtype)
    kinds = set()
    for roi in roiread(tmp_path / "n.zip"):
        z, object_id = map(int, roi.name.split("-"))
        assert roi.position == z + 1
        mask = fill(roi, neurons.shape[1:])
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert (roi.top, roi.bottom) == (rows[0], rows[-1] + 1)
        assert (roi.left, roi.right) == (columns[0], columns[-1] + 1)
        back[z][mask] = object_id
        kinds.add(roi.roitype)
    np.testing.assert_array_equal(back, neurons)
    assert kinds == {ROI_TYPE.TRACED, ROI_TYPE.RECT}


def test_times_and_planes_and_nothing(tmp_path):
    labels = np.zeros((2, 3, 4, 4), int)
    labels[1, 2, 1, 1] = 5
    path = tmp_path / "folder" / "n.zip"
    write_roi_zip(path, InstanceLabels(labels))
    roi = roiread(path)
    roi = roi[0] if isinstance(roi, list) else roi
    assert (roi.t_position, roi.z_position, roi.name) == (2, 3, "0001-0002-0005")
    write_roi_zip(path, InstanceLabels(labels * 0))
    assert roiread(path) == []
    with pytest.raises(InvalidLabelsError, match="planes, volumes and time series"):
        write_roi_zip(path, InstanceLabels(labels[np.newaxis]))
