"""MRI volumes made ready: bias field, mask of the brain, one grid for all.

What is read stays as it is; new volumes go into a folder, with a JSON file that says
how they were made.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import (
    InvalidImageError,
    InvalidLabelsError,
    OutputError,
    SettingsError,
)
from napari_samseg.core.io.json_file import write_lines
from napari_samseg.core.io.label_image import whole_numbers
from napari_samseg.core.io.nifti import (
    NiftiVolume,
    nifti_stem,
    read_nifti,
    write_nifti,
)
from napari_samseg.core.io.output import check_output_file
from napari_samseg.core.settings import MriSettings
from napari_samseg.core.types import Progress

__all__ = ["MriJob", "MriReport", "prepare_mri"]


@dataclass(frozen=True, slots=True)
class MriJob:
    """Which files to read, and where to write.

    Attributes
    ----------
    image : Path
        NIfTI volume.
    out : Path
        Folder for what is made.
    masks : tuple of Path
        Labels on the grid of the image, which go the same way.
    reference : Path or None
        Template or other volume whose grid all is brought to.
    brain : Path or None
        Mask of the brain on the grid of the image, instead of one that is found.
    volume : int or None
        Which volume of a series (4D).
    overwrite : bool
        Replace what was made before.
    """

    image: Path
    out: Path
    masks: tuple[Path, ...] = ()
    reference: Path | None = None
    brain: Path | None = None
    volume: int | None = None
    overwrite: bool = False

    @property
    def inputs(self) -> tuple[Path | None, ...]:
        """All files that are read."""
        return (self.image, *self.masks, self.reference, self.brain)

    def result(self, source: Path, ending: str = "prepared.nii.gz") -> Path:
        """Return the file that is made of another one."""
        return self.out / f"{nifti_stem(source)}_{ending}"


@dataclass(frozen=True, slots=True)
class MriReport:
    """What was made.

    Attributes
    ----------
    written : tuple of Path
    notes : tuple of str
        What a person should know.
    """

    written: tuple[Path, ...]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Work:
    """The volumes on their way, and what has been done with them."""

    image: NiftiVolume
    masks: list[NiftiVolume]
    brain: NiftiVolume | None
    steps: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, step: str, **more: object) -> None:
        self.steps.append({"step": step, **more})


def prepare_mri(
    job: MriJob, settings: MriSettings
) -> Generator[Progress, None, MriReport]:
    """Prepare a volume, and its masks with it.

    All that can be wrong with the files is found first, and nothing is written before
    all is done: who cancels between two steps leaves nothing behind.

    Raises
    ------
    SamSegError
        If a file is missing or of the wrong kind, is 4D and no volume is chosen, the
        masks lie on another grid, a file would be overwritten, or a tool that was asked
        for is missing or fails.
    """
    targets = _check_outputs(job, settings)
    _check_tools(job, settings)
    yield Progress("reading")
    work = _read(job)
    fixed = None if job.reference is None else _read_reference(job.reference, work)
    if settings.reorient and fixed is None:
        yield from _reorient(work, settings)
    if settings.brain_mask and work.brain is None:
        yield Progress("finding the brain")
        yield from _find_brain(work, settings)
    if settings.bias_correction:
        yield Progress("correcting the bias")
        _correct_bias(work)
    if settings.strip and work.brain is not None:
        array = np.where(work.brain.array > 0, work.image.array, 0)
        work.image = dataclasses.replace(work.image, array=array)
        work.note("strip the skull")
    if fixed is not None:
        yield from _bring_to(fixed, work, job, settings)
    yield Progress("writing")
    _write(job, settings, work, targets)
    return MriReport(tuple(targets.values()), tuple(work.notes))


def _check_outputs(job: MriJob, settings: MriSettings) -> dict[str, Path]:
    """Return the files to write, by what is in them; the JSON file last."""
    if settings.strip and not settings.brain_mask and job.brain is None:
        raise SettingsError(
            "the skull is stripped with a mask of the brain: have one found "
            "(--brain-mask), or name its file (--brain)"
        )
    targets = {"image": job.result(job.image)}
    for number, mask in enumerate(job.masks):
        targets[f"mask {number}"] = job.result(mask)
    if settings.brain_mask or job.brain is not None:
        targets["brain"] = job.result(job.image, "brain.nii.gz")
    targets["record"] = job.result(job.image, "prepared.json")
    if len(set(targets.values())) < len(targets):
        raise OutputError(
            "two of the files have the same name, and so would what is made of them: "
            + ", ".join(str(path) for path in (job.image, *job.masks))
        )
    for path in targets.values():
        check_output_file(path, inputs=job.inputs)
        if path.exists() and not job.overwrite:
            raise OutputError(
                f"{path} is there already: choose another folder, or --overwrite"
            )
    return targets


def _check_tools(job: MriJob, settings: MriSettings) -> None:
    """Say at once if a tool is missing that would be needed later."""
    from napari_samseg.core.mri_fsl import find_tool
    from napari_samseg.core.mri_itk import load_itk

    if settings.bias_correction or job.reference is not None:
        load_itk()
    if settings.tools != "fsl":
        return
    wanted = {
        "bet": settings.brain_mask and job.brain is None,
        "flirt": job.reference is not None and settings.registration != "none",
        "fslreorient2std": settings.reorient and job.reference is None,
    }
    for name, is_wanted in wanted.items():
        if is_wanted:
            find_tool(name)


def _read(job: MriJob) -> _Work:
    image = _read_image(job.image, job.volume)
    masks = [_read_mask(path, job.image, image) for path in job.masks]
    brain = None if job.brain is None else _read_mask(job.brain, job.image, image)
    return _Work(image, masks, brain, notes=list(image.notes))


def _read_image(path: Path, number: int | None = None) -> NiftiVolume:
    volume = read_nifti(path)
    array = volume.array
    if array.ndim == 4 and volume.channel_axis is None:
        if number is None:
            raise InvalidImageError(
                f"{path} is a series of {len(array)} volumes (4D): choose one of them, "
                f"0 to {len(array) - 1}, with --volume"
            )
        if not 0 <= number < len(array):
            raise InvalidImageError(
                f"{path} has the volumes 0 to {len(array) - 1}, and no {number}"
            )
        array = array[number]
    if array.ndim != 3:
        raise InvalidImageError(
            f"{path} is no volume (Z, Y, X): its shape is {array.shape}"
        )
    # a map of the file must not stay open where files are replaced
    array = np.array(array, np.float32)
    if not np.isfinite(array).all():
        array = np.nan_to_num(array, nan=0, posinf=0, neginf=0)
    return NiftiVolume(array, volume.space, notes=volume.notes)


def _read_mask(path: Path, image_path: Path, image: NiftiVolume) -> NiftiVolume:
    volume = read_nifti(path)
    if volume.array.shape != image.array.shape:
        raise InvalidLabelsError(
            f"{path} has the grid {volume.array.shape}, and {image_path} "
            f"{image.array.shape}: a mask must lie on the grid of its image"
        )
    both_known = volume.space.code and image.space.code
    if both_known and not volume.space.is_like(image.space, image.array.shape):
        raise InvalidLabelsError(
            f"{path} has as many voxels as {image_path}, and they lie elsewhere "
            f"({volume.space}; {image.space}): a mask must lie on the grid of its image"
        )
    labels = np.array(whole_numbers(volume.array, path))
    if labels.min() < 0 or labels.max() > np.iinfo(np.uint32).max:
        raise InvalidLabelsError(f"{path} holds labels below 0 or above 4294967295")
    labels = labels.astype(np.min_scalar_type(int(labels.max())))
    return NiftiVolume(labels, image.space, is_label=True)


def _read_reference(path: Path, work: _Work) -> NiftiVolume:
    fixed = _read_image(path)
    if not (fixed.space.orientation and work.image.space.orientation):
        work.notes.append(
            "the orientation of the volume or of its reference is unknown: what was "
            "registered may be left for right, so compare both"
        )
    return fixed


def _reorient(work: _Work, settings: MriSettings) -> Generator[Progress, None, None]:
    if not work.image.space.orientation:
        work.notes.append("the orientation is unknown: nothing was turned")
        return
    brain = [] if work.brain is None else [work.brain]
    turned = []
    for volume in (work.image, *work.masks, *brain):
        yield Progress("turning the axes")
        if settings.tools == "fsl":
            from napari_samseg.core.mri_fsl import reorient_steps

            found = yield from reorient_steps(volume)
        else:
            found = volume.turned_to_ras()
        turned.append(dataclasses.replace(found, is_label=volume.is_label))
    before = work.image.space.orientation
    work.image, work.masks = turned[0], turned[1 : len(work.masks) + 1]
    work.brain = turned[-1] if brain else None
    work.note("reorient", before=before, after=work.image.space.orientation)


def _find_brain(work: _Work, settings: MriSettings) -> Generator[Progress, None, None]:
    if settings.tools == "fsl":
        from napari_samseg.core.mri_fsl import brain_mask_steps

        mask = yield from brain_mask_steps(work.image)
    else:
        from napari_samseg.core.mri_brain import find_brain

        mask = find_brain(work.image)
    litres = float(mask.sum()) * np.prod(work.image.space.spacing) / 1e6
    work.brain = NiftiVolume(mask.astype(np.uint8), work.image.space, is_label=True)
    work.note("find the brain", tool=settings.tools, litres=round(float(litres), 4))
    n_outside = sum(int((m.array[~mask] > 0).sum()) for m in work.masks)
    if n_outside:
        work.notes.append(
            f"{n_outside} voxels of masks lie outside the mask of the brain: they stay"
        )


def _correct_bias(work: _Work) -> None:
    from napari_samseg.core.mri_itk import correct_bias

    array = work.image.array
    if work.brain is not None:
        mask = work.brain.array > 0
    else:
        from skimage.filters import threshold_otsu

        mask = array > threshold_otsu(array)
    corrected = correct_bias(work.image, mask)
    work.image = dataclasses.replace(work.image, array=corrected)
    work.note("correct the bias", method="N4", tool="simpleitk")


def _bring_to(
    fixed: NiftiVolume, work: _Work, job: MriJob, settings: MriSettings
) -> Generator[Progress, None, None]:
    from napari_samseg.core import mri_fsl, mri_itk

    matrix: npt.NDArray[np.float64] = np.eye(4)
    kind = settings.registration
    if kind != "none":
        yield Progress("registering")
        tool = mri_fsl if settings.tools == "fsl" else mri_itk
        matrix = yield from tool.register_steps(work.image, fixed, kind)
    yield Progress("resampling")

    def moved(volume: NiftiVolume) -> NiftiVolume:
        array = mri_itk.resample(volume, fixed, matrix, nearest=volume.is_label)
        return NiftiVolume(array, fixed.space, is_label=volume.is_label)

    masks = [moved(mask) for mask in work.masks]
    for path, before, after in zip(job.masks, work.masks, masks, strict=True):
        lost = np.setdiff1d(before.array, after.array)
        lost = lost[lost > 0]
        if len(lost):
            names = ", ".join(str(i) for i in lost[:12].tolist())
            work.notes.append(
                f"{path.name}: {count_things(len(lost), 'label')} without any voxel on "
                f"the grid of {job.reference}: {names}"
            )
    work.image, work.masks = moved(work.image), masks
    work.brain = None if work.brain is None else moved(work.brain)
    work.note(
        "bring to reference",
        reference=str(job.reference),
        registration=kind,
        tool=settings.tools if kind != "none" else None,
        matrix_reference_to_image_ras=matrix.tolist(),
        image_interpolation="linear",
        mask_interpolation="nearest",
    )


def _write(
    job: MriJob, settings: MriSettings, work: _Work, targets: Mapping[str, Path]
) -> None:
    volumes = {"image": work.image}
    volumes |= {f"mask {n}": mask for n, mask in enumerate(work.masks)}
    if work.brain is not None:
        volumes["brain"] = work.brain
    for name, volume in volumes.items():
        write_nifti(targets[name], volume.array, volume.space, is_label=volume.is_label)
    record = {
        "made_by": f"napari-samseg {version('napari-samseg')}",
        "image": str(job.image),
        "volume": job.volume,
        "masks": [str(path) for path in job.masks],
        "settings": dataclasses.asdict(settings),
        "steps": work.steps,
        "written": {name: str(path) for name, path in targets.items()},
        "notes": work.notes,
    }
    write_lines(targets["record"], [json.dumps(record, indent=1)])
