"""Images and labels for training, from files, folders and datasets.

What is labelled by classes becomes objects plane by plane: each connected part of a
class is one.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import (
    InvalidLabelsError,
    MissingFileError,
    SettingsError,
)
from napari_samseg.core.images import ArrayLike
from napari_samseg.core.instances.components import label_components
from napari_samseg.core.io.bids import index_bids
from napari_samseg.core.io.class_image import snap_classes
from napari_samseg.core.io.coco import read_coco
from napari_samseg.core.io.coco_labels import coco_to_labels
from napari_samseg.core.io.coco_splits import missing_images
from napari_samseg.core.io.image_file import open_image_file
from napari_samseg.core.io.label_planes import (
    LabelPlanes,
    PictureWarning,
    open_label_planes,
)
from napari_samseg.core.settings import ImageSettings
from napari_samseg.core.training.images import LabelledImage

__all__ = ["ClassPlanes", "TrainingFiles", "open_training_files"]

# What is taken for an image or labels in a folder.
SUFFIXES = (
    ".tif",
    ".tiff",
    ".png",
    ".jpg",
    ".jpeg",
    ".npy",
    ".zarr",
    ".nii",
    ".nii.gz",
)
# What often follows the name of an image in that of its labels.
ENDINGS = r"([_-](labels?|masks?|seg|segmentation|instances?|gt))?"


@dataclass(frozen=True, slots=True)
class TrainingFiles:
    """Where images and labels for a training lie.

    Attributes
    ----------
    images : Path
        A file, a folder of files, or the root of a BIDS dataset.
    labels : Path or None
        A file or folder of the same names (``_labels``, ``_mask`` and the like may
        follow them), or a COCO file that names the images.
    bids_labels : str
        What follows the names of images in those of label files, of a BIDS dataset:
        ``seg-axon-manual``.
    semantic : bool
        The labels are classes: each connected part of one is an object.
    classes : tuple of int
        Use only these classes, of semantic labels; all of them if empty.
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


@dataclass(frozen=True, eq=False)
class ClassPlanes:
    """Objects of class labels, found plane by plane: an array-like of instance labels.

    Attributes
    ----------
    classes : (..., Y, X) integer, array-like
    chosen : tuple of int
        Classes whose parts are objects; all but 0 if empty.
    """

    classes: ArrayLike
    chosen: tuple[int, ...] = ()

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the classes."""
        return tuple(self.classes.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the objects' ids."""
        return np.dtype(np.uint32)

    def __getitem__(self, plane: tuple[int, ...]) -> npt.NDArray[np.uint32]:
        found = np.asarray(self.classes[plane])
        if self.chosen:
            found = np.where(np.isin(found, self.chosen), found, 0)
        return label_components(found, 8 if found.ndim == 2 else None)


@dataclass(frozen=True, eq=False)
class _FilePlanes:
    """Labels in a file as an array-like of whole planes."""

    planes: LabelPlanes
    is_semantic: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.planes.shape

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        return self[(0,) * (len(self.shape) - 2)].dtype

    def __getitem__(self, plane: tuple[int, ...]) -> npt.NDArray[Any]:
        found = self.planes.read(plane)
        if self.is_semantic and found.dtype == np.uint8:
            # pictures of masks have soft edges and values such as 127 and 255
            return snap_classes(found.astype(np.uint8, copy=False)).classes
        return found


@contextmanager
def open_training_files(files: TrainingFiles) -> Iterator[list[LabelledImage]]:
    """Open images and their labels, until the ``with`` block ends.

    Raises
    ------
    MissingFileError
        If there is no such file, an image has no labels, or there is no image.
    InvalidLabelsError
        If labels do not fit their image.
    SettingsError
        If the expression for groups is none, or finds nothing.
    SamSegError
        Whatever is wrong with a file.
    """
    if not files.images.exists():
        raise MissingFileError(f"there is no file or folder {files.images}")
    with ExitStack() as stack:
        yield list(_open_all(files, stack))


