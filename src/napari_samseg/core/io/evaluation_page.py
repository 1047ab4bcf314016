"""An evaluation as a web page: a table, and pictures of good and bad samples."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import InvalidImageError
from napari_samseg.core.io.image_file import open_image_file
from napari_samseg.core.io.qc_picture import write_qc_picture
from napari_samseg.core.metrics.evaluation import Evaluation, SampleScores
from napari_samseg.core.planes import read_plane

__all__ = ["write_page"]

Labels = npt.NDArray[Any]
MAX_SIDE = 640
LEGEND = {
    "iou": "pixels that both share / pixels in either",
    "dice, f1": "twice the shared pixels / sum of both",
    "accuracy": "share of all pixels that are right",
    "precision": "share of the found pixels that are right",
    "sensitivity": "share of the true pixels that were found",
    "specificity": "share of the other pixels that were left alone",
    "hd95": "distance to the other surface that 95 % of surface pixels keep below, the "
    "worse of both directions; in pixels, or in the unit of the spacing",
    "ap50, ..., ap95": "objects found / (found + missed + made up), where found means "
    "an IoU above 0.50, ..., 0.95",
    "ap": "mean of ap50 to ap95; where labels are classes, each connected part of one "
    "is an object",
    "pq": "panoptic quality: sq times rq",
    "sq": "mean IoU of the objects that were found, at 0.5",
    "rq": "F1 of objects at 0.5",
}


def write_page(
    folder: Path,
    evaluation: Evaluation,
    read_labels: Callable[[str], tuple[Labels, ...]],
    images: Mapping[str, Path],
) -> None:
    """Write ``index.html`` and the pictures it shows.

    Parameters
    ----------
    folder : Path
        It is there.
    evaluation : Evaluation
    read_labels : callable
        Returns found and true labels of a sample, by its name.
    images : mapping of name to Path
        Images to draw on, of samples that have one; others are drawn on black.
    """
    by_name = {sample.name: sample for sample in evaluation.samples}
    chosen = evaluation.extremes
    parts = [_table(evaluation)]
    for title, names in (
        ("Best", chosen.best),
        ("In the middle", chosen.middle),
        ("Worst", chosen.worst),
    ):
        if names:
            parts.append(f"<h2>{title}</h2>")
        for name in names:
            number = list(by_name).index(name)
            found, true = read_labels(name)
            plane = _busiest_plane(true, found)
            image = _read_image(images.get(name), true.shape, plane)
            for kind, labels in (("true", true), ("found", found)):
                path = folder / "pictures" / f"{number:04d}_{kind}.png"
                write_qc_picture(path, image, labels[plane], max_side=MAX_SIDE)
            parts.append(_figure(by_name[name], number, plane))
    page = PAGE.replace("@BODY@", "\n".join(parts))
    (folder / "index.html").write_text(page, encoding="utf-8")


def _busiest_plane(true: Labels, found: Labels) -> tuple[int, ...]:
    """Index of the plane with the most pixels of labels, the true ones first."""
    labels = true if true.any() else found
    pixels = np.count_nonzero(labels, axis=(-2, -1))
    place = np.unravel_index(int(np.argmax(pixels)), labels.shape[:-2])
    return tuple(int(i) for i in place)


def _read_image(
    path: Path | None, shape: tuple[int, ...], plane: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    if path is None:
        return np.zeros((*shape[-2:], 3), np.float32)
    with open_image_file(path) as source:
        if source.shape != shape:
            raise InvalidImageError(
                f"the image {path} has shape {source.shape}, and its labels {shape}: "
                "they do not belong together"
            )
        return read_plane(source, plane)


def _table(evaluation: Evaluation) -> str:
    rows = []
    for class_name in evaluation.classes:
        pooled = evaluation.pooled(class_name)
        for score, interval in evaluation.intervals(class_name).items():
            mean, low, high = map(_shown, (interval.mean, interval.low, interval.high))
            bounds = f"{low} to {high}" if interval.n > 1 else ""
            cells = (class_name, score, mean, bounds, _shown(pooled.get(score)))
            rows.append(
                "<tr>"
                + "".join(f"<td>{html.escape(cell)}" for cell in (*cells,))
                + f"<td>{interval.n}"
            )
    return (
        f"<p>{count_things(len(evaluation.samples), 'sample')}. The mean is over "
        "samples, with the interval that holds 95 % of the means of resampled ones; "
        "pooled are the pixels and objects of all samples together.</p>\n"
        "<table><tr><th>class<th>score<th>mean<th>95 %<th>pooled<th>samples\n"
        + "\n".join(rows)
        + "\n</table>\n"
        + _legend()
    )


def _legend() -> str:
    """Say what the scores are that the table has."""
    lines = [
        f"<dt>{names}<dd>{html.escape(meaning)}" for names, meaning in LEGEND.items()
    ]
    return (
        "<details><summary>What the scores are</summary>\n<dl>\n"
        + "\n".join(lines)
        + "\n</dl></details>"
    )


def _shown(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _figure(sample: SampleScores, number: int, plane: tuple[int, ...]) -> str:
    where = f", plane {', '.join(map(str, plane))}" if plane else ""
    score = "mean Dice" if sample.has_classes else "panoptic quality"
    title = html.escape(f"{sample.name}{where}: {score} {_shown(sample.rank)}")
    pictures = "".join(
        f'<figure><img src="pictures/{number:04d}_{kind}.png" alt="{kind} labels">'
        f"<figcaption>{kind}</figcaption></figure>"
        for kind in ("true", "found")
    )
    return f"<h3>{title}</h3>\n<div>{pictures}</div>"


PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Evaluation</title>
<style>
body { font: 15px sans-serif; margin: 2em auto; max-width: 84em; padding: 0 1em }
table { border-collapse: collapse }
td, th { border-bottom: 1px solid #ccc; padding: .2em .8em; text-align: left }
div { display: flex; gap: 1em }
figure { flex: 1; margin: 0 }
img { max-width: 100% }
</style>
<h1>Evaluation</h1>
@BODY@
</html>
"""
