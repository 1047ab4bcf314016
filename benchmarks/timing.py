"""What the benchmarks share: taking turns, and a vit_b that needs no download."""

from __future__ import annotations

import time
from collections.abc import Callable

import segment_anything
import torch
from segment_anything.modeling import Sam


def nothing() -> None:
    """Wait for nothing: a processor is done when a call returns."""


def interleave(
    calls: dict[str, Callable[[], object]],
    repeats: int,
    wait: Callable[[], None] = nothing,
) -> dict[str, list[float]]:
    """Time the calls in turns, after one call of each to warm up.

    Parameters
    ----------
    calls : dict
        What is compared: a machine that slows down slows all of them down.
    repeats : int
        Turns that count.
    wait : callable
        Returns when the device has done what was asked of it.

    Returns
    -------
    dict
        Seconds of each call, by its name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            wait()
            start = time.perf_counter()
            call()
            wait()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def random_vit(name: str = "vit_b") -> Sam:
    """Build a SAM with seeded random weights, which cost the same as trained ones.

    Positions are drawn from N(0, 0.02): `segment_anything` starts them at zero, where
    a difference in how they are added would not show.
    """
    torch.manual_seed(0)
    sam = segment_anything.sam_model_registry[name]()
    for key, parameter in sam.named_parameters():
        if "rel_pos" in key or "pos_embed" in key:
            torch.nn.init.normal_(parameter, std=0.02)
    return sam.eval().requires_grad_(False)
