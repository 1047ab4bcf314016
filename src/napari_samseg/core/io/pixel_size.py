"""How large the pixels of an image file are, as far as the file says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.io.units import MILLIMETRES, SECONDS

__all__ = ["read_pixel_steps", "to_micrometres"]

# What files call units, by the names of them in OME-Zarr and napari.
ABBREVIATIONS = {
    "\u00e5": "angstrom",
    "pm": "picometer",
    "nm": "nanometer",
    "um": "micrometer",
    "\u00b5m": "micrometer",
    "\u03bcm": "micrometer",
    "micron": "micrometer",
    "microns": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "dm": "decimeter",
    "m": "meter",
    "km": "kilometer",
    "in": "inch",
    "ft": "foot",
    "yd": "yard",
    "ns": "nanosecond",
    "\u00b5s": "microsecond",
    "\u03bcs": "microsecond",
    "ms": "millisecond",
    "s": "second",
    "sec": "second",
    "min": "minute",
    "h": "hour",
    "d": "day",
}


def read_pixel_steps(path: Path) -> dict[str, Any]:
    """Return where the pixels of an image file lie.

    Parameters
    ----------
    path : Path
        OME-Zarr, OME-TIFF, TIFF of ImageJ, or NIfTI; other files say nothing.

    Returns
    -------
    dict
        ``scale`` and ``units`` (such as "micrometer"; "pixel" where it is unknown), a
        value for each axis, and ``translation`` if there is one; empty if the file
        does not say.
    """
    from napari_samseg.core.io.nifti import is_nifti

    if path.is_dir():
        return _zarr_steps(path)
    if is_nifti(path):
        return _nifti_steps(path)
    if path.suffix.lower() in (".tif", ".tiff", ".btf"):
        return _tiff_steps(path)
    return {}


def to_micrometres(size: float, unit: str) -> float:
    """Return a length in micrometres.

    Raises
    ------
    SettingsError
        If the unit is none of length.
    """
    millimetres = MILLIMETRES.get(_full_name(unit))
    if millimetres is None:
        raise SettingsError(
            f"{unit!r} is no unit of length that is known; there are: nm, um, mm, cm, "
            "m, inch"
        )
    # a micrometre stays one to the last digit
    return size * (millimetres * 1e3)


def _zarr_steps(path: Path) -> dict[str, Any]:
    import zarr

    from napari_samseg.core.io.ome_zarr import read_steps

    try:
        group = zarr.open(path, mode="r")
    # what is wrong with it is told when its pixels are read
    except (FileNotFoundError, ValueError, KeyError):
        return {}
    return read_steps(group) if isinstance(group, zarr.Group) else {}


def _nifti_steps(path: Path) -> dict[str, Any]:
    from napari_samseg.core.io.nifti import read_nifti

    volume = read_nifti(path)
    n = min(volume.array.ndim, 3)
    rest = volume.array.ndim - n
    return {
        "scale": (1.0,) * rest + volume.space.spacing[-n:],
        "units": ("pixel",) * rest + ("millimeter",) * n,
    }


def _tiff_steps(path: Path) -> dict[str, Any]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            axes = tiff.series[0].axes
            known = _ome_sizes(tiff) if tiff.is_ome else _imagej_sizes(tiff)
    # what is wrong with it is told when its pixels are read
    except (tifffile.TiffFileError, OSError, KeyError):
        return {}
    if not known:
        return {}
    # colours are no axis of labels
    steps = [known.get(axis, (1.0, "pixel")) for axis in axes if axis != "S"]
    return {
        "scale": tuple(size for size, _ in steps),
        "units": tuple(unit for _, unit in steps),
    }


def _ome_sizes(tiff: Any) -> dict[str, tuple[float, str]]:
    """Return size and unit by axis, as OME-XML states them of the first image."""
    from xml.etree.ElementTree import ParseError

    from tifffile import xml2dict

    try:
        images = xml2dict(tiff.ome_metadata)["OME"]["Image"]
        pixels = dict((images[0] if isinstance(images, list) else images)["Pixels"])
    # of a companion file alone, of no image, or no XML: its pixels can be read
    except (KeyError, TypeError, ValueError, ParseError):
        return {}
    found = {}
    for axis in "ZYX":
        size = pixels.get(f"PhysicalSize{axis}")
        # micrometres, unless another unit is named
        unit = str(pixels.get(f"PhysicalSize{axis}Unit", "\u00b5m"))
        if isinstance(size, int | float) and size > 0:
            found[axis] = (float(size), _full_name(unit))
    step = pixels.get("TimeIncrement")
    if isinstance(step, int | float) and step > 0:
        found["T"] = (float(step), _full_name(pixels.get("TimeIncrementUnit", "s")))
    return found


def _imagej_sizes(tiff: Any) -> dict[str, tuple[float, str]]:
    """Return size and unit by axis of a TIFF that ImageJ has written."""
    about = tiff.imagej_metadata or {}
    unit = _full_name(str(about.get("unit", "")).replace("\\u00B5", "\u00b5"))
    if unit == "pixel":
        return {}
    found = {}
    tags = tiff.pages.first.tags
    for axis, name in (("Y", "YResolution"), ("X", "XResolution")):
        pixels, length = tags[name].value if name in tags else (0, 1)
        if pixels:
            found[axis] = (length / pixels, unit)
    if about.get("spacing"):
        found["Z"] = (float(about["spacing"]), unit)
    return found


def _full_name(unit: str) -> str:
    """Return the name in OME-Zarr and napari of a unit; "pixel" if it is not known."""
    name = unit.strip().lower()
    name = ABBREVIATIONS.get(name, name)
    return name if name in MILLIMETRES or name in SECONDS else "pixel"
