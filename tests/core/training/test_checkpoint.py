from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from napari_samseg.core.errors import CheckpointError, MissingFileError, OutputError
from napari_samseg.core.training.checkpoint import (
    read_training_state,
    write_training_state,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_state_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "state.pt"
    write_training_state(path, {"step": 3, "module": {"w": torch.arange(4.0)}})
    state = read_training_state(path)
    assert state["step"] == 3
    assert torch.equal(state["module"]["w"], torch.arange(4.0))
    assert [p.name for p in path.parent.iterdir()] == ["state.pt"]


def test_old_state_survives_a_write_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    write_training_state(path, {"step": 1})

    def disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OutputError, match="make room"):
        write_training_state(path, {"step": 2})
    assert read_training_state(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_missing_damaged_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere\.pt"):
        read_training_state(tmp_path / "nowhere.pt")
    path = tmp_path / "state.pt"
    write_training_state(path, {"w": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="start anew"):
        read_training_state(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="no training state"):
        read_training_state(path)


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_code_in_a_state_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "state.pt"
    torch.save({"step": _Trap()}, path)
    with pytest.raises(CheckpointError):
        read_training_state(path)
    assert "code ran" not in capsys.readouterr().out
