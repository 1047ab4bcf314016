from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from napari_samseg.core.errors import OutputError
from napari_samseg.core.training.writing import telling_what_failed, write_json
from napari_samseg.core.whole_file import whole_file


def test_written_whole_into_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    for text in ("one", "two"):
        with whole_file(path) as part:
            part.write_text(text)
            assert path.exists() == (text == "two")
        assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_halfway() -> None:
        with whole_file(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_names_may_be_as_long_as_a_disk_allows(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 251 + ".txt")
    with whole_file(path) as part:
        part.write_text("x")
    assert path.read_text() == "x"


@pytest.mark.skipif(sys.platform == "win32", reason="modes and links are for Unix")
def test_links_and_permissions_stay(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o664)
    link.symlink_to(target)
    with whole_file(link) as part:
        part.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o664


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with whole_file(path) as one, whole_file(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"


@pytest.mark.skipif(sys.platform == "win32", reason="asks for a handle's mode")
def test_what_is_asked_to_reach_the_disk_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    modes = []

    def sync(handle: int) -> None:
        modes.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE)

    monkeypatch.setattr(os, "fsync", sync)
    with whole_file(tmp_path / "a") as part:
        part.touch()
    assert modes == [os.O_RDWR]  # Windows refuses others


def test_what_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    path = tmp_path / "taken" / "a.json"
    with pytest.raises(OutputError) as told, telling_what_failed(path):
        write_json(path, {})
    assert str(told.value).count("cannot be written") == 1
    assert str(told.value).count("make room") == 1
