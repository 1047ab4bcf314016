"""Fine-tune a model in one call and without a window."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.images import PlaneSource, open_image
from napari_samseg.core.models.weights import check_model
from napari_samseg.core.settings import ImageSettings, ModelSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training.class_planes import ClassPlanes
from napari_samseg.core.training.files import TrainingFiles, open_training_files
from napari_samseg.core.training.images import LabelledImage
from napari_samseg.core.training.place import training_folder
from napari_samseg.core.training.presets import find_preset
from napari_samseg.core.training.unfinished import check_training_folder
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    from napari_samseg.core.models.sam import SamModel
    from napari_samseg.core.training.config import TuneConfig
    from napari_samseg.core.training.presets import TuningPlan
    from napari_samseg.core.training.result import TuneResult
    from napari_samseg.core.training.tuning import TuningJob

__all__ = ["finetune", "finetune_config"]


def finetune(
    images: Any,
    labels: Any,
    *,
    model: str | os.PathLike[str] | SamModel = "default",
    preset: str | TuningPlan = "quick",
    out: str | os.PathLike[str] = "tuned",
    semantic: bool = False,
    groups: str | Sequence[str] | None = None,
    image_settings: ImageSettings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    on_progress: Callable[[Progress], object] | None = None,
) -> TuneResult:
    """Tune a model on labelled images, from embeddings that are made once.

    Parameters
    ----------
    images : array, PlaneSource, path, or sequence of arrays
        A plane (Y, X) or (Y, X, 3), a volume (..., Y, X), several of these, or the
        path of a file, a folder, or several by a pattern, such as ``*/flair.nii.gz``.
    labels : like `images`
        Instance labels of the same shapes; 0 is what has no label. Not every object
        must have one. Of a folder of images, also the path of a COCO file.
    model : str, path or SamModel
        Name in the zoo, path of a checkpoint, or a model already loaded.
    preset : str or TuningPlan
        "quick", "whole", "thorough" or "lora", or settings of your own.
    out : str or path
        Folder for weights, log and, meanwhile, embeddings. A word without a slash is
        the name of a model: its folder is among the tuned models, which every list
        of models shows.
    semantic : bool
        The labels are classes: each connected part of one is an object.
    groups : sequence of str, or str, optional
        Patient, animal or volume of each image: they are validated apart. Of files, a
        regular expression that finds it in their paths.
    image_settings : ImageSettings, optional
        Contrast, channels and resolution level.
    resume : bool
        Go on with the training in the folder.
    overwrite : bool
        Replace a model in the folder, and a training there that is not over.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps"; not used for a loaded model.
    on_progress : callable, optional
        Gets each `Progress`, and `TrainingProgress` once training has begun; what it
        raises ends the training, and what was learned is kept. Of several processes
        that torchrun has started, the first one calls it.

    Returns
    -------
    TuneResult
        ``best`` is the path of the best weights, which `model=` takes anywhere.

    Raises
    ------
    InvalidImageError, InvalidLabelsError
        If images and labels do not belong together, or there is no object.
    SettingsError, UnknownNameError
        If a setting, preset or model is not known, or what is resumed was started with
        settings that its data do not fit now.
    MissingFileError, CheckpointError, DownloadError
        If the model cannot be loaded, or there is nothing to resume.
    TrainingError
        If a loss is no number, or another process of the training has ended; what
        was learned before is kept.
    OutputError
        If the folder cannot be written, or holds a model, or a training that is not
        over, and neither `overwrite` nor `resume` is said.
    """
    chosen: Any = model
    if isinstance(model, str | os.PathLike):
        chosen = ModelSettings(os.fspath(model), device)
    plan = find_preset(preset) if isinstance(preset, str) else preset
    settings = ImageSettings() if image_settings is None else image_settings
    folder = training_folder(out)
    check_training_folder(folder, resume=resume, overwrite=overwrite)
    if isinstance(images, str | os.PathLike):
        files = _files(images, labels, groups, settings, semantic=semantic)
        with open_training_files(files) as found:
            job = _job(found, chosen, folder, plan)
            steps = job.run_steps(resume=resume, overwrite=overwrite)
            return run_steps(steps, on_progress)
    found = _from_arrays(images, labels, groups, settings, semantic=semantic)
    job = _job(found, chosen, folder, plan)
    return run_steps(job.run_steps(resume=resume, overwrite=overwrite), on_progress)


def finetune_config(
    config: TuneConfig, *, resume: bool = False, overwrite: bool = False
) -> Generator[Progress, None, TuneResult]:
    """Tune as a configuration says, yielding `Progress`; see `finetune`.

    What can be wrong with folder and model is told before torch is loaded.
    """
    check_training_folder(config.out, resume=resume, overwrite=overwrite)
    check_model(config.model.model)
    yield Progress("opening files")
    with open_training_files(config.files) as images:
        yield Progress("loading torch")
        job = _job(
            images,
            config.model,
            config.out,
            config.plan,
            stores=config.stores,
            loggers=config.loggers,
            estimates=True,
        )
        return (yield from job.run_steps(resume=resume, overwrite=overwrite))


def _job(
    images: Sequence[LabelledImage],
    model: Any,
    folder: Path,
    plan: TuningPlan,
    *,
    stores: Sequence[str] = (),
    loggers: Sequence[str] = (),
    estimates: bool = False,
) -> TuningJob:
    from napari_samseg.core.cache.place import default_store_folder
    from napari_samseg.core.training.tuning import TuningJob

    places = (*stores, str(default_store_folder()))
    return TuningJob(
        images,
        model,
        folder,
        plan,
        stores=places,
        loggers=loggers,
        estimates=estimates,
    )


def _files(
    images: str | os.PathLike[str],
    labels: Any,
    groups: str | Sequence[str] | None,
    settings: ImageSettings,
    *,
    semantic: bool,
) -> TrainingFiles:
    if not isinstance(labels, str | os.PathLike):
        raise InvalidLabelsError(
            f"the images are in {images}: give the path of their labels, too"
        )
    if groups is not None and not isinstance(groups, str):
        raise SettingsError(
            "groups of files are a regular expression that finds them in their paths, "
            r"such as patient\d+"
        )
    return TrainingFiles(
        Path(images).expanduser(),
        Path(labels).expanduser(),
        semantic=semantic,
        group=groups or "",
        settings=settings,
    )


def _from_arrays(
    images: Any,
    labels: Any,
    groups: str | Sequence[str] | None,
    settings: ImageSettings,
    *,
    semantic: bool,
) -> list[LabelledImage]:
    is_many = isinstance(images, list | tuple)
    if is_many != isinstance(labels, list | tuple):
        raise InvalidLabelsError("give one image and its labels, or lists of both")
    if isinstance(groups, str):
        groups = [groups]
    sources, found = (images, labels) if is_many else ([images], [labels])
    if len(sources) != len(found):
        raise InvalidLabelsError(
            f"there are {len(sources)} images and {len(found)} labels: each image "
            "needs its own"
        )
    if groups is not None and len(groups) != len(sources):
        raise InvalidLabelsError(
            f"there are {len(sources)} images and {len(groups)} groups"
        )
    result = []
    for i, (image, label) in enumerate(zip(sources, found, strict=True)):
        source = image if isinstance(image, PlaneSource) else open_image(image)
        group = "" if groups is None else str(groups[i])
        label = label if hasattr(label, "shape") else np.asarray(label)
        objects = ClassPlanes(label) if semantic else label
        result.append(LabelledImage(f"image {i + 1}", source, objects, group, settings))
    return result
