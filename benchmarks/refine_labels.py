"""How refining changes labels: good ones, and ones made worse in known ways.

``python benchmarks/refine_labels.py`` prints tables in Markdown of images that the
embedded model was not trained on; SAMSEG_DATA names the folder of data sets.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.io import imread

from napari_samseg.core.images import open_image
from napari_samseg.core.instances.components import label_components
from napari_samseg.core.metrics.overlap import mask_iou
from napari_samseg.core.models import load_model
from napari_samseg.core.models.protocol import PromptableModel
from napari_samseg.core.planes import measure_plane
from napari_samseg.core.predict import Predictor
from napari_samseg.core.refine.plane import refine_plane
from napari_samseg.core.settings import PromptSettings, RefineSettings, TileSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.tiled import TiledPlane, plan_tiles

Labels = npt.NDArray[np.uint16]
Degrade = Callable[[Labels, np.random.Generator], Labels]

# Objects of fewer pixels say little about outlines.
SMALLEST = 30
# What is taken of each image: decoding takes a tenth of a second for an object.
NUCLEI_PART = (slice(0, 200), slice(0, 200))
AXONS_PART = (slice(0, 450), slice(0, 450))


def erode(labels: Labels, rng: np.random.Generator) -> Labels:
    """Take 2 pixels off each object all around; none vanishes."""
    return _each_object(labels, lambda mask: ndimage.binary_erosion(mask, None, 2))


def grow(labels: Labels, rng: np.random.Generator) -> Labels:
    """Give each object 2 pixels all around, of those that no other has."""
    distance, nearest = ndimage.distance_transform_cdt(
        labels == 0, "taxicab", return_indices=True
    )
    return np.where(distance <= 2, labels[tuple(nearest)], 0).astype(labels.dtype)


def jitter(labels: Labels, rng: np.random.Generator) -> Labels:
    """Move each object by up to 3 pixels along each axis, all equally likely."""
    return _each_object(
        labels, lambda mask: ndimage.shift(mask, rng.integers(-3, 4, 2), order=0)
    )


def _each_object(
    labels: Labels, change: Callable[[npt.NDArray[np.bool_]], npt.NDArray[np.bool_]]
) -> Labels:
    rough = np.zeros_like(labels)
    for object_id, part in enumerate(ndimage.find_objects(labels), 1):
        if part is None:
            continue
        room = tuple(slice(max(0, s.start - 4), s.stop + 4) for s in part)
        mask = labels[room] == object_id
        changed = change(mask)
        rough[room][changed if changed.any() else mask] = object_id
    return rough


DEGRADED: dict[str, Degrade] = {
    "as drawn by experts": lambda labels, rng: labels,
    "eroded by 2 px": erode,
    "grown by 2 px": grow,
    "each moved by up to 3 px": jitter,
}
PROMPTS = {
    "box": (PromptSettings(), RefineSettings()),
    "box, margin 2": (PromptSettings(), RefineSettings(margin=2)),
    "interior": (PromptSettings(box="none", point="interior"), RefineSettings()),
    "mask": (PromptSettings(box="none", mask=True), RefineSettings()),
}


def nuclei(folder: Path, n_images: int) -> Iterator[tuple[npt.NDArray, Labels]]:
    """Images of dsb2018's test split, spread over its kinds."""
    with (folder / "index.csv").open(newline="") as file:
        tests = [row["id"] for row in csv.DictReader(file) if row["split"] == "test"]
    for name in tests[:: max(1, len(tests) // n_images)][:n_images]:
        yield tuple(
            imread(folder / part / f"{name}.png")[NUCLEI_PART]
            for part in ("images", "labels")
        )


def axons(folder: Path) -> Iterator[tuple[npt.NDArray, Labels]]:
    """Axons without myelin in the test image of axon_sem."""
    name = "sub-rat8_sample-V915.png"
    image = imread(folder / "images" / name)[AXONS_PART]
    classes = imread(folder / "classes" / name)[AXONS_PART]
    yield image, label_components(classes == 2).astype(np.uint16)


def compare(
    model: PromptableModel, images: Iterator[tuple[npt.NDArray, Labels]]
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return the IoU of each object before and after, by labels and by prompts."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {
        name: {prompts: [] for prompts in PROMPTS} for name in DEGRADED
    }
    for image, true in images:
        ids, areas = np.unique(true[true > 0], return_counts=True)
        ids = ids[areas >= SMALLEST]
        plane = measure_plane(open_image(image))
        tiles = plan_tiles(plane.size, model.input_size, TileSettings())
        # encoded once for all of it
        tiled = TiledPlane(Predictor(model), plane, tiles)
        for name, degrade in DEGRADED.items():
            rough = degrade(true, np.random.default_rng(0))
            before = ious(rough, true, ids)
            for shown, (prompts, settings) in PROMPTS.items():
                steps = refine_plane(tiled, rough, prompts, settings)
                after = ious(run_steps(steps).labels, true, ids)
                found[name][shown] += zip(before, after, strict=True)
    return found


def ious(labels: Labels, true: Labels, ids: npt.NDArray) -> list[float]:
    """IoU of objects with those of the same id."""
    return [mask_iou(labels == i, true == i) for i in ids]


def print_table(found: dict[str, dict[str, list[tuple[float, float]]]]) -> None:
    """Print mean IoU before and after, and the share of objects that got worse."""
    names = [f"{name} | worse" for name in PROMPTS]
    write = sys.stdout.write
    write(f"| labels | before | {' | '.join(names)} |\n")
    write("| --- " * (2 + 2 * len(PROMPTS)) + "|\n")
    for labels, by_prompts in found.items():
        cells = []
        for pairs in by_prompts.values():
            before, after = np.array(pairs).T
            worse = (after < before - 0.01).mean()
            cells += [f"{after.mean():.2f}", f"{worse:.0%}"]
        write(f"| {labels} | {before.mean():.2f} | {' | '.join(cells)} |\n")
    write(f"\n{len(before)} objects\n\n")


def main() -> None:
    """Measure the nuclei and the axons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4, help="images of nuclei")
    parser.add_argument("--only", choices=("nuclei", "axons"))
    options = parser.parse_args()
    data = Path(os.environ["SAMSEG_DATA"])
    model = load_model("default", device="cpu")
    if options.only != "axons":
        sys.stdout.write("nuclei (dsb2018, test split)\n\n")
        print_table(compare(model, nuclei(data / "dsb2018", options.images)))
    if options.only != "nuclei":
        sys.stdout.write("axons (axon_sem, test image)\n\n")
        print_table(compare(model, axons(data / "axon_sem")))


if __name__ == "__main__":
    main()
