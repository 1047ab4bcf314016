"""The benchmark of instances runs, and both sides of it find the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "time_instances.py"


def test_the_short_form_runs(shared_data, tmp_path):
    labels = shared_data / "em_fib25_neuroproof/gt_bodies.tif"
    figures = tmp_path / "figures.json"
    subprocess.run(
        [sys.executable, SCRIPT, "--short", "--labels", labels, "--json", figures],
        check=True,
        capture_output=True,
    )
    report = json.loads(figures.read_text())
    assert set(report["parts"]) == {"components", "relabelling", "distance transform"}
    for seconds in report["parts"].values():
        assert all(turns and min(turns) > 0 for turns in seconds.values())
