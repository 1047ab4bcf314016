"""Download a file so that a broken or cancelled transfer goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from urllib.parse import urlsplit

import pooch
from filelock import FileLock, Timeout

from napari_samseg.core.errors import DownloadError
from napari_samseg.core.types import Progress

__all__ = ["has_hash", "transfer"]

CHUNK_BYTES = 1 << 18
CONNECT_SECONDS, READ_SECONDS = 10, 60
# Tries in one call; each goes on from what is there.
TRIES = 3
WAIT_SECONDS = 0.2


def has_hash(path: Path, expected: str) -> bool:
    """Tell whether a file has the hash ``"algorithm:hex"``."""
    algorithm = pooch.hashes.hash_algorithm(expected)
    actual: str = pooch.file_hash(str(path), alg=algorithm)
    return actual == expected.partition(":")[2]


def transfer(
    url: str, path: Path, expected_hash: str, *, stage: str
) -> Generator[Progress, None, None]:
    """Download `url` to `path`, which appears whole and checked or not at all.

    What has arrived is kept in ``<path>.part`` and asked for no more when the
    transfer breaks, is cancelled (the generator closed) or called again. Of two
    that want the same file, in one process or two, one waits for the other.

    Parameters
    ----------
    url : str
    path : Path
        Its folder is made if need be.
    expected_hash : str
        ``"algorithm:hex"`` as pooch writes it.
    stage : str
        What `Progress` calls this.

    Yields
    ------
    Progress
        `done` and `total` in bytes; `total` is 0 if the server does not tell.

    Raises
    ------
    DownloadError
        If the server cannot be reached, answers with an error, or sends something
        of another hash.
    """
    # Not bound to the thread: a generator may be closed from another one.
    lock = FileLock(path.with_name(path.name + ".lock"), thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                lock.acquire(blocking=False)
                break
            except Timeout:
                yield Progress(stage, detail="waiting for another download of it")
                time.sleep(WAIT_SECONDS)
        if not path.exists():  # or another window or process has fetched it meanwhile
            yield from _fetch_checked(url, path, expected_hash, stage)
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"{path} cannot be written: {error}") from error
    finally:
        lock.release()


def _fetch_checked(
    url: str, path: Path, expected_hash: str, stage: str
) -> Generator[Progress, None, None]:
    """Fetch into the ``.part`` file, which takes its name once its hash is right."""
    part = path.with_name(path.name + ".part")
    resumed = part.exists()
    yield from _fetch_patiently(url, part, stage)
    if not has_hash(part, expected_hash) and resumed:
        # The file may have changed on the server between the two parts.
        part.unlink()
        yield from _fetch_patiently(url, part, stage)
    if not has_hash(part, expected_hash):
        part.unlink()
        raise DownloadError(
            f"{url} sent a file that is not the published one (its hash differs), "
            "which was thrown away"
        )
    part.replace(path)


def _fetch_patiently(
    url: str, part: Path, stage: str
) -> Generator[Progress, None, None]:
    """Fetch what is missing, trying again as long as there is progress."""
    import requests

    for attempt in range(1, TRIES + 1):
        before = _size(part)
        try:
            yield from _fetch(url, part, stage)
        except requests.HTTPError as error:
            raise DownloadError(f"{url} answers: {error}") from error
        except requests.RequestException as error:
            if attempt == TRIES or _size(part) == before:
                # what requests says is a page long; the cause stays chained
                raise DownloadError(
                    f"{urlsplit(url).hostname} cannot be reached"
                ) from error
        else:
            return


def _fetch(url: str, part: Path, stage: str) -> Generator[Progress, None, None]:
    import requests

    done = _size(part)
    headers = {"Range": f"bytes={done}-"} if done else {}
    # Compressed in transit, neither lengths nor ranges would be those of the file.
    headers["Accept-Encoding"] = "identity"
    timeout = (CONNECT_SECONDS, READ_SECONDS)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if done and response.status_code == requests.codes.range_not_satisfiable:
            return  # It is all there, or wrong: the hash will tell.
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            done = 0
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdigit() else 0
        yield Progress(stage, done, total)
        with part.open("ab" if done else "wb") as file:
            for chunk in response.iter_content(CHUNK_BYTES):
                done += file.write(chunk)
                yield Progress(stage, done, total)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
