"""Settings of images, models, tiles and embeddings."""

from __future__ import annotations

import os
from dataclasses import dataclass

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.settings.fields import check, setting

__all__ = ["EmbedSettings", "ImageSettings", "ModelSettings", "TileSettings"]

# As matplotlib has them; cmap knows them all.
COLOUR_MAPS = (
    "grey",
    "bone",
    "cividis",
    "cool",
    "hot",
    "inferno",
    "jet",
    "magma",
    "pink",
    "plasma",
    "turbo",
    "viridis",
)


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """How a plane of an image becomes what a model sees."""

    normalisation: str = setting(
        "percentile",
        "Contrast",
        "How intensities are mapped to 0..255: between two percentiles, between "
        "minimum and maximum, by mean and standard deviation (standard: they become "
        "those of the pictures that SAM was trained on), or not at all (integers are "
        "taken as 0..255, real numbers as 0..1).",
        choices=("percentile", "minmax", "standard", "none"),
    )
    low: float = setting(
        0.1,
        "Low percentile",
        "This percentile of the intensities becomes black.",
        minimum=0,
        maximum=100,
        unit="%",
    )
    high: float = setting(
        99.9,
        "High percentile",
        "This percentile of the intensities becomes white.",
        minimum=0,
        maximum=100,
        unit="%",
    )
    scope: str = setting(
        "plane",
        "Contrast from",
        "Take the contrast limits from each plane alone, or once from a sample "
        "of the whole volume.",
        choices=("plane", "volume"),
    )
    channels: tuple[int, ...] | None = setting(
        None,
        "Channels",
        "One channel shown grey, or two or three mapped to red, green and blue; "
        "the first channel (or the RGB image itself) when nothing is chosen.",
    )
    colour_map: str = setting(
        "grey",
        "Colour map",
        "Colours that a single channel is shown to the model in; grey for models "
        "that were not trained on one.",
        choices=COLOUR_MAPS,
    )
    level: int = setting(
        0,
        "Resolution level",
        "Level of a multiscale image, 0 for the finest.",
        minimum=0,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.low >= self.high:
            raise SettingsError(
                f"the low percentile ({self.low:g}) must be below the high one "
                f"({self.high:g})"
            )
        if self.channels is not None and not 1 <= len(self.channels) <= 3:
            raise SettingsError(
                f"choose one to three channels, got {len(self.channels)}"
            )


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which model computes, where, and how precisely."""

    model: str = setting(
        "default",
        "Model",
        "Name of a model in the zoo, or the path of a checkpoint.",
    )
    device: str = setting(
        "auto",
        "Device",
        "auto takes a GPU if there is one; or cpu, cuda, cuda:1, mps.",
    )
    precision: str = setting(
        "fast",
        "Precision",
        "fast encodes in bfloat16 where the processor is good at it and in float32 "
        "elsewhere; exact in float32 everywhere; bfloat16 and float16 are for those "
        "who know their processor.",
        choices=("fast", "exact", "bfloat16", "float16"),
    )
    input_size: int = setting(
        0,
        "Input size",
        "Side of the square that the encoder sees, a multiple of 16; 0 is the size it "
        "was trained for. Smaller is faster, and blurs small objects.",
        minimum=0,
        maximum=1 << 14,
        unit="px",
    )

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "model", os.fspath(self.model))


@dataclass(frozen=True, slots=True)
class TileSettings:
    """How a plane that is larger than the model's input is cut into tiles."""

    tiling: str = setting(
        "auto",
        "Tiles",
        "auto cuts planes larger than the model's input into overlapping tiles of "
        "several scales, so that small objects keep their detail; whole shrinks "
        "every plane to the model's input.",
        choices=("auto", "whole"),
    )
    tile: int = setting(
        0,
        "Tile size",
        "Side of the finest tiles; 0 takes the model's input size.",
        minimum=0,
        maximum=1 << 16,
        unit="px",
    )
    overlap: float = setting(
        25.0,
        "Overlap",
        "Share of a tile that it has in common with the next one.",
        minimum=0,
        maximum=50,
        unit="%",
    )

    def __post_init__(self) -> None:
        check(self)
        if 0 < self.tile < 16:
            raise SettingsError(
                f"tiles of {self.tile} px are too small: take 16 or more, or 0 for "
                "the model's input size"
            )


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    """How the embeddings of a stack are kept."""

    storage: str = setting(
        "float16",
        "Storage",
        "How embeddings lie on disk: half precision (masks do not change), full, or "
        "8 bits (half the size again, masks change by less than a hundredth).",
        choices=("float16", "float32", "uint8"),
    )
    unreadable: str = setting(
        "stop",
        "Unreadable planes",
        "stop at a plane that cannot be read, or skip it and list it at the end.",
        choices=("stop", "skip"),
    )

    def __post_init__(self) -> None:
        check(self)
