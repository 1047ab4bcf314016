"""What OME-TIFF says of labels: their axes, and how large a pixel is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from napari_samseg.core.io.units import MILLIMETRES, SECONDS, UNKNOWN

__all__ = ["is_known", "lost_note", "ome_metadata", "place_notes", "unknown_notes"]

# Of labels (..., Y, X), as far as OME-TIFF and OME-Zarr have them.
AXES = "TCZYX"
# What OME calls the units that the other formats spell out.
OME_UNITS = {
    "angstrom": "\u00c5",
    "nanometer": "nm",
    "micrometer": "\u00b5m",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
    "pixel": "pixel",
}
OME_TIMES = {
    "nanosecond": "ns",
    "microsecond": "\u00b5s",
    "millisecond": "ms",
    "second": "s",
    "minute": "min",
    "hour": "h",
    "day": "d",
}


def is_known(scale: Sequence[float] | None, units: Sequence[str] | None) -> bool:
    """Tell whether a file says more of its pixels than that they are pixels."""
    if scale is None:
        return False
    has_unit = any(unit and unit != "pixel" for unit in units or ())
    return has_unit or any(size != 1 for size in scale)


def lost_note(scale: Sequence[float] | None, units: Sequence[str] | None) -> str:
    """Return what to tell of a format that does not say how large pixels are."""
    sizes = " x ".join(f"{size:.6g}" for size in scale or ())
    named = ", ".join(dict.fromkeys(units or ()))
    return f"does not say how large pixels are: {sizes} ({named}) stays behind"


def place_notes(
    translation: Sequence[float] | None, units: Sequence[str] | None
) -> list[str]:
    """Return what to tell of a format with lengths and times alone, from 0 on."""
    notes = []
    if any(translation or ()):
        start = ", ".join(f"{place:.6g}" for place in translation or ())
        notes.append(f"does not say where the first pixel lies: {start} stays behind")
    known = {*MILLIMETRES, *SECONDS, *UNKNOWN}
    other = dict.fromkeys(unit for unit in units or () if unit not in known)
    if other:
        notes.append(f"does not have the unit {', '.join(other)}: sizes stay behind")
    return notes


def unknown_notes(
    scale: Sequence[float] | None, units: Sequence[str] | None
) -> list[str]:
    """Return what to tell of axes of space without a length beside others with one."""
    space = list(units or ())[-3:]
    unknown = [unit in UNKNOWN for unit in space]
    if scale is None or all(unknown) or not any(unknown):
        return []
    names = ", ".join(
        axis
        for axis, is_unknown in zip("ZYX"[-len(space) :], unknown, strict=True)
        if is_unknown
    )
    note = (
        f"nothing says how large a pixel is along {names}: it is written as large as "
        "the finest of the others"
    )
    return [note]


def ome_metadata(
    n_axes: int, scale: Sequence[float], units: Sequence[str] | None
) -> dict[str, Any]:
    """Return the metadata of `tifffile.imwrite` that say how large pixels are.

    Parameters
    ----------
    n_axes : int
        2 to 5, (..., Y, X).
    scale, units
        A value for each axis, see
        `napari_samseg.core.io.instance_labels.InstanceLabels`. Lengths in units that
        OME does not have become micrometres.
    """
    names = ("TZYX" if n_axes == 4 else AXES)[-n_axes:]
    if n_axes == 3 and units and units[0] in OME_TIMES:
        names = "TYX"
    found: dict[str, Any] = {"axes": names}
    for axis, size, unit in zip(
        names, scale, units or ("pixel",) * n_axes, strict=True
    ):
        if axis == "T" and size > 0 and unit in OME_TIMES:
            found["TimeIncrement"] = float(size)
            found["TimeIncrementUnit"] = OME_TIMES[unit]
        elif axis in "ZYX" and size > 0 and unit in OME_UNITS:
            found[f"PhysicalSize{axis}"] = float(size)
            found[f"PhysicalSize{axis}Unit"] = OME_UNITS[unit]
        elif axis in "ZYX" and size > 0 and unit in MILLIMETRES:
            found[f"PhysicalSize{axis}"] = float(size) * (MILLIMETRES[unit] * 1e3)
            found[f"PhysicalSize{axis}Unit"] = OME_UNITS["micrometer"]
    return found
