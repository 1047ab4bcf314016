"""What the README and the documentation say is true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from napari_samseg.core.models import list_models

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = sorted((REPOSITORY / "docs").rglob("*.md"))


def blocks(language, text=README):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def page_code(page):
    return "\n".join(blocks("python", page.read_text(encoding="utf-8")))


def test_a_script_without_a_window_runs():
    (code,) = (block for block in blocks("python") if "napari.Viewer" not in block)
    names = {}
    exec(code, names)
    prediction, labels = names["prediction"], names["labels"]
    assert prediction.masks.shape == (1, 303, 384)
    assert 500 < prediction.masks.sum() < 3000, "the mask of one coin"
    assert labels.shape == (303, 384)
    assert labels.dtype == "uint32"
    assert set(labels.ravel()) == {0, 1, 2}


def test_a_script_with_a_viewer_runs(make_napari_viewer, monkeypatch):
    import napari

    (code,) = (block for block in blocks("python") if "napari.Viewer" in block)
    viewer = make_napari_viewer()
    monkeypatch.setattr(napari, "Viewer", lambda: viewer)
    shown = []
    monkeypatch.setattr(napari, "run", lambda: shown.append(list(viewer.layers)))
    names = {}
    exec(code, names)
    session = names["session"]
    assert session.target in shown[0]
    assert set(session.target.data.ravel()) == {0, 1}
    session.redo()
    session.wait()
    assert len(session.prediction) == 1
    session.close()


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """What scripts and commands write stays out of the repository."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore:.*objects are smaller")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page_code(page)], ids=lambda page: page.name
)
def test_the_scripts_of_a_page_run(page, make_napari_viewer, monkeypatch):
    import napari

    code = page_code(page)
    if "napari.Viewer" in code:
        viewer = make_napari_viewer()
        monkeypatch.setattr(napari, "Viewer", lambda: viewer)
        monkeypatch.setattr(napari, "run", lambda: None)
    names = {}
    exec(code, names)
    # pages without a model check their results themselves
    if "samseg" in names:
        assert len(names["prediction"]) > 0
    if "session" in names:
        names["session"].close()


def test_every_command_that_is_named_exists():
    from typer.main import get_command

    from napari_samseg.cli import app

    root = get_command(app)
    texts = [README, *(page.read_text(encoding="utf-8") for page in PAGES)]
    shell = [
        block.replace("\\\n", "") for text in texts for block in blocks("sh", text)
    ]
    lines = [line for block in shell for line in block.splitlines() if line]
    commands = [
        shlex.split(part)[1:]
        for line in lines
        for part in line.split("&&")
        if part.split()[0] == "napari-samseg"
    ]
    assert len(commands) >= 4
    for words in commands:
        command = root
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        flags = {flag for parameter in command.params for flag in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= flags


def test_ci_runs_the_test_command():
    (command,) = (block.strip() for block in blocks("sh") if "tox" in block)
    lines = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    assert command in lines


def test_every_model_is_in_the_table():
    rows = [
        line.split("|")[1] for line in README.splitlines() if line.startswith("| `")
    ]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    # "vit_l_..." stands for the same ending as the name before it
    for row in rows:
        first = re.search(r"`vit_\w_(\w+)`", row)
        for stem in re.findall(r"`(vit_\w_)\.\.\.`", row):
            named.add(stem + first[1])
    assert named == set(list_models())


@pytest.mark.parametrize("image", re.findall(r"!\[[^]]*\]\((\S+)\)", README))
def test_its_pictures_are_in_the_repository(image):
    base = "https://raw.githubusercontent.com/napari-samseg/napari-samseg/main/"
    assert image.startswith(base), "the hub shows only pictures with absolute addresses"
    assert (REPOSITORY / image.removeprefix(base)).is_file()


def test_every_file_that_the_architecture_names_exists():
    page = (REPOSITORY / "docs" / "concepts" / "architecture.md").read_text()
    named = set(re.findall(r"\b\w+\.py\b", page))
    there = {path.name for path in (REPOSITORY / "src").rglob("*.py")}
    assert len(named) > 30
    assert named <= there
