"""OME-Zarr images as arrays: resolution levels, and which axis holds the channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import zarr

from napari_samseg.core.errors import InvalidImageError

__all__ = ["open_ome_zarr"]


def open_ome_zarr(group: zarr.Group) -> tuple[list[zarr.Array[Any]], int | None]:
    """Open the first image of an OME-Zarr group.

    Parameters
    ----------
    group : zarr.Group
        Of OME-NGFF 0.4 (zarr 2) or 0.5 (zarr 3), https://ngff.openmicroscopy.org.

    Returns
    -------
    levels : list of zarr.Array
        Finest first.
    channel_axis : int or None

    Raises
    ------
    InvalidImageError
        If the group is no OME-Zarr image; lists the arrays and groups in it.
    """
    ome = group.attrs.get("ome")
    attributes = ome if isinstance(ome, Mapping) else dict(group.attrs)
    images = attributes.get("multiscales")
    if not isinstance(images, list) or not images:
        names = ", ".join(sorted(group.keys())) or "nothing"
        raise InvalidImageError(
            f"a zarr group that is no OME-Zarr image: choose one of what is in it "
            f"({names})"
        )
    levels = [group[dataset["path"]] for dataset in images[0]["datasets"]]
    arrays = [level for level in levels if isinstance(level, zarr.Array)]
    if len(arrays) != len(levels) or not arrays:
        raise InvalidImageError("an OME-Zarr image whose datasets are no arrays")
    kinds = [axis.get("type") for axis in images[0].get("axes", [])]
    return arrays, kinds.index("channel") if "channel" in kinds else None
