"""BIDS microscopy datasets: which images there are, what belongs to each, what lacks.

Files are matched by their whole name: what belongs to ``sub-1`` never comes from
``sub-10``. See https://bids-specification.readthedocs.io, Microscopy.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_samseg.core.errors import MissingFileError
from napari_samseg.core.io.bids_metadata import SidecarReader, read_json, read_table
from napari_samseg.core.io.bids_names import (
    EXTENSIONS,
    BidsName,
    Missing,
    sample_of,
    split_extension,
    visible_files,
)

__all__ = ["LABELS_FOLDER", "BidsDataset", "BidsImage", "index_bids"]

LABELS_FOLDER = Path("derivatives", "labels")


@dataclass(frozen=True, slots=True)
class BidsImage:
    """One image and what belongs to it.

    Attributes
    ----------
    path : Path
    name : BidsName
    folder : Path
        Where it lies in the dataset, ``sub-1/micr``.
    pixel_size : (float, float) or None
        Height and width of a pixel in micrometres, None if the dataset does not say.
    labels : mapping of str to Path
        Label files by what was asked for; those that are missing are not in it.
    """

    path: Path
    name: BidsName
    folder: Path
    pixel_size: tuple[float, float] | None = None
    labels: Mapping[str, Path] = field(default_factory=dict)

    @property
    def sample(self) -> str:
        """The sample for messages, ``sub-1 sample-2``."""
        return sample_of(self.name["sub"], self.name["sample"])


@dataclass(frozen=True, slots=True)
class BidsDataset:
    """What is in a dataset.

    Attributes
    ----------
    root : Path
    images : tuple of BidsImage
        In the order of their names.
    missing : tuple of Missing
        What is missing, double, or misplaced, sample by sample.
    description : mapping
        ``dataset_description.json``; empty if there is none.
    """

    root: Path
    images: tuple[BidsImage, ...]
    missing: tuple[Missing, ...]
    description: Mapping[str, Any]


def index_bids(
    root: Path,
    labels: Sequence[str] = (),
    *,
    labels_folder: Path = LABELS_FOLDER,
) -> BidsDataset:
    """Find the images of a BIDS microscopy dataset and what belongs to them.

    Images are ``sub-*/[ses-*/]micr/*`` with a suffix such as ``SEM``: PNG, TIFF,
    OME-TIFF and OME-Zarr. JSON files are inherited: one beside the image counts more
    than one further up with part of its entities.

    Parameters
    ----------
    root : Path
        Folder of the dataset.
    labels : sequence of str
        What follows the name of the image in the name of a label file:
        ``seg-axon-manual`` for ``sub-1_sample-2_SEM_seg-axon-manual.png``, or
        ``label-axon_dseg`` for ``sub-1_sample-2_label-axon_dseg.png``.
    labels_folder : Path
        Where label files lie, in the same folders as the images, from `root`.

    Raises
    ------
    MissingFileError
        If there is no such folder, or no image in it.
    """
    if not root.is_dir():
        raise MissingFileError(f"there is no folder {root}")
    missing: list[Missing] = []
    description = _read_description(root, missing)
    found = list(_find_images(root, missing))
    if not found:
        raise MissingFileError(
            f"{root} has no BIDS microscopy images, sub-*/micr/sub-*_sample-*_*"
            f"{{{','.join(EXTENSIONS)}}}"
        )
    reader = SidecarReader(root, missing)
    images = []
    for path, name in _without_doubles(found, missing):
        image = BidsImage(path, name, path.parent.relative_to(root))
        size = reader.pixel_size(name, image.folder)
        files = _find_labels(image, labels, root / labels_folder, missing)
        images.append(BidsImage(path, name, image.folder, size, files))
    _compare_with_tables(root, [name for _, name in found], missing)
    return BidsDataset(root, tuple(images), tuple(sorted(missing)), description)


def _find_images(root: Path, missing: list[Missing]) -> Iterator[tuple[Path, BidsName]]:
    for subject in visible_files(root):
        if not (subject.name.startswith("sub-") and subject.is_dir()):
            continue
        sessions = [p for p in visible_files(subject) if p.name.startswith("ses-")]
        folders = [folder / "micr" for folder in (subject, *sessions)]
        if not any(folder.is_dir() for folder in folders):
            missing.append(Missing(subject.name, "no folder micr"))
        for path in (path for folder in folders for path in visible_files(folder)):
            if not split_extension(path.name, EXTENSIONS)[1]:
                continue
            sample, wrong = _check_image(path, root)
            if wrong:
                missing.append(Missing(sample, f"{path.relative_to(root)} {wrong}"))
            else:
                yield path, BidsName.parse(path.name)


