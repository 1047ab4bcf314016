"""What an import loads, looked at in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "zarr", "napari", "dask", "skimage", "scipy")


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import napari_samseg",
        "import napari_samseg as samseg; dir(samseg); samseg.__version__",
        "import napari_samseg; napari_samseg.ImageSettings()",
        "import napari_samseg.cli",
        "import napari_samseg.core.models",
        "import napari_samseg.adapters.contributions",
    ],
)
def test_nothing_heavy_is_loaded(code):
    assert loaded_by(code).isdisjoint(HEAVY)


def test_the_embedded_weights_do_not_load_torch_when_listed():
    code = "from napari_samseg.core.models import list_models; list_models()"
    assert "torch" not in loaded_by(code)


def test_help_is_there_without_torch():
    code = (
        "from typer.testing import CliRunner\n"
        "from napari_samseg.cli import app\n"
        "assert CliRunner().invoke(app, ['segment', '--help']).exit_code == 0"
    )
    assert loaded_by(code).isdisjoint(HEAVY)


def test_every_public_name_can_be_had():
    import napari_samseg

    for name in napari_samseg.__all__:
        assert getattr(napari_samseg, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        napari_samseg.no_such_name  # noqa: B018
