"""Settings of labels: their files, MRI volumes and instances."""

from __future__ import annotations

from dataclasses import dataclass

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.settings.fields import check, setting

__all__ = ["ConvertSettings", "InstanceSettings", "MriSettings"]


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
    """How semantic labels become instance labels.

    Lengths count in pixels of the finest axis, whatever the spacing.
    """

    method: str = setting(
        "components",
        "Method",
        "components: what touches is one object; watershed: touching objects are split "
        "at their waists; axon-myelin: components of one class grow into the others; "
        "membranes: what membranes enclose; contours: what closed outlines enclose; "
        "points: each point grows into the foreground around it. Back from objects: "
        "mask: what belongs to any; boundaries: a band along their borders.",
        choices=(
            *("components", "watershed", "axon-myelin", "membranes", "contours"),
            *("points", "mask", "boundaries"),
        ),
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
        "Objects are split only into parts whose middles lie this far apart; about "
        "the width of an object is a good start.",
        minimum=0,
        maximum=1e6,
        unit="px",
    )
    h: float = setting(
        0.0,
        "Depth of waists",
        "Instead of a distance: split where a waist is this much narrower than both "
        "sides (h-maxima); 0 goes by the distance.",
        minimum=0,
        maximum=1e6,
        unit="px",
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
    inward: int = setting(
        1,
        "Width inside",
        "How far boundaries reach into the objects.",
        minimum=0,
        maximum=1000,
        unit="px",
    )
    outward: int = setting(
        0,
        "Width outside",
        "How far boundaries reach out of the objects. With 1 inside, 4 outside makes "
        "membranes to train a network on.",
        minimum=0,
        maximum=1000,
        unit="px",
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
