"""Who is at which plane, so that writers share the work instead of repeating it."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Mapping
from typing import Any

import psutil

from napari_samseg.core.cache.keys import StoreKeys
from napari_samseg.core.cache.seal import to_sealed_bytes, unsealed

__all__ = ["Claims"]

# A writer that has not been heard of for so long is taken for dead.
CLAIM_SECONDS = 600.0
# The start of a process is known to the tick, but the clock of the machine moves.
START_TOLERANCE = 5.0


class Claims:
    """The claims of one writer among those of all, in ``claims/<plane>``.

    A claim only saves work: a plane that two writers encode all the same is stored
    twice in turn, whole each time.
    """

    def __init__(self, keys: StoreKeys, owner: str | None = None) -> None:
        self._keys = keys
        self._owner = uuid.uuid4().hex if owner is None else owner

    def take(self, place: int) -> bool:
        """Try to claim a plane, or renew an own claim."""
        name = f"claims/{place}"
        mine = to_sealed_bytes(
            {
                "owner": self._owner,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": psutil.Process().create_time(),
                "time": time.time(),
            }
        )
        if self._keys.set_new(name, mine):
            return True
        holder = self._holder(place)
        if holder.get("owner") != self._owner and _is_alive(holder):
            return False
        self._keys.set(name, mine)
        return self._keys.get(name) == mine

    def release(self, place: int) -> None:
        """Give a plane up, unless another writer has taken it meanwhile."""
        if self._holder(place).get("owner") == self._owner:
            self._keys.delete(f"claims/{place}")

    def live(self) -> set[int]:
        """Return the places at which a writer is."""
        return {
            int(name)
            for name in self._keys.names("claims")
            if name.isdigit() and self.is_live(int(name))
        }

    def is_live(self, place: int) -> bool:
        """Tell whether a writer is at a place."""
        return _is_alive(self._holder(place))

    def _holder(self, place: int) -> dict[str, Any]:
        return unsealed(self._keys.get(f"claims/{place}")) or {}


def _is_alive(holder: Mapping[str, Any]) -> bool:
    try:
        # another machine's clock may be ahead
        age = abs(time.time() - float(holder["time"]))
        same_host = holder["host"] == socket.gethostname()
        gone = same_host and not _runs(int(holder["pid"]), float(holder["started"]))
    except (KeyError, TypeError, ValueError):
        return False
    return age < CLAIM_SECONDS and not gone


def _runs(pid: int, started: float) -> bool:
    """Tell whether a process runs; its number may have gone to another one since."""
    try:
        process_started: float = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
    return abs(process_started - started) < START_TOLERANCE
