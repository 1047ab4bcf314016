"""How many planes are encoded at once, and what is done when memory runs out."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch

from napari_samseg.core.errors import ModelMemoryError
from napari_samseg.core.memory import is_memory_error, warn_fallback
from napari_samseg.core.models.protocol import PromptableModel, precision_of
from napari_samseg.core.models.speed import remember_speed
from napari_samseg.core.types import FloatArray, PlaneEmbedding, Progress

__all__ = ["Encoded", "choose_batch_size", "encode_planes_steps"]

# A GPU is busy with far fewer; more would only make cancelling slower.
GPU_PLANES = 16
# Other programs take memory as well, and it is never free in one piece.
FREE_SHARE = 0.8

# Bytes a plane takes on a GPU while it is encoded, as measured with the first one.
_peaks: WeakKeyDictionary[PromptableModel, int] = WeakKeyDictionary()


class Encoded(NamedTuple):
    """An embedding and the precision it was made in, float32 if the CPU took over."""

    embedding: PlaneEmbedding
    precision: str


def choose_batch_size(model: PromptableModel) -> int:
    """Return how many planes a model should encode at once.

    On a processor one: it is busy with a single plane, and a second one would only
    drive the first out of the caches. On a CUDA device as many as fit into the memory
    that is free now, once `encode_planes_steps` has measured a first plane. Apple's
    GPU does not tell what a plane takes: one.
    """
    peak = _peaks.get(model)
    if model.device.type != "cuda" or peak is None:
        return 1
    free = torch.cuda.mem_get_info(model.device)[0]
    # what torch holds but does not use is free to torch
    free += torch.cuda.memory_reserved(model.device)
    free -= torch.cuda.memory_allocated(model.device)
    return max(1, min(GPU_PLANES, int(free * FREE_SHARE) // peak))


def encode_planes_steps(
    model: PromptableModel,
    planes: Sequence[FloatArray],
    *,
    on_cpu: bool = True,
    alone: bool = True,
) -> Generator[Progress, None, list[Encoded]]:
    """Encode planes in batches, yielding `Progress` between parts of the work.

    When memory runs out, smaller batches and then the CPU take over for the rest of
    the planes, with a `MemoryFallbackWarning`. How long a plane took is remembered
    (`core.models.speed`).

    Parameters
    ----------
    model : PromptableModel
    planes : sequence of (Y, X, 3) float32 in 0..255
        Of any sizes. All of them and their embeddings are in memory at once: give a
        long stack in parts.
    on_cpu : bool
        Let the CPU take over, in float32, when the model's device runs out of memory
        even for one plane.
    alone : bool
        Nothing is encoded beside it, so that its time says how fast the model is.

    Returns
    -------
    list of Encoded
        In the order of `planes`.

    Raises
    ------
    InvalidImageError
        If a plane has another shape.
    ModelMemoryError
        If memory runs out even for one plane, on the CPU or where the model is.
    """
    done: list[Encoded] = []
    most = len(planes)
    while len(done) < len(planes):
        size = min(most, choose_batch_size(model))
        batch = planes[len(done) : len(done) + size]
        try:
            embeddings = yield from _batch_steps(
                model, batch, len(done), len(planes), _Watch(model, alone)
            )
        except (MemoryError, RuntimeError) as error:
            if not is_memory_error(error):
                raise
            model, most = _retreat(model, batch, error, on_cpu=on_cpu)
            continue
        done += [Encoded(embedding, precision_of(model)) for embedding in embeddings]
    return done


def _retreat(
    model: PromptableModel,
    batch: Sequence[FloatArray],
    error: Exception,
    *,
    on_cpu: bool,
) -> tuple[PromptableModel, int]:
    """Return the model and the number of planes to try after memory ran out."""
    if len(batch) > 1:
        half = len(batch) // 2
        warn_fallback(model.device, f"encoding {half} at a time")
        return model, half
    if model.device.type != "cpu" and on_cpu:
        warn_fallback(model.device, "encoding on the CPU")
        return model.on_cpu(), 1
    y, x = batch[0].shape[:2]
    way_out = "close other programs or choose a smaller model"
    if model.device.type != "cpu":
        way_out = "close other programs, choose a smaller model or the CPU"
    raise ModelMemoryError(
        f"{model.device} has not enough memory to encode a plane of {y} x {x} pixels "
        f"with model {model.name}: {way_out}"
    ) from error


def _batch_steps(
    model: PromptableModel,
    batch: Sequence[FloatArray],
    before: int,
    n_planes: int,
    watch: _Watch,
) -> Generator[Progress, None, list[PlaneEmbedding]]:
    """Encode one batch, counting the parts of all planes, and measure it."""
    watch.measures_memory &= len(batch) < n_planes
    steps = model.encode_batch_steps(batch)
    parts = 1
    while True:
        try:
            with watch:
                step = next(steps)
        except StopIteration as stop:
            embeddings: list[PlaneEmbedding] = stop.value
            break
        parts = max(1, step.total)
        done = before * parts + len(batch) * step.done
        yield Progress(step.stage, done, n_planes * parts, step.detail)
    watch.remember(len(batch))
    if before + len(batch) < n_planes:
        yield Progress("encoding", (before + len(batch)) * parts, n_planes * parts)
    return embeddings


@dataclass(slots=True)
class _Watch:
    """Measures the time and memory of encoding, without what goes first meanwhile."""

    model: PromptableModel
    measures_time: bool
    measures_memory: bool = True
    seconds: float = 0.0
    peak: int = 0
    _start: float = 0.0
    _held: int = -1

    def __post_init__(self) -> None:
        self.measures_memory &= self.model.device.type == "cuda"
        self.measures_memory &= self.model not in _peaks

    def __enter__(self) -> None:
        if self.measures_memory:
            if self._held < 0:
                self._held = torch.cuda.memory_allocated(self.model.device)
            torch.cuda.reset_peak_memory_stats(self.model.device)
        self._start = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.seconds += time.perf_counter() - self._start
        if self.measures_memory:
            used = torch.cuda.max_memory_allocated(self.model.device) - self._held
            self.peak = max(self.peak, used)

    def remember(self, n_planes: int) -> None:
        if self.measures_time:
            remember_speed(self.model, self.seconds / n_planes)
        if self.measures_memory:
            _peaks[self.model] = max(1, self.peak // n_planes)
