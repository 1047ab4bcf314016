"""Real images the embedded model has not seen, with the labels it is scored on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pack import (
    AXON_TEST,
    MRI_TEST,
    axon_labels,
    find_pictures,
    read_dsb2018,
    read_mri,
)
from skimage.io import imread
from skimage.measure import label

from napari_samseg.core.contrast import normalise_plane
from napari_samseg.core.types import FloatArray

FIB_TEST_START = 200
Labels = npt.NDArray[np.integer]
Plane = tuple[str, FloatArray, Labels]


@dataclass(frozen=True, slots=True)
class TestSet:
    """A set of test planes.

    Attributes
    ----------
    title : str
        Line in the table.
    seen : bool
        Whether other images of the kind were trained on.
    read : callable
        Yields (name, plane (Y, X, 3), labels (Y, X)) of the folder of all data.
    """

    title: str
    seen: bool
    read: Callable[[Path], Iterator[Plane]]


def read_dsb2018_test(data: Path) -> Iterator[Plane]:
    """Nuclei, the test split."""
    for image in read_dsb2018(data / "dsb2018", ("test",)):
        yield image.name, normalise_plane(image.pixels), image.labels[0]


def _read_axon_sem(data: Path, which: int) -> Iterator[Plane]:
    folder = data / "axon_sem"
    for path in find_pictures(folder / "images", f"{AXON_TEST}*.png"):
        labels = axon_labels(imread(folder / "classes" / path.name))
        yield path.stem, normalise_plane(imread(path)), labels[which]


def read_axons(data: Path) -> Iterator[Plane]:
    """Axons of the test animal."""
    return _read_axon_sem(data, 0)


def read_fibres(data: Path) -> Iterator[Plane]:
    """Axons with their myelin, of the test animal."""
    return _read_axon_sem(data, 1)


def read_em_fib25_test(data: Path) -> Iterator[Plane]:
    """Bodies in sections beyond the trained ones."""
    folder = data / "em_fib25_neuroproof"
    raw, bodies = imread(folder / "raw.tif"), imread(folder / "gt_bodies.tif")
    for z in range(FIB_TEST_START, len(raw), 7):
        labels = label(bodies[z], connectivity=1, background=0)
        yield f"z{z}", normalise_plane(raw[z]), labels


def read_mri_lesions(data: Path) -> Iterator[Plane]:
    """Lesions in FLAIR of the test patient."""
    for image in read_mri(data / "mri_ms_lesions", MRI_TEST):
        yield image.name, normalise_plane(image.pixels), image.labels[0]


def read_he_monuseg(data: Path) -> Iterator[Plane]:
    """Nuclei in stained tissue."""
    folder = data / "he_monuseg"
    for path in find_pictures(folder / "images"):
        labels = imread(folder / "labels" / path.name)
        yield path.stem, normalise_plane(imread(path)), labels.astype(np.int64)


def read_vnc_mitochondria(data: Path) -> Iterator[Plane]:
    """Mitochondria in serial-section TEM, components of each section."""
    folder = data / "em_vnc_sstem"
    raw, mask = imread(folder / "raw.tif"), imread(folder / "mitochondria.tif")
    for z in range(0, len(raw), 4):
        yield f"z{z}", normalise_plane(raw[z]), label(mask[z] > 0, connectivity=1)


def read_isbi_cells(data: Path) -> Iterator[Plane]:
    """Neurites in serial-section TEM, components between membranes."""
    folder = data / "em_isbi2012"
    raw = imread(folder / "raw.tif")
    cells = imread(folder / "cells_white_membrane_black.tif")
    for z in range(0, len(raw), 6):
        yield f"z{z}", normalise_plane(raw[z]), label(cells[z] > 0, connectivity=1)


def read_gala_bodies(data: Path) -> Iterator[Plane]:
    """Bodies in another FIB-SEM volume, components of each section."""
    folder = data / "em_gala_mini"
    raw, bodies = imread(folder / "train_raw.tif"), imread(folder / "train_gt.tif")
    for z in range(0, len(raw), 10):
        labels = label(bodies[z], connectivity=1, background=0)
        yield f"z{z}", normalise_plane(raw[z]), labels


def read_oct_fluid(data: Path) -> Iterator[Plane]:
    """Fluid in retinal OCT, components."""
    folder = data / "oct_dme_fluid"
    for path in find_pictures(folder / "images")[::3]:
        fluid = imread(folder / "fluid" / path.name) > 127
        yield path.stem, normalise_plane(imread(path)), label(fluid, connectivity=1)


def read_laptrack_nuclei(data: Path) -> Iterator[Plane]:
    """Fluorescent nuclei of a short movie."""
    folder = data / "track_laptrack_small"
    frames = imread(folder / "nuclei_images.tif")
    labels = imread(folder / "nuclei_labels.tif").astype(np.int64)
    for t, (frame, nuclei) in enumerate(zip(frames, labels, strict=True)):
        yield f"t{t}", normalise_plane(frame), nuclei


TEST_SETS: dict[str, TestSet] = {
    "dsb2018": TestSet("dsb2018 test: nuclei", True, read_dsb2018_test),
    "axons": TestSet("axon_sem test animal: axons", True, read_axons),
    "fibres": TestSet("axon_sem test animal: fibres", True, read_fibres),
    "em_fib25": TestSet("em_fib25 z >= 200: bodies", True, read_em_fib25_test),
    "mri": TestSet("mri_ms_lesions test patient: lesions", True, read_mri_lesions),
    "he_monuseg": TestSet("he_monuseg: nuclei", False, read_he_monuseg),
    "em_vnc": TestSet("em_vnc_sstem: mitochondria", False, read_vnc_mitochondria),
    "em_isbi": TestSet("em_isbi2012: neurites", False, read_isbi_cells),
    "em_gala": TestSet("em_gala_mini: bodies", False, read_gala_bodies),
    "oct_fluid": TestSet("oct_dme_fluid: fluid", False, read_oct_fluid),
    "laptrack": TestSet("track_laptrack: nuclei", False, read_laptrack_nuclei),
}
