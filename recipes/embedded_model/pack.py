"""Decode the training sets and generated images once into one small file.

Only sets whose licence allows the model to be given away are read, and of these only
the training and validation parts (the splits of the data's README).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from generate import generate_image
from scipy import ndimage
from skimage.io import imread
from skimage.measure import label
from skimage.segmentation import watershed

from napari_samseg.core.contrast import normalise_plane

Labels = npt.NDArray[np.uint16]

AXON_VALIDATION, AXON_TEST = "sub-rat6", "sub-rat8"
MRI_TRAIN, MRI_TEST = "patient07", "patient19"
FIB_TRAIN_STOP, FIB_VALIDATION = 190, (193, 197)
# seeds of drawn images that are for validation begin here
HELD_OUT_SEED, HELD_OUT_IMAGES = 1_000_000, 16
GENERATED = 1500  # drawn images to train on


@dataclass(frozen=True, slots=True)
class PackedImage:
    """One image with the label maps that hold for it.

    Attributes
    ----------
    name, source, split : str
        File, data set, "train" or "val".
    pixels : (Y, X) or (Y, X, 3) uint8
        Normalised as the plugin does by default.
    labels : tuple of (Y, X) uint16
    """

    name: str
    source: str
    split: str
    pixels: npt.NDArray[np.uint8]
    labels: tuple[Labels, ...]


def _normalise(raw: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    plane = np.rint(normalise_plane(raw)).astype(np.uint8)
    grey = raw.ndim == 2
    return np.ascontiguousarray(plane[..., 0] if grey else plane)


def find_pictures(folder: Path, pattern: str = "*.png") -> list[Path]:
    """Return the pictures of a folder, sorted; a set must not be missing unseen.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"there is no {pattern} in {folder}: see --data")
    return found


