"""The same jobs on a dask cluster: a workstation's processes, or a batch system's.

The scheduler hands out small ranges of planes. A task that is run again, because its
worker was lost, finds what was finished and encodes the rest; no two tasks write the
same file, for no two have the same plane.
"""

from __future__ import annotations

import dataclasses
import logging
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from napari_samseg.core.cache.keys import local_path
from napari_samseg.core.chosen_model import model_steps
from napari_samseg.core.embed.file_job import FileJob, open_stack_job
from napari_samseg.core.embed.job import EmbedReport
from napari_samseg.core.errors import (
    SamSegError,
    SettingsError,
)
from napari_samseg.core.optional import import_optional
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    from napari_samseg.core.models.protocol import PromptableModel

__all__ = ["embed_on_cluster"]

LOCAL = "local"
# Tasks for each worker: enough that all end at about the same time.
SHARES = 8
# An error comes again: no task is tried twice. How often a task may lose its worker
# is the scheduler's to say (distributed.scheduler.allowed-failures).
RETRIES = 0
CONNECT_SECONDS = 20
POLL_SECONDS = 0.2
# How often a worker asks the scheduler whether it is to stop.
STOP_SECONDS = 0.5

_loading = Lock()


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
        Whatever keeps a plane from being encoded, as without a cluster; and if the
        scheduler drops the work, or too many workers are lost at the same planes.
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
        stop = _stop_event(job, client)
        futures = client.map(_embed_share, tasks, retries=RETRIES, pure=False)
        sizes = {
            future: stop - first
            for future, (first, stop) in zip(futures, ranges, strict=True)
        }
        try:
            yield from _wait(client, futures, sizes, n_planes)
            reports = client.gather(futures)
        except BaseException:
            # cancelling keeps tasks from starting; those that run have to look
            with suppress(OSError):  # the scheduler may be gone
                stop.set()
            raise
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
    client: Any, futures: list[Any], sizes: dict[Any, int], n_planes: int
) -> Generator[Progress, None, None]:
    while True:
        ended = [future for future in futures if future.done()]
        for future in ended:
            _check(future)
        n_done = sum(sizes[future] for future in ended)
        has_workers = bool(client.scheduler_info(n_workers=1)["workers"])
        detail = "" if has_workers else "waiting for workers to join the cluster"
        yield Progress("encoding planes", n_done, n_planes, detail)
        if len(ended) == len(futures):
            return
        time.sleep(POLL_SECONDS)


def _check(future: Any) -> None:
    """Raise what ended a task, if it was not its own end."""
    from distributed import KilledWorker

    if future.status == "error":
        error = future.exception()
        if isinstance(error, KilledWorker):
            raise SamSegError(
                "several workers were lost while they encoded the same planes; what "
                "is finished is kept: look at their logs, and give them more memory, "
                "before you start it again"
            ) from error
        raise error
    if future.status != "finished":
        raise SamSegError(
            f"the cluster has dropped work that was not done ({future.status}); what "
            "is finished is kept: start it again to go on"
        )


def _stop_event(job: FileJob, client: Any = None) -> Any:
    """Return what tells the tasks of a job to stop; in a task it needs no client."""
    from distributed import Event

    make_event: Any = Event  # the library is without types
    return make_event(f"samseg stop {job.owner}", client=client)


def _embed_share(job: FileJob) -> EmbedReport:
    """Encode some planes, in a worker."""
    with _loading:
        model = _load_model(job.model_settings, _file_state(job.model_settings.model))
    with open_stack_job(job, model) as stack_job:
        return run_steps(stack_job.embed_steps(), _stopper(job))


@lru_cache(maxsize=1)
def _load_model(
    settings: ModelSettings, file_state: tuple[int, int] | None
) -> PromptableModel:
    """Load a model once for all tasks of a worker, anew if its file is another."""
    return run_steps(model_steps(settings))


def _file_state(model: str) -> tuple[int, int] | None:
    path = Path(model)
    if not path.is_file():
        return None
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _stopper(job: FileJob) -> Callable[[Progress], None]:
    """Return what ends a task at one of its steps, after the job was cancelled."""
    event = _stop_event(job)
    asked = time.monotonic()

    def stop_if_told(step: Progress) -> None:
        nonlocal asked
        if time.monotonic() - asked < STOP_SECONDS:
            return
        if event.is_set():
            raise SamSegError("the job was cancelled; what is finished is kept")
        asked = time.monotonic()

    return stop_if_told


@contextmanager
def _connect(scheduler: str) -> Iterator[Any]:
    distributed = import_optional(
        "distributed", "napari-samseg[cluster]", "a cluster needs dask.distributed"
    )
    if scheduler == LOCAL:
        options = {
            "threads_per_worker": 1,
            "dashboard_address": ":0",
            "silence_logs": logging.ERROR,
        }
        with (
            distributed.LocalCluster(**options) as cluster,
            distributed.Client(cluster, set_as_default=False) as client,
        ):
            yield client
        return
    try:
        client = distributed.Client(
            scheduler, timeout=CONNECT_SECONDS, set_as_default=False
        )
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"there is no dask scheduler at {scheduler}: start one with "
            "`dask scheduler`, or use `local`"
        ) from error
    with client:
        yield client
