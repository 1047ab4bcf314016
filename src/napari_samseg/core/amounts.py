"""Sizes and times as a person would say them."""

from __future__ import annotations

__all__ = ["count_things", "describe_bytes", "describe_seconds"]


def describe_bytes(nbytes: float) -> str:
    """Say a size as a person would: 34 MB, 1.2 GB."""
    if nbytes < 999.5e3:
        return f"{nbytes / 1e3:.3g} kB"
    if nbytes < 999.5e6:
        return f"{nbytes / 1e6:.3g} MB"
    return f"{nbytes / 1e9:.3g} GB" if nbytes < 999.5e9 else f"{nbytes / 1e9:.0f} GB"


def count_things(n: int, thing: str, things: str = "") -> str:
    """Say how many there are: 1 object, 2 objects, 2 boxes.

    Parameters
    ----------
    n : int
    thing : str
        What one is called.
    things : str
        What several are called, where that is not `thing` with an s.
    """
    return f"{n} {thing if n == 1 else things or thing + 's'}"


def describe_seconds(seconds: float) -> str:
    """Say a time as a person would: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
