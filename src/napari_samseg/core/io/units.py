"""How long units are, by the names that OME-Zarr and napari have for them."""

from __future__ import annotations

__all__ = ["MILLIMETRES", "SECONDS", "UNKNOWN"]

MILLIMETRES = {
    "kilometer": 1e6,
    "meter": 1e3,
    "decimeter": 100.0,
    "centimeter": 10.0,
    "millimeter": 1.0,
    "micrometer": 1e-3,
    "micron": 1e-3,
    "nanometer": 1e-6,
    "angstrom": 1e-7,
    "picometer": 1e-9,
    "inch": 25.4,
    "foot": 304.8,
    "yard": 914.4,
}
# What stands where nobody says how large a pixel is.
UNKNOWN = frozenset({"pixel", "dimensionless", ""})
# Of units of time, by the same names.
SECONDS = {
    "day": 86_400.0,
    "hour": 3_600.0,
    "minute": 60.0,
    "second": 1.0,
    "millisecond": 1e-3,
    "microsecond": 1e-6,
    "nanosecond": 1e-9,
}
