from __future__ import annotations

import sys

import pytest

from napari_samseg.core.errors import MissingDependencyError
from napari_samseg.core.optional import import_optional, is_installed


def test_what_is_installed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_installed("numpy")
    assert not is_installed("no_such_library")
    # where a service has written its runs is no library
    (tmp_path / "runs_of_a_service").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("runs_of_a_service")
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert not is_installed("numpy")


def test_what_is_missing_is_named_with_the_way_out() -> None:
    with pytest.raises(
        MissingDependencyError, match=r"by a library.*pip install 'it', or leave it out"
    ):
        import_optional("no_such_library", "it", "it goes by a library", "leave it out")
