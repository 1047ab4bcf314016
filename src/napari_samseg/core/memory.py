"""Running out of memory: how to tell, and how to say what is done about it."""

from __future__ import annotations

import warnings

__all__ = ["MemoryFallbackWarning", "is_memory_error", "warn_fallback"]


class MemoryFallbackWarning(UserWarning):
    """Memory ran out, and the work goes on in smaller pieces or on the CPU."""


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
