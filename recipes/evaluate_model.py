"""Print the scores of a model: `python recipes/evaluate_model.py [MODEL ...]`.

Mean IoU over the objects of each test set, by one box, by one point, and after 1, 3 and
5 clicks on what was wrong with the point's mask, with baselines that know nothing
beside them: the ellipse inscribed in the box, and the component of Otsu's threshold and
a watershed under the point. Then how far the predicted IoU is off, and the same by size
of the objects. Kinds that the embedded model was trained on (other images of them) and
kinds that it was not stand apart.

A model is anything that the plugin loads: ``default`` is the embedded one, ``vit_b``,
or the path of a checkpoint. ``--pictures FOLDER`` draws the best, the median and the
worst object of each set.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# the sets and the protocol are shared with the training, which lies beside
sys.path.insert(0, str(Path(__file__).parent / "embedded_model"))

from extremes import draw_extremes, save_picture
from scoring import CLICKS, ClickScores, score_plane
from test_sets import TEST_SETS, Plane

from napari_samseg.core.models import load_model
from napari_samseg.core.predict import Predictor
from napari_samseg.core.settings import TileSettings

# edges between classes of size: square root of the area, in pixels of the model's
# square
SIZES = (8, 16, 32, 64, 128)
TRAINED, UNTRAINED = "kinds trained on, other images", "kinds never trained on"


def choose_planes(planes: Sequence[Plane], most: int) -> list[tuple[int, Plane]]:
    """Choose some planes, spread over the set, with their numbers in it."""
    count = len(planes) if not most else min(most, len(planes))
    numbers = np.linspace(0, len(planes) - 1, count).round().astype(int)
    return [(int(k), planes[k]) for k in numbers]


def score_set(
    predictor: Predictor,
    planes: Sequence[tuple[int, Plane]],
    options: argparse.Namespace,
) -> ClickScores:
    """Score some planes of a set, up to `max_objects` random objects in each."""
    return ClickScores.join(
        [
            score_plane(
                predictor,
                plane,
                labels,
                k,
                max_objects=options.max_objects or None,
                tiles=options.tiles,
                clicks=options.clicks,
            )
            for k, (_, plane, labels) in planes
        ]
    )


def header(first: str, clicks: Sequence[int]) -> str:
    """Return the head of a table."""
    names = [first, "objects", "box", "ellipse", "point", "Otsu + watershed"]
    names += [f"+ {n} click{'s' * (n > 1)}" for n in clicks]
    names += ["IoU misjudged by", "on average"]
    return f"| {' | '.join(names)} |\n|---|{(len(names) - 1) * '---:|'}"


def table_row(title: str, scores: ClickScores) -> str:
    """Return the line of some objects.

    The last two columns are the mean distance of the predicted from the actual IoU,
    of boxes and points, and the mean difference: above 0 it is too sure.
    """
    prompts = scores.prompts
    off = np.concatenate(
        [prompts.box_predicted - prompts.box, prompts.point_predicted - prompts.point]
    )
    columns = [
        *(prompts.box, prompts.ellipse, prompts.point, prompts.watershed),
        *scores.clicks.T,
        np.abs(off),
    ]
    cells = [f"{column.mean():.3f}" for column in columns]
    return f"| {title} | {len(scores)} | {' | '.join(cells)} | {off.mean():+.3f} |"


def size_rows(scores: ClickScores) -> list[str]:
    """Return a line for each class of size that occurs."""
    rows = []
    classes = np.digitize(scores.lengths, SIZES)
    for k in range(len(SIZES) + 1):
        chosen = classes == k
        low, high = ("0", *map(str, SIZES))[k], (*map(str, SIZES), "")[k]
        title = f"{low} to {high} px" if high else f"{low} px and more"
        if chosen.any():
            rows.append(table_row(title, scores.select(chosen)))
    return rows


def short_name(model: str) -> str:
    """Name the pictures of a model: those of a file with its folder, too."""
    path = Path(model)
    return f"{path.parent.name}-{path.stem}" if path.is_file() else model


def evaluate(name: str, options: argparse.Namespace) -> None:
    """Score a model and print its tables."""
    predictor = Predictor(load_model(name))
    print(f"\n## {name}\n\n{header('set', options.clicks)}", flush=True)
    found: dict[bool, list[ClickScores]] = {True: [], False: []}
    for key in sorted(options.sets, key=lambda key: not TEST_SETS[key].seen):
        start, test_set = time.monotonic(), TEST_SETS[key]
        planes = choose_planes(list(test_set.read(options.data)), options.max_images)
        scores = score_set(predictor, planes, options)
        if not len(scores):
            print(f"{test_set.title}: these images show no objects", file=sys.stderr)
            continue
        found[test_set.seen].append(scores)
        kind = "" if test_set.seen else " (kind never trained on)"
        print(table_row(test_set.title + kind, scores), flush=True)
        print(f"  {time.monotonic() - start:.0f} s", file=sys.stderr)
        if options.pictures is not None:
            sheet = draw_extremes(
                predictor,
                planes,
                scores,
                max_objects=options.max_objects or None,
                tiles=options.tiles,
            )
            save_picture(sheet, options.pictures / f"{short_name(name)}-{key}.png")
    for seen, title in ((True, TRAINED), (False, UNTRAINED)):
        if found[seen]:
            scores = ClickScores.join(found[seen])
            first = f"size ({title})"
            print("\n" + header(first, options.clicks))
            print("\n".join([*size_rows(scores), table_row("all", scores)]), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Score the models and sets that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("models", nargs="*", default=["default"], help="names, or paths of checkpoints")
    data = Path(os.environ.get("SAMSEG_DATA", "../shared/data"))
    add("--data", type=Path, default=data)
    add("--sets", nargs="+", choices=TEST_SETS, default=list(TEST_SETS))
    add("--max-images", type=int, default=0, help="of a set; 0 takes all")
    add("--max-objects", type=int, default=300, help="per image; 0 takes all")
    add("--clicks", nargs="*", type=int, default=list(CLICKS), help="none is quicker")
    add(
        "--tiling",
        choices=("whole", "auto"),
        default="auto",
        help="auto, as in the panels: planes larger than the model's input in tiles",
    )
    add("--tile", type=int, default=0, help="side in pixels; 0 is the model's input")
    add("--pictures", type=Path, help="folder for a picture of each set")
    options = parser.parse_args(arguments)
    options.clicks = sorted(set(options.clicks))
    if options.clicks and options.clicks[0] < 1:
        parser.error(f"--clicks counts from 1, got {options.clicks[0]}")
    options.tiles = TileSettings(options.tiling, options.tile)
    names = [short_name(name) for name in options.models]
    if options.pictures is not None and len(set(names)) < len(names):
        parser.error(
            f"some pictures of {', '.join(names)} would have the same name: score "
            "them one by one, with a folder of --pictures for each"
        )
    for name in options.models:
        evaluate(name, options)
    print(
        "\nAverage precision of automatic masks is not in these tables: "
        "the plugin makes masks from prompts only."
    )


if __name__ == "__main__":
    main()
