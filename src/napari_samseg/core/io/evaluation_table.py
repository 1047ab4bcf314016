"""Scores as tables in CSV: each sample, each class, and means with intervals."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from napari_samseg.core.metrics.evaluation import INSTANCE_SCORES, Evaluation
from napari_samseg.core.metrics.pixels import PIXEL_SCORES

__all__ = ["score_names", "write_classes", "write_samples", "write_summary"]

DIGITS = 6


def score_names(evaluation: Evaluation) -> tuple[str, ...]:
    """Return the scores that an evaluation has, in the order of the tables."""
    has_objects = any(sample.instances for sample in evaluation.samples)
    return (*PIXEL_SCORES, "hd95", *(INSTANCE_SCORES if has_objects else ()))


def write_samples(path: Path, evaluation: Evaluation) -> None:
    """Write one row for each sample and class; a score that is not defined is empty."""
    names = score_names(evaluation)
    counts = ("true_objects", "found_objects", "matched")
    has_objects = any(sample.instances for sample in evaluation.samples)
    rows: list[Sequence[object]] = []
    for sample in evaluation.samples:
        for class_name in sample.pixels:
            values = sample.values(class_name)
            row: list[object] = [sample.name, class_name]
            row += [_number(values[name]) for name in names]
            if sample.instances is not None:
                objects = sample.instances
                row += [objects.n_true, objects.n_found, int(objects.matches[0])]
            rows.append(row)
    header = ("sample", "class", *names, *(counts if has_objects else ()))
    _write(path, header, rows)


def write_classes(path: Path, evaluation: Evaluation) -> None:
    """Write one row for each class: scores of the pixels of all samples together."""
    names = tuple(n for n in score_names(evaluation) if n != "hd95")
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
