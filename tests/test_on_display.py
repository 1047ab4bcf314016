"""The script that gives the tests a display."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import on_display
import pytest

linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="other systems have a display"
)


@pytest.fixture
def no_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


@pytest.fixture
def calls(monkeypatch):
    """Commands that were started; none of them runs."""
    calls = []

    def run(command, **_):
        calls.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(on_display.subprocess, "run", run)
    return calls


def test_a_display_is_used_as_it_is(monkeypatch, calls):
    monkeypatch.setenv("DISPLAY", ":7")
    assert on_display.main(["pytest", "-x"]) == 3
    assert calls == [["pytest", "-x"]]


@linux_only
def test_without_a_display_a_virtual_one_is_started(monkeypatch, calls, no_display):
    monkeypatch.setattr(on_display, "missing_packages", list)
    assert on_display.main(["pytest"]) == 3
    ((program, *_, last),) = calls
    assert (program, last) == ("xvfb-run", "pytest")


@linux_only
def test_root_gets_what_is_missing(monkeypatch, no_display):
    calls = []

    def run(command, **_):
        calls.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(on_display, "missing_packages", lambda: ["xvfb", "libegl1"])
    monkeypatch.setattr(on_display.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(on_display.subprocess, "run", run)
    assert on_display.main(["pytest"]) == 0
    assert calls[0] == ["apt-get", "update"]
    assert calls[1][:3] == ["apt-get", "install", "-y"]
    assert calls[1][-2:] == ["xvfb", "libegl1"]
    assert calls[2][0] == "xvfb-run"


@linux_only
def test_others_get_the_line_to_run(monkeypatch, calls, no_display):
    monkeypatch.setattr(on_display, "missing_packages", lambda: ["xvfb", "libegl1"])
    monkeypatch.setattr(on_display.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit) as stopped:
        on_display.main(["pytest"])
    (line,) = (li for li in str(stopped.value).splitlines() if "sudo" in li)
    words = shlex.split(line)
    assert words[:3] == ["sudo", "apt-get", "update"]
    assert words[-2:] == ["xvfb", "libegl1"]
    assert calls == []


@linux_only
def test_other_distributions_get_the_names(monkeypatch, calls, no_display):
    monkeypatch.setattr(on_display, "missing_packages", lambda: ["libegl1"])
    monkeypatch.setattr(on_display.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"lacks: libegl1 \(names as in Debian\)"):
        on_display.main(["pytest"])


def test_a_library_that_is_not_there_is_missed(monkeypatch):
    monkeypatch.setattr(on_display, "LIBRARIES", {"libnowhere.so.9": "libnowhere9"})
    assert "libnowhere9" in on_display.missing_packages()
    assert not on_display.is_loadable("libnowhere.so.9")
