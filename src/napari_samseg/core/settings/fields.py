"""How a settings class states the bounds, the choices and the help of its fields.

A settings class is a frozen dataclass whose fields are made with `setting`: the
title, the help text, the bounds and the choices stand beside the default, once.
`describe` lists them for whoever builds a form or an option.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from napari_samseg.core.errors import SettingsError

__all__ = ["SettingInfo", "check", "describe", "setting"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """What a form needs to know about one setting.

    Attributes
    ----------
    name, title, help : str
        Field name, its label, and one sentence on what it does.
    default : object
        Value when nothing is chosen.
    minimum, maximum : float or None
        Inclusive bounds of a number.
    choices : tuple of str
        Allowed words; empty where anything of the type goes.
    unit : str
        Unit of a number, "" if it has none.
    least : str
        What the minimum means, where it is a word rather than a number.
    """

    name: str
    title: str
    help: str
    default: Any
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    least: str = ""


def setting(
    default: T,
    title: str,
    help: str,  # noqa: A002 - the word people look for
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    unit: str = "",
    least: str = "",
) -> T:
    """Declare a field of a settings class; see `SettingInfo` for the parameters."""
    info = {
        "title": title,
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "unit": unit,
        "least": least,
    }
    return dataclasses.field(default=default, metadata=info)


def describe(settings: type | object) -> Iterator[SettingInfo]:
    """Yield a `SettingInfo` for each field of a settings class or instance."""
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        yield SettingInfo(name=field.name, default=field.default, **field.metadata)


def check(settings: object) -> None:
    """Raise `SettingsError` if a value is out of bounds or not one of its choices."""
    for info in describe(settings):
        value = getattr(settings, info.name)
        if info.choices and value not in info.choices:
            raise SettingsError(
                f"{info.title}: {value!r} is not one of {', '.join(info.choices)}"
            )
        if info.minimum is None and info.maximum is None:
            continue
        low = -math.inf if info.minimum is None else info.minimum
        high = math.inf if info.maximum is None else info.maximum
        # written so that NaN, which compares false, is refused as well
        if not low <= value <= high:
            bounds = f"{low:.15g} to {high:.15g} {info.unit}".rstrip()
            raise SettingsError(f"{info.title}: {value} is outside {bounds}")
