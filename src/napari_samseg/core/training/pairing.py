"""Which labels belong to which image, by the names of their files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from napari_samseg.core.errors import InvalidLabelsError, MissingFileError
from napari_samseg.core.io.label_formats import LABEL_FORMATS

__all__ = ["FilePair", "is_pattern", "pair_files"]

# What is taken for an image in a folder; a longer suffix goes first.
IMAGE_SUFFIXES = (
    ".ome.zarr",
    ".ome.tiff",
    ".ome.tif",
    ".nii.gz",
    ".tiff",
    ".jpeg",
    ".zarr",
    ".tif",
    ".png",
    ".jpg",
    ".npy",
    ".nii",
)
READABLE = [s for known in LABEL_FORMATS.values() if known.read for s in known.suffixes]
LABEL_SUFFIXES = tuple(sorted({*IMAGE_SUFFIXES, *READABLE}, key=len, reverse=True))
# What often follows the name of an image in that of its labels.
ENDINGS = re.compile(
    r"[_-](labels?|masks?|seg|segmentation|instances?|gt)$", re.IGNORECASE
)
MOST_NAMED = 3


class FilePair(NamedTuple):
    """An image and its labels; the name is its own among those of one call."""

    name: str
    image: Path
    labels: Path


def is_pattern(path: Path) -> bool:
    """Tell whether a path stands for several, as in ``*/flair.nii.gz``."""
    return "*" in str(path)


def pair_files(images: Path, labels: Path) -> list[FilePair]:
    """Find the labels of images.

    Parameters
    ----------
    images, labels : Path
        Two files; two folders (or one and the same), in which files of the same name
        belong together, whatever their suffix, and ``_labels``, ``_mask`` and the like
        may follow it; or two patterns, such as ``*/*_flair.nii.gz`` and
        ``*/*_lesions.nii.gz``, of which files belong together where the stars stand
        for the same.

    Warns
    -----
    UserWarning
        If images have no labels; they are left out.

    Raises
    ------
    MissingFileError
        If there is no such file, or no image has labels.
    InvalidLabelsError
        If one is a file and the other a folder, or two files have the same name.
    """
    if is_pattern(images) or is_pattern(labels):
        found, n_images = _pair_patterns(images, labels)
        missing = [str(path) for path in n_images if path not in _images(found)]
    else:
        for path in (images, labels):
            if not path.exists():
                raise MissingFileError(f"there is no file or folder {path}")
        if not _is_folder(images) and not _is_folder(labels):
            return [FilePair(images.name, images, labels)]
        if not (_is_folder(images) and _is_folder(labels)):
            raise InvalidLabelsError(
                f"{images} and {labels}: one is a folder and the other a file; give "
                "two files, or two folders"
            )
        found, n_images = _pair_folders(images, labels)
        missing = [path.name for path in n_images if path not in _images(found)]
    if not found:
        raise MissingFileError(
            f"no image of {images} has labels of the same name in {labels}"
        )
    if missing:
        warnings.warn(
            f"{len(missing)} images have no labels in {labels}, and are left out: "
            f"{_some(missing)}",
            stacklevel=2,
        )
    return found


def _images(pairs: Iterable[FilePair]) -> set[Path]:
    return {pair.image for pair in pairs}


def _pair_folders(images: Path, labels: Path) -> tuple[list[FilePair], list[Path]]:
    """Return pairs, and all images."""
    is_same = images.samefile(labels)
    label_files = _files_in(labels, LABEL_SUFFIXES)
    if is_same:  # what ends like labels is none of the images
        label_files = [p for p in label_files if ENDINGS.search(_stem(p))]
    named: dict[str, list[Path]] = {}
    for path in label_files:
        named.setdefault(_stem(path).lower(), []).append(path)
        plain = ENDINGS.sub("", _stem(path))
        if plain != _stem(path):
            named.setdefault(plain.lower(), []).append(path)
    every = [
        path
        for path in _files_in(images, IMAGE_SUFFIXES)
        if not (is_same and path in label_files)
    ]
    found = []
    for image in every:
        fitting = named.get(_stem(image).lower(), [])
        if len(fitting) > 1:
            # the very name of the image goes before one that something follows
            exact = [p for p in fitting if _stem(p).lower() == _stem(image).lower()]
            fitting = exact or fitting
        if len(fitting) > 1:
            raise InvalidLabelsError(
                f"{image.name} has several labels in {labels}: "
                f"{_some(p.name for p in fitting)}; move all but one away"
            )
        found += [FilePair(image.name, image, path) for path in fitting]
    return found, every


def _pair_patterns(images: Path, labels: Path) -> tuple[list[FilePair], list[Path]]:
    if str(images).count("*") != str(labels).count("*"):
        raise InvalidLabelsError(
            f"{images} and {labels}: give two patterns with as many stars, such as "
            "*/*_flair.nii.gz and */*_lesions.nii.gz"
        )
    image_files, label_files = _matches(images), _matches(labels)
    root = _fixed_part(images)
    found = [
        FilePair(image.relative_to(root).as_posix(), image, label_files[stars])
        for stars, image in image_files.items()
        if stars in label_files
    ]
    return found, list(image_files.values())


def _matches(pattern: Path) -> Mapping[tuple[str, ...], Path]:
    """Return the paths that a pattern stands for, by what its stars stand for."""
    root = _fixed_part(pattern)
    relative = pattern.relative_to(root).as_posix()
    expression = re.compile(re.escape(relative).replace(r"\*", "([^/]*)"))
    found = {}
    for path in sorted(root.glob(relative)):
        match = expression.fullmatch(path.relative_to(root).as_posix())
        if match is not None:
            found[match.groups()] = path
    return found


def _fixed_part(pattern: Path) -> Path:
    while is_pattern(pattern):
        pattern = pattern.parent
    return pattern


def _is_folder(path: Path) -> bool:
    """Tell whether a path is a folder of images, not an image that is a folder."""
    return path.is_dir() and not any(
        parent.suffix == ".zarr" for parent in (path, *path.parents)
    )


def _files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.name.lower().endswith(suffixes) and not path.name.startswith(".")
    ]


def _stem(path: Path) -> str:
    suffix = next(s for s in LABEL_SUFFIXES if path.name.lower().endswith(s))
    return path.name[: -len(suffix)]


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = ", ..." if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more
