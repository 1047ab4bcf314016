"""Labels in files compared with true ones: tables, and a page with pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidLabelsError, MissingFileError
from napari_samseg.core.io.class_image import picture_classes
from napari_samseg.core.io.evaluation_page import write_page
from napari_samseg.core.io.evaluation_table import (
    write_classes,
    write_samples,
    write_summary,
)
from napari_samseg.core.io.json_file import read_json
from napari_samseg.core.io.label_formats import ReadRequest, find_format
from napari_samseg.core.io.label_image import open_label_image
from napari_samseg.core.io.output import check_output_file
from napari_samseg.core.metrics.evaluation import (
    Evaluation,
    SampleScores,
    score_class_sample,
    score_instance_sample,
)
from napari_samseg.core.types import Progress

__all__ = ["EvaluateJob", "Found", "evaluate_file", "pair_files"]

TABLES = ("samples.csv", "classes.csv", "summary.csv", "index.html")
# Files beside labels that are none.
OTHER_SUFFIXES = (".csv", ".md", ".txt")
# Maps of classes have no more values; ids of objects soon have.
MOST_CLASSES = 100
# Of each zarr array or group, by its version.
ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")
# What notes that say the same of several files differ in.
NUMBERS = re.compile(r"\d+(, \d+)*")

# A file, and what is to be known of it.
Told = tuple[Path, str]


@dataclass(frozen=True, slots=True)
class EvaluateJob:
    """What is compared with what.

    Attributes
    ----------
    found, true : Path
        A file of labels each, or folders, in which files of the same name, whatever
        their suffix, belong together.
    out : Path or None
        Folder for ``samples.csv``, ``classes.csv``, ``summary.csv``, ``index.html`` and
        the folder ``pictures``; None: nothing is written.
    classes : tuple of int or None
        The labels are classes, of which these count, or, if it is empty, all but 0.
        None: they are instances.
    images : Path or None
        The image, or a folder of them, that the pictures are drawn on.
    spacing : tuple of float
        Size of a pixel along each axis, for distances; 1 if empty.
    seed : int
        Of the intervals.
    overwrite : bool
        Replace files that are there already.
    """

    found: Path
    true: Path
    out: Path | None = None
    classes: tuple[int, ...] | None = None
    images: Path | None = None
    spacing: tuple[float, ...] = ()
    seed: int = 0
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """Result of `evaluate_file`.

    Attributes
    ----------
    evaluation : Evaluation
    notes : tuple of str
        What a person should know: what was left out.
    """

    evaluation: Evaluation
    notes: tuple[str, ...]


def evaluate_file(job: EvaluateJob) -> Generator[Progress, None, Found]:
    """Compare labels, and write tables and a page where a folder is named.

    Raises
    ------
    SamSegError
        If files are missing, have no partner or another shape; the message says which
        and what to do.
    """
    pairs, notes = pair_files(job.found, job.true)
    if job.out is not None:
        for name in TABLES:
            inputs = (job.found, job.true, job.images)
            check_output_file(job.out / name, inputs=inputs, overwrite=job.overwrite)
    scores: list[SampleScores] = []
    told: list[Told] = []
    for name, (found_path, true_path) in pairs.items():
        yield Progress("scoring", len(scores), len(pairs), name)
        found, true = (_read(path, job, told) for path in (found_path, true_path))
        if found.shape != true.shape:
            raise InvalidLabelsError(
                f"{found_path} has shape {found.shape} and {true_path} "
                f"{true.shape}: they are not of the same image"
            )
        scores.append(_score(name, found, true, job))
    evaluation = Evaluation(tuple(scores), job.seed)
    if job.out is not None:
        yield Progress("writing", len(pairs), len(pairs))
        _write(job, job.out, evaluation, pairs)
    return Found(evaluation, (*notes, *_join_notes(told)))


def _write(
    job: EvaluateJob,
    out: Path,
    evaluation: Evaluation,
    pairs: Mapping[str, tuple[Path, Path]],
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_samples(out / "samples.csv", evaluation)
    write_classes(out / "classes.csv", evaluation)
    write_summary(out / "summary.csv", evaluation)
    images = {} if job.images is None else _match_images(job.images, job.true, pairs)
    write_page(
        out,
        evaluation,
        lambda name: tuple(_read(path, job, []) for path in pairs[name]),
        images,
    )


def pair_files(
    found: Path, true: Path
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Find which files belong together.

    Returns
    -------
    pairs : dict of name to (found, true)
    notes : list of str
        Which found files have no true one; they are left out.

    Raises
    ------
    MissingFileError
        If a file or folder is not there, or a true file has no found one: leaving it
        out would make the scores better than they are.
    InvalidLabelsError
        If one is a folder and the other a file, or two files have one name.
    """
    for path in (found, true):
        if not path.exists():
            raise MissingFileError(f"there are no labels {path}")
    if _is_folder(found) != _is_folder(true):
        raise InvalidLabelsError(
            f"{found} and {true}: one is a folder and the other a file; give two "
            "files, or two folders"
        )
    if not _is_folder(true):
        return {_stem(true): (found, true)}, []
    all_found, all_true = (_label_files(f, _may_be_labels) for f in (found, true))
    if not all_true:
        raise MissingFileError(f"there are no files of labels in {true}")
    lonely = [name for name in all_true if name not in all_found]
    if lonely:
        raise MissingFileError(
            f"{len(lonely)} of {count_things(len(all_true), 'file')} in {true} without "
            f"one of the same name in {found}: {_some(lonely)}; add what is "
            "missing, or move the true ones away"
        )
    extra = [name for name in all_found if name not in all_true]
    notes = []
    if extra:
        notes.append(
            f"{count_things(len(extra), 'file')} in {found} without true labels, left "
            f"out: {_some(extra)}"
        )
    return {name: (all_found[name], all_true[name]) for name in all_true}, notes


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _is_folder(path: Path) -> bool:
    """Tell whether a folder holds files of labels, rather than being labels."""
    is_zarr = path.suffix.lower() == ".zarr" or any(
        (path / name).exists() for name in ZARR_FILES
    )
    return path.is_dir() and not is_zarr


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".nii.gz", ".ome.tif", ".ome.tiff", ".ome.zarr"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


