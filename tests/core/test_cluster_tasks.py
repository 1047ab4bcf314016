"""What tasks on a cluster share, and how they end; workers are threads here."""

from __future__ import annotations

import threading
import time

import pytest
import tifffile
from embedding_jobs import make_volume, read_all

from napari_samseg.core import cluster
from napari_samseg.core.cluster import embed_on_cluster
from napari_samseg.core.embed.file_job import FileJob
from napari_samseg.core.errors import SamSegError
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.steps import run_steps

distributed = pytest.importorskip("distributed")
N = 16


@pytest.fixture
def job(tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))
    tifffile.imwrite(tmp_path / "stack.tif", make_volume(N), photometric="minisblack")
    return FileJob(
        tmp_path / "stack.tif",
        str(tmp_path / "store"),
        model_settings=ModelSettings(str(tiny_checkpoint), "cpu"),
    )


@pytest.fixture
def start():
    """Start a cluster of some workers, each a thread of this process."""
    running = []

    def start(n_workers):
        running.append(
            distributed.LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                processes=False,
                dashboard_address=":0",
            )
        )
        return running[-1].scheduler_address

    yield start
    for one in running:
        one.close()


def test_a_worker_loads_the_model_once(job, start, monkeypatch):
    n_loaded, load = [], cluster.model_steps

    def count(settings):
        n_loaded.append(settings)
        return load(settings)

    monkeypatch.setattr(cluster, "model_steps", count)
    cluster._load_model.cache_clear()
    assert run_steps(embed_on_cluster(job, start(1))).encoded == N
    assert n_loaded == [job.model_settings]


def test_tasks_that_run_stop_when_the_job_is_cancelled(job, start, monkeypatch):
    monkeypatch.setattr(cluster, "SHARES", 1)  # one task for all planes
    monkeypatch.setattr(cluster, "STOP_SECONDS", 0.0)
    is_encoding, is_cancelled = threading.Event(), threading.Event()
    encode = SamModel.encode_batch_steps

    def wait_and_encode(self, planes):
        is_encoding.set()
        assert is_cancelled.wait(60)
        return (yield from encode(self, planes))

    # the speed is known: the first to be encoded is a tile of the stack
    address = start(1)
    run_steps(embed_on_cluster(job_of_planes(job, (0, 1)), address))
    monkeypatch.setattr(SamModel, "encode_batch_steps", wait_and_encode)
    for _ in embed_on_cluster(job, address):
        if is_encoding.is_set():
            break
    is_cancelled.set()
    end = time.monotonic() + 60
    while any(thread.name.startswith("samseg") for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert len({plane for plane, _ in read_all(job.location)}) < 4


def job_of_planes(job, planes):
    return FileJob(
        job.image, job.location, planes=planes, model_settings=job.model_settings
    )


def test_no_workers_and_work_that_was_dropped(job, start, monkeypatch):
    futures, send = [], distributed.Client.map

    def keep(self, *args, **options):
        futures.extend(send(self, *args, **options))
        return futures

    monkeypatch.setattr(distributed.Client, "map", keep)
    steps = embed_on_cluster(job, start(0))
    while not (step := next(steps)).stage.startswith("encoding"):
        pass
    assert step.detail == "waiting for workers to join the cluster"
    futures[0].cancel()
    with pytest.raises(SamSegError, match=r"has dropped work .*start it again"):
        run_steps(steps)
