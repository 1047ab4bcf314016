"""All formats of instance labels, told apart by suffix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_samseg.core.errors import (
    InvalidLabelsError,
    LabelOverflowError,
    UnknownNameError,
)
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.ome_tiff import (
    is_known,
    lost_note,
    place_notes,
    unknown_notes,
)
from napari_samseg.core.io.output import check_output_file, check_output_folder
from napari_samseg.core.settings import ConvertSettings

if TYPE_CHECKING:
    from napari_samseg.core.io.coco import CocoDataset

__all__ = [
    "LABEL_FORMATS",
    "LabelFormat",
    "ReadRequest",
    "WriteRequest",
    "find_format",
    "find_writer",
    "list_formats",
]


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What a file may leave open.

    Attributes
    ----------
    image : str or None
        Which image of a file with several, or which labels of an OME-Zarr image.
    shape : tuple of int or None
        (..., Y, X) of the image, for formats that hold no size.
    canonical : bool
        Turn volumes to RAS, of formats that know their orientation.
    """

    image: str | None = None
    shape: tuple[int, ...] | None = None
    canonical: bool = False


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """What labels do not say themselves.

    Attributes
    ----------
    image_name : str
        File name of the image that the labels belong to.
    settings : ConvertSettings
    """

    image_name: str
    settings: ConvertSettings = field(default_factory=ConvertSettings)


Reader = Callable[[Path, ReadRequest], AbstractContextManager[InstanceLabels]]
Writer = Callable[[Path, InstanceLabels, WriteRequest], None]


