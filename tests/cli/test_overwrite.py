"""Files that are there already are replaced only when that is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from napari_samseg.cli import app

COMMANDS = {
    "instances": ("instances", "in.tif", "--out", "new.tif"),
    "prompts": ("prompts", "in.tif", "--out", "new.csv"),
    "convert": ("convert", "in.tif", "new.json"),
    "refine": ("refine", "in.tif", "in.tif", "--out", "new.tif", "--device", "cpu"),
    "report": (
        *("refine", "in.tif", "in.tif", "--out", "other.tif", "--report", "new.csv"),
        *("--device", "cpu"),
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    labels = np.zeros((40, 40), np.uint16)
    labels[8:30, 8:30] = 3
    tifffile.imwrite(tmp_path / "in.tif", labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments):
    result = CliRunner().invoke(app, [*arguments])
    return result.exit_code, result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_replaced_without_a_word(folder, name):
    out = next(a for a in COMMANDS[name] if a.startswith("new."))
    (folder / out).write_text("mine")
    status, errors = call(*COMMANDS[name])
    assert status == 2
    assert "--overwrite" in errors
    assert (folder / out).read_text() == "mine"
    status, errors = call(*COMMANDS[name], "--overwrite")
    assert status == 0, errors
    assert (folder / out).read_bytes() != b"mine"


def test_parts_of_a_split_are_not_replaced(folder):
    (folder / "a.json").write_text(
        '{"images": [{"id": 1, "file_name": "a", "height": 5, "width": 5},'
        '{"id": 2, "file_name": "b", "height": 5, "width": 5}], "annotations": []}'
    )
    split = ("convert", "a.json", "parts", "--split", "train=0.5,val=0.5")
    assert call(*split)[0] == 0
    status, errors = call(*split)
    assert status == 2
    assert "--overwrite" in errors
    assert call(*split, "--overwrite")[0] == 0
