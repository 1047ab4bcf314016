"""What a training will take: time, memory, disk.

Times are those measured on this machine. A model that was never trained here is
judged by the size of its embeddings, which is what its decoder works on.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_samseg.core.amounts import describe_bytes, describe_seconds
from napari_samseg.core.cache.place import free_bytes
from napari_samseg.core.embed.stack import COMPRESSED
from napari_samseg.core.models.batching import encode_planes_steps
from napari_samseg.core.models.lanes import choose_lanes
from napari_samseg.core.models.speed import recall_speed, remember_speed
from napari_samseg.core.tiled import plan_tiles
from napari_samseg.core.training.images import LabelledImage, LabelledPlane, divide
from napari_samseg.core.training.learning import learning_parts
from napari_samseg.core.training.validation import MAX_OBJECTS
from napari_samseg.core.training.views import HELD_BYTES
from napari_samseg.core.types import Progress, TrainingProgress

if TYPE_CHECKING:
    from napari_samseg.core.models.sam import SamModel
    from napari_samseg.core.settings import TuneSettings
    from napari_samseg.core.training.presets import TuningPlan

__all__ = ["TuneEstimate", "estimate_steps", "time_training"]

# Of one decoding of a whole plane and its gradient, for each MB of an embedding, on one
# busy core and on a GPU: until a training of the model has been measured. One of the
# surroundings of an object takes so much of that.
ASSUMED_SECONDS = {"cpu": 0.12, "gpu": 0.0005}
CLOSE = 0.25
# A mask without a gradient takes so much of that.
PREDICTION = 0.5
# The encoder forth and back, as a multiple of forth alone; and what it may hold
# meanwhile for each pixel of its input, in bytes: both assumed, for a ViT-B.
ENCODER_STEP, ENCODER_BYTES = 3.0, 12_000
# What a decoding holds for its gradient, as a multiple of the embedding.
HELD_COPIES = 32
# Weights, gradient, two moments and the running mean of what learns; the state on disk
# holds one less. Best and last weights are whole.
LEARNING_COPIES, STATE_COPIES, WEIGHT_FILES = 5, 4, 2
SPEED = "training"
# Steps of which the median is taken to be the speed of all.
TIMED_STEPS = 5


@dataclass(frozen=True, slots=True)
class TuneEstimate:
    """What a training will take.

    Attributes
    ----------
    planes, objects : int
        With labels.
    views : int
        Tiles of planes, and variants of them, to encode at most.
    steps : int
    encode_seconds, train_seconds : float
        Before the first step, and after it.
    is_measured : bool
        The time of a step was measured here, and is not assumed.
    nbytes : int
        On disk, while it goes on.
    memory : int
        Bytes on the model's device, its weights not counted.
    free : int or None
        Bytes that are free where the training lies.
    """

    planes: int
    objects: int
    views: int
    steps: int
    encode_seconds: float
    train_seconds: float
    is_measured: bool
    nbytes: int
    memory: int
    free: int | None

    @property
    def seconds(self) -> float:
        """Time from start to end."""
        return self.encode_seconds + self.train_seconds

    def __str__(self) -> str:
        how = "" if self.is_measured else ", a guess: this model was never trained here"
        encode = (
            f" ({describe_seconds(self.encode_seconds)} to encode {self.views} views)"
            if self.encode_seconds
            else ""
        )
        free = "" if self.free is None else f" of {describe_bytes(self.free)} free"
        return (
            f"About {describe_seconds(self.seconds)} for {self.steps} steps{encode}"
            f"{how}. Memory {describe_bytes(self.memory)}, disk "
            f"{describe_bytes(self.nbytes)}{free}."
        )


def estimate_steps(
    images: Sequence[LabelledImage],
    planes: Sequence[LabelledPlane],
    model: SamModel,
    plan: TuningPlan,
    folder: Path,
) -> Generator[Progress, None, TuneEstimate]:
    """Estimate what a training will take.

    A model whose speed on this machine is not known yet encodes one empty tile.

    Parameters
    ----------
    images : sequence of LabelledImage
    planes : sequence of LabelledPlane
        Those with objects, of `napari_samseg.core.training.survey.survey_steps`.
    model : SamModel
    plan : TuningPlan
    folder : Path
        Of the training; need not exist.
    """
    tune = plan.tune
    training, validation, _ = divide(planes, tune, plan.loop.seed)
    tiles = _count_tiles(images, training, model, plan)
    n_views = sum(tiles) * plan.augment.variants
    n_views += sum(_count_tiles(images, validation, model, plan))
    per_view = yield from _encode_seconds(model)
    per_epoch, n_objects = _count_batches(training, tiles, tune.objects)
    n_steps = plan.count_steps(per_epoch)
    n_batches = n_steps * plan.loop.accumulate
    known = recall_speed(model, what=_speed_of(tune))
    whole = _assumed(model)
    per_mask = known or whole * (1 - tune.surroundings * (1 - CLOSE))
    n_scored = min(MAX_OBJECTS, sum(plane.n_objects for plane in validation))
    n_scorings = 1 + math.ceil(n_steps / plan.loop.validate_every) if n_scored else 0
    masks = n_batches * n_objects / per_epoch * (1 + tune.corrections)
    seconds = masks * per_mask
    n_asked = n_scorings * n_scored * len(tune.scored_kinds)
    seconds += n_asked * PREDICTION * whole
    if tune.needs_pixels and not known:
        seconds += n_batches * ENCODER_STEP * per_view
    return TuneEstimate(
        planes=len(planes),
        objects=sum(plane.n_objects for plane in planes),
        views=n_views,
        steps=n_steps,
        encode_seconds=0.0 if tune.needs_pixels else n_views * per_view,
        train_seconds=seconds,
        is_measured=known is not None,
        nbytes=_disk(model, plan, n_views),
        memory=_memory(model, plan, n_views),
        free=free_bytes(folder),
    )


def time_training(
    steps: Iterator[Progress],
    model: SamModel,
    tune: TuneSettings,
    n_objects: float,
) -> Iterator[Progress]:
    """Run a training, and keep how long some of its steps took for later estimates.

    Parameters
    ----------
    steps : iterator
    model : SamModel
        That it was started from.
    tune : TuneSettings
    n_objects : float
        Objects in a step.
    """
    spent: list[float] = []
    masks = n_objects * (1 + tune.corrections)
    seconds = 0.0
    while True:
        begun = time.monotonic()
        progress = next(steps, None)
        if progress is None:
            return
        # between the yields others may go first, for as long as they like
        seconds += time.monotonic() - begun
        if isinstance(progress, TrainingProgress):
            # the first one warms up, and those that validate take longer
            if progress.val_iou is None and len(spent) <= TIMED_STEPS:
                spent.append(seconds / masks)
                if len(spent) > TIMED_STEPS:
                    median = statistics.median(spent[1:])
                    remember_speed(model, median, what=_speed_of(tune))
            seconds = 0.0
        yield progress


def _speed_of(tune: TuneSettings) -> str:
    """Name the speed of trainings that take as long for each mask."""
    return f"{SPEED} {tune.train} {tune.surroundings:g}"


def _count_tiles(
    images: Sequence[LabelledImage],
    planes: Sequence[LabelledPlane],
    model: SamModel,
    plan: TuningPlan,
) -> list[int]:
    """Count tiles with objects of each plane: as many as there are of either."""
    n_tiles = {}
    for i in {plane.image for plane in planes}:
        size = images[i].labels.shape[-2:]
        tiles = plan_tiles((size[0], size[1]), model.input_size, plan.tiles)
        n_tiles[i] = len(tiles)
    return [min(plane.n_objects, n_tiles[plane.image]) for plane in planes]


def _count_batches(
    planes: Sequence[LabelledPlane], tiles: Sequence[int], size: int
) -> tuple[int, int]:
    """Return batches in one pass over all objects, and objects.

    A batch is of one tile: where a tile shows few objects, batches are small.
    """
    per_epoch = sum(
        n_tiles * math.ceil(plane.n_objects / (n_tiles * size))
        for plane, n_tiles in zip(planes, tiles, strict=True)
    )
    return max(1, per_epoch), sum(plane.n_objects for plane in planes)


def _encode_seconds(model: SamModel) -> Generator[Progress, None, float]:
    lanes = choose_lanes(model)
    speed = recall_speed(model, lanes) or recall_speed(model)
    if speed is None:
        blank = np.zeros((model.input_size, model.input_size, 3), np.float32)
        yield Progress("measuring the model")
        yield from encode_planes_steps(model, [blank], on_cpu=False)
        speed = recall_speed(model)
    # where nothing can be remembered, nothing is known
    return 0.0 if speed is None else speed


def _assumed(model: SamModel) -> float:
    kind = "cpu" if model.device.type == "cpu" else "gpu"
    return ASSUMED_SECONDS[kind] * 4 * math.prod(model.embedding_shape) / 1e6


def _learning_bytes(model: SamModel, plan: TuningPlan) -> int:
    parts = learning_parts(model.sam, plan.tune.train)
    n_learning: int = sum(p.numel() for part in parts for p in part.parameters())
    return 4 * n_learning


def _memory(model: SamModel, plan: TuningPlan, n_views: int) -> int:
    tune = plan.tune
    embedding: int = 4 * math.prod(model.embedding_shape)
    batch = tune.objects * (1 + tune.corrections) * HELD_COPIES * embedding
    learning = LEARNING_COPIES * _learning_bytes(model, plan)
    if tune.needs_pixels:
        return batch + learning + ENCODER_BYTES * model.input_size**2
    return batch + learning + min(HELD_BYTES, n_views * embedding)


def _disk(model: SamModel, plan: TuningPlan, n_views: int) -> int:
    whole: int = 4 * sum(p.numel() for p in model.sam.parameters())
    nbytes = WEIGHT_FILES * whole + STATE_COPIES * _learning_bytes(model, plan)
    if plan.tune.needs_pixels:
        return nbytes + n_views * 3 * model.input_size**2
    per_view = 2 * math.prod(model.embedding_shape) * COMPRESSED["float16"]
    return int(nbytes + n_views * per_view)
