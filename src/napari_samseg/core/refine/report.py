"""Scores of refined objects as a table, the most doubtful first."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from napari_samseg.core.errors import OutputError
from napari_samseg.core.refine.scores import ObjectScore, sort_by_doubt

__all__ = ["check_report_path", "write_report"]

DIGITS = 4
VALUES = (
    *("status", "doubt", "predicted_iou", "agreement", "visible"),
    *("parts", "kept", "area_before", "area_after"),
)
BOX = ("bbox_min_x", "bbox_min_y", "bbox_max_x", "bbox_max_y")


def check_report_path(path: Path) -> None:
    """Raise `OutputError` unless a report can be written under such a name."""
    if path.suffix.lower() != ".csv":
        raise OutputError(f"a report is a .csv, not {path.name!r}")


def write_report(path: Path, scores: Iterable[ObjectScore], n_lead: int) -> None:
    """Write one row for each object of each plane as CSV, sorted by doubt.

    Columns: ``object``; ``plane_0`` and on, the position along each axis before (Y, X);
    ``status``, ``doubt``, ``predicted_iou``, ``agreement``, ``visible``, ``parts``,
    ``kept``, ``area_before``, ``area_after`` as in `ObjectScore`; and the box as in
    tables of prompts.

    Parameters
    ----------
    path : Path
        Ends in ``.csv``; its folder is made if need be.
    scores : iterable of ObjectScore
    n_lead : int
        Axes before (Y, X).

    Raises
    ------
    OutputError
        If the suffix is another one.
    """
    check_report_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    planes = (f"plane_{axis}" for axis in range(n_lead))
    columns = ("object", *planes, *VALUES, *BOX)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        for score in sort_by_doubt(scores):
            y0, x0, y1, x1 = score.box_yx
            values = (getattr(score, name) for name in VALUES)
            rows.writerow(
                (
                    score.object_id,
                    *score.plane,
                    *(round(v, DIGITS) if isinstance(v, float) else v for v in values),
                    *(x0, y0, x1, y1),
                )
            )
