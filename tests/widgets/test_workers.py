from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from napari_samseg.core.types import Progress
from napari_samseg.widgets.job_runner import JobRunner
from napari_samseg.widgets.workers import Job, LatestJob

pytestmark = pytest.mark.usefixtures("qtbot")


class Log:
    """What a job called back, and in which thread."""

    def __init__(self):
        self.events = []
        self.threads = set()

    def __call__(self, name):
        def record(*values):
            self.events.append((name, *values))
            self.threads.add(threading.current_thread())

        return record

    def names(self):
        return [event[0] for event in self.events]

    def callbacks(self):
        return {
            f"on_{name}": self(name) for name in ("return", "error", "progress", "end")
        }


def count(n, closed=None, delay=0.0):
    try:
        for i in range(n):
            time.sleep(delay)
            yield Progress("counting", i + 1, n)
        return n
    finally:
        if closed is not None:
            closed.append(threading.current_thread())


def wait_for(qtbot, log, name):
    qtbot.waitUntil(lambda: name in log.names(), timeout=5000)


def test_progress_and_result_arrive_on_the_main_thread(qtbot):
    log = Log()
    Job(count(3), **log.callbacks()).start()
    wait_for(qtbot, log, "end")
    assert log.names() == ["progress"] * 3 + ["return", "end"]
    assert log.events[-2] == ("return", 3)
    assert log.threads == {threading.main_thread()}


@pytest.mark.parametrize(
    "error", [RuntimeError("out of memory"), ValueError("bad"), MemoryError()]
)
def test_any_error_comes_back_and_ends_the_job(qtbot, error):
    def failing():
        yield Progress("trying")
        raise error

    log = Log()
    job = Job(failing(), **log.callbacks()).start()
    wait_for(qtbot, log, "end")
    assert log.events[-2:] == [("error", error), ("end",)]
    assert not job.is_running


def test_cancel_closes_the_generator_and_calls_nothing_more_back(qtbot):
    log, closed = Log(), []
    job = Job(count(10_000, closed, delay=0.001), **log.callbacks()).start()
    wait_for(qtbot, log, "progress")
    job.cancel()
    before = len(log.events)
    wait_for(qtbot, log, "end")
    assert log.names()[before:] == ["end"]
    assert "return" not in log.names()
    assert len(closed) == 1
    assert not job.is_running


def unwritten(error):
    try:
        while True:
            time.sleep(0.001)
            yield Progress("counting")
    finally:
        raise error


def test_a_cancelled_job_tells_that_nothing_was_written(qtbot):
    error = OSError("no room")
    log = Log()
    job = Job(unwritten(error), **log.callbacks()).start()
    wait_for(qtbot, log, "progress")
    job.cancel()
    wait_for(qtbot, log, "end")
    assert log.events[-2:] == [("error", error), ("end",)]
    assert log.threads == {threading.main_thread()}


def test_stopping_is_no_success_where_nothing_was_written(qtbot):
    class Runner(JobRunner):
        def start(self, steps):
            self._start(steps, self.finished)

    runner, log = Runner(), Log()
    for name in ("progressed", "failed", "ended"):
        getattr(runner, name).connect(log(name))
    for error, told in (
        (OSError("no room"), [("failed",), ("ended", False)]),
        (GeneratorExit(), [("ended", True)]),
    ):
        log.events.clear()
        runner.start(unwritten(error))
        wait_for(qtbot, log, "progressed")
        runner.cancel()
        wait_for(qtbot, log, "ended")
        heard = [event for event in log.events if event[0] != "progressed"]
        assert [(e[0],) if e[0] == "failed" else e for e in heard] == told


def test_latest_wins_and_stale_requests_never_run(qtbot):
    log, ran = Log(), []

    def steps(number):
        ran.append(number)
        for _ in range(20):
            time.sleep(0.002)
            yield Progress("working")
        return number

    latest = LatestJob()
    for number in range(10):
        latest.request(steps(number), log("return"), log("error"))
    qtbot.waitUntil(lambda: not latest.is_busy, timeout=5000)
    assert log.events == [("return", 9)]
    assert ran in ([0, 9], [9])


