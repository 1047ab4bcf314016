"""Objects as regions of interest for ImageJ's ROI Manager."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.instances.outlines import Outline, outlines_of
from napari_samseg.core.io.instance_labels import InstanceLabels, label_planes

if TYPE_CHECKING:
    from roifile import ImagejRoi

__all__ = ["write_roi_zip"]

# Commands of a path in a composite region.
MOVE_TO, LINE_TO, CLOSE = 0.0, 1.0, 4.0


def write_roi_zip(path: Path, instances: InstanceLabels) -> None:
    """Write the objects of a label map as ROIs, along the edges of their pixels.

    Objects are named by their ids, in volumes by plane and id. Those with holes or in
    several parts become composite ROIs.

    Parameters
    ----------
    path : Path
        Ends in ``.zip``.
    instances : InstanceLabels
        (Y, X), (Z, Y, X) or (T, Z, Y, X).

    Raises
    ------
    InvalidLabelsError
        If the labels are none, or have more axes.
    """
    if not 2 <= len(instances.shape) <= 4:
        raise InvalidLabelsError(
            "ImageJ's ROIs are those of planes, volumes and time series of volumes, "
            f"not of labels of shape {instances.shape}"
        )
    from roifile import roiwrite

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".samseg-", dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        roiwrite(unfinished, _rois(instances), mode="w")
        unfinished.replace(path)


def _rois(instances: InstanceLabels) -> Iterator[ImagejRoi]:
    for index, plane in label_planes(instances.labels):
        for object_id, outlines in outlines_of(plane).items():
            name = "-".join(f"{number:04}" for number in (*index, object_id))
            if len(outlines) == 1 and not outlines[0].holes:
                roi = _polygon(outlines[0])
            else:
                roi = _composite(outlines)
            roi.name = name
            # ImageJ counts from 1; a stack has one position, a hyperstack two
            if len(index) == 1:
                roi.position = index[0] + 1
            elif len(index) == 2:
                roi.t_position, roi.z_position = index[0] + 1, index[1] + 1
            yield roi


def _polygon(outline: Outline) -> ImagejRoi:
    from roifile import ROI_TYPE, ImagejRoi

    roi = ImagejRoi.frompoints(outline.exterior[:, ::-1])
    roi.roitype = ROI_TYPE.TRACED
    # `frompoints` takes corners for pixels, and makes room for one more
    roi.right, roi.bottom = roi.right - 1, roi.bottom - 1
    return roi


def _composite(outlines: list[Outline]) -> ImagejRoi:
    from roifile import ROI_TYPE, ImagejRoi

    path: list[float] = []
    for outline in outlines:
        for ring in outline.rings:
            for command, (y, x) in zip(
                (MOVE_TO, *(LINE_TO,) * (len(ring) - 1)), ring.tolist(), strict=True
            ):
                path += (command, x, y)
            path.append(CLOSE)
    corners = np.concatenate([outline.exterior for outline in outlines])
    top, left = corners.min(axis=0).tolist()
    bottom, right = corners.max(axis=0).tolist()
    return ImagejRoi(
        roitype=ROI_TYPE.RECT,
        top=top,
        left=left,
        bottom=bottom,
        right=right,
        shape_roi_size=len(path),
        multi_coordinates=np.array(path, np.float32),
    )
