from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from napari_samseg.core.models import summary
from napari_samseg.core.models.summary import ModelSummary
from napari_samseg.core.models.summary import summarise_models as summarise
from napari_samseg.core.models.weights import TUNED_FILE, list_models
from napari_samseg.core.models.zoo import ZOO


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0.00012, "0.001 s"),
        (0.0123, "0.012 s"),
        (0.5, "0.5 s"),
        (8.26, "8.3 s"),
        (37.4, "37 s"),
        (600.0, "10 min"),
    ],
)
def test_times_of_a_plane(seconds: float | None, words: str) -> None:
    assert ModelSummary("", "1 MB", True, seconds).speed == words


def test_every_model_has_a_use_and_a_size(tmp_path: Path) -> None:
    found = summarise(tmp_path)
    assert list(found) == list(list_models(tmp_path))
    assert found["default"].is_here
    for name, model in found.items():
        assert model.description
        assert model.size.endswith(("MB", "GB"))
        if name != "default":
            assert not model.is_here
            assert model.facts == f"downloads {model.size} once"
    file = tmp_path / ZOO["vit_t_lm"].checkpoint.file_name
    file.write_bytes(bytes(3_000_000))
    assert summarise(tmp_path)["vit_t_lm"].facts == "3 MB, not timed yet"


def test_files_that_went_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "embedded_path", lambda: tmp_path / "gone")
    # a tuned model goes while the list is made
    listed = {"default": "a", "mine": "b"}
    monkeypatch.setattr(summary, "list_models", lambda folder: listed)
    found = summarise(tmp_path)
    assert {model.facts for model in found.values()} == {"its file is missing"}


@pytest.mark.parametrize(
    "card",
    [
        {"base": {}},
        {"base": "default"},
        {"base": None},
        {"base": {"name": "default"}, "scores": [1]},
        {"base": {"name": "default"}, "scores": {"after": {"box": None}}},
        {"base": {"name": "default"}, "objects": 7},
        {"base": {"name": "default"}, "images": ["a.tif"]},
        {"base": {"name": "default"}, "settings": [1]},
        {"base": {"name": "default"}, "settings": {"tune": "decoder"}},
        ["base"],
    ],
)
def test_an_odd_card_does_not_hide_the_models(tmp_path: Path, card: object) -> None:
    weights = tmp_path / "tuned" / "mine" / TUNED_FILE
    weights.parent.mkdir(parents=True)
    weights.write_bytes(bytes(1000))
    weights.with_suffix(".json").write_text(json.dumps(card))
    assert summarise(tmp_path)["mine"].description == (
        "Tuned here; its card cannot be read"
    )


def test_asking_needs_no_torch() -> None:
    code = (
        "import sys; from napari_samseg.core.models.summary import summarise_models; "
        "summarise_models(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
