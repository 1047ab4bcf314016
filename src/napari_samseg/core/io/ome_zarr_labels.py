"""Instance labels as OME-Zarr 0.5: written plane by plane, with a pyramid, and read.

https://ngff.openmicroscopy.org/0.5/#label-md
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_samseg.core.errors import InvalidLabelsError, MissingFileError, OutputError
from napari_samseg.core.io.instance_labels import InstanceLabels, label_planes
from napari_samseg.core.io.json_file import plain_value
from napari_samseg.core.overlay import object_colour
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    import zarr

__all__ = [
    "NewLabels",
    "check_zarr_path",
    "create_ome_zarr_labels",
    "image_of",
    "read_ome_zarr_labels",
    "write_ome_zarr_labels",
]

VERSION = "0.5"
AXES = "tczyx"
CHUNK = 512
# The coarsest level is about this long.
COARSEST = 256
# Colours of more objects would make metadata of megabytes that are read first.
MOST_COLOURS = 65_535


def check_zarr_path(path: Path) -> None:
    """Raise `OutputError` unless labels can be written there.

    A folder is never replaced; and an image of zarr 2 (OME-Zarr up to 0.4) would no
    longer show the labels it has if a group of zarr 3 were made beside theirs.
    """
    if path.exists():
        raise OutputError(
            f"{path} is there already: choose another name, or remove it yourself"
        )
    if image_of(path) is not None:
        for folder in (path.parent, path.parent.parent):
            if (folder / ".zgroup").exists() and not (folder / "zarr.json").exists():
                raise OutputError(
                    f"{folder} is of OME-Zarr 0.4 (zarr 2), and labels are written as "
                    "0.5, which would hide those that it has: choose a folder outside"
                )


def write_ome_zarr_labels(path: Path, instances: InstanceLabels) -> None:
    """Write labels as an OME-Zarr label image.

    Under the name ``image.zarr/labels/NAME``, of a folder that ends so or is a zarr
    group, they become labels of that image, and are
    listed there. Each level has every second row and column of the one before: ids
    are never mixed. Nothing is left if the work ends early.

    Parameters
    ----------
    path : Path
        Must not be there yet.
    instances : InstanceLabels
        (Y, X) up to (T, C, Z, Y, X), numpy, dask or zarr, of which a plane at a time is
        in memory. Properties go along, and a colour for each object.

    Raises
    ------
    OutputError
        If `path` is there, or below an image of zarr 2.
    InvalidLabelsError
        If the labels are none, or have more axes.
    """
    with create_ome_zarr_labels(path, instances) as new:
        ids: set[int] = set()
        for index, plane in label_planes(instances.labels):
            for level, array in enumerate(new.levels):
                array[index] = plane[:: 1 << level, :: 1 << level]
            if len(ids) <= MOST_COLOURS:
                ids.update(np.unique(plane).tolist())
        ids.discard(0)
        new.describe(ids)


@contextmanager
def create_ome_zarr_labels(
    path: Path, instances: InstanceLabels
) -> Iterator[NewLabels]:
    """Make an OME-Zarr label image to be filled until the ``with`` block ends.

    It is there under its name when the block ends, and nothing is left if that happens
    by an error or by cancelling.

    Parameters
    ----------
    path : Path
        Must not be there yet; see `write_ome_zarr_labels`.
    instances : InstanceLabels
        Shape and data type of the labels, whose pixels are not looked at; properties
        and place go along.

    Raises
    ------
    OutputError, InvalidLabelsError
        As `write_ome_zarr_labels`.
    """
    check_zarr_path(path)
    shape = instances.shape
    if not 2 <= len(shape) <= len(AXES):
        raise InvalidLabelsError(
            f"OME-Zarr holds labels of 2 to {len(AXES)} axes, not of shape {shape}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".samseg-", dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        image = image_of(path)
        yield NewLabels(unfinished, instances, None if image is None else "../../")
        unfinished.rename(path)
    if image is not None:
        _list_labels(path)


class NewLabels:
    """An OME-Zarr label image that is being filled.

    Attributes
    ----------
    levels : list of zarr.Array
        Finest first, each half as large as the one before; all 0.
    """

    def __init__(
        self, path: Path, instances: InstanceLabels, source: str | None
    ) -> None:
        import zarr

        self._name, self._instances, self._source = path.name, instances, source
        shape = instances.shape
        names = _axes(len(shape))
        self._group = zarr.create_group(path, zarr_format=3)
        itemsize = np.dtype(instances.labels.dtype).itemsize
        n_levels = 1
        while max(shape[-2:]) > COARSEST << (n_levels - 1):
            n_levels += 1
        self.levels = [
            self._group.create_array(
                str(level),
                shape=(*shape[:-2], *(-(-n >> level) for n in shape[-2:])),
                dtype=f"u{itemsize}",
                chunks=(*(1,) * (len(shape) - 2), *(min(CHUNK, n) for n in shape[-2:])),
                dimension_names=names,
                fill_value=0,
            )
            for level in range(n_levels)
        ]

    def shrink(self) -> Generator[Progress, None, None]:
        """Fill all levels from the finest, plane by plane."""
        n_planes = math.prod(self._instances.shape[:-2])
        for done, (index, plane) in enumerate(label_planes(self.levels[0])):
            yield Progress("making coarser levels", done, n_planes)
            for level, array in enumerate(self.levels[1:], start=1):
                array[index] = plane[:: 1 << level, :: 1 << level]

    def describe(self, ids: Iterable[int]) -> None:
        """Write what the labels are, with a colour for each object."""
        instances, colourful = self._instances, sorted(ids)
        names = _axes(len(instances.shape))
        about: dict[str, Any] = {
            "colors": [
                {"label-value": i, "rgba": [*object_colour(i), 255]}
                for i in (colourful if len(colourful) <= MOST_COLOURS else ())
            ],
            "properties": [
                {**plain_value(known), "label-value": object_id}
                for object_id, known in sorted(instances.properties.items())
                if known
            ],
        }
        if self._source:
            about["source"] = {"image": self._source}
        self._group.attrs["ome"] = {
            "version": VERSION,
            "multiscales": [
                _multiscale(self._name, instances, names, len(self.levels))
            ],
            "image-label": {key: value for key, value in about.items() if value},
        }


def read_ome_zarr_labels(path: Path, name: str | None = None) -> InstanceLabels:
    """Open an OME-Zarr label image, or the labels of an OME-Zarr image.

    Parameters
    ----------
    path : Path
        The label image, or an image with labels.
    name : str, optional
        Which labels of the image, where there are several.

    Returns
    -------
    InstanceLabels
        With a zarr array of the finest level, read when it is asked for.

    Raises
    ------
    MissingFileError
        If there is nothing.
    InvalidLabelsError
        If it holds no labels, or several and no name is given.
    """
    import zarr

    from napari_samseg.core.io.ome_zarr import (
        ome_attributes,
        open_ome_zarr,
        read_steps,
    )

    if not path.exists():
        raise MissingFileError(f"there are no labels {path}")
    try:
        opened = zarr.open(path, mode="r")
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise InvalidLabelsError(
            f"{path} is no zarr array or group: {error}"
        ) from error
    if isinstance(opened, zarr.Array):
        return InstanceLabels(_whole(opened, path))
    attributes = ome_attributes(opened)
    if "image-label" not in attributes:
        opened = _choose(opened, path, name)
        attributes = ome_attributes(opened)
    levels, _ = open_ome_zarr(opened)
    known = attributes.get("image-label")
    return InstanceLabels(
        _whole(levels[0], path),
        _properties(known if isinstance(known, Mapping) else {}),
        **read_steps(opened),
    )


def image_of(path: Path) -> Path | None:
    """Return the image whose labels are to lie there; None in any other folder."""
    image = path.parent.parent
    is_zarr = image.suffix.lower() == ".zarr" or any(
        (image / name).exists() for name in ("zarr.json", ".zgroup")
    )
    return image if path.parent.name == "labels" and is_zarr else None


def _axes(n: int) -> list[str]:
    # a volume is more likely than a row of channels
    return list("tzyx"[-n:] if n < len(AXES) else AXES)


def _multiscale(
    name: str, instances: InstanceLabels, names: list[str], n_levels: int
) -> dict[str, Any]:
    kinds = {"t": "time", "c": "channel"}
    axes: list[dict[str, str]] = [
        {"name": axis, "type": kinds.get(axis, "space")} for axis in names
    ]
    for axis, unit in zip(axes, instances.units or (), strict=False):
        if unit and unit != "pixel" and axis["type"] != "channel":
            axis["unit"] = unit
    scale = instances.scale or (1.0,) * len(names)
    # every level starts at the same pixel
    shift: list[dict[str, Any]] = []
    if any(instances.translation or ()):
        start = list(map(float, instances.translation or ()))
        shift = [{"type": "translation", "translation": start}]
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {
                    "type": "scale",
                    "scale": [
                        float(step) * (1 << level if axis in "yx" else 1)
                        for axis, step in zip(names, scale, strict=True)
                    ],
                },
                *shift,
            ],
        }
        for level in range(n_levels)
    ]
    return {"name": name, "axes": axes, "datasets": datasets, "type": "nearest"}


def _list_labels(path: Path) -> None:
    """Name new labels in the group of all labels of their image."""
    import zarr

    group = zarr.open_group(path.parent, mode="a", zarr_format=3)
    known = group.attrs.get("ome")
    about: dict[str, Any] = dict(known) if isinstance(known, Mapping) else {}
    names = [*about.get("labels", ()), path.name]
    group.attrs["ome"] = {"version": VERSION} | about | {"labels": names}


def _choose(group: zarr.Group, path: Path, name: str | None) -> zarr.Group:
    """Return the labels of an image; the group itself if it has none."""
    import zarr

    from napari_samseg.core.io.ome_zarr import ome_attributes

    below = group.get("labels")
    if not isinstance(below, zarr.Group):
        return group
    names = list(ome_attributes(below).get("labels") or ())
    chosen = [n for n in names if name in (None, n)]
    if len(chosen) != 1:
        raise InvalidLabelsError(
            f"{path} has the labels {', '.join(names) or 'none'}: name one of them"
        )
    found = below.get(chosen[0])
    if not isinstance(found, zarr.Group):
        raise InvalidLabelsError(
            f"{path} lists labels {chosen[0]!r} that are not there"
        )
    return found


def _whole(array: Any, path: Path) -> Any:
    if np.dtype(array.dtype).kind not in "biu":
        raise InvalidLabelsError(
            f"{path} holds an image of {array.dtype}, not labels, which are integers"
        )
    return array


def _properties(known: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    found = {}
    for row in known.get("properties") or ():
        if isinstance(row, Mapping) and isinstance(row.get("label-value"), int):
            values = {k: v for k, v in row.items() if k != "label-value"}
            found[row["label-value"]] = values
    return found