def _label_files(
    folder: Path, is_label: Callable[[Path], bool] = lambda path: True
) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() in OTHER_SUFFIXES:
            continue
        if _is_folder(path) or not is_label(path):
            continue
        other = files.setdefault(_stem(path), path)
        if other is not path:
            raise InvalidLabelsError(
                f"{other.name} and {path.name} in {folder} have the same name: move "
                "one of them away"
            )
    return files


def _may_be_labels(path: Path) -> bool:
    """Tell COCO's JSON, which holds labels, from that which describes an image."""
    if path.suffix.lower() != ".json":
        return True
    content = read_json(path)
    return isinstance(content, dict) and "annotations" in content


def _match_images(
    images: Path, true: Path, pairs: Mapping[str, Any]
) -> dict[str, Path]:
    if not images.exists():
        raise MissingFileError(f"there are no images {images}")
    if not _is_folder(images):
        if _is_folder(true):
            raise InvalidLabelsError(
                f"{images} is one image, and {true} a folder of labels: give the "
                "folder of their images"
            )
        return dict.fromkeys(pairs, images)
    files = _label_files(images, lambda path: path.suffix.lower() != ".json")
    return {n: p for n, p in files.items() if n in pairs}


def _join_notes(told: list[Told]) -> list[str]:
    """Say once what was told of several files."""
    alike: dict[str, dict[Path, str]] = {}
    for path, note in told:
        kind = NUMBERS.sub("", note.replace(str(path), ""))
        alike.setdefault(kind, {}).setdefault(path, note)
    notes = []
    for first, *others in (list(group.values()) for group in alike.values()):
        more = f"; so it is with {count_things(len(others), 'other file')}"
        notes.append(first + (more if others else ""))
    return notes


def _read(path: Path, job: EvaluateJob, told: list[Told]) -> npt.NDArray[Any]:
    if job.classes is not None:
        return _read_classes(path)
    source = find_format(path)
    if source.read is None:
        raise InvalidLabelsError(f"{path}: {source.title} cannot be read")
    with source.read(path, ReadRequest()) as found:
        told += [(path, note) for note in found.notes]
        return _check_ids(np.asarray(found.labels[...]), path)


def _check_ids(labels: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    low = int(labels.min(initial=0))
    if low < 0:
        raise InvalidLabelsError(
            f"{path} holds negative labels, {low} is the lowest: 0 is the background, "
            "and ids are above"
        )
    return labels


def _read_classes(path: Path) -> npt.NDArray[Any]:
    """Read classes by their values in the file.

    Positions among the values would differ where one picture lacks a class.
    """
    with open_label_image(path) as labels:
        array = _check_ids(np.asarray(labels[...]), path)
    image = picture_classes(array)
    if image is None:
        return array
    values = np.asarray(image.values)
    by_value: npt.NDArray[Any] = values[image.classes]
    return by_value


def _score(
    name: str, found: npt.NDArray[Any], true: npt.NDArray[Any], job: EvaluateJob
) -> SampleScores:
    spacing = job.spacing or (1.0,) * true.ndim
    if job.classes is None:
        return score_instance_sample(name, found, true, spacing)
    classes = job.classes
    if not classes:
        present = np.union1d(np.unique(found), np.unique(true))
        classes = tuple(int(value) for value in present if value)
        if len(classes) > MOST_CLASSES:
            raise InvalidLabelsError(
                f"{name} has {len(classes)} different values, hardly classes: leave "
                "out --classes to score objects, or name the classes, such as 1,2"
            )
    return score_class_sample(name, found, true, classes, spacing)
