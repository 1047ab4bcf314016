"""Components, relabelling and distances of `core.instances`, beside scikit-image's.

`python benchmarks/time_instances.py` prints a table; `--json FILE` keeps it. Both sides
take turns on the same labels, and their results are compared: bodies of em_fib25,
mirrored to a cube. All of it runs on one processor.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import cc3d
import edt
import fastremap
import numpy as np
import scipy
import skimage
import tifffile
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from skimage import measure, segmentation
from timing import interleave

from napari_samseg.core.instances.components import label_components
from napari_samseg.core.instances.tidy import relabel
from napari_samseg.core.instances.watershed import distance_inside

DATA = Path(
    os.environ.get("SAMSEG_DATA", Path(__file__).parents[2] / "shared" / "data")
)
LABELS = "em_fib25_neuroproof/gt_bodies.tif"
WANTED = 3.0
SHORT_SIDE = 60
PEERS = {
    "components": "skimage.measure.label",
    "relabelling": "skimage.segmentation.relabel_sequential",
    "distance transform": "scipy.ndimage.distance_transform_edt",
}


def main() -> None:
    """Measure, print the table, and keep it."""
    options = read_options()
    if hasattr(os, "sched_setaffinity"):
        # some of the libraries have threads of their own
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    report = measure_all(options)
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="only see that it runs")
    parser.add_argument("--labels", type=Path, default=DATA / LABELS)
    parser.add_argument("--side", type=int, default=500, help="of the cube")
    parser.add_argument("--parts", nargs="+", choices=PEERS, default=tuple(PEERS))
    parser.add_argument("--repeats", type=int, default=3, help="turns that count")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    if options.short:
        options.side, options.repeats = SHORT_SIDE, 1
    return options


def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of each turn, by what is done and by whom."""
    bodies = mirrored(tifffile.imread(options.labels), options.side)
    # dense labels leave no background to be far from
    inside = np.where(segmentation.find_boundaries(bodies, mode="inner"), 0, bodies) > 0
    # what the volume would be with gaps in its ids
    gaps = bodies.astype(np.uint32) * 7
    parts = {
        "components": (
            lambda: label_components(bodies),
            lambda: measure.label(bodies),
        ),
        "relabelling": (
            lambda: relabel(gaps),
            lambda: segmentation.relabel_sequential(gaps)[0],
        ),
        "distance transform": (
            lambda: distance_inside(inside),
            lambda: ndimage.distance_transform_edt(inside),
        ),
    }
    report: dict[str, Any] = {
        "labels": options.labels.name,
        "shape": bodies.shape,
        "objects": len(fastremap.unique(bodies)) - 1,
        "versions": {m.__name__: m.__version__ for m in (scipy, skimage)},
        "libraries": {m.__name__: version_of(m) for m in (cc3d, edt, fastremap)},
        "parts": {},
    }
    for name in options.parts:
        ours, theirs = parts[name]
        check_equal(name, ours(), theirs())
        report["parts"][name] = interleave(
            {"napari-samseg": ours, PEERS[name]: theirs}, options.repeats
        )
    return report


def version_of(module: Any) -> str:
    return str(getattr(module, "__version__", "unknown"))


def mirrored(labels: np.ndarray, side: int) -> np.ndarray:
    """Return a cube, in which labels smaller than it are mirrored at their ends."""
    cube = labels[tuple(slice(side) for _ in labels.shape)]
    missing = [(0, side - n) for n in cube.shape]
    return np.pad(cube, missing, mode="symmetric")


def check_equal(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Make sure that the same thing was done by both."""
    if ours.dtype.kind == "f":
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        return
    pairs = fastremap.unique(ours.astype(np.uint64) << 32 | theirs.astype(np.uint64))
    counts = [len(fastremap.unique(labels)) for labels in (ours, theirs)]
    assert counts == [len(pairs)] * 2, f"{name}: {counts}, {len(pairs)} pairs"


def show(report: dict[str, Any]) -> None:
    """Print the table of medians."""
    size = " x ".join(map(str, report["shape"]))
    table = Table(title=f"{size}, {report['objects']} objects, one processor")
    for column in ("", "napari-samseg", "beside", "seconds", "ratio", "wanted"):
        table.add_column(column)
    for name, seconds in report["parts"].items():
        (_, ours), (peer, theirs) = seconds.items()
        mine, other = statistics.median(ours), statistics.median(theirs)
        row = (name, f"{mine:.3g} s", peer, f"{other:.3g} s", f"{other / mine:.1f}")
        table.add_row(*row, f">= {WANTED:g}")
    Console(width=120).print(table)


if __name__ == "__main__":
    start = time.monotonic()
    main()
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
