"""From a file of instance labels to a table of measurements and a picture."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import (
    InvalidLabelsError,
    OutputError,
    SettingsError,
    naming_file,
)
from napari_samseg.core.instances.morphometrics import (
    Morphometrics,
    measure_instances,
    write_morphometrics,
)
from napari_samseg.core.io.class_image import (
    read_mask_image,
)
from napari_samseg.core.io.image_file import open_image_file
from napari_samseg.core.io.label_doubts import instance_doubts
from napari_samseg.core.io.label_image import open_label_image
from napari_samseg.core.io.output import check_output_file
from napari_samseg.core.io.pixel_size import read_pixel_steps, to_micrometres
from napari_samseg.core.io.qc_picture import MAX_SIDE, write_qc_page, write_qc_picture
from napari_samseg.core.io.units import UNKNOWN
from napari_samseg.core.planes import read_plane
from napari_samseg.core.types import FloatArray, Progress

__all__ = ["MeasureJob", "measure_file", "read_picture"]

PICTURES = (".png", ".html", ".htm")


@dataclass(frozen=True, slots=True)
class MeasureJob:
    """Which files to read and write.

    Attributes
    ----------
    labels : Path
        Instance labels of a plane.
    out : Path
        Table to write, ``.csv``.
    myelin : Path or None
        Mask of the myelin: the rest of each object is its axon.
    pixel_size : tuple of float or None
        Side of a pixel, or its height and width; what the files say if not given.
    unit : str
        Of `pixel_size`.
    qc : Path or None
        Picture (``.png``) or page (``.html``) to check the objects by.
    image : Path or None
        What the labels were made of, for the picture.
    overwrite : bool
        Replace files that are there already.
    """

    labels: Path
    out: Path
    myelin: Path | None = None
    pixel_size: tuple[float, ...] | None = None
    unit: str = "um"
    qc: Path | None = None
    image: Path | None = None
    overwrite: bool = False


def measure_file(
    job: MeasureJob,
) -> Generator[Progress, None, tuple[Morphometrics, list[str]]]:
    """Measure each object of a file, and write what was found.

    Returns
    -------
    Morphometrics
        In micrometres, or in pixels where nothing says how large these are.
    list of str
        What a person should know.

    Raises
    ------
    SamSegError
        If a file is missing or of the wrong kind, or files do not belong together;
        the message says which.
    """
    _check(job)
    yield Progress("reading")
    with open_label_image(job.labels) as found:
        labels = _as_plane(np.asarray(found[...]), job.labels)
    notes = instance_doubts(labels, job.labels)
    size, where = _find_pixel_size(job)
    if size is None:
        notes.append(
            "measured in pixels: no file says how large they are; give --pixel-size"
        )
    elif where is not None:
        notes.append(
            f"pixels of {size[0]:.6g} x {size[1]:.6g} um (height, width), as {where} "
            "says"
        )
    axon = None if job.myelin is None else _read_axon(job.myelin, job.labels, labels)
    picture = None
    if job.qc is not None and job.image is not None:
        picture = read_picture(job.image, labels.shape)
    yield Progress("measuring")
    with naming_file(job.labels):
        table = measure_instances(labels, axon=axon, pixel_size=size)
    yield Progress("writing")
    write_morphometrics(job.out, table)
    if job.qc is not None and picture is not None:
        if job.qc.suffix.lower() == ".png":
            write_qc_picture(job.qc, picture, labels)
        else:
            write_qc_page(job.qc, picture, labels, title=job.labels.name)
    return table, notes


def read_picture(path: Path, shape: tuple[int, ...]) -> FloatArray:
    """Read an image for a picture, after a look at whether labels are its own.

    Parameters
    ----------
    path : Path
    shape : (int, int)
        Of the labels, in pixels.

    Returns
    -------
    (y, x, 3) float32
        Averaged down where it is large.

    Raises
    ------
    InvalidLabelsError
        If the labels are of another size.
    """
    with open_image_file(path) as source:
        lead = source.shape[:-2]
        if set(lead) - {1} or source.plane_size() != shape:
            raise InvalidLabelsError(
                f"{path.name} has {' x '.join(map(str, source.shape))} pixels, and its "
                f"labels {' x '.join(map(str, shape))}: they are not labels of it"
            )
        return read_plane(source, (0,) * len(lead), max_pixels=MAX_SIDE**2)


def _check(job: MeasureJob) -> None:
    if job.out.suffix.lower() != ".csv":
        raise OutputError(f"a table of measurements is a .csv, not {job.out.name!r}")
    if job.pixel_size is not None and len(job.pixel_size) not in (1, 2):
        raise SettingsError(
            f"the size of a pixel is one number, or height and width, not "
            f"{job.pixel_size}"
        )
    inputs = (job.labels, job.myelin, job.image)
    check_output_file(job.out, inputs=inputs, overwrite=job.overwrite)
    if job.qc is None:
        return
    if job.qc.suffix.lower() not in PICTURES:
        raise OutputError(
            f"a picture of objects is a .png or .html, not {job.qc.name!r}"
        )
    if job.image is None:
        raise SettingsError("--qc draws objects over their image: add --image FILE")
    check_output_file(job.qc, inputs=(*inputs, job.out), overwrite=job.overwrite)


def _as_plane(labels: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    while labels.ndim > 2 and len(labels) == 1:
        labels = labels[0]
    if labels.ndim != 2:
        raise InvalidLabelsError(
            f"{path} is a volume {labels.shape}, and measurements are those of a plane "
            "(Y, X): save the plane by itself"
        )
    return labels


def _find_pixel_size(job: MeasureJob) -> tuple[tuple[float, float] | None, Path | None]:
    """Return height and width in micrometres, and the file that says so."""
    if job.pixel_size is not None:
        sides = [to_micrometres(side, job.unit) for side in job.pixel_size]
        return (sides[0], sides[-1]), None
    for path in (job.labels, job.image):
        if path is None or not path.exists():
            continue
        steps = read_pixel_steps(path)
        scale, units = steps.get("scale", ())[-2:], steps.get("units", ())[-2:]
        if len(scale) == 2 and not UNKNOWN.intersection(units):
            try:
                y, x = map(to_micrometres, scale, units)
            except SettingsError as error:
                raise SettingsError(
                    f"{path}: {error}: say how large a pixel is with --pixel-size"
                ) from error
            return (y, x), path
    return None, None


def _read_axon(
    path: Path, labels_path: Path, labels: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Return what of the objects is axon: all that is not myelin."""
    myelin = _as_plane(read_mask_image(path).classes, path)
    if myelin.shape != labels.shape:
        raise InvalidLabelsError(
            f"{path} has shape {myelin.shape}, and {labels_path} {labels.shape}: they "
            "do not belong together"
        )
    return np.asarray((labels != 0) & (myelin == 0))
