"""Commands show what is going on."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import rich.progress
import tifffile
import typer
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.cli_options import ModelOptions, ReadingOptions
from napari_samseg.cli_terminal import show_progress
from napari_samseg.core.types import Progress


def test_ctrl_c_while_drawing_ends_the_work(monkeypatch):
    running = []

    def work():
        running.append(1)
        try:
            while True:
                yield Progress("working")
        finally:
            running.pop()

    def interrupt(self, *args, **fields):
        raise KeyboardInterrupt

    monkeypatch.setattr(rich.progress.Progress, "update", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        show_progress(work())
    assert caught.tb is not None  # the steps are still referred to
    assert running == []


def test_warnings_are_one_line_without_a_place_in_the_code(tmp_path):
    mask = np.zeros((30, 30), np.uint8)
    mask[5:12, 5:12], mask[15:25, 15:25] = 127, 255
    tifffile.imwrite(tmp_path / "m.tif", mask)
    code = "from napari_samseg.cli import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", code, "prompts", "m.tif", "--out", "p.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONWARNINGS": "default"},
    )
    (line,) = [row for row in done.stderr.splitlines() if "m.tif" in row]
    assert line.startswith("warning: m.tif")
    assert "napari-samseg instances" in line
    assert ".py:" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("segment", "m.tif", "--points", "p.csv", "--out", "n.tif"),
        ("prompts", "m.tif", "--out", "p.csv"),
        ("instances", "m.tif", "--out", "n.tif"),
        ("refine", "m.tif", "m.tif", "--out", "n.tif"),
        ("convert", "m.tif", "n.png"),
    ],
)
def test_ctrl_c_is_130_in_every_command(monkeypatch, tmp_path, command):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("m.tif", np.zeros((30, 30), np.uint8))
    monkeypatch.setattr(tifffile.TiffFile, "__init__", stop)
    assert CliRunner().invoke(app, command).exit_code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["m.tif"]


def test_commands_share_options_with_all_that_is_said_of_them():
    """What a person learned of one command holds for the others."""
    commands = typer.main.get_command(app).commands
    options = {
        name: {p.name: p for p in commands[name].params}
        for name in ("segment", "embed", "refine")
    }
    shared = {f.name for group in (ReadingOptions, ModelOptions) for f in fields(group)}
    for name in {*shared, "tiling", "tile"}:
        first, *others = (options[command][name] for command in options)
        for other in others:
            assert (other.opts, other.default) == (first.opts, first.default)
            assert other.help == first.help
    assert options["refine"]["overlap"].default == "higher-iou"
    assert options["segment"]["overlap"].default == 25


def test_the_package_is_the_command():
    asked = [sys.executable, "-m", "napari_samseg", "convert", "--help"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert "Usage: napari-samseg convert" in done.stdout
