"""Print the scores of a model: `python recipes/embedded_model/evaluate.py`.

One line per test set, mean IoU over its objects by the common protocol of
`napari_samseg.core.metrics.prompting`, the baselines beside it. Works for any model
the plugin loads: `--model vit_b`, or the path of a checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from test_sets import TEST_SETS, TestSet

from napari_samseg.core.metrics.prompting import PromptScores, score_prompts
from napari_samseg.core.models import load_model
from napari_samseg.core.predict import Predictor
from napari_samseg.core.settings import TileSettings

HEADER = (
    "| set | objects | box | ellipse | point | Otsu + watershed | IoU misjudged by |\n"
    "|---|---:|---:|---:|---:|---:|---:|"
)


def score_set(
    predictor: Predictor,
    test_set: TestSet,
    data: Path,
    *,
    max_objects: int,
    tiles: TileSettings,
) -> PromptScores:
    """Score every plane of a set, up to `max_objects` random objects in each."""
    parts = [
        score_prompts(
            predictor,
            plane,
            labels,
            seed=(0, k),
            max_objects=max_objects,
            tiles=tiles,
        )
        for k, (_, plane, labels) in enumerate(test_set.read(data))
    ]
    return PromptScores.join(parts)


def table_row(title: str, scores: PromptScores) -> str:
    """Return the line of a set."""
    wrong = np.abs(
        np.concatenate(
            [scores.box_predicted - scores.box, scores.point_predicted - scores.point]
        )
    )
    means = [
        scores.box.mean(),
        scores.ellipse.mean(),
        scores.point.mean(),
        scores.watershed.mean(),
        wrong.mean(),
    ]
    columns = " | ".join(f"{mean:.3f}" for mean in means)
    return f"| {title} | {len(scores)} | {columns} |"


def main() -> None:
    """Score the sets that are asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    data = Path(os.environ.get("SAMSEG_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--model", default="default")
    parser.add_argument("--sets", nargs="*", choices=TEST_SETS, default=list(TEST_SETS))
    parser.add_argument("--max-objects", type=int, default=300, help="per image")
    parser.add_argument(
        "--tiling",
        default="whole",
        help="auto: planes larger than the model's input in tiles, as in the panels",
    )
    options = parser.parse_args()
    predictor = Predictor(load_model(options.model))
    print(HEADER)
    for name in options.sets:
        start = time.monotonic()
        test_set = TEST_SETS[name]
        scores = score_set(
            predictor,
            test_set,
            options.data,
            max_objects=options.max_objects,
            tiles=TileSettings(options.tiling),
        )
        kind = "" if test_set.seen else " (kind never trained on)"
        print(table_row(test_set.title + kind, scores), flush=True)
        print(f"  {time.monotonic() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
