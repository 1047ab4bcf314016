"""Running out of memory: how to tell, and how to say what is done about it."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["MemoryFallbackWarning", "free_memory", "is_memory_error", "warn_fallback"]

# What a container or a job of a cluster may use, and uses.
CGROUP = Path("/sys/fs/cgroup")


class MemoryFallbackWarning(UserWarning):
    """Memory ran out, and the work goes on in smaller pieces or on the CPU."""


def free_memory() -> int:
    """Return the bytes of memory that this process may still take.

    That is what the machine has free, or what is left of the limit of a container or
    of a job on a cluster (cgroup v2).
    """
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # there is none, or it is "max"
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        free = min(free, max(0, limit - used))
    return free


def is_memory_error(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on whatever device.

    CUDA has an error of its own; the CPU and Apple's GPU only say it in words.
    """
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text


def warn_fallback(what_ran_out: object, instead: str) -> None:
    """Warn that something ran out of memory and what is done instead."""
    message = f"{what_ran_out} ran out of memory: {instead} instead"
    warnings.warn(message, MemoryFallbackWarning, stacklevel=3)
