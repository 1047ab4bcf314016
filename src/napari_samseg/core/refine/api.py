"""Refine labels through a model, in one call and without a window."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.embed.order import select_planes
from napari_samseg.core.embed.stack import Stack
from napari_samseg.core.images import PlaneSource, open_image
from napari_samseg.core.refine.scores import ObjectScore, RefineCounts, sort_by_doubt
from napari_samseg.core.refine.volume import (
    PlaneRefined,
    RefineTask,
    check_fit,
    refine_planes,
)
from napari_samseg.core.settings import (
    ImageSettings,
    PromptSettings,
    RefineSettings,
    TileSettings,
)
from napari_samseg.core.steps import run_steps

if TYPE_CHECKING:
    from napari_samseg.core.models.protocol import PromptableModel
    from napari_samseg.core.types import Progress

__all__ = ["RefinedLabels", "refine"]


@dataclass(frozen=True, slots=True, eq=False)
class RefinedLabels:
    """Labels that went through a model.

    Attributes
    ----------
    labels : (..., Y, X) integer
        Of the shape and data type that they had before (uint32 where objects are
        split); planes that were not asked for are as they were.
    scores : list of ObjectScore
        One for each object in each plane, the most doubtful first.
    counts : RefineCounts
    """

    labels: npt.NDArray[Any]
    scores: list[ObjectScore]
    counts: RefineCounts

    def __repr__(self) -> str:
        """Say what became of the objects: the scores of all are pages long."""
        return f"<RefinedLabels of shape {self.labels.shape}: {self.counts}>"


def refine(
    image: Any,
    labels: npt.ArrayLike,
    *,
    model: str | os.PathLike[str] | PromptableModel = "default",
    prompts: PromptSettings | None = None,
    settings: RefineSettings | None = None,
    image_settings: ImageSettings | None = None,
    tiles: TileSettings | None = None,
    planes: tuple[int, int | None] = (0, None),
    device: str = "auto",
    on_progress: Callable[[Progress], object] | None = None,
) -> RefinedLabels:
    """Prompt a model with each object of rough labels, and take its masks instead.

    Parameters
    ----------
    image : array-like or PlaneSource
        A plane (Y, X) or (Y, X, 3), or a volume (..., Y, X); see `segment`.
    labels : (..., Y, X) integer
        Instance labels of the same size; ids stay as they are.
    model : str, path or PromptableModel
        Name in the zoo, path of a checkpoint, or a model already loaded.
    prompts : PromptSettings, optional
        Tight boxes if not given.
    settings : RefineSettings, optional
    image_settings : ImageSettings, optional
        Contrast, channels and resolution level.
    tiles : TileSettings, optional
        How planes larger than the model's input are cut.
    planes : (start, stop)
        Half-open, in C order over the axes before (Y, X); all of them by default.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps"; not used for a loaded model.
    on_progress : callable, optional
        Gets each `Progress`; what it raises ends the work.

    Raises
    ------
    InvalidImageError, InvalidLabelsError
        If the image or the labels are none, or do not belong together.
    SettingsError
        If there is no such plane.
    UnknownNameError, MissingFileError, CheckpointError, DownloadError
        If the model cannot be loaded.
    """
    image_settings = ImageSettings() if image_settings is None else image_settings
    source = image if isinstance(image, PlaneSource) else open_image(image)
    settings = RefineSettings() if settings is None else settings
    found = np.array(labels, np.uint32 if settings.split else None)
    check_fit(source.level_shape(image_settings.level), found.shape)
    stack = Stack(source, "image", image_settings)
    task = RefineTask(
        stack=stack,
        # a copy: what is refined must not change while it is read
        read_labels=lambda plane: found[plane].copy(),
        planes=select_planes(stack.lengths, *planes),
        prompts=PromptSettings() if prompts is None else prompts,
        settings=settings,
        tiles=TileSettings() if tiles is None else tiles,
    )
    scores: list[ObjectScore] = []

    def take(step: Progress) -> None:
        if isinstance(step, PlaneRefined) and step.refined is not None:
            found[step.refined.plane] = step.refined.labels
            scores.extend(step.refined.scores)
        if on_progress is not None:
            on_progress(step)

    from napari_samseg.core.models import load_model
    from napari_samseg.core.predict import Predictor

    if isinstance(model, str | os.PathLike):
        model = load_model(os.fspath(model), device=device)
    counts = run_steps(refine_planes(task, Predictor(model)), take)
    return RefinedLabels(found, sort_by_doubt(scores), counts)
