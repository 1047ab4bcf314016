"""A stack to be encoded: what its entry is, and what it will cost."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_samseg.core.amounts import count_things, describe_bytes, describe_seconds
from napari_samseg.core.cache.layout import TILES_PER_FILE
from napari_samseg.core.cache.place import free_bytes
from napari_samseg.core.cache.recipe import StackRecipe
from napari_samseg.core.models.batching import encode_planes_steps
from napari_samseg.core.models.lanes import choose_lanes
from napari_samseg.core.models.protocol import precision_of
from napari_samseg.core.models.speed import recall_speed
from napari_samseg.core.planes import (
    HELD_VALUES,
    MODEL_PIXELS,
    describe_preprocessing,
)
from napari_samseg.core.settings import ImageSettings
from napari_samseg.core.tiled import plan_tiles
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    from napari_samseg.core.cache.entry import StackEntry
    from napari_samseg.core.geometry import Box
    from napari_samseg.core.images import PlaneSource
    from napari_samseg.core.models.protocol import PromptableModel
    from napari_samseg.core.settings import TileSettings

__all__ = [
    "EmbedEstimate",
    "PlaneIndex",
    "Stack",
    "estimate_steps",
    "stack_recipe",
]

PlaneIndex = tuple[int, ...]

# Size on disk after compression, as a share of what is compressed (measured, see
# docs/concepts/embedding-cache.md).
COMPRESSED = {"float16": 0.87, "float32": 0.9, "uint8": 0.91}
# What is on its way between reading, encoding and writing, at most, beside three tiles
# and the features of two for each that is encoded (on a processor).
TILES_AHEAD, FILES_BEHIND = 4, 2
# Three channels of float32; a value as it is read, and in float64 to be stretched.
RGB_BYTES, BYTES_PER_VALUE = 12, 12


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """An image whose planes are to be encoded.

    Attributes
    ----------
    source : PlaneSource
    name : str
        Path, URL or name, for people.
    settings : ImageSettings
    plane_axes : (int, int)
        The axes, channels not counted, that are rows and columns.
    """

    source: PlaneSource
    name: str
    settings: ImageSettings
    plane_axes: tuple[int, int] = (-2, -1)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the axes that are not in the plane."""
        shape = self.source.level_shape(self.settings.level)
        in_plane = {axis % len(shape) for axis in self.plane_axes}
        return tuple(n for axis, n in enumerate(shape) if axis not in in_plane)

    @property
    def plane_size(self) -> tuple[int, int]:
        """(Y, X) in pixels."""
        return self.source.plane_size(self.settings.level, self.plane_axes)


def stack_recipe(
    stack: Stack,
    model: PromptableModel,
    tile_settings: TileSettings,
    storage: str = "float16",
) -> StackRecipe:
    """Return what the embeddings of a stack are made from.

    Parameters
    ----------
    stack : Stack
    model : PromptableModel
    tile_settings : TileSettings
    storage : str
        Key in `napari_samseg.core.cache.recipe.STORAGE_FORMATS`.
    """
    ndim = stack.source.ndim
    return StackRecipe(
        image=stack.name,
        plane_axes=(stack.plane_axes[0] % ndim, stack.plane_axes[1] % ndim),
        input_size=model.input_size,
        planes=stack.lengths,
        plane_size=stack.plane_size,
        dtype=stack.source.dtype.name,
        encoder_digest=model.encoder_digest,
        model=model.name,
        embedding_shape=model.embedding_shape,
        precision=precision_of(model),
        preprocessing=describe_preprocessing(
            stack.source, stack.settings, stack.plane_axes
        ),
        tiles=plan_tiles(stack.plane_size, model.input_size, tile_settings),
        storage=storage,
    )


@dataclass(frozen=True, slots=True)
class EmbedEstimate:
    """What encoding a stack will take.

    Attributes
    ----------
    planes : int
        Planes asked for.
    missing : int
        Of these, the ones that are not in the store.
    tiles : int
        Tiles to encode.
    nbytes : int
        Bytes on disk that they will take.
    memory : int
        Bytes of memory for planes and features on their way; the model's own come
        on top.
    seconds : float or None
        With this model on this machine; None where that cannot be remembered.
    free : int or None
        Bytes that are free where the store lies; None where that is not known.
    """

    planes: int
    missing: int
    tiles: int
    nbytes: int
    memory: int
    seconds: float | None
    free: int | None

    def __str__(self) -> str:
        parts = [
            f"{self.missing} of {count_things(self.planes, 'plane')} to encode",
            count_things(self.tiles, "tile"),
            f"{describe_bytes(self.nbytes)} on disk",
            f"{describe_bytes(self.memory)} of memory beside the model",
        ]
        if self.seconds is not None:
            parts.append(describe_seconds(self.seconds))
        return ", ".join(parts)


def _size(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def estimate_steps(
    model: PromptableModel,
    recipe: StackRecipe,
    planes: Sequence[PlaneIndex],
    entry: StackEntry | None,
    location: str,
) -> Generator[Progress, None, EmbedEstimate]:
    """Estimate what encoding planes of a stack will take.

    A model whose speed on this machine is not known yet encodes one empty tile.

    Parameters
    ----------
    model : PromptableModel
    recipe : StackRecipe
    planes : sequence of tuple of int
        The planes asked for.
    entry : StackEntry or None
        What has been encoded so far; None if there is nothing.
    location : str
        Where the store lies.
    """
    yield Progress("looking at what is there")
    known = set() if entry is None else entry.recorded()
    missing = sum(recipe.position(plane) not in known for plane in planes)
    tiles = missing * len(recipe.tiles)
    lanes = choose_lanes(model)
    speed = recall_speed(model, lanes) or recall_speed(model)
    if speed is None:
        blank = np.zeros((model.input_size, model.input_size, 3), np.float32)
        yield from encode_planes_steps(model, [blank], on_cpu=False)
        speed = recall_speed(model)
    # one plane as it is, tiles as the model sees them, and what it makes of them
    plane = min(math.prod(recipe.plane_size), HELD_VALUES) * BYTES_PER_VALUE
    largest = max(math.prod(_size(box)) for box in recipe.tiles)
    tile = RGB_BYTES * min(largest, MODEL_PIXELS)
    features = 4 * math.prod(recipe.embedding_shape)
    in_file = min(len(recipe.tiles), TILES_PER_FILE)
    return EmbedEstimate(
        planes=len(planes),
        missing=missing,
        tiles=tiles,
        nbytes=int(missing * recipe.plane_nbytes * COMPRESSED[recipe.storage]),
        memory=2 * plane
        + (TILES_AHEAD + 3 * lanes) * tile
        + (FILES_BEHIND + 2 * lanes) * in_file * features,
        seconds=None if speed is None else tiles * speed,
        free=free_bytes(location),
    )
