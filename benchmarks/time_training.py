"""How long an epoch takes from embeddings, and with the encoder in the loop.

`python benchmarks/time_training.py` prints a table; `--json FILE` keeps it. The same
objects of the same images, the same loss and decoder, and vit_b with seeded random
weights: once from embeddings that lie on disk, once encoded in each step by the
plugin's encoder, and once by segment_anything's. They take turns in one run, step by
step, so that the ratios hold on a busy machine. How much of a step it takes to make its
batch (reading the embedding, drawing prompts) is measured beside.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from timing import random_vit

from napari_samseg.core.images import open_image
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.settings import (
    AugmentSettings,
    LoopSettings,
    TileSettings,
    TuneSettings,
)
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training.batches import BatchSource, ObjectBatch, TuneLoss
from napari_samseg.core.training.images import LabelledImage
from napari_samseg.core.training.losses import read_loss
from napari_samseg.core.training.prepare import prepare_steps
from napari_samseg.core.training.survey import survey_steps
from napari_samseg.core.training.views import ViewSet

CACHED, OURS, THEIRS = "embeddings", "napari-samseg", "segment_anything"
OBJECTS = 8


def main() -> None:
    """Measure, print the table, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--size", type=int, default=512, help="of an image, in pixels")
    parser.add_argument("--repeats", type=int, default=3, help="epochs")
    parser.add_argument("--threads", type=int, default=0, help="0 is torch's choice")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    report = measure(options)
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def discs(number: int, size: int) -> LabelledImage:
    """Draw an image with eight discs, and its labels."""
    rng = np.random.default_rng(number)
    y, x = np.ogrid[:size, :size]
    labels = np.zeros((size, size), np.int32)
    for i in range(OBJECTS):
        row, column = divmod(i, 4)
        cy, cx = (row + 0.5) * size / 2, (column + 0.5) * size / 4
        radius = rng.uniform(0.04, 0.08) * size
        labels[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = i + 1
    picture = rng.normal(60, 12, labels.shape) + 110 * (labels > 0)
    image = open_image(picture.clip(0, 255).astype(np.uint8))
    return LabelledImage(f"discs {number}", image, labels)


def prepare(
    n_images: int, size: int, folder: Path, model: SamModel, settings: TuneSettings
) -> ViewSet:
    """Encode drawn images for a training."""
    images = [discs(i, size) for i in range(n_images)]
    return run_steps(
        prepare_steps(
            images,
            run_steps(survey_steps(images, settings.min_area)),
            model,
            folder,
            settings,
            augmenting=AugmentSettings(),
            tiles=TileSettings(tiling="whole"),
        )
    )


class Step:
    """A step of the mask decoder on a batch, the same in all ways."""

    def __init__(self, model: SamModel, settings: TuneSettings) -> None:
        decoder = model.sam.mask_decoder.requires_grad_(True)
        rate = LoopSettings().learning_rate
        self._optimizer = torch.optim.AdamW(decoder.parameters(), lr=rate)
        self._sam = model.sam
        self._loss = TuneLoss(
            model, settings, read_loss(settings.loss), AugmentSettings()
        )

    def __call__(self, batch: ObjectBatch, number: int) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        total, _ = self._loss(self._sam, batch, number)
        total.backward()
        self._optimizer.step()


def encoders(
    model: SamModel, n_images: int, size: int
) -> dict[str, Callable[[ObjectBatch], None]]:
    """Return what each way does to the image of a batch before its step."""
    planes = {
        image.name: np.repeat(image.source.levels[0][..., None], 3, axis=2)
        for image in (discs(i, size) for i in range(n_images))
    }

    def ours(batch: ObjectBatch) -> None:
        model.encode(planes[batch.view.image].astype(np.float32))

    def theirs(batch: ObjectBatch) -> None:
        pixels = torch.from_numpy(planes[batch.view.image])
        square = pixels.permute(2, 0, 1)[None].float()
        square = torch.nn.functional.interpolate(square, (1024, 1024))
        with torch.no_grad():
            model.sam.image_encoder(model.sam.preprocess(square))

    return {CACHED: lambda batch: None, OURS: ours, THEIRS: theirs}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time the epochs of all three, taking turns in each step."""
    model = SamModel(random_vit("vit_b"), name="vit_b", family="sam")
    settings = TuneSettings(objects=OBJECTS, validation=0, surroundings=1.0)
    ways = encoders(model, options.images, options.size)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    loading, steps = [], []
    with tempfile.TemporaryDirectory() as folder:
        views = prepare(options.images, options.size, Path(folder), model, settings)
        source = BatchSource(views, settings, seed=0)
        step = Step(model, settings)
        step(source(0), 0)  # warm up
        for epoch in range(options.repeats):
            numbers = np.arange(source.per_epoch) + epoch * source.per_epoch
            sums = dict.fromkeys(ways, 0.0)
            for number in numbers.tolist():
                for way, encode in ways.items():
                    start = time.perf_counter()
                    batch = source(number)
                    made = time.perf_counter()
                    encode(batch)
                    encoded = time.perf_counter()
                    step(batch, number)
                    end = time.perf_counter()
                    # the cached way reads its embedding; the others do not need it
                    sums[way] += end - (start if way == CACHED else made)
                    if way == CACHED:
                        loading.append(made - start)
                        steps.append(end - encoded)
            for way, spent in sums.items():
                seconds[way].append(spent)
    return {
        "images": options.images,
        "objects": OBJECTS * options.images,
        "threads": torch.get_num_threads(),
        "seconds": {way: statistics.median(values) for way, values in seconds.items()},
        "loading share": statistics.median(loading) / statistics.median(steps),
        "step seconds": statistics.median(steps),
    }


def show(report: dict[str, Any]) -> None:
    """Print the figures."""
    table = Table(title=f"an epoch of {report['objects']} objects, vit_b")
    for column in ("encoder", "seconds", "ratio"):
        table.add_column(column)
    base = report["seconds"][CACHED]
    for way, seconds in report["seconds"].items():
        table.add_row(way, f"{seconds:.1f}", f"{seconds / base:.1f}")
    console = Console()
    console.print(table)
    console.print(
        f"making a batch takes {report['loading share']:.1%} of a step "
        f"({report['step seconds']:.2f} s), in a thread beside it"
    )


if __name__ == "__main__":
    main()
