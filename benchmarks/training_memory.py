"""How much memory a training takes, beside how much data it has.

`python benchmarks/training_memory.py` prints a table. Volumes of drawn planes that are
never in memory as a whole are encoded and trained on, each in a process of its own;
its peak beside what it held before it began must not grow with the data. The model is
small, with embeddings as large as those of SAM (4 MiB), so that they are more than the
training keeps in memory.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from skimage.draw import disk

from napari_samseg.core.images import PlaneSource
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.models.tiny import TinyConfig, build_tiny, prompt_prior
from napari_samseg.core.settings import LoopSettings, TuneSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training.images import LabelledImage
from napari_samseg.core.training.presets import TuningPlan
from napari_samseg.core.training.tuning import TuningJob

SIDE, OBJECTS, STEPS = 512, 8, 40
CONFIG = TinyConfig(
    input_size=SIDE,
    embed_dim=256,
    widths=(8, 8, 16, 16, 16),
    depths=(0, 0, 0, 0, 0),
    decoder_depth=1,
    mlp_dim=32,
    mask_channels=4,
)


class Drawn:
    """A volume of discs, drawn plane by plane as it is read."""

    def __init__(self, n_planes: int, *, as_labels: bool) -> None:
        self.shape = (n_planes, SIDE, SIDE)
        self.dtype = np.dtype(np.uint16 if as_labels else np.uint8)
        self._as_labels = as_labels

    def __getitem__(self, key: object) -> np.ndarray:
        index = key if isinstance(key, tuple) else (key,)
        z, rest = int(index[0]), index[1:]
        rng = np.random.default_rng(z)
        plane = np.zeros((SIDE, SIDE), self.dtype)
        for i, (y, x) in enumerate(rng.uniform(40, SIDE - 40, (OBJECTS, 2))):
            value = i + 1 if self._as_labels else rng.integers(120, 255)
            plane[disk((y, x), rng.uniform(10, 30), shape=plane.shape)] = value
        return plane[rest] if rest else plane


def train(n_planes: int) -> tuple[float, float]:
    """Train on so many planes; return MB that it took, and those of its embeddings."""
    torch.manual_seed(0)
    model = SamModel(build_tiny(CONFIG), name="wide", family="tiny", prior=prompt_prior)
    image = LabelledImage(
        "drawn",
        PlaneSource([Drawn(n_planes, as_labels=False)], channel_axis=None, rgb=False),
        Drawn(n_planes, as_labels=True),
    )
    plan = TuningPlan(
        tune=TuneSettings(objects=OBJECTS, surroundings=1.0),
        loop=LoopSettings(steps=STEPS, validate_every=20, checkpoint_every=STEPS),
    )
    # what imports and torch's own buffers take is not of the data
    model.encode(np.zeros((SIDE, SIDE, 3), np.float32))
    held = psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory() as folder:
        run_steps(TuningJob([image], model, Path(folder), plan).run_steps())
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    embeddings = 4 * n_planes * np.prod(model.embedding_shape)
    return (peak - held) / 1e6, float(embeddings) / 1e6


def main() -> None:
    """Train on each number of planes in a process, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--planes", type=int, nargs="+", default=[200, 400, 800])
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(*train(*options.planes))
        return
    table = Table(title=f"{STEPS} steps of a training, in MB")
    for column in ("planes", "embeddings", "memory", "ratio"):
        table.add_column(column, justify="right")
    first = None
    for n_planes in options.planes:
        command = [sys.executable, __file__, "--alone", "--planes", str(n_planes)]
        output = subprocess.run(command, check=True, capture_output=True, text=True)
        memory, embeddings = map(float, output.stdout.split()[-2:])
        first = memory if first is None else first
        row = f"{embeddings:.0f}", f"{memory:.0f}", f"{memory / first:.2f}"
        table.add_row(str(n_planes), *row)
    Console().print(table)


if __name__ == "__main__":
    main()
