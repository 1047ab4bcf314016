"""Trainings of two processes: this one is the first, and another takes part."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import several_processes
import torch
from safetensors.torch import load_file
from several_processes import PLAN, play, tune
from torch import distributed

Told = dict[str, str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def told(folder: Path) -> tuple[Told, Told]:
    """What the two processes have told of their trainings."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    script = several_processes.__file__
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**names, "RANK": "0"}.items():
            patch.setenv(name, value)
        other = subprocess.Popen(
            [sys.executable, script, str(folder)], env={**os.environ, "RANK": "1"}
        )
        try:
            mine = play(folder)
            assert other.wait(60) == 0
        finally:
            other.kill()
            other.wait()
            if distributed.is_initialized():
                distributed.destroy_process_group()
    return mine, json.loads((folder / "told.json").read_text())


def assert_same_weights(folder: Path, other: Path) -> None:
    for name in ("best", "last"):
        ours = load_file(folder / f"{name}.safetensors")
        theirs = load_file(other / f"{name}.safetensors")
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            # softmax does not depend on the bias of keys, whose gradient is rounding
            # alone, which Adam scales up to the learning rate
            atol = 1e-3 if key.endswith("k_proj.bias") else 1e-5
            torch.testing.assert_close(value, theirs[key], rtol=0, atol=atol)


def read_figures(folder: Path) -> dict[tuple[str, str], float]:
    with (folder / "log.csv").open() as file:
        return {
            (row["step"], row["name"]): float(row["value"])
            for row in csv.DictReader(file)
        }


def test_two_processes_learn_what_one_does(told, folder: Path) -> None:
    alone = tune(PLAN, out=folder / "alone")
    assert (
        told[0]["whole"] == told[1]["whole"] == str(folder / "whole/best.safetensors")
    )
    assert_same_weights(folder / "whole", alone.best.parent)
    # figures too: those of a step are of all its batches
    ours, theirs = (read_figures(folder / name) for name in ("whole", "alone"))
    assert ours.keys() == theirs.keys()
    for at, value in ours.items():
        assert value == pytest.approx(theirs[at], abs=1e-4), at


def test_they_are_stopped_and_resumed_together(told, folder: Path) -> None:
    assert told[0]["resumed"].startswith("Stop")
    assert told[1]["resumed"].startswith("OtherProcessError: process 0")
    assert "stopped" in told[1]["resumed"]
    assert_same_weights(folder / "resumed", folder / "whole")
    assert not (folder / "resumed" / "work").exists()


def test_a_loss_that_is_no_number_ends_both(told, folder: Path) -> None:
    assert told[1]["no_number"].startswith("TrainingError: the loss of batch 7")
    assert told[0]["no_number"].startswith("OtherProcessError: process 1")
    assert "batch 7 (step 3) is nan" in told[0]["no_number"]
    assert (folder / "nan" / "last.safetensors").exists()
    assert (folder / "nan" / "work" / "state.pt").exists()


def test_one_that_divides_its_batches_does_not_lose_the_other(
    told, folder: Path
) -> None:
    assert told[0]["no_memory"] == told[1]["no_memory"]
    assert (folder / "parts" / "last.safetensors").exists()
    assert not (folder / "parts" / "work").exists()


def test_both_stop_where_it_gets_no_better(told) -> None:
    assert told[0]["early"] == told[1]["early"] == "[1, 2]"


def test_what_is_wrong_is_told_by_both(told) -> None:
    for words in (each["too_few"] for each in told):
        assert "set accumulate of the loop to 2 or more" in words
    assert told[0]["unwritable"].startswith("NotADirectoryError")
    assert "process 0 of the training has ended" in told[1]["unwritable"]