def _check_image(path: Path, root: Path) -> tuple[str, str]:
    """Return the sample of a file and what keeps it from being an image of it."""
    subject, *session = path.parent.relative_to(root).parts[:-1]
    try:
        name = BidsName.parse(path.name)
    except ValueError:
        return subject, "is left out: it has no BIDS name"
    sample = sample_of(subject, name["sample"])
    if (name["sub"], name["ses"]) != (subject, "".join(session)):
        return sample, "is left out: its name is that of another folder"
    if not path.exists():
        return sample, "is a link to a file that is not here (git annex get fetches it)"
    return sample, "" if name["sample"] else "is left out: its name has no sample-"


def _without_doubles(
    found: Sequence[tuple[Path, BidsName]], missing: list[Missing]
) -> Iterator[tuple[Path, BidsName]]:
    by_stem = defaultdict(list)
    for path, name in found:
        by_stem[name.stem].append((path, name))
    for same in by_stem.values():
        path, name = same[0]
        if len(same) == 1:
            yield path, name
            continue
        files = " and ".join(p.name for p, _ in same)
        sample = sample_of(name["sub"], name["sample"])
        missing.append(
            Missing(sample, f"{files} have one name and are left out: keep one of them")
        )


def _find_labels(
    image: BidsImage, labels: Sequence[str], folder: Path, missing: list[Missing]
) -> dict[str, Path]:
    by_stem = defaultdict(list)
    for path in visible_files(folder / image.folder):
        stem, extension = split_extension(path.name, EXTENSIONS)
        if extension:
            by_stem[stem].append(path)
    found = {}
    for label in labels:
        stems = {f"{image.name.stem}_{label}", f"{image.name.entity_stem}_{label}"}
        files = [path for stem in sorted(stems) for path in by_stem.get(stem, ())]
        if len(files) == 1 and files[0].exists():
            found[label] = files[0]
            continue
        if not files:
            near = [stem for stem in by_stem if stem.startswith(image.name.stem + "_")]
            there = f"; there are {', '.join(near)}" if near else ""
            what = f"no {label} in {folder.name}/{image.folder.as_posix()}{there}"
        elif len(files) == 1:
            what = f"{files[0].name} is a link to a file that is not here"
        else:
            what = f"{' and '.join(p.name for p in files)} are both its {label}"
        missing.append(Missing(image.sample, what))
    return found


def _read_description(root: Path, missing: list[Missing]) -> Mapping[str, Any]:
    path = root / "dataset_description.json"
    try:
        return read_json(path)
    except MissingFileError:
        missing.append(Missing("", "no dataset_description.json"))
    except ValueError as error:
        missing.append(Missing("", str(error)))
    return {}


def _compare_with_tables(
    root: Path, names: Sequence[BidsName], missing: list[Missing]
) -> None:
    """Report samples and participants that are listed and not there, or not listed."""
    there = {(name["sub"], name["sample"]) for name in names}
    columns = ("participant_id", "sample_id")
    samples = read_table(root / "samples.tsv", columns, missing)
    if samples is None:
        missing.append(Missing("", "no samples.tsv"))
    else:
        listed = {(row[0], row[1]) for row in samples}
        for row, n in Counter(samples).items():
            if n > 1:
                missing.append(
                    Missing(sample_of(*row), f"{n} rows of samples.tsv are its")
                )
        for pairs, what in (
            (listed - there, "no image, though it is in samples.tsv"),
            (there - listed, "not in samples.tsv"),
        ):
            missing += [Missing(sample_of(*pair), what) for pair in pairs]
    participants = read_table(root / "participants.tsv", columns[:1], missing) or []
    listed_subjects = {row[0] for row in samples or ()}
    for (subject,) in participants:
        if subject not in {s for s, _ in there} | listed_subjects:
            missing.append(Missing(subject, "no image, though in participants.tsv"))
