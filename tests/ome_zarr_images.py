"""OME-Zarr images as other programs write them."""

from __future__ import annotations

import numpy as np
import zarr

KINDS = {"t": "time", "c": "channel"}
AXES = [{"name": name, "type": KINDS.get(name, "space")} for name in "czyx"]


def write_image(path, data: np.ndarray, *, axes: str = "czyx", version: str = "0.4"):
    """Write an image and a second level of half its rows and columns."""
    about = {
        "axes": [{"name": name, "type": KINDS.get(name, "space")} for name in axes],
        "datasets": [{"path": "0"}, {"path": "1"}],
    }
    is_old = version == "0.4"
    group = zarr.create_group(
        path,
        zarr_format=2 if is_old else 3,
        attributes={"multiscales": [about | {"version": version}]}
        if is_old
        else {"ome": {"version": version, "multiscales": [about]}},
    )
    for name, level in (("0", data), ("1", data[..., ::2, ::2])):
        chunks = (*(1,) * (level.ndim - 2), *level.shape[-2:])
        group.create_array(name, data=np.ascontiguousarray(level), chunks=chunks)
