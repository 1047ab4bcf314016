"""Compared models as tables and a web page with pictures of good and bad objects."""

from __future__ import annotations

import csv
import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.io.qc_picture import write_qc_picture
from napari_samseg.core.planes import measure_plane

if TYPE_CHECKING:
    from napari_samseg.core.training.compare import ComparedObject, ModelComparison
    from napari_samseg.core.training.images import LabelledImage

__all__ = ["FILES", "write_comparison"]

FILES = ("models.csv", "objects.csv", "index.html")
# Objects of each of the three sorts that are shown.
SHOWN = 3
# Shown around an object, as a share of its longer side, and at least so many pixels.
AROUND, LEAST_AROUND = 0.5, 8
MAX_SIDE = 420


def write_comparison(
    folder: Path, comparison: ModelComparison, images: Sequence[LabelledImage]
) -> None:
    """Write ``models.csv``, ``objects.csv`` and ``index.html`` with its pictures.

    Parameters
    ----------
    folder : Path
        It is made if need be.
    comparison : ModelComparison
    images : sequence of LabelledImage
        That were compared on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = comparison.summary()
    with (folder / "models.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(summary[0]))
        table.writeheader()
        table.writerows(summary)
    _write_objects(folder / "objects.csv", comparison, images)
    order = np.argsort(-comparison.iou.mean(axis=(1, 2)), kind="stable").tolist()
    middle = max(0, len(order) // 2 - SHOWN // 2)
    parts = [_table(comparison)]
    seen: set[int] = set()
    for title, numbers in (
        ("Best", order[:SHOWN]),
        ("Worst", order[-SHOWN:][::-1]),
        ("In the middle", order[middle : middle + SHOWN]),
    ):
        fresh = [number for number in numbers if number not in seen]
        seen.update(fresh)
        if fresh:
            parts.append(f"<h2>{title}</h2>")
        for number in fresh:
            item = comparison.objects[number]
            _draw(folder / "pictures", number, item, images[item.image])
            parts.append(_figure(number, item, comparison, images[item.image].name))
    page = PAGE.replace("@BODY@", "\n".join(parts))
    (folder / "index.html").write_text(page, encoding="utf-8")


def _write_objects(
    path: Path, comparison: ModelComparison, images: Sequence[LabelledImage]
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("image", "plane", "object", "model", "box", "point"))
        for item in comparison.objects:
            place = " ".join(map(str, item.plane))
            for name, (box, point) in zip(
                comparison.models, item.iou.tolist(), strict=True
            ):
                head = (images[item.image].name, place, item.object_id, name)
                table.writerow((*head, f"{box:.4f}", f"{point:.4f}"))


def _draw(
    folder: Path, number: int, item: ComparedObject, image: LabelledImage
) -> None:
    """Write the surroundings of an object: the true mask, and that of each model."""
    plane = measure_plane(image.source, item.plane, image.settings)
    height, width = plane.size
    y0, x0, y1, x1 = item.box_yx.tolist()
    margin = max(LEAST_AROUND, round(AROUND * max(y1 - y0, x1 - x0)))
    window = (
        max(0, y0 - margin),
        max(0, x0 - margin),
        min(height, y1 + margin),
        min(width, x1 + margin),
    )
    pixels = plane.read(window)
    labels = np.asarray(image.labels[item.plane])
    shown = [labels[window[0] : window[2], window[1] : window[3]] == item.object_id]
    for crop, box in item.masks:
        whole = np.zeros((height, width), bool)
        whole[box[0] : box[2], box[1] : box[3]] = crop
        shown.append(whole[window[0] : window[2], window[1] : window[3]])
    for k, mask in enumerate(shown):
        path = folder / f"{number:04d}_{k}.png"
        drawn: npt.NDArray[Any] = mask.astype(np.uint16) * (item.object_id % 60_000 + 1)
        write_qc_picture(path, pixels, drawn, max_side=MAX_SIDE)


def _table(comparison: ModelComparison) -> str:
    rows = []
    for row in comparison.summary():
        name, prompt = html.escape(str(row["model"])), row["prompt"]
        rows.append(
            f"<tr><td>{name}<td>{prompt}<td>{row['iou']:.3f} ± {row['iou_error']:.3f}"
            f"<td>{row['dice']:.3f}<td>{row['gain']:+.3f} ± {row['gain_error']:.3f}"
        )
    return (
        f"<p>{count_things(len(comparison.objects), 'object')}, the same prompts for "
        "all: a box whose sides are off by up to a tenth, and one random pixel. "
        "Gain is over the first model; ± is a standard error.</p>\n<table><tr><th>model"
        "<th>prompt<th>mean IoU<th>mean Dice<th>gain\n" + "\n".join(rows) + "\n</table>"
    )


def _figure(
    number: int, item: ComparedObject, comparison: ModelComparison, image: str
) -> str:
    place = f", plane {' '.join(map(str, item.plane))}" if item.plane else ""
    title = html.escape(f"{image}{place}: object {item.object_id}")
    words = ["true"]
    for name, (box, point) in zip(comparison.models, item.iou.tolist(), strict=True):
        words.append(f"{name}: IoU {point:.2f} by the point, {box:.2f} by a box")
    pictures = "".join(
        f'<figure><img src="pictures/{number:04d}_{k}.png" alt="{html.escape(text)}">'
        f"<figcaption>{html.escape(text)}</figcaption></figure>"
        for k, text in enumerate(words)
    )
    return f"<h3>{title}</h3>\n<div>{pictures}</div>"


PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Models compared</title>
<style>
body { font: 15px sans-serif; margin: 2em auto; max-width: 84em; padding: 0 1em }
table { border-collapse: collapse }
td, th { border-bottom: 1px solid #ccc; padding: .2em .8em; text-align: left }
div { display: flex; gap: 1em }
figure { flex: 1; margin: 0; max-width: 30em }
img { max-width: 100% }
</style>
<h1>Models compared</h1>
@BODY@
</html>
"""
