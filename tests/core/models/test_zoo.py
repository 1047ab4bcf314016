from __future__ import annotations

import re

import pytest

from napari_samseg.core.models import MODEL_FAMILIES
from napari_samseg.core.models.zoo import ZOO


@pytest.mark.parametrize("name", list(ZOO))
def test_an_entry_is_complete(name):
    entry = ZOO[name]
    assert entry.name == name
    assert entry.family in MODEL_FAMILIES
    assert entry.licence
    assert entry.citation
    assert "\n" not in entry.description
    for file in filter(None, (entry.checkpoint, entry.instance_decoder)):
        assert file.url.startswith("https://")
        assert re.fullmatch(r"xxh128:[0-9a-f]{32}", file.hash)
        assert file.file_name.endswith((".pt", ".pth"))


def test_files_and_hashes_are_all_different():
    files = [
        file
        for entry in ZOO.values()
        for file in (entry.checkpoint, entry.instance_decoder)
        if file is not None
    ]
    assert len(files) == 24
    for field in ("file_name", "url", "hash"):
        assert len({getattr(file, field) for file in files}) == len(files)
