"""Options that stand for a setting take their help and their bounds from it.

Options that several commands share are fields of a class: a command that is `grouped`
takes the class as one argument, and on the command line has all of its options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, TypeVar, get_type_hints

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
    "ModelOptions",
    "Overlap",
    "Overwrite",
    "Planes",
    "ReadingOptions",
    "Storage",
    "TileOptions",
    "grouped",
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


Overlap = Annotated[float, option_of(TileSettings, "overlap")]
Storage = Annotated[str, option_of(EmbedSettings, "storage")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that are there already.")
]
Planes = Annotated[
    str, typer.Option(help="START:STOP, counted through all axes before (Y, X).")
]
ChannelAxis = Annotated[
    int | None, typer.Option(help="Axis that holds independent channels.")
]


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """How the planes of an image are read."""

    channel_axis: ChannelAxis = None
    channels: Annotated[str, option_of(ImageSettings, "channels")] = ""
    normalisation: Annotated[str, option_of(ImageSettings, "normalisation")] = (
        "percentile"
    )
    low: Annotated[float, option_of(ImageSettings, "low")] = 0.1
    high: Annotated[float, option_of(ImageSettings, "high")] = 99.9
    scope: Annotated[str, option_of(ImageSettings, "scope")] = "plane"
    colour_map: Annotated[str, option_of(ImageSettings, "colour_map")] = "grey"
    level: Annotated[int, option_of(ImageSettings, "level")] = 0

    def settings(self) -> ImageSettings:
        """Return them as settings, without the channel axis."""
        return ImageSettings(
            normalisation=self.normalisation,
            low=self.low,
            high=self.high,
            scope=self.scope,
            channels=read_integers(self.channels, "--channels") or None,
            colour_map=self.colour_map,
            level=self.level,
        )


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which model runs, and where."""

    model: Annotated[str, option_of(ModelSettings, "model")] = "default"
    device: Annotated[str, option_of(ModelSettings, "device")] = "auto"
    precision: Annotated[str, option_of(ModelSettings, "precision")] = "fast"
    input_size: Annotated[int, option_of(ModelSettings, "input_size")] = 0

    def settings(self) -> ModelSettings:
        """Return them as settings."""
        return ModelSettings(self.model, self.device, self.precision, self.input_size)


@dataclass(frozen=True, slots=True)
class TileOptions:
    """How planes larger than the model's input are cut."""

    tiling: Annotated[str, option_of(TileSettings, "tiling")] = "auto"
    tile: Annotated[int, option_of(TileSettings, "tile")] = 0

    def settings(self, **others: Any) -> TileSettings:
        """Return them as settings, with those that a command has by itself."""
        return TileSettings(self.tiling, self.tile, **others)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the classes that its arguments are.

    Typer sees one parameter for each field of such a class, in its place.
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, type] = {}
    flat: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        group = parameter.annotation
        if not is_dataclass(group):
            flat.append(parameter)
            continue
        groups[parameter.name] = group
        hints = get_type_hints(group, include_extras=True)
        flat += [
            parameter.replace(
                name=field.name, default=field.default, annotation=hints[field.name]
            )
            for field in fields(group)
        ]

    @wraps(command)
    def call(**values: Any) -> None:
        for name, group in groups.items():
            own = {field.name: values.pop(field.name) for field in fields(group)}
            values[name] = group(**own)
        command(**values)

    call.__signature__ = signature.replace(parameters=flat)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in flat}
    return call


def read_integers(text: str, flag: str) -> tuple[int, ...]:
    """Read whole numbers with commas between them.

    Raises
    ------
    SettingsError
        If it is anything else; names the flag.
    """
    return _read_list(text, flag, int, "whole numbers")


def read_numbers(text: str, flag: str, unit: str = "") -> tuple[float, ...]:
    """Read numbers with commas between them, in a unit that is not written.

    Raises
    ------
    SettingsError
        If it is anything else; names the flag.
    """
    return _read_list(text, flag, float, "numbers" + (unit and f" of {unit}"))


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
