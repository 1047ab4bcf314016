"""What the Labels to instances panel does in threads: no layer is touched here."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.instances.class_source import ClassSource, open_classes_steps
from napari_samseg.core.instances.methods import find_instances_steps
from napari_samseg.core.instances.seed_points import Seeds
from napari_samseg.core.instances.tidy import count_pixels, narrow_labels
from napari_samseg.core.instances.volume_job import (
    SizedInstances,
    volume_instances_steps,
)
from napari_samseg.core.painting import Box, PlaneKey
from napari_samseg.core.settings import InstanceSettings
from napari_samseg.core.types import Progress

__all__ = [
    "Answer",
    "ClassInputs",
    "Edit",
    "Preview",
    "edit_steps",
    "preview_steps",
    "run_steps",
]

Spacing = tuple[float, ...] | None
# Neighbours in a plane that are those of a volume, as nearly as a plane has them.
IN_PLANE = {6: 4, 18: 8, 26: 8}


@dataclass(frozen=True, slots=True, eq=False)
class ClassInputs:
    """The pixels of layers that hold classes, taken when a job is made.

    Attributes
    ----------
    array : array-like
    name : str
        What the layer is called in messages.
    is_colour, is_image : bool
        See `napari_samseg.core.instances.class_source.open_classes_steps`.
    myelin : ClassInputs or None
        A second mask.
    seeds : Seeds or None
        Points that objects grow from.
    """

    array: Any
    name: str
    is_colour: bool
    is_image: bool
    myelin: ClassInputs | None = None
    seeds: Seeds | None = None

    def open_steps(
        self, *, is_mask: bool = False, samples: bool = False
    ) -> Generator[Progress, None, ClassSource]:
        """Find out what the values mean; a mask holds one class."""
        # napari imports it with the first Labels layer, and on the main thread the
        # window would not answer for seconds
        import pandas  # noqa: F401

        myelin = None
        if self.myelin is not None:
            myelin = yield from self.myelin.open_steps(is_mask=True, samples=samples)
        return (
            yield from open_classes_steps(
                self.array,
                self.name,
                is_colour=self.is_colour,
                is_image=self.is_image,
                is_mask=is_mask,
                samples=samples,
                myelin=myelin,
            )
        )


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """The instances of a part of a plane.

    Attributes
    ----------
    source : ClassSource
        Of the whole volume, to be used again.
    plane : PlaneKey
    box : (int, int, int, int)
        Half-open, along the axes of the plane.
    result : SizedInstances
    is_part : bool
        The plane is larger than what was looked at.
    """

    source: ClassSource
    plane: PlaneKey
    box: Box
    result: SizedInstances
    is_part: bool


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """How an array becomes the instances that were found.

    Attributes
    ----------
    before, labels : integer arrays of one shape and data type
    n_changed : int
        Pixels that differ between these.
    """

    before: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    n_changed: int


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Answer:
    """What a job has found of a whole plane or volume.

    Attributes
    ----------
    source : ClassSource
    result : SizedInstances
    edit : Edit or None
        Where the instances go into an array that is there.
    """

    source: ClassSource
    result: SizedInstances
    edit: Edit | None = None
    _on_disk: list[weakref.finalize[..., Any]] = field(default_factory=list)

    def remove_unless_kept(self, folder: Path) -> None:
        """Remove an array on disk with this answer, if nobody has taken it by then."""
        removal = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._on_disk.append(removal)

    def keep(self) -> None:
        """Leave the array on disk to the layer that shows it."""
        for removal in self._on_disk:
            removal.detach()


def preview_steps(
    inputs: ClassInputs,
    source: ClassSource | None,
    plane: PlaneKey,
    box: Box,
    settings: InstanceSettings,
    spacing: Spacing,
) -> Generator[Progress, None, Preview]:
    """Find the instances of a part of a plane by itself."""
    if source is None:
        source = yield from inputs.open_steps(samples=True)
    yield Progress("reading the plane")
    part = source[plane.selection(box)]
    if len(source.shape) > 2:
        near = IN_PLANE.get(settings.connectivity, settings.connectivity)
        settings = replace(settings, connectivity=near)
    if spacing is not None:
        spacing = tuple(spacing[axis] for axis in plane.axes)
    seeds = None if inputs.seeds is None else _seeds_in(inputs.seeds, plane, box)
    found = yield from find_instances_steps(
        part, settings, spacing=spacing, seeds=seeds
    )
    lengths = tuple(source.shape[axis] for axis in plane.axes)
    result = SizedInstances(found, count_pixels(found.labels)[1])
    return Preview(source, plane, box, result, lengths != (box[2], box[3]))


def _seeds_in(seeds: Seeds, plane: PlaneKey, box: Box) -> Seeds:
    """Return the seeds in a part of a plane, in its pixels."""
    points = seeds.points
    lead = [axis for axis in range(points.shape[1]) if axis not in plane.axes]
    # as napari rounds points to slices
    is_here = (np.floor(points[:, lead] + 0.5) == plane.index).all(axis=1)
    within = points[:, plane.axes] - box[:2]
    sides = np.subtract(box[2:], box[:2])
    is_here &= ((within >= -0.5) & (within < sides - 0.5)).all(axis=1)
    return Seeds(within[is_here], seeds.ids[is_here])


def run_steps(
    inputs: ClassInputs,
    source: ClassSource | None,
    settings: InstanceSettings,
    spacing: Spacing,
    make_out: Callable[[tuple[int, ...]], Any],
    scratch: Callable[[], Path],
) -> Generator[Progress, None, Answer]:
    """Find the instances of a whole plane or volume.

    Of one that memory does not hold, on disk, where `scratch` finds a folder, too. The
    array that `make_out` returns is removed from there if the work ends early, or the
    answer is not kept.
    """
    if source is None or source.is_sampled:
        source = yield from inputs.open_steps()
    folders: list[Path] = []
    with ExitStack() as unfinished:

        def make(shape: tuple[int, ...]) -> Any:
            out = make_out(shape)
            folders.append(Path(out.store.root))
            unfinished.callback(shutil.rmtree, folders[-1], ignore_errors=True)
            return out

        result = yield from volume_instances_steps(
            source,
            settings,
            spacing=spacing,
            seeds=inputs.seeds,
            make_out=make,
            scratch=scratch(),
        )
        answer = Answer(source, result)
        for folder in folders:
            answer.remove_unless_kept(folder)
        unfinished.pop_all()
    return answer


def edit_steps(
    inputs: ClassInputs,
    source: ClassSource | None,
    settings: InstanceSettings,
    spacing: Spacing,
    target: Any,
) -> Generator[Progress, None, Answer]:
    """Find the instances of a whole volume, and how another array becomes them.

    Objects that are in that array already keep their ids.
    """
    if source is None or source.is_sampled:
        source = yield from inputs.open_steps()
    # a person may paint there meanwhile
    before = np.array(target[...])
    result = yield from volume_instances_steps(
        source, settings, spacing=spacing, before=before, seeds=inputs.seeds
    )
    labels = narrow_labels(result.found.labels, before.dtype)
    n_changed = 0
    for done, (new, old) in enumerate(zip(labels, before, strict=True)):
        yield Progress("comparing", done, len(labels))
        n_changed += int(np.count_nonzero(new != old))
    return Answer(source, result, Edit(before, labels, n_changed))
