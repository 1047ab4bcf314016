"""Frozen settings with bounds and help; forms and CLI options are built from them.

A settings class is a frozen dataclass whose fields are made with `setting`: the
title, the help text, the bounds and the choices stand beside the default, once.
`describe` lists them for whoever builds a form or an option.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from napari_samseg.core.errors import SettingsError

__all__ = [
    "ConvertSettings",
    "EmbedSettings",
    "ImageSettings",
    "InstanceSettings",
    "ModelSettings",
    "MriSettings",
    "PromptSettings",
    "RefineSettings",
    "SettingInfo",
    "TileSettings",
    "check",
    "describe",
    "setting",
]

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
            bounds = f"{low:g} to {high:g} {info.unit}".rstrip()
            raise SettingsError(f"{info.title}: {value} is outside {bounds}")


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """How a plane of an image becomes what a model sees."""

    normalisation: str = setting(
        "percentile",
        "Contrast",
        "How intensities are mapped to 0..255: between two percentiles, between "
        "minimum and maximum, or not at all (integers are taken as 0..255, real "
        "numbers as 0..1).",
        choices=("percentile", "minmax", "none"),
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


@dataclass(frozen=True, slots=True)
class ConvertSettings:
    """How objects are written where a format leaves a choice."""

    masks: str = setting(
        "rle",
        "Masks",
        "How COCO's JSON states a mask: run lengths, or polygons along the edges of "
        "pixels. Both are exact.",
        choices=("rle", "polygon"),
    )
    object_type: str = setting(
        "annotation",
        "Objects in QuPath",
        "What QuPath takes the objects of a GeoJSON file for.",
        choices=("annotation", "detection", "cell", "tile"),
    )
    category: str = setting(
        "object",
        "Category",
        "Category in COCO and JSON-lines of objects that have none, such as lesion.",
    )
    parts: bool = setting(
        False,
        "Parts",
        "In COCO and JSON-lines, each connected part of an object in a plane has an "
        "annotation of its own, with the id of the object.",
    )
    axis: str = setting(
        "z",
        "Planes across",
        "Axis of a volume across which its planes are cut, of the file or of the "
        "patient.",
        choices=("z", "y", "x", "axial", "coronal", "sagittal"),
    )
    slices: str = setting(
        "",
        "Planes",
        "Planes of a volume, from:to:step, such as 10:100:2; all if empty.",
    )
    drop_empty: bool = setting(
        False, "Drop empty planes", "Leave planes without labels out."
    )
    canonical: bool = setting(
        False,
        "Turn to RAS",
        "Turn NIfTI volumes so that x, y and z run to the patient's right, front and "
        "head.",
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class MriSettings:
    """What is done with an MRI volume before its planes are segmented."""

    bias_correction: bool = setting(
        True, "Correct bias", "Even out slow changes of brightness (N4)."
    )
    brain_mask: bool = setting(
        False,
        "Find the brain",
        "Make a mask of the brain: the largest bright body that is left when thin "
        "bridges are cut, or what FSL's bet finds.",
    )
    strip: bool = setting(
        False, "Strip the skull", "Set what is outside the mask of the brain to 0."
    )
    reorient: bool = setting(
        False,
        "Reorient",
        "Turn axes so that they run right, front, head (RAS), or as fslreorient2std "
        "does. What is registered is turned anyway.",
    )
    registration: str = setting(
        "affine",
        "Registration",
        "How the volume is brought to a reference, by mutual information: moved and "
        "turned (rigid), or also scaled and sheared (affine); none resamples it where "
        "it is.",
        choices=("none", "rigid", "affine"),
    )
    tools: str = setting(
        "simpleitk",
        "Tools",
        "fsl takes bet, flirt and fslreorient2std, which must be installed, for the "
        "mask of the brain, registration and orientation.",
        choices=("simpleitk", "fsl"),
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class InstanceSettings:
    """How semantic labels become instance labels."""

    method: str = setting(
        "components",
        "Method",
        "components: what touches is one object; watershed: touching objects are split "
        "at their waists; axon-myelin: components of one class grow into the others; "
        "membranes: what membranes enclose; contours: what closed outlines enclose.",
        choices=("components", "watershed", "axon-myelin", "membranes", "contours"),
    )
    connectivity: int = setting(
        0,
        "Neighbours",
        "Neighbours of a pixel that can belong to its object: 4 or 8 in a plane; 6, 18 "
        "or 26 in a volume; 0 takes all.",
        minimum=0,
        maximum=26,
    )
    smoothing: float = setting(
        1.0,
        "Smoothing",
        "Width of the Gaussian that keeps rough borders from splitting an object.",
        minimum=0,
        maximum=100,
        unit="px",
    )
    min_distance: float = setting(
        5.0,
        "Distance of seeds",
        "Objects are split only into parts whose middles lie this far apart, in "
        "pixels, or in the unit of the pixel size where one is given.",
        minimum=0,
        maximum=1e6,
    )
    h: float = setting(
        0.0,
        "Depth of waists",
        "Instead of a distance: split where a waist is this much narrower than both "
        "sides (h-maxima), in the same unit; 0 goes by the distance.",
        minimum=0,
        maximum=1e6,
    )
    seed_class: int = setting(
        2,
        "Class of seeds",
        "Class of which each component is an object, such as axon; it grows into all "
        "other classes.",
        minimum=1,
        maximum=2**31 - 1,
    )
    into_membranes: bool = setting(
        False,
        "Fill membranes",
        "Let cells grow until they meet in the middle of the membrane.",
    )
    fill_holes: bool = setting(
        False, "Fill holes", "Give background that an object encloses to the object."
    )
    clear_border: bool = setting(
        False, "Clear border", "Remove objects that touch the border of the image."
    )
    min_size: int = setting(
        0,
        "Smallest size",
        "Remove smaller objects.",
        minimum=0,
        maximum=2**31 - 1,
        unit="px",
    )
    max_size: int = setting(
        0,
        "Largest size",
        "Remove larger objects; 0 keeps them all.",
        minimum=0,
        maximum=2**31 - 1,
        unit="px",
        least="no limit",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.max_size and self.max_size < self.min_size:
            raise SettingsError(
                f"the largest size ({self.max_size} px) is below the smallest "
                f"({self.min_size} px)"
            )


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """Which prompts are made from labels."""

    box: str = setting(
        "box",
        "Box",
        "box: tight; jittered-box: each side off by a whole number of pixels, all "
        "equally likely; gaussian-box: off by a normal distribution, of which the "
        "standard deviation is a tenth of the longer side and 20 px at most; "
        "relative-box: off by up to a tenth of the box's length.",
        choices=("none", "box", "jittered-box", "gaussian-box", "relative-box"),
    )
    jitter: int = setting(
        10,
        "Jitter",
        "How far each side of a jittered box is off at most.",
        minimum=0,
        maximum=10000,
        unit="px",
    )
    point: str = setting(
        "none",
        "Points",
        "centroid: the pixel of the object nearest to it; interior: the pixel farthest "
        "from the outline; grid: the centroid snapped to a grid over the plane; random "
        "pixels; farthest: spread over the object; skeleton: random pixels of its "
        "skeleton. After the first, those of centroid and interior are random.",
        choices=(
            "none",
            "centroid",
            "interior",
            "random",
            "farthest",
            "skeleton",
            "grid",
        ),
    )
    n_points: int = setting(
        1,
        "Number of points",
        "Points on each object, as far as it has so many pixels.",
        minimum=1,
        maximum=1000,
    )
    grid: int = setting(
        32,
        "Grid",
        "Points of the grid along each side of the plane.",
        minimum=1,
        maximum=1024,
    )
    negative: str = setting(
        "ring",
        "Negative points",
        "ring: random pixels around the object; neighbours: the middles of the nearest "
        "objects.",
        choices=("ring", "neighbours"),
    )
    n_negatives: int = setting(
        0,
        "Number of negative points",
        "Points beside each object.",
        minimum=0,
        maximum=1000,
    )
    ring: int = setting(
        10,
        "Width of the ring",
        "How far negative points lie from the object at most.",
        minimum=1,
        maximum=10000,
        unit="px",
    )
    mask: bool = setting(
        False, "Mask", "Also the object itself, as the mask prompt of the decoder."
    )
    mask_size: int = setting(
        256,
        "Size of masks",
        "Side of mask prompts: a quarter of the model's input size.",
        minimum=1,
        maximum=1024,
        unit="px",
    )
    min_area: int = setting(
        1,
        "Smallest object",
        "Smaller objects get no prompt.",
        minimum=1,
        maximum=2**31 - 1,
        unit="px",
    )
    seed: int = setting(
        0,
        "Seed",
        "The same seed gives the same prompts.",
        minimum=0,
        maximum=2**32 - 1,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.box == "none" and self.point == "none" and not self.mask:
            raise SettingsError("choose boxes, points or masks: now there is no prompt")


@dataclass(frozen=True, slots=True)
class RefineSettings:
    """How masks that a model found for the objects of labels replace them."""

    overlap: str = setting(
        "higher-iou",
        "Where masks overlap",
        "higher-iou: the mask with the higher predicted IoU gets the pixels; smaller: "
        "the smaller object; keep: no object gets a pixel that was another one's.",
        choices=("higher-iou", "smaller", "keep"),
    )
    agreement: float = setting(
        0.2,
        "Least agreement",
        "An object of which the mask overlaps the old pixels with a lower IoU keeps "
        "the old ones, and is listed.",
        minimum=0,
        maximum=1,
    )
    margin: int = setting(
        0,
        "Margin of boxes",
        "Boxes are moved out by so much on each side (in, if negative): for labels "
        "that are too small or too large all around.",
        minimum=-1000,
        maximum=1000,
        unit="px",
    )

    def __post_init__(self) -> None:
        check(self)
