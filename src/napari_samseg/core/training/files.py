"""Images and labels for training, from files, folders and datasets.

Files are opened when they are read, so that a dataset may be of any size. What is
labelled by classes becomes objects plane by plane: each connected part of a class is
one.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from napari_samseg.core.errors import (
    InvalidLabelsError,
    MissingFileError,
    SettingsError,
)
from napari_samseg.core.images import ArrayLike, PlaneSource
from napari_samseg.core.io.bids import index_bids
from napari_samseg.core.io.coco import CocoDataset, CocoImage, read_coco
from napari_samseg.core.io.coco_labels import coco_to_labels
from napari_samseg.core.io.coco_splits import missing_images
from napari_samseg.core.io.image_file import open_image_file
from napari_samseg.core.io.instance_labels import InstanceLabels
from napari_samseg.core.io.label_formats import LabelFormat, ReadRequest, find_format
from napari_samseg.core.io.label_image import holds_palette_labels, open_label_image
from napari_samseg.core.io.nifti import is_nifti
from napari_samseg.core.settings import ImageSettings
from napari_samseg.core.training.class_planes import ClassPlanes
from napari_samseg.core.training.images import LabelledImage
from napari_samseg.core.training.open_files import OpenFiles
from napari_samseg.core.training.pairing import pair_files

__all__ = ["TrainingFiles", "open_training_files"]


@dataclass(frozen=True, slots=True)
class TrainingFiles:
    """Where images and labels for a training lie.

    Attributes
    ----------
    images : Path
        A file, a folder, a pattern with stars, or the root of a BIDS dataset.
    labels : Path or None
        The same of labels (see `napari_samseg.core.training.pairing.pair_files`), or a
        COCO file that names the images of a folder.
    bids_labels : str
        What follows the names of images in those of label files, of a BIDS dataset:
        ``seg-axon-manual``.
    semantic : bool
        The labels are classes: each connected part of one is an object.
    classes : tuple of int
        Use only these classes of semantic labels, by their values in the files; all
        but 0 if empty.
    group : str
        Regular expression that finds in a file's path what must not be divided
        (patient, animal); each file by itself if empty.
    channel_axis : int or None
        Axis of the images that holds independent channels.
    settings : ImageSettings
    """

    images: Path
    labels: Path | None = None
    bids_labels: str = ""
    semantic: bool = False
    classes: tuple[int, ...] = ()
    group: str = ""
    channel_axis: int | None = None
    settings: ImageSettings = field(default_factory=ImageSettings)

    def __post_init__(self) -> None:
        if self.classes and not self.semantic:
            raise SettingsError(
                "classes are chosen, but the labels are not said to be semantic: say "
                "so, or leave the classes out"
            )


@contextmanager
def open_training_files(files: TrainingFiles) -> Iterator[list[LabelledImage]]:
    """Open images and their labels, until the ``with`` block ends.

    Warns
    -----
    UserWarning
        What a person should know: images without labels, what was left out of labels.

    Raises
    ------
    MissingFileError
        If there is no such file, or no image has labels.
    InvalidLabelsError
        If labels do not fit their image.
    SettingsError
        If the expression for groups is none, or finds nothing.
    SamSegError
        Whatever is wrong with a file.
    """
    opener = _Opener(files)
    try:
        yield list(opener.open_all())
    finally:
        opener.opened.close()


class _Opener:
    def __init__(self, files: TrainingFiles) -> None:
        self.files = files
        self.opened = OpenFiles()

    def open_all(self) -> Iterator[LabelledImage]:
        files = self.files
        if files.bids_labels:
            yield from self._open_bids()
        elif files.labels is None:
            raise SettingsError(
                "say where the labels are: a file, a folder or a COCO file"
            )
        elif files.labels.suffix == ".json" and files.images.is_dir():
            yield from self._open_coco(files.labels)
        else:
            for name, image, labels in pair_files(files.images, files.labels):
                yield self._pair(name, image, labels)

    def _open_bids(self) -> Iterator[LabelledImage]:
        files = self.files
        dataset = index_bids(files.images, (files.bids_labels,))
        found = [i for i in dataset.images if files.bids_labels in i.labels]
        name = files.bids_labels
        lacks = [f"{m.sample}: {m.what}" for m in dataset.missing if name in m.what]
        if not found:
            raise MissingFileError(
                f"no image of {files.images} has labels {files.bids_labels}: "
                f"{'; '.join(lacks[:3])}"
            )
        without = [i.path.name for i in dataset.images if i not in found]
        if without:
            warnings.warn(
                f"{len(without)} images have no {files.bids_labels}, and are left "
                f"out: {', '.join(without[:3])}",
                stacklevel=2,
            )
        for image in found:
            labels = image.labels[files.bids_labels]
            group = "" if files.group else image.name["sub"]
            yield self._pair(image.path.name, image.path, labels, group)

    def _open_coco(self, path: Path) -> Iterator[LabelledImage]:
        if self.files.semantic:
            raise SettingsError(
                f"{path} has objects, not classes: leave `semantic` and `classes` out"
            )
        dataset, folder = read_coco(path), self.files.images
        missing = missing_images(dataset, folder)
        if missing:
            raise MissingFileError(
                f"{len(missing)} images of {path} are not in {folder}, {missing[0]} "
                "the first: name the folder that holds them"
            )
        for note in dataset.notes:
            warnings.warn(f"{path}: {note}", stacklevel=2)
        by_name: dict[str, list[CocoImage]] = {}
        for image in dataset.images:
            by_name.setdefault(image.file_name, []).append(image)
        for name, images in by_name.items():
            source = self._source(folder / name)
            part = dataclasses.replace(dataset.select(images), notes=())
            opening = partial(_read_coco, part, name, source.shape)
            labels = self.opened.array((path, name), opening)
            yield self._labelled(name, folder / name, source, labels)

    def _pair(
        self, name: str, image: Path, labels: Path, group: str = ""
    ) -> LabelledImage:
        source = self._source(image)
        found: ArrayLike
        if self.files.semantic and not is_nifti(labels):
            classes = self.opened.array(labels, partial(open_label_image, labels))
            palette = holds_palette_labels(labels)
            found = ClassPlanes(classes, self.files.classes, has_palette=palette)
        else:
            reader = find_format(labels)
            if reader.read is None:
                raise InvalidLabelsError(f"{labels}: {reader.title} cannot be read")
            opening = partial(self._read_labels, reader, labels, image, source)
            found = self.opened.array(labels, opening)
            if self.files.semantic:
                found = ClassPlanes(found, self.files.classes)
        return self._labelled(name, image, source, found, group)

    @contextmanager
    def _read_labels(
        self, reader: LabelFormat, path: Path, image: Path, source: PlaneSource
    ) -> Iterator[ArrayLike]:
        shape = source.level_shape(self.files.settings.level)
        # a file of COCO tells its images by name; labels of an OME-Zarr have their own
        name = image.name if path.suffix in (".json", ".jsonl") else None
        assert reader.read is not None
        with reader.read(path, ReadRequest(name, shape)) as found:
            _check_space(path, found, image, source)
            # of volumes they say where these lie, which the image tells as well
            for note in found.notes if found.space is None else ():
                about = "" if str(path) in note else f"{path}: "
                warnings.warn(f"{about}{note}", stacklevel=2)
            yield found.labels

    def _source(self, path: Path) -> PlaneSource:
        opening = partial(open_image_file, path, channel_axis=self.files.channel_axis)
        return self.opened.source(("image", path), opening)

    def _labelled(
        self,
        name: str,
        path: Path,
        source: PlaneSource,
        labels: ArrayLike,
        group: str = "",
    ) -> LabelledImage:
        group = group or self._group_of(path)
        return LabelledImage(name, source, labels, group, self.files.settings)

    def _group_of(self, path: Path) -> str:
        expression = self.files.group
        if not expression:
            return str(path)
        try:
            found = re.search(expression, path.as_posix())
        except re.error as error:
            raise SettingsError(
                f"{expression!r} is no regular expression: {error}"
            ) from error
        if found is None:
            raise SettingsError(
                f"{expression!r} finds nothing in {path}: each image needs a group"
            )
        return found[1] if found.re.groups and found[1] else found[0]


@contextmanager
def _read_coco(
    dataset: CocoDataset, name: str, shape: tuple[int, ...]
) -> Iterator[ArrayLike]:
    found = coco_to_labels(dataset, name, shape)
    for note in found.notes:
        warnings.warn(f"{name}: {note}", stacklevel=2)
    yield found.labels


def _check_space(
    path: Path, labels: InstanceLabels, image: Path, source: PlaneSource
) -> None:
    """Refuse a volume of labels that lies elsewhere than its image."""
    if labels.space is None or source.space is None or labels.labels.ndim != 3:
        return
    if not labels.space.is_like(source.space, labels.shape):
        raise InvalidLabelsError(
            f"{path} lies elsewhere in the patient than {image}, or is turned: bring "
            f"it to its voxels with `napari-samseg convert {path.name} OUT --like "
            f"{image.name}`"
        )
