"""Workers of a cluster are lost, and the stack is encoded all the same."""

from __future__ import annotations

import os
import sys
import time

import dask
import numpy as np
import pytest
import tifffile
from embedding_jobs import make_volume, read_all

from napari_samseg.core import cluster
from napari_samseg.core.cache.health import verify
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.cluster import embed_on_cluster
from napari_samseg.core.embed.file_job import FileJob, open_stack_job
from napari_samseg.core.errors import SettingsError
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.steps import run_steps

distributed = pytest.importorskip("distributed")
N = 16


@pytest.fixture
def job(tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))
    tifffile.imwrite(tmp_path / "stack.tif", make_volume(N), photometric="minisblack")
    settings = ModelSettings(str(tiny_checkpoint))
    return FileJob(
        tmp_path / "stack.tif", str(tmp_path / "store"), model_settings=settings
    )


@pytest.fixture
def two_workers():
    """Start a cluster of two processes, forked from one that has torch already."""
    if sys.platform == "win32":
        pytest.skip("processes are forked")
    from embedding_processes import serve_processes

    serve_processes()
    options = {"distributed.worker.multiprocessing-method": "forkserver"}
    with (
        dask.config.set(options),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0"
        ) as running,
    ):
        yield running


def lay_trap(folder: str) -> int:
    """Let a worker be killed when it has written its second plane."""
    from embedding_processes import Trap

    sys.addaudithook(Trap(folder, at=3, where="records/"))
    return os.getpid()


def test_a_lost_worker_does_not_stop_the_others(job, two_workers, tmp_path):
    with open_stack_job(
        FileJob(job.image, str(tmp_path / "peace"), model_settings=job.model_settings)
    ) as peace:
        run_steps(peace.embed_steps())
    with distributed.Client(two_workers) as client:
        first = min(client.scheduler_info()["workers"])
        (pid,) = client.run(lay_trap, job.location, workers=[first]).values()
        report = run_steps(embed_on_cluster(job, two_workers.scheduler_address))
        assert report.encoded + report.kept == N
        assert pid not in client.run(os.getpid).values()
    found, expected = read_all(tmp_path / "store"), read_all(tmp_path / "peace")
    assert found.keys() == expected.keys()
    for key, features in expected.items():
        np.testing.assert_array_equal(found[key], features)
    report = run_steps(verify(EmbeddingStore(job.location, write=False)))
    assert [(e.missing, e.damaged) for e in report.entries] == [((), ())]


def test_nobody_listens_at_the_address(job, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(SettingsError, match="no dask scheduler at tcp:"):
        run_steps(embed_on_cluster(job, "tcp://127.0.0.1:9"))
    assert time.monotonic() - began < 20


def test_an_address_that_is_none(job):
    with pytest.raises(SettingsError, match="no dask scheduler at nonsense"):
        run_steps(embed_on_cluster(job, "nonsense://x"))
