"""A small model, and a cache folder of its own for each test."""

from __future__ import annotations

import pytest

from napari_samseg.core.models.sam import SamModel


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep measured speeds and stores out of the cache of whoever runs the tests."""
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tiny_sam) -> SamModel:
    return SamModel(tiny_sam, name="tiny sam", family="sam")