@dataclass(frozen=True, slots=True)
class LabelFormat:
    """A file format of instance labels.

    Attributes
    ----------
    name, title : str
    suffixes : tuple of str
        The first is the usual one.
    read : callable or None
        Opens a file as `InstanceLabels`, until the ``with`` block ends.
    write : callable or None
    keeps_properties : bool
        What is known of objects, such as their category, goes along.
    keeps_space, keeps_scale : bool
        Where the voxels lie in the patient, and how large they are, goes along.
    keeps_start : bool
        Where the first pixel lies goes along.
    keeps_volume : bool
        Where voxels lie in the patient, and how large they are, goes along,
        of volumes that lie in a patient.
    is_folder : bool
    is_plane : bool
        Holds one plane, and no volume.
    largest_id : int or None
        None where nothing is refused before it is written.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    read: Reader | None
    write: Writer | None
    keeps_properties: bool = False
    keeps_space: bool = False
    keeps_scale: bool = False
    keeps_start: bool = False
    keeps_volume: bool = False
    is_folder: bool = False
    is_plane: bool = False
    largest_id: int | None = None

    def check_out(
        self, path: Path, *, inputs: tuple[Path | None, ...] = (), overwrite: bool
    ) -> None:
        """Make sure that labels can be written without harm to what is there.

        Raises
        ------
        OutputError
            See `napari_samseg.core.io.output.check_output_file`; a folder is never
            replaced.
        """
        if not self.is_folder:
            check_output_file(path, inputs=inputs, overwrite=overwrite)
            return
        from napari_samseg.core.io.ome_zarr_labels import check_zarr_path

        check_zarr_path(path)
        check_output_folder(path.parent)

    def check_shape(self, path: Path, shape: tuple[int, ...]) -> None:
        """Raise `InvalidLabelsError` if a volume is to become a picture."""
        if self.is_plane and len(shape) > 2:
            raise InvalidLabelsError(
                f"{path}: a .png holds one plane, not labels of shape {shape}: write a "
                ".tif or .zarr"
            )

    def check_ids(self, path: Path, highest: int) -> None:
        """Raise `LabelOverflowError` if an id is more than the file can hold."""
        if self.largest_id is not None and highest > self.largest_id:
            raise LabelOverflowError(
                f"id {highest} does not fit {path.name}, whose ids end at "
                f"{self.largest_id}: write a .zarr, or relabel without gaps"
            )

    def space_notes(self, found: InstanceLabels) -> tuple[str, ...]:
        """Return what a person should know if labels go into a file without a space."""
        notes = []
        is_volume = self.keeps_volume and found.space is not None
        if not (self.keeps_scale or is_volume) and is_known(found.scale, found.units):
            notes.append(f"{self.title} {lost_note(found.scale, found.units)}")
        elif self.keeps_scale and not self.keeps_start:
            more = place_notes(found.translation, found.units)
            notes += [f"{self.title} {note}" for note in more]
        if self.keeps_space and found.space is None:
            notes += unknown_notes(found.scale, found.units)
            notes.append(
                "nothing says how the labels are oriented, and the file does not "
                "either: `napari-samseg convert` takes it from their image, see --like"
            )
        return tuple(notes)

    def fits(self, path: Path) -> str:
        """Return the longest of the suffixes that a path has, "" if it has none."""
        name = path.name.lower()
        return max((s for s in self.suffixes if name.endswith(s)), key=len, default="")


@contextmanager
def _read_image(path: Path, request: ReadRequest) -> Iterator[InstanceLabels]:
    from napari_samseg.core.io.label_doubts import instance_doubts, middle_plane
    from napari_samseg.core.io.label_image import (
        holds_palette_labels,
        open_label_image,
        palette_note,
    )
    from napari_samseg.core.io.placement import read_placement

    del request
    with open_label_image(path) as labels:
        notes = []
        if holds_palette_labels(path):
            notes.append(palette_note(path, np.unique(labels).tolist()))
        else:
            notes += instance_doubts(middle_plane(labels), path)
        place = read_placement(path, len(labels.shape))
        yield InstanceLabels(labels, notes=tuple(notes), **place)


def _write_image(path: Path, instances: InstanceLabels, request: WriteRequest) -> None:
    from napari_samseg.core.io.label_image import write_label_image

    del request
    labels = np.asarray(instances.labels[...])
    labels = labels.astype(np.uint8) if labels.dtype == bool else labels
    write_label_image(path, labels, scale=instances.scale, units=instances.units)


def _write_colours(
    path: Path, instances: InstanceLabels, request: WriteRequest
) -> None:
    from napari_samseg.core.io.picture import write_colour_labels

    del request
    write_colour_labels(path, instances.labels)


@contextmanager
def _read_nifti(path: Path, request: ReadRequest) -> Iterator[InstanceLabels]:
    from napari_samseg.core.io.nifti_labels import read_nifti_labels

    yield read_nifti_labels(path, canonical=request.canonical)


def _write_nifti(path: Path, instances: InstanceLabels, request: WriteRequest) -> None:
    from napari_samseg.core.io.nifti_labels import write_nifti_labels

    del request
    write_nifti_labels(path, instances)


@contextmanager
def _read_zarr(path: Path, request: ReadRequest) -> Iterator[InstanceLabels]:
    from napari_samseg.core.io.label_doubts import instance_doubts, middle_plane
    from napari_samseg.core.io.ome_zarr_labels import read_ome_zarr_labels

    found = read_ome_zarr_labels(path, request.image)
    doubts = instance_doubts(middle_plane(found.labels), path)
    yield replace(found, notes=(*found.notes, *doubts))


def _write_zarr(path: Path, instances: InstanceLabels, request: WriteRequest) -> None:
    from napari_samseg.core.io.ome_zarr_labels import write_ome_zarr_labels

    del request
    write_ome_zarr_labels(path, instances)


@contextmanager
def _read_coco(path: Path, request: ReadRequest) -> Iterator[InstanceLabels]:
    from napari_samseg.core.io.coco import read_coco
    from napari_samseg.core.io.coco_labels import coco_to_labels

    yield coco_to_labels(read_coco(path), request.image, request.shape)


def _coco_of(instances: InstanceLabels, request: WriteRequest) -> CocoDataset:
    from napari_samseg.core.io.coco_labels import labels_to_coco

    return labels_to_coco(
        instances,
        request.image_name,
        masks=request.settings.masks,
        parts=request.settings.parts,
        default_category=request.settings.category,
    )


def _write_coco(path: Path, instances: InstanceLabels, request: WriteRequest) -> None:
    from napari_samseg.core.io.coco import write_coco

    write_coco(path, _coco_of(instances, request))


@contextmanager
def _read_lines(path: Path, request: ReadRequest) -> Iterator[InstanceLabels]:
    from napari_samseg.core.io.coco import read_json_lines
    from napari_samseg.core.io.coco_labels import coco_to_labels

    yield coco_to_labels(read_json_lines(path), request.image, request.shape)


def _write_lines(path: Path, instances: InstanceLabels, request: WriteRequest) -> None:
    from napari_samseg.core.io.coco import write_json_lines

    write_json_lines(path, _coco_of(instances, request))


@contextmanager
def _read_geojson(path: Path, request: ReadRequest) -> Iterator[InstanceLabels]:
    from napari_samseg.core.io.geojson import read_geojson

    yield read_geojson(path, request.shape)


def _write_geojson(
    path: Path, instances: InstanceLabels, request: WriteRequest
) -> None:
    from napari_samseg.core.io.geojson import write_geojson

    write_geojson(path, instances, object_type=request.settings.object_type)


def _write_rois(path: Path, instances: InstanceLabels, request: WriteRequest) -> None:
    from napari_samseg.core.io.roi_zip import write_roi_zip

    del request
    write_roi_zip(path, instances)


TIFF = (".tif", ".tiff")
# Of two formats with the same suffix, the first is meant; a longer one goes first.
LABEL_FORMATS: Mapping[str, LabelFormat] = {
    entry.name: entry
    for entry in (
        LabelFormat(
            "tiff",
            "TIFF",
            TIFF,
            _read_image,
            _write_image,
            keeps_scale=True,
            largest_id=2**32 - 1,
        ),
        LabelFormat(
            "png",
            "16-bit PNG",
            (".png",),
            _read_image,
            _write_image,
            is_plane=True,
            largest_id=2**16 - 1,
        ),
        LabelFormat("npy", "NumPy array", (".npy",), _read_image, None),
        LabelFormat(
            "nifti",
            "NIfTI volume",
            (".nii.gz", ".nii"),
            _read_nifti,
            _write_nifti,
            keeps_space=True,
            keeps_scale=True,
            largest_id=2**32 - 1,
        ),
        LabelFormat(
            "ome-zarr",
            "OME-Zarr 0.5 labels",
            (".zarr",),
            _read_zarr,
            _write_zarr,
            keeps_properties=True,
            keeps_scale=True,
            keeps_start=True,
            is_folder=True,
        ),
        LabelFormat(
            "coco",
            "COCO",
            (".json",),
            _read_coco,
            _write_coco,
            keeps_properties=True,
            keeps_volume=True,
        ),
        LabelFormat(
            "jsonl",
            "JSON-lines of boxes and masks",
            (".jsonl",),
            _read_lines,
            _write_lines,
            keeps_properties=True,
            keeps_volume=True,
        ),
        LabelFormat(
            "geojson",
            "GeoJSON for QuPath",
            (".geojson", ".json"),
            _read_geojson,
            _write_geojson,
            keeps_properties=True,
        ),
        LabelFormat("roi", "ImageJ ROIs", (".zip",), None, _write_rois),
        LabelFormat(
            "colour-png",
            "Coloured picture",
            (".colour.png", ".png"),
            None,
            _write_colours,
            is_plane=True,
        ),
    )
}


def find_format(path: Path, name: str = "") -> LabelFormat:
    """Return a format by its name, or the one that a path's suffix means.

    Raises
    ------
    UnknownNameError
        If there is none; lists all.
    """
    if name:
        if name in LABEL_FORMATS:
            return LABEL_FORMATS[name]
        raise UnknownNameError(
            f"there is no label format {name!r}; choose one of "
            f"{', '.join(LABEL_FORMATS)}"
        )
    # `image.zarr/labels/nuclei` has none of its own
    if not path.suffix and any(parent.suffix == ".zarr" for parent in path.parents):
        return LABEL_FORMATS["ome-zarr"]
    fitting = [entry for entry in LABEL_FORMATS.values() if entry.fits(path)]
    if fitting:
        return max(fitting, key=lambda entry: len(entry.fits(path)))
    usual = dict.fromkeys(entry.suffixes[0] for entry in LABEL_FORMATS.values())
    raise UnknownNameError(
        f"{path.name!r} tells no label format: end its name in one of "
        f"{', '.join(usual)}"
    )


def find_writer(path: Path, name: str = "") -> LabelFormat:
    """Return a format that can be written, as `find_format`.

    Raises
    ------
    UnknownNameError
        If there is none.
    InvalidLabelsError
        If it can only be read.
    """
    found = find_format(path, name)
    if found.write is None:
        raise InvalidLabelsError(f"{path}: {found.title} cannot be written, only read")
    return found


def list_formats() -> str:
    """Return all formats in one line: names, suffixes, and what cannot be done."""
    found = []
    for entry in LABEL_FORMATS.values():
        lacks = "" if entry.read else ", written only"
        lacks = lacks if entry.write else ", read only"
        found.append(f"{entry.name} {' '.join(entry.suffixes)}{lacks}")
    return "; ".join(found)
