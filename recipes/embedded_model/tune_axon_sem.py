"""What an animal teaches of another: `python recipes/embedded_model/tune_axon_sem.py`.

Axons and fibres (axon and myelin) in SEM of rat spinal cord, by the fixed split: the
embedded model is tuned with a preset on five images of four animals, validated on
sub-rat6, and scored before and after on sub-rat8 by the common protocol. It was
trained on the same images among much else, so this tells what is left to gain. One line
for each kind of object and prompt, with mean Dice and IoU.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from pack import AXON_VALIDATION, read_axon_sem
from test_sets import TEST_SETS

from napari_samseg.core.metrics.prompting import PromptScores, score_prompts
from napari_samseg.core.models import load_model
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.predict import Predictor
from napari_samseg.core.settings import ImageSettings, TileSettings
from napari_samseg.core.training.api import finetune
from napari_samseg.core.training.presets import PRESETS, find_preset

KINDS = ("axons", "fibres")


def tune(kind: str, options: argparse.Namespace) -> Path:
    """Tune on the animals that are trained on, and return the best weights."""
    packed = list(read_axon_sem(options.data / "axon_sem", ("train", "val")))
    plan = find_preset(options.preset)
    plan = replace(
        plan,
        tune=replace(plan.tune, held_out=AXON_VALIDATION),
        loop=replace(plan.loop, seed=options.seed),
    )
    result = finetune(
        [image.pixels for image in packed],
        [image.labels[KINDS.index(kind)] for image in packed],
        groups=[image.name.split("_")[0] for image in packed],
        preset=plan,
        out=options.out / f"axon_sem-{kind}",
        image_settings=ImageSettings(normalisation="none"),
    )
    return result.best


def score(model: SamModel, kind: str, options: argparse.Namespace) -> PromptScores:
    """Score a model on the test animal."""
    return PromptScores.join(
        [
            score_prompts(
                Predictor(model),
                plane,
                labels,
                seed=(0, k),
                max_objects=options.max_objects,
                tiles=TileSettings(),
            )
            for k, (_, plane, labels) in enumerate(TEST_SETS[kind].read(options.data))
        ]
    )


def main() -> None:
    """Tune and score, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    data = Path(os.environ.get("SAMSEG_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--max-objects", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/axon_sem"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    before = load_model("default", device="cpu")
    print("| objects | n | prompt | Dice before | after | IoU before | after | CPU s |")
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    for kind in KINDS:
        old = score(before, kind, options)
        start = time.process_time()
        best = tune(kind, options)
        seconds = time.process_time() - start
        new = score(load_model(best, device="cpu"), kind, options)
        for prompt in ("box", "point"):
            pair = [getattr(scores, prompt) for scores in (old, new)]
            dice = [float(np.mean(2 * iou / (1 + iou))) for iou in pair]
            means = [float(iou.mean()) for iou in pair]
            print(
                f"| {kind} | {len(old)} | {prompt} | {dice[0]:.3f} | {dice[1]:.3f} "
                f"({dice[1] - dice[0]:+.3f}) | {means[0]:.3f} | {means[1]:.3f} "
                f"({means[1] - means[0]:+.3f}) | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
