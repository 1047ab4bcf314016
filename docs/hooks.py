"""Fills pages from the code: settings, shortcuts and the command line.

``<!-- settings napari_samseg.core.settings.ImageSettings -->`` becomes a table of
that class. What stands between ``<!-- shortcuts -->`` and ``<!-- end -->``, for those
who read a page in a checkout, becomes a table of keys; and what stands after
``<!-- command line -->``, the help of every command.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src"
sys.path.insert(0, str(SOURCE))


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace the marks in one page."""
    markdown = re.sub(
        r"<!-- settings ([\w.]+) -->", lambda m: settings_table(m[1]), markdown
    )
    for mark, fill in (
        ("shortcuts", shortcuts_table),
        ("review shortcuts", review_table),
        ("command line", command_line),
    ):
        # what stands there in a checkout goes
        mark = rf"<!-- {mark} -->\n.*?<!-- end -->"
        if re.search(mark, markdown, re.DOTALL):
            filled = fill()
            markdown = re.sub(
                mark, lambda _, filled=filled: filled, markdown, flags=re.DOTALL
            )
    return markdown


def settings_table(name: str) -> str:
    """Return a table of a settings class given by its full name."""
    from napari_samseg.core.settings import describe

    module, _, class_name = name.rpartition(".")
    settings = getattr(import_module(module), class_name)
    rows = ["| name | default | allowed | what it does |", "| --- | --- | --- | --- |"]
    for info in describe(settings):
        allowed = ", ".join(info.choices)
        if info.minimum is not None or info.maximum is not None:
            low = "" if info.minimum is None else f"{info.minimum:g}"
            high = "" if info.maximum is None else f"{info.maximum:g}"
            allowed = f"{low} to {high} {info.unit}".replace(" to  ", " and up ")
        default = "" if info.default in (None, "") else f"`{info.default}`"
        rows.append(f"| `{info.name}` | {default} | {allowed} | {info.help} |")
    return "\n".join(rows)


def shortcuts_table() -> str:
    """Return a table of the keys, read without importing Qt."""
    return _keys_table("canvas_tools.py", ("SHORTCUTS", "HISTORY_KEYS"))


def review_table() -> str:
    """Return a table of the keys of the review."""
    return _keys_table("review_panel.py", ("REVIEW_KEYS",))


def _keys_table(file: str, names: tuple[str, ...]) -> str:
    path = SOURCE / "napari_samseg" / "widgets" / file
    rows = ["| key | what it does |", "| --- | --- |"]
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.AnnAssign) or node.value is None:
            continue
        if ast.unparse(node.target) in names:
            for key, meaning, *_ in ast.literal_eval(node.value):
                rows.append(f"| `{key}` | {meaning} |")
    return "\n".join(rows)


def command_line() -> str:
    """Return the help of every command, one level of headings down."""
    command = [sys.executable, "-m", "typer", "napari_samseg.cli", "utils", "docs"]
    done = subprocess.run(
        [*command, "--name", "napari-samseg"],
        env={"PYTHONPATH": str(SOURCE), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return re.sub(r"^# .*$", "", done.stdout, count=1, flags=re.MULTILINE)
