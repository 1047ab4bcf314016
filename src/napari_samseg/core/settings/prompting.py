"""Settings of prompts from labels, and of labels refined by them."""

from __future__ import annotations

from dataclasses import dataclass

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.settings.fields import check, setting

__all__ = ["PromptSettings", "RefineSettings"]


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
    split: bool = setting(
        False,
        "Only split",
        "Objects keep their pixels, but those that the model sees as several are "
        "split: for masks, and for objects that touch.",
    )
    split_distance: float = setting(
        5.0,
        "Distance of parts",
        "Where objects are split, the middles of their parts lie this far apart.",
        minimum=1,
        maximum=1e6,
        unit="px",
    )

    def __post_init__(self) -> None:
        check(self)
