"""Train the embedded model: `python recipes/embedded_model/train.py --data DIR`.

Every step's losses and every validation go into ``log.csv``; ``state.pt``, written
every 50 steps and when the run is ended, takes the run up again with ``--resume``;
``best.safetensors`` are the averaged weights of the best validation.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from crops import CropBatch, CropPlan, CropSource, augment_pixels
from export import write_weights
from objective import LATE, Objective, TrainedModel, is_dense
from pack import PackedImage, open_pack
from segment_anything.modeling import Sam
from torch import nn
from validation import Validation

from napari_samseg.core.models import load_model
from napari_samseg.core.models.tiny import ENCODERS, TinyConfig, build_tiny
from napari_samseg.core.settings import LoopSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training.loop import TrainingLoop
from napari_samseg.core.types import Progress, TrainingProgress

STATE, LOG, BEST = "state.pt", "log.csv", "best.safetensors"
COLUMNS = ("step", "seconds", "name", "value")


def plan_at(
    step: int, steps: int, seed: int, *, canvas: int = 512, knows: bool = False
) -> CropPlan:
    """Mostly small crops; whole canvases grow more frequent, as the plugin sees them.

    A model that knows objects already (`knows`) sees two of five whole wherever
    prompts are trained. Dense targets alone are learned from small crops.
    """
    small = CropPlan(160, 16, 3)
    if is_dense(step, steps, knows=knows):
        return small
    share = 0.5 if step > LATE * steps else 0.4 if knows else 0.2
    is_whole = np.random.default_rng((seed, step, 7)).random() < share
    return CropPlan(canvas, 2, 24) if is_whole else small


def batches(
    images: list[PackedImage],
    steps: int,
    seed: int,
    *,
    canvas: int = 512,
    knows: bool = False,
) -> Callable[[int], CropBatch]:
    """Return the function of a step that draws its batch."""
    source = CropSource(images, seed=seed, canvas=canvas)

    def batch_at(step: int) -> CropBatch:
        plan = plan_at(step, steps, seed, canvas=canvas, knows=knows)
        batch = source.batch_at(step, plan)
        pixels = augment_pixels(batch.pixels, batch.valid, seed + step)
        return dataclasses.replace(batch, pixels=pixels)

    return batch_at


def first_weights(options: argparse.Namespace) -> Sam:
    """Return the model to train: random, or that of a checkpoint."""
    if options.init is None:
        torch.manual_seed(options.seed)
        config = TinyConfig(
            encoder=options.encoder, input_size=options.input_size, batch_norm=True
        )
        return build_tiny(config)
    name = "default" if options.init == "embedded" else options.init
    model = load_model(name, device="cpu", precision="exact")
    if model.family != "tiny":
        raise SystemExit(f"{options.init} is of family {model.family}: take a tiny one")
    torch.manual_seed(options.seed)  # of the dense head
    return model.sam


def make_loop(
    module: TrainedModel, images: list[PackedImage], options: argparse.Namespace
) -> tuple[TrainingLoop[CropBatch], Validation]:
    """Put the training together; nothing is trained yet."""
    knows = options.init is not None
    validation = Validation(images, options.val_objects)
    canvas = int(module.sam.image_encoder.img_size)
    objective = Objective.of(module, options.steps, knows=knows)
    options.out.mkdir(parents=True, exist_ok=True)

    def keep(best: nn.Module, score: float) -> None:
        del score
        write_weights(best.sam, options.out / BEST, loop.step)

    loop = TrainingLoop(
        module,
        batches(images, options.steps, options.seed, canvas=canvas, knows=knows),
        objective,
        LoopSettings(
            steps=options.steps,
            learning_rate=options.learning_rate or (3e-4 if knows else 1e-3),
            validate_every=options.validate_every,
            checkpoint_every=50,
            mixed_precision=options.mixed_precision,
            seed=options.seed,
        ),
        validate=validation,
        on_best=keep,
        checkpoint=options.out / STATE,
    )
    return loop, validation


class Curve:
    """The CSV of a run: one row for each figure of each step."""

    def __init__(self, path: Path, step: int) -> None:
        """Begin after `step`: rows of steps that are made again are dropped."""
        kept: list[Sequence[str]] = []
        if step and path.exists():
            with path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS)]
            # neither the head, nor a last line that was cut off
            kept = [r for r in rows if r[0].isdigit() and int(r[0]) <= step]
        self._before = float(kept[-1][1]) if kept else 0.0
        self._start = time.monotonic()
        self._file = path.open("w", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerows([COLUMNS, *kept])

    @property
    def seconds(self) -> float:
        """Since this process began to train."""
        return time.monotonic() - self._start

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Add the figures of a step."""
        at = f"{self._before + self.seconds:.1f}"
        for name, value in figures.items():
            self._writer.writerow((step, at, name, f"{value:.4f}"))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def follow(
    loop: TrainingLoop[CropBatch], validation: Validation, log: Path, minutes: float
) -> None:
    """Run the loop for some time, writing every step to the log and some to screen."""
    ended: list[bool] = []
    # the loop writes its state when it is left between two steps
    handler = signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    try:
        with closing(Curve(log, loop.step)) as curve, closing(loop.run()) as steps:
            for done in _write_steps(steps, loop, validation, curve):
                if ended or (minutes and curve.seconds > 60 * minutes):
                    print(f"stopped after step {done}; go on with --resume", flush=True)
                    break
    finally:
        signal.signal(signal.SIGTERM, handler)


