"""Options that stand for a setting take their help and their bounds from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.settings import (
    EmbedSettings,
    ImageSettings,
    ModelSettings,
    TileSettings,
    describe,
)

__all__ = [
    "ChannelAxis",
    "Channels",
    "Contrast",
    "Device",
    "High",
    "Level",
    "Low",
    "Model",
    "Overlap",
    "Overwrite",
    "Planes",
    "Precision",
    "Scope",
    "Storage",
    "Tile",
    "Tiling",
    "option_of",
    "read_integers",
    "read_numbers",
    "read_range",
]

T = TypeVar("T")


def option_of(settings: type, name: str, *flags: str) -> Any:
    """Build the option of a setting: its help and bounds, its choices as a hint.

    The settings themselves refuse what is not one of their choices.
    """
    info = next(info for info in describe(settings) if info.name == name)
    return typer.Option(
        *flags,
        help=info.help,
        min=info.minimum,
        max=info.maximum,
        metavar="|".join(info.choices) or None,
    )


Model = Annotated[str, option_of(ModelSettings, "model")]
Device = Annotated[str, option_of(ModelSettings, "device")]
Precision = Annotated[str, option_of(ModelSettings, "precision")]
Tiling = Annotated[str, option_of(TileSettings, "tiling")]
Tile = Annotated[int, option_of(TileSettings, "tile")]
Overlap = Annotated[float, option_of(TileSettings, "overlap")]
Storage = Annotated[str, option_of(EmbedSettings, "storage")]
Channels = Annotated[str, option_of(ImageSettings, "channels")]
Contrast = Annotated[str, option_of(ImageSettings, "normalisation")]
Low = Annotated[float, option_of(ImageSettings, "low")]
High = Annotated[float, option_of(ImageSettings, "high")]
Scope = Annotated[str, option_of(ImageSettings, "scope")]
Level = Annotated[int, option_of(ImageSettings, "level")]
ChannelAxis = Annotated[
    int | None, typer.Option(help="Axis that holds independent channels.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that are there already.")
]
Planes = Annotated[
    str, typer.Option(help="START:STOP, counted through all axes before (Y, X).")
]


def read_integers(text: str, flag: str) -> tuple[int, ...]:
    """Read whole numbers with commas between them.

    Raises
    ------
    SettingsError
        If it is anything else; names the flag.
    """
    return _read_list(text, flag, int, "whole numbers")


def read_numbers(text: str, flag: str) -> tuple[float, ...]:
    """Read numbers with commas between them.

    Raises
    ------
    SettingsError
        If it is anything else; names the flag.
    """
    return _read_list(text, flag, float, "numbers")


def read_range(text: str) -> tuple[int, int | None]:
    """Read START:STOP, of which both may be left out, or the number of one plane.

    Raises
    ------
    SettingsError
        If it is anything else.
    """
    start, colon, stop = text.partition(":")
    try:
        first = int(start) if start.strip() else 0
        if not colon:
            return first, first + 1 if text.strip() else None
        return first, int(stop) if stop.strip() else None
    except ValueError as error:
        raise SettingsError(
            f"--planes takes START:STOP, such as 10:20 or 10:, not {text!r}"
        ) from error


def _read_list(
    text: str, flag: str, read: Callable[[str], T], kind: str
) -> tuple[T, ...]:
    try:
        return tuple(read(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(
            f"{flag} takes {kind} with commas between them, not {text!r}"
        ) from error
