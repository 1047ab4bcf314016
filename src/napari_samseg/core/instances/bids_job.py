"""From a BIDS microscopy dataset to its derivatives: instances and all about them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError, SamSegError, SettingsError
from napari_samseg.core.instances.file_job import read_classes
from napari_samseg.core.instances.measure_job import read_picture
from napari_samseg.core.instances.methods import (
    SEMANTIC_METHODS,
    Instances,
    find_instances,
)
from napari_samseg.core.instances.morphometrics import (
    measure_instances,
    write_morphometrics,
)
from napari_samseg.core.io.bids import (
    LABELS_FOLDER,
    BidsDataset,
    BidsImage,
    index_bids,
)
from napari_samseg.core.io.bids_derivatives import (
    Derivative,
    derivative_stems,
    digest_file,
    open_derivatives,
    relative_place,
    source_uri,
)
from napari_samseg.core.io.bids_names import Missing
from napari_samseg.core.io.label_image import write_label_image
from napari_samseg.core.io.prompt_writer import open_prompt_writer
from napari_samseg.core.io.qc_picture import write_qc_page, write_qc_picture
from napari_samseg.core.prompts.from_labels import sample_prompts
from napari_samseg.core.prompts.object_index import index_objects
from napari_samseg.core.settings import InstanceSettings, PromptSettings
from napari_samseg.core.types import FloatArray, Progress

__all__ = ["BidsJob", "BidsReport", "bids_derivatives"]

MAP_FORMATS = ("png", "tif")


@dataclass(frozen=True, slots=True)
class BidsJob:
    """Which dataset to read, and where to write.

    Attributes
    ----------
    root : Path
        Folder of the dataset.
    out : Path or None
        Folder of the derivatives, ``derivatives/maps`` in the dataset if None.
    labels : str or None
        What follows the name of an image in the name of its semantic labels.
    axon, myelin : str or None
        Instead: what follows it in the name of the masks of axons and of myelin.
    labels_folder : Path
        Where label files lie in the dataset.
    pixel_size : tuple of float or None
        Height and width of a pixel in micrometres (or one number for both) for images
        of which the dataset does not say.
    map_format : "png" or "tif"
        Of instance maps and maps of myelin; PNG ends at 65,535 objects.
    overwrite : bool
        Make files anew that were made from other files or settings, or elsewhere.
    """

    root: Path
    out: Path | None = None
    labels: str | None = None
    axon: str | None = None
    myelin: str | None = None
    labels_folder: Path = LABELS_FOLDER
    pixel_size: tuple[float, ...] | None = None
    map_format: str = "png"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.map_format not in MAP_FORMATS:
            raise SettingsError(
                f"maps are written as {' or '.join(MAP_FORMATS)}, not as "
                f"{self.map_format!r}"
            )
        if self.pixel_size is not None:
            _check_pixel_size(self.pixel_size)
        given = self.labels is not None, self.axon is not None, self.myelin is not None
        if given not in ((True, False, False), (False, True, True)):
            raise SettingsError(
                "say how the labels of each image are named: either those of one file "
                "of classes (--labels), or of a mask of axons and one of myelin "
                "(--axon and --myelin)"
            )

    @property
    def out_folder(self) -> Path:
        """Folder of the derivatives."""
        return self.root / "derivatives" / "maps" if self.out is None else self.out

    @property
    def label_names(self) -> tuple[str, ...]:
        """The label files that each image needs."""
        names = (self.labels, self.axon, self.myelin)
        return tuple(name for name in names if name is not None)


def _check_pixel_size(sides: tuple[float, ...]) -> None:
    if len(sides) not in (1, 2) or not all(0 < side < math.inf for side in sides):
        given = ", ".join(f"{side:g}" for side in sides)
        raise SettingsError(
            "the size of a pixel is one number of micrometres above 0, or one of its "
            f"height and one of its width, not {given}"
        )


@dataclass(slots=True)
class BidsReport:
    """What became of the images of a dataset.

    Attributes
    ----------
    made : list of (str, Instances)
        Name and instances of images whose derivatives were written.
    kept : list of str
        Images whose derivatives were there already.
    failed : list of (str, str)
        Images without derivatives, and why.
    notes : list of (str, str)
        What a person should know about the files of an image.
    missing : tuple of Missing
        What the dataset lacks.
    """

    made: list[tuple[str, Instances]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    missing: tuple[Missing, ...] = ()


@dataclass(frozen=True, slots=True)
class _Task:
    """One image: what is read, and what is to be written."""

    image: BidsImage
    derivative: Derivative
    endings: Mapping[str, str]
    pixel_size: tuple[float, float] | None
    write: list[str]


def bids_derivatives(
    job: BidsJob, settings: InstanceSettings
) -> Generator[Progress, None, BidsReport]:
    """Find the instances in each image of a dataset, and write all about them.

    For each image, below the same folders as in the dataset: the instance map, what
    of it is myelin, boxes and points as prompts, morphometrics, and a picture and a
    page to check them by. What is complete is left alone, and an image that cannot be
    done does not keep the others from it.

    Parameters
    ----------
    job : BidsJob
    settings : InstanceSettings
        Lengths are in pixels.

    Yields
    ------
    Progress
        After each image.

    Returns
    -------
    BidsReport

    Raises
    ------
    SamSegError
        If there is no such dataset, or its derivatives cannot be written there.
    """
    if settings.method in ("points", *SEMANTIC_METHODS):
        raise SettingsError(
            f"the method {settings.method!r} does not find objects in semantic labels "
            "alone: choose another"
        )
    yield Progress("looking for images")
    dataset = index_bids(job.root, job.label_names, labels_folder=job.labels_folder)
    out = job.out_folder
    open_derivatives(out, dataset, job.labels_folder)
    report = BidsReport(missing=dataset.missing)
    stems = derivative_stems(dataset.images)
    n_images = len(dataset.images)
    for i, (image, stem) in enumerate(zip(dataset.images, stems, strict=True)):
        yield Progress("images", i, n_images, stem)
        try:
            task = _plan(job, settings, dataset, image, out / image.folder, stem)
            if not task.write:
                report.kept.append(stem)
                report.notes += [(stem, note) for note in task.derivative.read_notes()]
                continue
            found, notes = _make(task, job, settings)
        except SamSegError as error:
            report.failed.append((stem, str(error)))
            continue
        report.made.append((stem, found))
        report.notes += [(stem, note) for note in notes]
    yield Progress("images", n_images, n_images)
    return report


def _plan(
    job: BidsJob,
    settings: InstanceSettings,
    dataset: BidsDataset,
    image: BidsImage,
    folder: Path,
    stem: str,
) -> _Task:
    lacking = [name for name in job.label_names if name not in image.labels]
    if lacking:
        raise InvalidLabelsError(f"its labels are missing: {', '.join(lacking)}")
    size = image.pixel_size
    if size is None and job.pixel_size is not None:
        size = job.pixel_size[0], job.pixel_size[-1]
    inputs = (image.path, *image.labels.values())
    recipe = {
        "Settings": dataclasses.asdict(settings),
        "MapFormat": job.map_format,
        "PixelSize": None if size is None else list(size),
        "Inputs": {
            relative_place(path, dataset.root): digest_file(path) for path in inputs
        },
    }
    derivative = Derivative(folder, stem, recipe)
    endings = {
        "instances": f"instance-map.{job.map_format}",
        "prompts": "prompts.csv",
        "morphometrics": "morphometrics.csv",
        "picture": "qc.png",
        "page": "qc.html",
    }
    if settings.method == "axon-myelin":
        endings["myelin"] = f"myelinmap.{job.map_format}"
    write = derivative.to_write(list(endings.values()), overwrite=job.overwrite)
    return _Task(image, derivative, endings, size, write)


def _make(
    task: _Task, job: BidsJob, settings: InstanceSettings
) -> tuple[Instances, list[str]]:
    labels = task.image.labels
    names = (job.labels, job.axon, job.myelin)
    classes, notes = read_classes(
        *(None if name is None else labels[name] for name in names)
    )
    classes = _as_plane(classes, task.image.path)
    plane = read_picture(task.image.path, classes.shape)
    found = find_instances(classes, settings, spacing=_spacing(task.pixel_size))
    notes += found.notes
    is_axon = is_myelin = None
    if settings.method == "axon-myelin":
        is_axon = classes == settings.seed_class
        is_myelin = (classes != 0) & ~is_axon
    if not found.n_objects:
        notes.append("its labels hold no object")
    if task.pixel_size is None:
        notes.append("measured in pixels: the size of a pixel is not known")
    _write(task, found, is_axon, is_myelin, plane, notes)
    return found, notes


def _write(
    task: _Task,
    found: Instances,
    is_axon: npt.NDArray[np.bool_] | None,
    is_myelin: npt.NDArray[np.bool_] | None,
    plane: FloatArray,
    notes: list[str],
) -> None:
    labels, derivative = found.labels, task.derivative
    writers: dict[str, Callable[[Path], None]] = {
        "instances": lambda path: write_label_image(path, labels),
        "prompts": lambda path: _write_prompts(path, labels),
        "morphometrics": lambda path: write_morphometrics(
            path, measure_instances(labels, axon=is_axon, pixel_size=task.pixel_size)
        ),
        "picture": lambda path: write_qc_picture(path, plane, labels),
        "page": lambda path: write_qc_page(path, plane, labels, title=derivative.stem),
    }
    if is_myelin is not None:
        writers["myelin"] = lambda path: write_label_image(
            path, np.where(is_myelin, labels, 0)
        )
    sources = [source_uri(place) for place in derivative.recipe["Inputs"]]
    fields: dict[str, Any] = {"Sources": sources}
    if task.pixel_size is not None:
        y, x = task.pixel_size
        fields |= {"PixelSize": [x, y], "PixelSizeUnits": "um"}
    fields |= {"Objects": found.n_objects, "UnassignedPixels": found.n_unassigned}
    if len(task.write) == len(task.endings):
        derivative.write_record(complete=False, **fields)
    for what, ending in task.endings.items():
        if ending in task.write:
            writers[what](derivative.path(ending))
    derivative.write_record(complete=True, notes=notes, **fields)


def _as_plane(classes: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    if classes.ndim == 3 and len(classes) == 1:
        classes = classes[0]
    if classes.ndim != 2:
        raise InvalidLabelsError(
            f"the labels of {path.name} are a volume {classes.shape}, and this takes "
            "planes: use `napari-samseg instances` for it"
        )
    return classes


def _spacing(pixel_size: tuple[float, float] | None) -> tuple[float, ...] | None:
    """Return the sides of a pixel in units of the shorter one, None if it is square."""
    if pixel_size is None or pixel_size[0] == pixel_size[1]:
        return None
    return tuple(side / min(pixel_size) for side in pixel_size)


def _write_prompts(path: Path, labels: npt.NDArray[Any]) -> None:
    """Write the box of each object and its most interior point."""
    index = index_objects(labels)
    settings = PromptSettings(box="box", point="interior", n_points=1, n_negatives=0)
    prompts = sample_prompts(index, settings, np.random.default_rng(0))
    with open_prompt_writer(path) as writer:
        writer.write((), prompts, index)
