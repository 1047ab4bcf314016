"""Compare designs of the encoder: `python recipes/embedded_model/compare_encoders.py`.

Each is trained from random weights for the same number of steps on batches of the same
seed, and scored on the validation images. One line of a Markdown table for each design
and input size. Times are those of this machine, in one run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from export import write_weights
from objective import Objective, TrainedModel
from pack import PackedImage, open_pack
from segment_anything.modeling import Sam
from train import batches
from validation import Validation

from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.models.tiny import (
    ENCODERS,
    TinyConfig,
    build_tiny,
    fold_batch_norm,
)
from napari_samseg.core.settings import LoopSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training.loop import TrainingLoop

HEADER = (
    "| encoder | input | million parameters | float16 MB | encode CPU ms "
    "| CPU s per step | box | point | 3 corrections |\n|---|" + 8 * "---:|"
)
REPEATS = 5


def train(
    config: TinyConfig, images: list[PackedImage], options: argparse.Namespace
) -> tuple[TrainedModel, float]:
    """Train a design; returns its averaged weights and the CPU seconds of a step."""
    torch.manual_seed(options.seed)
    module = TrainedModel(build_tiny(config)).to(options.device)
    loop = TrainingLoop(
        module,
        batches(images, options.steps, options.seed, canvas=config.input_size),
        Objective.of(module, options.steps),
        LoopSettings(
            steps=options.steps,
            learning_rate=options.learning_rate,
            warmup_steps=min(100, options.steps // 10),
            seed=options.seed,
        ),
    )
    start = time.process_time()
    run_steps(loop.run())
    seconds = (time.process_time() - start) / options.steps
    with loop.averaged.in_module():
        averaged = {name: t.clone() for name, t in module.state_dict().items()}
    module.load_state_dict(averaged)
    return module, seconds


def time_encoder(sam: Sam) -> float:
    """Return the milliseconds of processor that a plane takes, the best of some."""
    model = SamModel(fold_batch_norm(sam).cpu(), name="timed", family="tiny")
    plane = np.zeros((512, 512, 3), np.float32)
    times = []
    for _ in range(REPEATS + 1):
        start = time.process_time()
        model.encode(plane)
        times.append(time.process_time() - start)
    return 1000 * min(times[1:])


def table_row(
    config: TinyConfig, module: TrainedModel, seconds: float, validation: Validation
) -> str:
    """Score a trained design and return its line."""
    run_steps(validation(module))
    with tempfile.TemporaryDirectory() as folder:
        size = write_weights(module.sam, Path(folder) / "w.safetensors", 0)
    count = sum(p.numel() for p in fold_batch_norm(module.sam).parameters())
    means = [
        np.mean([v for k, v in validation.figures.items() if k.endswith(f"_{kind}")])
        for kind in ("box", "point", "corrected")
    ]
    ious = " | ".join(f"{mean:.3f}" for mean in means)
    encoding = time_encoder(module.sam)
    return (
        f"| {config.encoder} | {config.input_size} | {count / 1e6:.2f} "
        f"| {size / 1e6:.1f} | {encoding:.0f} | {seconds:.2f} | {ious} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train each design and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, default=Path("../shared/data"))
    add("--pack", type=Path, default=Path("runs/tiny/pack.npz"), help="of train.py")
    add("--generated", type=int, help="images drawn into the pack (1500)")
    add("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    add("--input-sizes", nargs="+", type=int, default=[384, 512])
    add("--steps", type=int, default=300)
    add("--learning-rate", type=float, default=1e-3)
    add("--val-objects", type=int, default=8, help="scored of each held-out image")
    add("--seed", type=int, default=0)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    images = open_pack(options.pack, options.data, options.generated)
    validation = Validation(images, options.val_objects, clicks=(3,))
    print(HEADER, flush=True)
    for encoder in options.encoders:
        for side in options.input_sizes:
            config = TinyConfig(encoder=encoder, input_size=side, batch_norm=True)
            module, seconds = train(config, images, options)
            print(table_row(config, module, seconds, validation), flush=True)


if __name__ == "__main__":
    main()
