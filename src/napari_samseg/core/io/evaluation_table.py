"""Scores as tables in CSV: each sample, each class, and means with intervals."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from napari_samseg.core.metrics.evaluation import INSTANCE_SCORES, Evaluation
from napari_samseg.core.metrics.pixels import PIXEL_SCORES

__all__ = ["write_classes", "write_samples", "write_summary"]

DIGITS = 6
# In the order of the tables.
SCORES = (*PIXEL_SCORES, "hd95", *INSTANCE_SCORES)


def write_samples(path: Path, evaluation: Evaluation) -> None:
    """Write one row for each sample and class; a score that is not defined is empty."""
    rows: list[Sequence[object]] = []
    for sample in evaluation.samples:
        for class_name, objects in sample.instances.items():
            values = sample.values(class_name)
            scores = (_number(values[name]) for name in SCORES)
            counts = objects.n_true, objects.n_found, int(objects.matches[0])
            rows.append([sample.name, class_name, *scores, *counts])
    counts_header = ("true_objects", "found_objects", "matched")
    _write(path, ("sample", "class", *SCORES, *counts_header), rows)


def write_classes(path: Path, evaluation: Evaluation) -> None:
    """Write one row for each class: scores of the pixels of all samples together."""
    names = tuple(name for name in SCORES if name != "hd95")
    rows = []
    for class_name in evaluation.classes:
        values = evaluation.pooled(class_name)
        count = sum(class_name in sample.pixels for sample in evaluation.samples)
        rows.append([class_name, count, *(_number(values[name]) for name in names)])
    _write(path, ("class", "samples", *names), rows)


def write_summary(path: Path, evaluation: Evaluation) -> None:
    """Write one row for each class and score: its mean over samples, and how sure."""
    rows = [
        [class_name, name, *map(_number, (i.mean, i.low, i.high)), i.n]
        for class_name in evaluation.classes
        for name, i in evaluation.intervals(class_name).items()
    ]
    _write(path, ("class", "score", "mean", "low", "high", "samples"), rows)


def _number(value: float) -> object:
    return round(value, DIGITS) if math.isfinite(value) else ""


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(rows)