def test_latest_goes_on_after_an_error(qtbot):
    def failing():
        yield Progress("trying")
        raise RuntimeError("no")

    log, latest = Log(), LatestJob()
    latest.request(failing(), log("return"), log("error"))
    qtbot.waitUntil(lambda: not latest.is_busy, timeout=5000)
    latest.request(count(1), log("return"), log("error"))
    qtbot.waitUntil(lambda: not latest.is_busy, timeout=5000)
    assert log.names() == ["error", "return"]


def test_nothing_is_awaited_once_the_answer_is_there(qtbot):
    latest, awaited = LatestJob(), []
    latest.request(
        count(1), lambda value: awaited.append(latest.will_answer), Log()("error")
    )
    assert latest.will_answer
    qtbot.waitUntil(lambda: not latest.is_busy, timeout=5000)
    assert awaited == [False]


def test_cancelled_latest_runs_nothing_more(qtbot):
    log, latest = Log(), LatestJob()
    latest.request(count(1000, delay=0.001), log("return"), log("error"))
    latest.request(count(1), log("return"), log("error"))
    latest.cancel()
    qtbot.waitUntil(lambda: not latest.is_busy, timeout=5000)
    assert log.events == []


def test_leaving_python_ends_what_runs():
    code = """
import time
from pathlib import Path
from qtpy.QtCore import QCoreApplication
from napari_samseg.core.types import Progress
from napari_samseg.widgets.job_runner import JobRunner
from napari_samseg.widgets.workers import Job

def forever():
    while True:
        time.sleep(0.05)
        yield Progress("counting")

app = QCoreApplication([])
Job(forever(), on_return=print, on_error=print).start()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_paused_job_goes_on_where_it_was(qtbot):
    log = Log()
    job = Job(count(6, delay=0.02), **log.callbacks()).start()
    wait_for(qtbot, log, "progress")
    job.pause()
    qtbot.wait(100)
    seen = len(log.events)
    qtbot.wait(200)
    assert len(log.events) == seen < 6
    job.resume()
    wait_for(qtbot, log, "end")
    assert log.events[-2] == ("return", 6)
    assert log.names().count("progress") == 6


def test_a_pause_taken_back_at_once_is_none(qtbot):
    log = Log()
    job = Job(count(3), **log.callbacks()).start()
    job.pause()
    job.resume()
    wait_for(qtbot, log, "return")


def test_a_paused_job_can_be_cancelled(qtbot):
    log, closed = Log(), []
    job = Job(count(1000, closed, 0.01), **log.callbacks()).start()
    wait_for(qtbot, log, "progress")
    job.pause()
    qtbot.wait(50)
    job.cancel()
    wait_for(qtbot, log, "end")
    assert "return" not in log.names()
    assert closed


def test_nobody_waits_for_a_paused_job(qtbot):
    paused, log = Log(), Log()
    job = Job(count(1000, delay=0.01), **paused.callbacks()).start()
    job.pause()
    Job(count(3), **log.callbacks(), background=True).start()
    wait_for(qtbot, log, "return")
    job.cancel()
    wait_for(qtbot, paused, "end")


QUITTING = """
import sys, time
from qtpy.QtCore import QCoreApplication, QTimer
from napari_samseg.core.cache.entry import StackEntry
from napari_samseg.core.models import load_model
from napari_samseg.widgets.job_runner import JobRunner
from napari_samseg.widgets.workers import Job
from embedding_jobs import make_job, make_volume

app = QCoreApplication([])
put = StackEntry.put_tiles

def slowly(self, *args):
    time.sleep(0.2)
    put(self, *args)
    print("written", flush=True)

StackEntry.put_tiles = slowly
job = make_job(make_volume(n=30), load_model("default"), sys.argv[1])

def look(progress):
    if progress.done >= 3:
        app.quit()

Job(
    job.embed_steps(), on_return=print, on_error=print, on_progress=look
).start()
app.exec()
"""


def test_what_is_encoded_is_written_before_the_program_ends(tmp_path):
    folder = Path(__file__).parent.parent
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", QUITTING, str(tmp_path / "store")],
        env=os.environ | {"PYTHONPATH": path, "SAMSEG_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    n_written = done.stdout.count("written")
    assert 3 <= n_written < 30
    assert len(list((tmp_path / "store").glob("*/records/*"))) == n_written
    assert not list((tmp_path / "store").glob("*/claims/*"))
