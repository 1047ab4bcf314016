"""Run a command that opens windows, on a machine that may have no display.

``python tests/on_display.py python -m pytest`` runs pytest. On Linux without a
display it runs it under Xvfb. What Xvfb, Qt and OpenGL need is installed on Debian
and Ubuntu if the person is root; otherwise the line to run is printed.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import sys

# What Qt and napari load when a window opens, and the Debian package it is in.
LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libGLX_mesa.so.0": "libglx-mesa0",
    "libOpenGL.so.0": "libopengl0",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-xinerama.so.0": "libxcb-xinerama0",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
}
SCREEN = "-screen 0 1600x1000x24"


def has_display() -> bool:
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def is_loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def missing_packages() -> list[str]:
    """Debian packages whose library, or whose xvfb-run, is not on this machine."""
    missing = [package for name, package in LIBRARIES.items() if not is_loadable(name)]
    if shutil.which("xvfb-run") is None:
        missing += ["xvfb", "xauth"]
    return missing


def install(packages: list[str]) -> None:
    """Install Debian packages, or stop with the line that a person has to run."""
    update = ["apt-get", "update"]
    add = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if shutil.which("apt-get") is None:
        sys.exit(
            "The tests open windows. This machine has no display and lacks: "
            f"{' '.join(packages)} (names as in Debian). Install these with your "
            "package manager, or run the tests on a machine with a display."
        )
    if os.geteuid() != 0:
        line = f"sudo {shlex.join(update)} && sudo {shlex.join(add)}"
        sys.exit(
            "The tests open windows and this machine has no display. For a virtual "
            f"one, run this once and then start the tests again:\n\n    {line}\n"
        )
    print(f"installing {' '.join(packages)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (update, add):
        done = subprocess.run(
            command, env=environment, check=False, stdout=subprocess.DEVNULL
        )
        if done.returncode:
            sys.exit(f"failed with status {done.returncode}: {shlex.join(command)}")


def main(command: list[str]) -> int:
    if not has_display():
        if missing := missing_packages():
            install(missing)
        command = ["xvfb-run", "--auto-servernum", f"--server-args={SCREEN}", *command]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
