"""The same jobs on a dask cluster: a workstation's processes, or a batch system's.

The scheduler hands out small ranges of planes. A task that is run again, because its
worker was lost, finds what was finished and encodes the rest; no two tasks write the
same file, for no two have the same plane.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from napari_samseg.core.cache.keys import local_path
from napari_samseg.core.embed.file_job import FileJob, open_stack_job
from napari_samseg.core.embed.job import EmbedReport
from napari_samseg.core.errors import MissingDependencyError, SettingsError
from napari_samseg.core.steps import run_steps
from napari_samseg.core.types import Progress

__all__ = ["embed_on_cluster"]

LOCAL = "local"
# Tasks for each worker: enough that all end at about the same time.
SHARES = 8
# That a worker is lost is not the fault of its task, unless it is lost every time.
RETRIES = 3
CONNECT_SECONDS = 20
POLL_SECONDS = 0.2


def embed_on_cluster(
    job: FileJob, scheduler: str
) -> Generator[Progress, None, EmbedReport]:
    """Encode a stack on a cluster.

    All workers must see the image, the store and, if it is no name, the checkpoint
    under the same paths.

    Parameters
    ----------
    job : FileJob
    scheduler : str
        Address of a dask scheduler, such as ``tcp://node1:8786``, or ``local`` for a
        cluster of processes on this machine.

    Raises
    ------
    MissingDependencyError
        If dask.distributed is not installed.
    SettingsError
        If the scheduler cannot be reached.
    SamSegError
        Whatever keeps a plane from being encoded, as without a cluster.
    """
    with open_stack_job(job) as stack_job:
        n_planes = len(stack_job.planes)
        location = stack_job.location
    # one name for all: a task that is run again elsewhere may go on at once
    job = dataclasses.replace(_with_full_paths(job, location), owner=uuid.uuid4().hex)
    began = time.monotonic()
    yield Progress("connecting to the cluster")
    with _connect(scheduler) as client:
        n_workers = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        size = max(1, n_planes // (SHARES * n_workers))
        start, end = job.planes[0], job.planes[0] + n_planes
        ranges = [(first, min(first + size, end)) for first in range(start, end, size)]
        tasks = [dataclasses.replace(job, planes=planes) for planes in ranges]
        futures = client.map(_embed_share, tasks, retries=RETRIES, pure=False)
        sizes = {
            future: stop - first
            for future, (first, stop) in zip(futures, ranges, strict=True)
        }
        try:
            yield from _wait(futures, sizes, n_planes)
            reports = client.gather(futures)
        finally:
            client.cancel(futures)
    return EmbedReport(
        sum(report.encoded for report in reports),
        sum(report.kept for report in reports),
        tuple(plane for report in reports for plane in report.unreadable),
        time.monotonic() - began,
    )


def _with_full_paths(job: FileJob, location: str) -> FileJob:
    """Return the job as it is understood in other folders, too."""
    store, model = local_path(location), job.model_settings
    if Path(model.model).is_file():
        model = dataclasses.replace(model, model=str(Path(model.model).absolute()))
    return dataclasses.replace(
        job,
        image=job.image.absolute(),
        location=location if store is None else str(store.absolute()),
        model_settings=model,
    )


def _wait(
    futures: list[Any], sizes: dict[Any, int], n_planes: int
) -> Generator[Progress, None, None]:
    while True:
        ended = [future for future in futures if future.done()]
        for future in ended:
            if future.status == "error":
                raise future.exception()
        n_done = sum(sizes[future] for future in ended)
        yield Progress("encoding planes", n_done, n_planes)
        if len(ended) == len(futures):
            return
        time.sleep(POLL_SECONDS)


def _embed_share(job: FileJob) -> EmbedReport:
    """Encode some planes, in a worker."""
    with open_stack_job(job) as stack_job:
        return run_steps(stack_job.embed_steps())


@contextmanager
def _connect(scheduler: str) -> Iterator[Any]:
    try:
        import distributed
    except ImportError as error:
        raise MissingDependencyError(
            "a cluster needs dask.distributed: pip install 'napari-samseg[cluster]'"
        ) from error
    # the library is without types
    make_client: Any = distributed.Client
    if scheduler == LOCAL:
        options = {"threads_per_worker": 1, "dashboard_address": ":0"}
        make_cluster: Any = distributed.LocalCluster
        with make_cluster(**options) as cluster, make_client(cluster) as client:
            yield client
        return
    try:
        client = make_client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"there is no dask scheduler at {scheduler}: start one with "
            "`dask scheduler`, or use `local`"
        ) from error
    with client:
        yield client