def _write_steps(
    steps: Iterator[Progress],
    loop: TrainingLoop[CropBatch],
    validation: Validation,
    curve: Curve,
) -> Iterator[int]:
    """Write the figures of each step; yields its number."""
    means: dict[str, float] = {}
    for progress in steps:
        if not isinstance(progress, TrainingProgress):
            continue
        figures = {"loss": progress.train_loss, "rate": loop.rate, **loop.figures}
        for key, value in figures.items():
            means[key] = 0.96 * means.get(key, value) + 0.04 * value
        if progress.val_iou is not None:
            figures |= {f"val_{k}": v for k, v in validation.figures.items()}
            _print_line(f"validation {progress.val_iou:.4f}", validation.figures)
        curve.write(progress.done, figures)
        if progress.done % 25 == 0:
            head = f"{progress.done}/{progress.total}  {curve.seconds:.0f} s"
            _print_line(head, means)
        yield progress.done


def _print_line(head: str, figures: dict[str, float]) -> None:
    shown = "  ".join(f"{key} {value:.3f}" for key, value in figures.items())
    print(f"{head}  {shown}", flush=True)


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, default=Path("../shared/data"))
    add("--pack", type=Path, help="of the data; made if it is not there (OUT/pack.npz)")
    add("--out", type=Path, default=Path("runs/tiny"))
    add("--init", help="weights to begin with: a path, or embedded; random without")
    add("--encoder", choices=ENCODERS, default="residual", help="of random weights")
    add("--input-size", type=int, default=512, help="of random weights, in pixels")
    add("--steps", type=int, default=3000, help="in all; the schedule goes by them")
    add("--minutes", type=float, default=0, help="stop after so many; 0 goes on")
    add("--learning-rate", type=float, help="1e-3, or 3e-4 with --init")
    add("--generated", type=int, help="images drawn into the pack (1500)")
    add("--seed", type=int, default=0)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--mixed-precision", action="store_true", help="bfloat16 where a GPU is fast")
    add("--threads", type=int, default=0, help="0 is torch's choice")
    add("--validate-every", type=int, default=250)
    add("--val-objects", type=int, default=8, help="scored of each held-out image")
    add("--resume", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print a line now and then."""
    options = read_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    pack = options.pack or options.out / "pack.npz"
    images = open_pack(pack, options.data, options.generated)
    left = [name for name in (STATE, BEST) if (options.out / name).exists()]
    if left and not options.resume:
        raise SystemExit(
            f"{options.out} holds {' and '.join(left)} of another training: go on with "
            "--resume, or take another --out"
        )
    module = TrainedModel(first_weights(options)).to(options.device)
    loop, validation = make_loop(module, images, options)
    if options.resume:
        loop.resume(options.out / STATE)
    elif options.init is not None:
        # weights that are no better than those it began with are not kept
        start = run_steps(validation(module))
        _print_line(f"begins with {start.value:.4f}", validation.figures)
        loop.begin_at(start.value)
    follow(loop, validation, options.out / LOG, options.minutes)


if __name__ == "__main__":
    main()
