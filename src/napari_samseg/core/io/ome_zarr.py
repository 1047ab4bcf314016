"""OME-Zarr images as arrays: resolution levels, and which axis holds the channels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import zarr

from napari_samseg.core.errors import InvalidImageError

__all__ = ["image_metadata", "ome_attributes", "open_ome_zarr", "read_steps"]

# An image lies so deep in a plate: row, well, field.
DEPTH = 3
# Images that are named where one is to be chosen.
MOST_NAMED = 12
# Before 0.3, images had these axes and did not say so.
FIRST_AXES = ("t", "c", "z", "y", "x")


def open_ome_zarr(group: zarr.Group) -> tuple[list[zarr.Array[Any]], int | None]:
    """Open the image of an OME-Zarr group.

    Parameters
    ----------
    group : zarr.Group
        Of OME-NGFF up to 0.4 (zarr 2) or of 0.5 (zarr 3),
        https://ngff.openmicroscopy.org; or what bioformats2raw makes of a file with
        one image.

    Returns
    -------
    levels : list of zarr.Array
        Finest first.
    channel_axis : int or None

    Raises
    ------
    InvalidImageError
        If the group is no OME-Zarr image, or holds several; lists what is in it.
    """
    image = image_metadata(group)
    if image is None:
        return open_ome_zarr(_only_series(group))
    names = [dataset.get("path") for dataset in image.get("datasets", [])]
    if not names:
        raise InvalidImageError("its OME-Zarr metadata name no arrays")
    levels = [_array(group, name) for name in names]
    axes = image.get("axes") or FIRST_AXES
    channels = [i for i, axis in enumerate(axes) if _is_channel(axis)]
    return levels, channels[0] if channels else None


def image_metadata(group: zarr.Group) -> Mapping[str, Any] | None:
    """Return what an OME-Zarr image says of itself, None if it is no image."""
    images = ome_attributes(group).get("multiscales")
    if not isinstance(images, list) or not images:
        return None
    image = images[0]
    return image if isinstance(image, Mapping) else None


def ome_attributes(group: zarr.Group) -> Mapping[str, Any]:
    """Return the attributes of OME-NGFF, which since 0.5 have a key of their own."""
    ome = group.attrs.get("ome")
    return ome if isinstance(ome, Mapping) else dict(group.attrs)


def read_steps(group: zarr.Group) -> dict[str, Any]:
    """Return where the pixels of the finest level of an image lie.

    Returns
    -------
    dict
        ``scale``, ``units`` and ``translation``, of all axes, as far as it says so.
    """
    image = image_metadata(group) or {}
    axes, found = image.get("axes") or (), dict[str, Any]()
    for dataset in list(image.get("datasets") or ())[:1]:
        for change in dataset.get("coordinateTransformations") or ():
            kind = change.get("type")
            values = change.get(kind) if kind in ("scale", "translation") else None
            if isinstance(values, list) and len(values) == len(axes):
                found[kind] = tuple(map(float, values))
    if "scale" in found:
        found["units"] = tuple(
            axis.get("unit", "pixel") if isinstance(axis, Mapping) else "pixel"
            for axis in axes
        )
    return found


def _is_channel(axis: object) -> bool:
    return axis == "c" or (isinstance(axis, Mapping) and axis.get("type") == "channel")


def _array(group: zarr.Group, name: object) -> zarr.Array[Any]:
    array = group.get(str(name))
    if not isinstance(array, zarr.Array):
        raise InvalidImageError(
            f"its OME-Zarr metadata name an array {name!r} that is not there"
        )
    return array


def _only_series(group: zarr.Group) -> zarr.Group:
    """Return the only image that bioformats2raw has put into a group."""
    found = list(_images(group, DEPTH))
    if "bioformats2raw.layout" in ome_attributes(group):
        series = [name for name in found if name.isdigit()]
        if len(series) == 1 and isinstance(only := group[series[0]], zarr.Group):
            return only
    if found:
        more = ", ..." if len(found) > MOST_NAMED else ""
        names = ", ".join(found[:MOST_NAMED])
        raise InvalidImageError(
            f"it is a zarr group with images in it: choose one of them ({names}{more})"
        )
    names = ", ".join(name for name, _ in _members(group)) or "nothing"
    raise InvalidImageError(
        f"it is a zarr group that is no OME-Zarr image: choose one of what is in it "
        f"({names})"
    )


def _images(group: zarr.Group, depth: int) -> Iterator[str]:
    """Yield the paths of images in a group, no more than can be named and one."""
    n_found = 0
    for name, below in _members(group):
        if not isinstance(below, zarr.Group):
            continue
        inside = [""] if image_metadata(below) is not None else []
        if depth > 1:
            inside += _images(below, depth - 1)
        for path in inside:
            yield f"{name}/{path}".rstrip("/")
            n_found += 1
            if n_found > MOST_NAMED:
                return


def _members(group: zarr.Group) -> list[tuple[str, Any]]:
    """Return the arrays and groups in a group, by name, in order."""
    with warnings.catch_warnings():
        # other files may lie there, such as METADATA.ome.xml
        warnings.filterwarnings("ignore", "Object at", UserWarning)
        return sorted(group.members())
