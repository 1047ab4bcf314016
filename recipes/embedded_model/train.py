"""Train the embedded model: `python recipes/embedded_model/train.py --data DIR`.

Every step's losses and every validation go into ``log.csv``; ``state.pt``, written
every 50 steps and when the run is ended, takes the run up again with ``--resume``.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import torch
from crops import CropBatch, CropPlan, CropSource, augment_pixels
from objective import LATE, WARMUP, Objective, TrainedModel
from pack import PackedImage, read_pack, read_training_sets, write_pack
from torch import nn

from napari_samseg.core.contrast import normalise_plane
from napari_samseg.core.metrics.prompting import score_prompts
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.models.tiny import TinyConfig, fold_batch_norm, prompt_prior
from napari_samseg.core.predict import Predictor
from napari_samseg.core.settings import ImageSettings, LoopSettings
from napari_samseg.core.training.loop import TrainingLoop
from napari_samseg.core.training.schedule import Score
from napari_samseg.core.types import Progress, TrainingProgress

SMALL, MIDDLE, LARGE = CropPlan(160, 16, 4), CropPlan(320, 4, 7), CropPlan(512, 1, 12)


def plan_at(step: int, steps: int, seed: int) -> CropPlan:
    """Mostly small crops; large ones grow more frequent so that far tokens are seen."""
    progress = step / steps
    draw = np.random.default_rng((seed, step, 7)).random()
    if progress < WARMUP:
        return SMALL
    if draw < (0.12 if progress > LATE else 0.03):
        return LARGE
    return MIDDLE if draw < (0.45 if progress > LATE else 0.15) else SMALL


def batches(
    images: list[PackedImage], steps: int, seed: int
) -> Callable[[int], CropBatch]:
    """Return the function of a step that draws its batch."""
    source = CropSource(images, seed=seed)

    def batch_at(step: int) -> CropBatch:
        batch = source.batch_at(step, plan_at(step, steps, seed))
        pixels = augment_pixels(batch.pixels, batch.valid, seed + step)
        return dataclasses.replace(batch, pixels=pixels)

    return batch_at


class Validation:
    """The common protocol on some objects of the validation images."""

    def __init__(self, images: list[PackedImage]) -> None:
        held_out = [image for image in images if image.split == "val"]
        nuclei = [i for i in held_out if i.source.startswith("dsb2018")]
        self.images = nuclei[:: max(len(nuclei) // 12, 1)]
        self.images += [i for i in held_out if i.source == "axon_sem"]
        self.figures: dict[str, float] = {}

    def __call__(self, module: nn.Module) -> Generator[Progress, None, Score]:
        """Score the averaged weights: mean IoU over sets and kinds of prompt."""
        model = SamModel(
            fold_batch_norm(module.sam),
            name="trained",
            family="tiny",
            prior=prompt_prior,
        )
        scores: dict[str, list[float]] = {}
        for k, image in enumerate(self.images):
            yield Progress("scoring", k, len(self.images))
            # already normalised when it was packed
            plane = normalise_plane(image.pixels, ImageSettings(normalisation="none"))
            many = 60 if image.source == "axon_sem" else 10
            scored = score_prompts(
                Predictor(model), plane, image.labels[0], seed=(0, k), max_objects=many
            )
            for name in ("box", "point", "ellipse", "watershed"):
                key = f"{image.source.split('/')[0]}_{name}"
                scores.setdefault(key, []).extend(getattr(scored, name))
        self.figures = {key: float(np.mean(values)) for key, values in scores.items()}
        asked = [v for k, v in self.figures.items() if k.endswith(("_box", "_point"))]
        return Score(float(np.mean(asked)))


def follow(loop: TrainingLoop[CropBatch], validation: Validation, log: Path) -> None:
    """Run the loop, writing every step to the log and some to the terminal."""
    start, means, ended = time.monotonic(), {}, []
    # the loop writes its state when it is left between two steps
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    with log.open("a", newline="") as file:
        writer = csv.writer(file)
        steps = loop.run()
        for progress in steps:
            if not isinstance(progress, TrainingProgress):
                continue
            figures = {"loss": progress.train_loss, **loop.figures}
            for key, value in figures.items():
                means[key] = 0.96 * means.get(key, value) + 0.04 * value
            if progress.val_iou is not None:
                figures |= {f"val_{k}": v for k, v in validation.figures.items()}
                _print_line("validation", validation.figures)
            seconds = time.monotonic() - start
            for key, value in figures.items():
                writer.writerow((progress.done, f"{seconds:.1f}", key, f"{value:.4f}"))
            if progress.done % 25 == 0:
                file.flush()
                _print_line(f"{progress.done}/{progress.total}  {seconds:.0f} s", means)
            if ended:
                steps.close()


def _print_line(head: str, figures: dict[str, float]) -> None:
    shown = "  ".join(f"{key} {value:.3f}" for key, value in figures.items())
    print(f"{head}  {shown}", flush=True)


def main() -> None:
    """Train, and print a line now and then."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--generated", type=int, default=400, help="images drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--threads", type=int, default=0, help="0 is torch's choice")
    parser.add_argument("--validate-every", type=int, default=200)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    pack, state = options.out / "pack.npz", options.out / "state.pt"
    if not pack.exists():
        write_pack(pack, read_training_sets(options.data, options.generated))
    images = read_pack(pack)
    validation = Validation(images)
    torch.manual_seed(options.seed)
    loop = TrainingLoop(
        TrainedModel(TinyConfig(batch_norm=True)).to(options.device),
        batches(images, options.steps, options.seed),
        Objective(options.steps),
        LoopSettings(
            steps=options.steps,
            learning_rate=options.learning_rate,
            validate_every=options.validate_every,
            checkpoint_every=50,
            seed=options.seed,
        ),
        validate=validation,
        checkpoint=state,
    )
    if options.resume:
        loop.resume(state)
    follow(loop, validation, options.out / "log.csv")


if __name__ == "__main__":
    main()