def _open_all(files: TrainingFiles, stack: ExitStack) -> Iterator[LabelledImage]:
    if files.bids_labels:
        for image in index_bids(files.images, (files.bids_labels,)).images:
            labels = image.labels.get(files.bids_labels)
            if labels is None:
                warnings.warn(f"{image.path} has no {files.bids_labels}", stacklevel=4)
                continue
            group = "" if files.group else image.name["sub"]
            yield _open_pair(image.path, labels, files, stack, group)
        return
    if files.labels is None:
        raise SettingsError("say where the labels are: a file, a folder or a COCO file")
    if not files.labels.exists():
        raise MissingFileError(f"there is no file or folder {files.labels}")
    if files.labels.suffix == ".json":
        yield from _open_coco(files, files.labels, stack)
        return
    for image_path, label_path in _pair(files.images, files.labels):
        yield _open_pair(image_path, label_path, files, stack)


def _open_pair(
    image: Path, labels: Path, files: TrainingFiles, stack: ExitStack, group: str = ""
) -> LabelledImage:
    source = stack.enter_context(
        open_image_file(image, channel_axis=files.channel_axis)
    )
    with warnings.catch_warnings():
        if files.semantic:  # which pictures are meant to be
            warnings.simplefilter("ignore", PictureWarning)
        planes = stack.enter_context(open_label_planes(labels))
    found: ArrayLike = _FilePlanes(planes, files.semantic)
    if files.semantic:
        found = ClassPlanes(found, files.classes)
    return LabelledImage(
        image.name, source, found, group or _group_of(image, files), files.settings
    )


def _open_coco(
    files: TrainingFiles, path: Path, stack: ExitStack
) -> Iterator[LabelledImage]:
    dataset = read_coco(path)
    folder = files.images if files.images.is_dir() else files.images.parent
    missing = missing_images(dataset, folder)
    if missing:
        raise MissingFileError(
            f"{len(missing)} images of {path} are not in {folder}, {missing[0]} the "
            "first: name the folder that holds them"
        )
    for name in dict.fromkeys(image.file_name for image in dataset.images):
        source = stack.enter_context(
            open_image_file(folder / name, channel_axis=files.channel_axis)
        )
        found = coco_to_labels(dataset, name, source.shape)
        group = _group_of(folder / name, files)
        yield LabelledImage(name, source, found.labels, group, files.settings)


def _group_of(path: Path, files: TrainingFiles) -> str:
    if not files.group:
        return str(path)
    try:
        found = re.search(files.group, str(path))
    except re.error as error:
        raise SettingsError(
            f"{files.group!r} is no regular expression: {error}"
        ) from error
    if found is None:
        raise SettingsError(f"{files.group!r} finds nothing in {path}")
    return found[1] if found.re.groups and found[1] else found[0]


def _pair(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Match the files of two folders, or two files, by name."""
    if not _is_folder(images) and not _is_folder(labels):
        return [(images, labels)]
    if not _is_folder(images) or not _is_folder(labels):
        raise InvalidLabelsError(
            f"{images} and {labels}: give two files or two folders"
        )
    label_files = {_stem(path): path for path in _files_in(labels)}
    pairs, without = [], []
    for image in _files_in(images):
        pattern = re.compile(re.escape(_stem(image)) + ENDINGS, re.IGNORECASE)
        fitting = [p for stem, p in label_files.items() if pattern.fullmatch(stem)]
        if fitting:
            pairs.append((image, min(fitting, key=lambda path: len(path.name))))
        else:
            without.append(image.name)
    if not pairs:
        raise MissingFileError(
            f"no image in {images} has labels of the same name in {labels}"
        )
    if without:
        names = ", ".join(without[:3]) + (", ..." if len(without) > 3 else "")
        warnings.warn(
            f"{len(without)} images have no labels in {labels}, and are left out: "
            f"{names}",
            stacklevel=5,
        )
    return pairs


def _is_folder(path: Path) -> bool:
    return path.is_dir() and path.suffix != ".zarr"


def _files_in(folder: Path) -> Sequence[Path]:
    return [p for p in sorted(folder.iterdir()) if p.name.lower().endswith(SUFFIXES)]


def _stem(path: Path) -> str:
    suffix = max(s for s in SUFFIXES if path.name.lower().endswith(s))
    return path.name[: -len(suffix)]
