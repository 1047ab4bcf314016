"""COCO datasets for training: parts that share no patient, no volume, no image.

On disk a part is a folder with ``annotations.json`` and ``images``: ``train``, ``val``
and ``test`` where a dataset is split already, else the dataset's own folder or ``data``
in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from napari_samseg.core.errors import MissingFileError, SettingsError
from napari_samseg.core.io.coco import CocoDataset, CocoImage, read_coco, write_coco

__all__ = [
    "group_by",
    "missing_images",
    "read_splits",
    "split_by_group",
    "write_splits",
]

ANNOTATIONS = "annotations.json"
SPLITS = ("train", "val", "test")
# Two names for one thing.
VALIDATION = ("valid", "validation")

GroupOf = Callable[[CocoImage], str]


def split_by_group(
    dataset: CocoDataset,
    shares: Mapping[str, float],
    *,
    group_of: GroupOf | None = None,
    seed: int = 0,
) -> dict[str, CocoDataset]:
    """Split a dataset at random so that no group is in two parts.

    Parameters
    ----------
    dataset : CocoDataset
    shares : mapping of name to float
        Such as ``{"train": 0.8, "val": 0.2}``; share of the images, as nearly as whole
        groups allow. No part stays empty.
    group_of : callable, optional
        Name of the group of an image, such as its patient (see `group_by`); the
        file by default, so that the planes of a volume stay together.
    seed : int
        The same seed gives the same parts, whatever the order of the images.

    Raises
    ------
    SettingsError
        If the shares are not above 0 or do not sum up to 1, or there are fewer groups
        than parts.
    """
    are_above = all(share > 0 for share in shares.values())
    # nan is neither above nor near anything
    if not (shares and are_above and abs(sum(shares.values()) - 1) <= 1e-6):
        raise SettingsError(
            f"shares are above 0 and sum up to 1, unlike {dict(shares)}: such as "
            "train 0.8, val 0.2"
        )
    groups: dict[str, list[CocoImage]] = {}
    for image in dataset.images:
        name = image.file_name if group_of is None else group_of(image)
        groups.setdefault(name, []).append(image)
    if len(groups) < len(shares):
        raise SettingsError(
            f"{len(shares)} parts need as many groups, and there are {len(groups)}: "
            f"{', '.join(sorted(groups)) or 'none'}"
        )
    names = sorted(groups)
    np.random.default_rng(seed).shuffle(names)
    # large groups first, while there is room for them
    names.sort(key=lambda name: -len(groups[name]))
    parts = _distribute(names, {name: len(groups[name]) for name in names}, shares)
    part_of = {name: part for part, inside in parts.items() for name in inside}
    of_image = {
        image.image_id: part_of[name] for name in names for image in groups[name]
    }
    return {
        part: dataset.select(i for i in dataset.images if of_image[i.image_id] == part)
        for part in shares
    }


def group_by(pattern: str) -> GroupOf:
    """Group images by what a regular expression finds in their file name.

    Parameters
    ----------
    pattern : str
        What its first group matches, or all it matches, names the group:
        ``(sub-[^_]+)`` or ``^(.+)_slice``.

    Returns
    -------
    callable
        Raises `SettingsError` for a name in which nothing matches.

    Raises
    ------
    SettingsError
        If it is no regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SettingsError(f"{pattern!r} is no regular expression: {error}") from error

    def group_of(image: CocoImage) -> str:
        found = compiled.search(image.file_name)
        if found is None:
            raise SettingsError(
                f"{pattern!r} matches nothing in {image.file_name!r}: each image needs "
                "a group"
            )
        return found[1] if compiled.groups and found[1] else found[0]

    return group_of


def read_splits(folder: Path) -> dict[str, CocoDataset]:
    """Read a dataset folder, with the parts it has.

    Returns
    -------
    dict of name to CocoDataset
        ``train``, ``val``, ``test`` as far as they are there; else ``data`` alone.

    Raises
    ------
    MissingFileError
        If there is no ``annotations.json`` in any of these places.
    """
    places = {name: folder / name for name in SPLITS}
    for other in VALIDATION:
        if (folder / other / ANNOTATIONS).is_file():
            places["val"] = folder / other
    found = {
        name: read_coco(place / ANNOTATIONS)
        for name, place in places.items()
        if (place / ANNOTATIONS).is_file()
    }
    if found:
        return found
    for place in (folder, folder / "data"):
        if (place / ANNOTATIONS).is_file():
            return {"data": read_coco(place / ANNOTATIONS)}
    raise MissingFileError(
        f"there is no {ANNOTATIONS} in {folder}, nor in {', '.join(SPLITS)} or data "
        "below it"
    )


def write_splits(folder: Path, splits: Mapping[str, CocoDataset]) -> list[Path]:
    """Write ``annotations.json`` of each part into a folder of its name.

    Images are not copied: they belong into ``images`` beside it.
    """
    paths = []
    for name, dataset in splits.items():
        paths.append(folder / name / ANNOTATIONS)
        write_coco(paths[-1], dataset)
    return paths


def missing_images(dataset: CocoDataset, folder: Path) -> list[str]:
    """Return the file names that are neither in a folder nor in its ``images``."""
    names = dict.fromkeys(image.file_name for image in dataset.images)
    return [
        name
        for name in names
        if not (folder / name).is_file() and not (folder / "images" / name).is_file()
    ]


def _distribute(
    names: list[str], sizes: Mapping[str, int], shares: Mapping[str, float]
) -> dict[str, list[str]]:
    total = sum(sizes.values())
    missing = {part: share * total for part, share in shares.items()}
    parts: dict[str, list[str]] = {part: [] for part in shares}
    for name in names:
        part = max(missing, key=lambda key: missing[key])
        parts[part].append(name)
        missing[part] -= sizes[name]
    for inside in parts.values():
        if not inside:
            # the last is the smallest
            inside.append(max(parts.values(), key=len).pop())
    return parts