def read_dsb2018(folder: Path, splits: tuple[str, ...]) -> Iterator[PackedImage]:
    """Nuclei of the 2018 Data Science Bowl (CC0)."""
    with (folder / "index.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] in splits]
    for row in rows:
        pixels = imread(folder / "images" / f"{row['id']}.png")
        labels = imread(folder / "labels" / f"{row['id']}.png").astype(np.uint16)
        source = f"dsb2018/{row['kind']}"
        yield PackedImage(
            row["id"][:12], source, row["split"], _normalise(pixels), (labels,)
        )


def axon_labels(classes: npt.NDArray[np.uint8]) -> tuple[Labels, Labels]:
    """Axons (components) and fibres (axon and myelin, by watershed) of a class map."""
    axons = label(classes == 2, connectivity=2)
    depth = ndimage.distance_transform_edt(axons > 0)
    fibres = watershed(-depth, axons, mask=classes > 0)
    return axons.astype(np.uint16), fibres.astype(np.uint16)


def read_axon_sem(folder: Path, splits: tuple[str, ...]) -> Iterator[PackedImage]:
    """Axons and myelin in SEM of rat spinal cord (MIT)."""
    for path in find_pictures(folder / "images"):
        split = "train"
        if path.stem.startswith(AXON_TEST):
            split = "test"
        elif path.stem.startswith(AXON_VALIDATION):
            split = "val"
        if split not in splits:
            continue
        labels = axon_labels(imread(folder / "classes" / path.name))
        yield PackedImage(
            path.stem, "axon_sem", split, _normalise(imread(path)), labels
        )


def read_em_fib25(folder: Path) -> Iterator[PackedImage]:
    """Sections of FIB-SEM bodies (attribution), along all axes: voxels are cubes.

    Those across the others end at the split too. Between it and the sections that are
    scored lie those of the validation.
    """
    raw = imread(folder / "raw.tif")
    bodies = imread(folder / "gt_bodies.tif")
    sections = [
        *(("z", 0, k, "train") for k in range(0, FIB_TRAIN_STOP, 3)),
        *(("y", 1, k, "train") for k in range(0, raw.shape[1], 8)),
        *(("x", 2, k, "train") for k in range(0, raw.shape[2], 8)),
        *(("z", 0, k, "val") for k in FIB_VALIDATION),
    ]
    for axis, number, k, split in sections:
        stop = None if split == "val" else FIB_TRAIN_STOP
        plane, found = (v[:stop].take(k, axis=number) for v in (raw, bodies))
        labels = label(found, connectivity=1, background=0).astype(np.uint16)
        name = f"{axis}{k:03d}"
        yield PackedImage(name, "em_fib25", split, _normalise(plane), (labels,))


def read_mri(folder: Path, patient: str) -> Iterator[PackedImage]:
    """Axial planes with lesions of one patient (CC BY)."""
    import nibabel

    image, mask = (
        np.asarray(nibabel.load(folder / f"{patient}_{what}_MNI.nii.gz").dataobj)
        for what in ("FLAIR", "lesions")
    )
    split = "test" if patient == MRI_TEST else "train"
    for k in range(image.shape[2]):
        lesions = label(mask[..., k] > 0, connectivity=1)
        if np.bincount(lesions.ravel())[1:].max(initial=0) >= 20:
            plane = _normalise(np.clip(image[..., k].astype(np.float32), 0, None))
            labels = (lesions.astype(np.uint16),)
            yield PackedImage(f"k{k:03d}", "mri_lesions", split, plane, labels)


def read_laptrack_cells(folder: Path) -> Iterator[PackedImage]:
    """Cells of a short movie (CC BY)."""
    frames = imread(folder / "cells_images.tif")
    labels = imread(folder / "cells_labels.tif")
    for t, (frame, cells) in enumerate(zip(frames, labels, strict=True)):
        maps = (cells.astype(np.uint16),)
        yield PackedImage(f"t{t}", "laptrack_cells", "train", _normalise(frame), maps)


def read_generated(count: int, size: int = 320) -> Iterator[PackedImage]:
    """Drawn images, seeds 0 to `count`, and some for validation."""
    held_out = range(HELD_OUT_SEED, HELD_OUT_SEED + HELD_OUT_IMAGES)
    for seed in (*range(count), *held_out):
        image, labels, kind = generate_image(seed, size)
        name, source = f"s{seed:05d}", f"generated/{kind}"
        split = "val" if seed in held_out else "train"
        yield PackedImage(name, source, split, _normalise(image), labels)


def read_training_sets(data: Path, generated: int) -> Iterator[PackedImage]:
    """Everything the embedded model may learn from, and its validation images."""
    splits = ("train", "val")
    yield from read_dsb2018(data / "dsb2018", splits)
    yield from read_axon_sem(data / "axon_sem", splits)
    yield from read_em_fib25(data / "em_fib25_neuroproof")
    yield from read_mri(data / "mri_ms_lesions", MRI_TRAIN)
    yield from read_laptrack_cells(data / "track_laptrack_small")
    yield from read_generated(generated)


def write_pack(path: Path, images: Iterator[PackedImage]) -> None:
    """Write the images beside `path`, then rename: half a pack never counts."""
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    index = []
    for i, image in enumerate(images):
        arrays[f"pixels_{i}"] = image.pixels
        for k, labels in enumerate(image.labels):
            arrays[f"labels_{i}_{k}"] = labels
        index.append(
            {
                "name": image.name,
                "source": image.source,
                "split": image.split,
                "maps": len(image.labels),
            }
        )
    arrays["index"] = np.frombuffer(json.dumps(index).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part.npz")
    np.savez_compressed(unfinished, **arrays)
    unfinished.replace(path)


def open_pack(path: Path, data: Path, generated: int | None) -> list[PackedImage]:
    """Read a pack, which is made where there is none.

    Parameters
    ----------
    path : Path
    data : Path
        Folder of the sets.
    generated : int, optional
        Images to draw, `GENERATED` by default. If it is given, a pack with another
        number of them is refused.
    """
    if not path.exists():
        count = GENERATED if generated is None else generated
        write_pack(path, read_training_sets(data, count))
    images = read_pack(path)
    drawn = sum(i.source.startswith("generated") and i.split == "train" for i in images)
    if generated not in (None, drawn):
        raise SystemExit(
            f"{path} has {drawn} drawn images, not {generated}: delete it to have it "
            "made again, or leave --generated out"
        )
    return images


def read_pack(path: Path) -> list[PackedImage]:
    """Read what `write_pack` wrote."""
    with np.load(path, allow_pickle=False) as file:
        index = json.loads(bytes(file["index"]).decode())
        return [
            PackedImage(
                entry["name"],
                entry["source"],
                entry["split"],
                file[f"pixels_{i}"],
                tuple(file[f"labels_{i}_{k}"] for k in range(entry["maps"])),
            )
            for i, entry in enumerate(index)
        ]
