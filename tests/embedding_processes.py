"""The command ``embed`` in processes of their own, which can be killed as any other.

They are forked from a server that has imported torch already: a start takes some
milliseconds instead of seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from napari_samseg.cli import app

__all__ = ["Command", "Trap", "serve_processes", "wait_until"]

TESTS = Path(__file__).parent
# What takes long to import: commands, and workers of a cluster, find it there.
PRELOADED = (
    "distributed",
    "rich.progress",
    "tifffile",
    "napari_samseg.core.cache.zarr_store",
    "napari_samseg.core.embed.job",
    "napari_samseg.core.models.families",
    "napari_samseg.core.models.tiny",
    "embedding_processes",
)
TOUCHING = ("open", "os.rename", "os.link", "os.remove", "os.mkdir")
WRITING = os.O_WRONLY | os.O_RDWR
# Less than the features of a plane take, more than its record.
SMALL_FILE = 1500


@dataclass
class Trap:
    """What befalls a process that changes files in a folder; an audit hook.

    Attributes
    ----------
    folder : str
    at : int
        At which change it happens, counted from 1; never if 0.
    where : str
        Only changes of files with this in their path count.
    what : "kill", "stop", "limit" or "fill"
        Kill -9; the process stops until it gets SIGCONT; no file may be larger than
        `SMALL_FILE` from then on; the disk of the folder is filled.
    pace : float
        Seconds to wait before each change.
    """

    folder: str
    at: int = 0
    where: str = ""
    what: Literal["kill", "stop", "limit", "fill"] = "kill"
    pace: float = 0.0
    n: int = 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in TOUCHING or not isinstance(args[0], str | os.PathLike):
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & WRITING):
            return
        path = os.fspath(args[0])
        if not path.startswith(self.folder):
            return
        time.sleep(self.pace)
        if self.where in path:
            self.n += 1
            if self.n == self.at:
                self._spring()

    def _spring(self) -> None:
        if self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.what == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.what == "limit":
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILE, hard))
        else:
            fill_disk(Path(self.folder).parent)


def fill_disk(folder: Path) -> None:
    """Leave no byte free on the disk of a folder; see the file ``filler`` in it."""
    with (folder / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free)


class Command:
    """A command of napari-samseg in a process of its own, started at once.

    Parameters
    ----------
    words : sequence of str
        As after ``napari-samseg``.
    log : Path
        Gets what it prints.
    trap : Trap, optional
    """

    def __init__(
        self, words: Sequence[object], log: Path, trap: Trap | None = None
    ) -> None:
        self.log = log
        cache = os.environ["SAMSEG_CACHE"]
        context = multiprocessing.get_context("forkserver")
        self.process = context.Process(
            target=_run,
            args=([str(word) for word in words], str(log), cache, trap),
            daemon=True,
        )
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.is_alive()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, also where it stands still; nothing if it has ended."""
        self.process.kill()
        self.process.join()

    def wait_for_stop(self) -> None:
        """Wait until it has stopped itself."""
        process = psutil.Process(self.pid)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED)

    def wait(self, seconds: float = 120) -> int:
        """Return the exit status, negative if a signal ended it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "the command does not end"
        return self.process.exitcode

    @property
    def text(self) -> str:
        return self.log.read_text()


def serve_processes() -> None:
    """Start the server that commands are forked from, unless it runs."""
    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        part for part in (str(TESTS), path) if part
    )
    try:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        process = context.Process(target=int, daemon=True)
        process.start()
        process.join()
    finally:
        os.environ["PYTHONPATH"] = path


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait, and fail if it takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def _run(words: list[str], log: str, cache: str, trap: Trap | None) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["SAMSEG_CACHE"] = cache
    # tests that run in the background of a shell ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if trap is not None:
        sys.addaudithook(trap)
    app(words)
