"""What twenty objects teach: `python recipes/embedded_model/tune_unseen.py`.

Of each set that it was never trained on, half of the images are for the annotator, who
outlines twenty objects in up to five of them, drawn by seed; the model is tuned on them
with a preset, and scored before and after on the other images, by the common
protocol of `napari_samseg.core.metrics.prompting`, planes larger than the model's
input in tiles as when a person prompts. One line for each draw and the mean
of the draws; pictures of some objects before and after go to ``--out``.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from picture_sheet import TILE, Picture, crop_tile, draw_tile, predict
from PIL import Image
from test_sets import TEST_SETS, Plane

from napari_samseg.core.images import open_image
from napari_samseg.core.metrics.prompting import PromptScores, score_prompts
from napari_samseg.core.models import load_model
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.predict import Predictor
from napari_samseg.core.prompts.from_labels import sample_random_point
from napari_samseg.core.prompts.object_index import index_objects
from napari_samseg.core.settings import ImageSettings, TileSettings
from napari_samseg.core.training.api import finetune
from napari_samseg.core.training.presets import PRESETS, find_preset

SETS = ("he_monuseg", "em_vnc", "oct_fluid")
# What a person outlines in an afternoon.
OBJECTS, IMAGES = 20, 5
MIN_AREA = 30
# Test images scored at most, spread over the set.
SCORED = 8
HEADER = (
    "| set | draw | objects scored | point before | after | box before | after "
    "| CPU s |\n|---|---:|---:|---:|---:|---:|---:|---:|"
)


def draw_annotation(
    planes: list[Plane], draw: int
) -> tuple[list[Plane], list[tuple[int, Plane]]]:
    """Return planes with the annotated objects alone, and those to score on."""
    rng = np.random.default_rng(draw)
    order = rng.permutation(len(planes))
    n_annotated = max(1, len(planes) // 2)
    chosen, others = order[:n_annotated][:IMAGES], order[n_annotated:]
    found = [
        (int(k), int(i))
        for k in chosen
        for i in index_objects(planes[k][2], min_area=MIN_AREA).object_ids
    ]
    picked = [found[j] for j in rng.permutation(len(found))[:OBJECTS]]
    annotated = []
    for k in dict.fromkeys(k for k, _ in picked):
        name, plane, labels = planes[k]
        ids = [i for other, i in picked if other == k]
        annotated.append((name, plane, np.where(np.isin(labels, ids), labels, 0)))
    return annotated, [(int(k), planes[k]) for k in others[:SCORED]]


def tune(
    annotated: list[Plane], draw: int, out: Path, options: argparse.Namespace
) -> Path:
    """Tune the embedded model and return the path of the best weights."""
    plan = find_preset(options.preset)
    # all twenty are learned from: what proves the gain are the other images
    plan = replace(
        plan,
        loop=replace(plan.loop, seed=draw),
        tune=replace(plan.tune, validation=0.0),
    )
    result = finetune(
        # in the contrast that the model is shown, as 8 bits
        [open_image(np.rint(p).astype(np.uint8), rgb=True) for _, p, _ in annotated],
        [labels for _, _, labels in annotated],
        preset=plan,
        out=out,
        image_settings=ImageSettings(normalisation="none"),
    )
    return result.best


def score(model: SamModel, others: list[tuple[int, Plane]], most: int) -> PromptScores:
    """Score a model on the images that nobody annotated."""
    predictor = Predictor(model)
    return PromptScores.join(
        [
            score_prompts(
                predictor,
                plane,
                labels,
                seed=(0, k),
                max_objects=most,
                tiles=TileSettings(),
            )
            for k, (_, plane, labels) in others
        ]
    )


def draw_pair(before: SamModel, after: SamModel, plane: Plane, seed: int) -> Picture:
    """Draw clicks on some objects of a plane, and the masks before and after."""
    rng = np.random.default_rng(seed)
    objects = index_objects(plane[2], min_area=MIN_AREA)
    middle = objects.boxes_yx[int(rng.integers(len(objects)))]
    window = crop_tile(plane, int(middle[[0, 2]].mean()), int(middle[[1, 3]].mean()))
    low = np.array([s.start for s in window] * 2)
    whole = ((objects.boxes_yx >= low) & (objects.boxes_yx <= low + TILE)).all(1)
    whole[np.flatnonzero((objects.boxes_yx == middle).all(1))] = True
    prompts = sample_random_point(objects.select(whole), rng)
    tiles = [
        draw_tile(plane, window, prompts, predict(Predictor(m), plane, prompts))
        for m in (before, after)
    ]
    return np.pad(np.hstack(tiles), ((2, 2), (2, 2), (0, 0)))


def means(scores: PromptScores) -> npt.NDArray[np.float64]:
    """Return mean IoU by point and by box."""
    return np.array([scores.point.mean(), scores.box.mean()])


def run_set(name: str, options: argparse.Namespace, before: SamModel) -> None:
    """Print the lines of a set, and write its pictures."""
    planes = list(TEST_SETS[name].read(options.data))
    rows, pictures = [], []
    for draw in range(options.draws):
        annotated, others = draw_annotation(planes, draw)
        old = score(before, others, options.max_objects)
        start = time.process_time()
        best = tune(annotated, draw, options.out / f"{name}-{draw}", options)
        seconds = time.process_time() - start
        after = load_model(best, device="cpu")
        new = score(after, others, options.max_objects)
        row = np.array([*means(old), *means(new), seconds])
        rows.append(row)
        print(table_row(name, str(draw), len(old), row), flush=True)
        pictures.append(draw_pair(before, after, others[0][1], draw))
    print(table_row(name, "mean", 0, np.mean(rows, axis=0)), flush=True)
    Image.fromarray(np.vstack(pictures)).save(options.out / f"{name}.png")


def table_row(name: str, draw: str, n: int, row: npt.NDArray[np.float64]) -> str:
    """Return a line of the table."""
    p0, b0, p1, b1, seconds = row
    return (
        f"| {name} | {draw} | {n or ''} | {p0:.3f} | {p1:.3f} ({p1 - p0:+.3f}) "
        f"| {b0:.3f} | {b1:.3f} ({b1 - b0:+.3f}) | {seconds:.0f} |"
    )


def main() -> None:
    """Tune and score, set by set."""
    parser = argparse.ArgumentParser(description=__doc__)
    data = Path(os.environ.get("SAMSEG_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--sets", nargs="*", choices=TEST_SETS, default=list(SETS))
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--max-objects", type=int, default=20, help="per image")
    parser.add_argument("--out", type=Path, default=Path("runs/unseen"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    before = load_model("default", device="cpu")
    print(HEADER)
    for name in options.sets:
        run_set(name, options, before)


if __name__ == "__main__":
    main()
