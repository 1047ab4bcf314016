"""What a wheel holds."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

REPOSITORY = Path(__file__).parent.parent
MODEL_BYTES = 16_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    builder = WheelBuilder(str(REPOSITORY))
    (path,) = builder.build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_model_the_manifest_and_the_types_are_in_it(wheel):
    sizes = {item.filename: item.file_size for item in wheel.infolist()}
    for name in ("napari.yaml", "py.typed", "cli.py", "data/samseg_tiny.safetensors"):
        assert f"napari_samseg/{name}" in sizes
    assert 1_000_000 < sizes["napari_samseg/data/samseg_tiny.safetensors"] < MODEL_BYTES


def test_every_source_file_is_in_it_and_no_test(wheel):
    package = REPOSITORY / "src" / "napari_samseg"
    sources = {
        f"napari_samseg/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*.py")
    }
    packed = {name for name in wheel.namelist() if name.endswith(".py")}
    assert packed == sources


def test_it_registers_the_command_and_the_manifest(wheel):
    (name,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    entry_points = wheel.read(name).decode()
    assert "napari-samseg = napari_samseg.cli:app" in entry_points
    assert "[napari.manifest]" in entry_points


def test_it_asks_for_no_qt_binding(wheel):
    (name,) = (n for n in wheel.namelist() if n.endswith("METADATA"))
    required = [
        line.split(":", 1)[1].strip().lower()
        for line in wheel.read(name).decode().splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert any(line.startswith("napari>=") for line in required)
    assert not [line for line in required if line.startswith(("pyqt", "pyside"))]
    assert not [line for line in required if line.startswith("napari[")]
