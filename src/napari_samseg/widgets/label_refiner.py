"""Refines labels in the background, for the Refine labels panel.

No layer is touched here: what runs in a thread gets everything of a layer when the job
is made.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_samseg.adapters.plugin_settings import PluginSettings, read_plugin_settings
from napari_samseg.adapters.write_layers import empty_labels
from napari_samseg.core.cache.lookup import EntryFinder
from napari_samseg.core.embed.stored import StoredPlanes
from napari_samseg.core.io.label_doubts import instance_doubts
from napari_samseg.core.io.label_planes import PictureWarning
from napari_samseg.core.painting import PlaneKey
from napari_samseg.core.refine.redo import redo_object
from napari_samseg.core.refine.volume import (
    RefineTask,
    open_tiled,
    refine_planes,
)
from napari_samseg.core.settings import (
    ModelSettings,
    PromptSettings,
    RefineSettings,
    TileSettings,
)
from napari_samseg.core.types import Progress
from napari_samseg.widgets.job_runner import JobRunner
from napari_samseg.widgets.loaded_models import predictor_steps

if TYPE_CHECKING:
    from napari_samseg.core.cache.protocol import EmbeddingCache
    from napari_samseg.core.embed.stack import Stack
    from napari_samseg.core.planes import MeasuredPlane
    from napari_samseg.core.predict import Predictor
    from napari_samseg.core.refine.redo import RedoneObject
    from napari_samseg.core.refine.scores import ObjectScore, RefineCounts

__all__ = ["LabelRefiner", "RefinePlan", "TargetMade"]


@dataclass(frozen=True, slots=True)
class TargetMade(Progress):
    """Labels to write into are there, with what the rough ones hold."""

    labels: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class RefinePlan:
    """What is to be refined, and how.

    Attributes
    ----------
    stack : Stack
        The image.
    location : str
        Folder or URL of a store in which its embeddings may be.
    rough : array-like
        The labels, with axes as in the image.
    name : str
        What they are called.
    planes : tuple of plane indices
    model_settings, tiles, prompts, settings
        See `napari_samseg.core.settings`.
    makes_target : bool
        The refined planes go into labels that are to be made first.
    """

    stack: Stack
    location: str
    rough: Any
    name: str
    planes: tuple[tuple[int, ...], ...]
    model_settings: ModelSettings
    tiles: TileSettings
    prompts: PromptSettings
    settings: RefineSettings
    makes_target: bool

    @property
    def axes(self) -> tuple[int, int]:
        """The axes of the labels that are rows and columns."""
        ndim = len(self.rough.shape)
        return self.stack.plane_axes[0] % ndim, self.stack.plane_axes[1] % ndim

    def read_labels(self, index: tuple[int, ...]) -> npt.NDArray[Any]:
        """Read a plane of the rough labels, (Y, X)."""
        plane = PlaneKey(index, self.axes)
        rows, columns = (int(self.rough.shape[axis]) for axis in self.axes)
        found = np.array(self.rough[plane.region((0, 0, rows, columns))])
        flat = plane.flatten(found)
        return flat.astype(np.uint8) if flat.dtype == bool else flat

    def task(self) -> RefineTask:
        """Return the job that does it."""
        return RefineTask(
            self.stack,
            self.read_labels,
            self.planes,
            self.prompts,
            self.settings,
            self.tiles,
            _StoreFinder(self),
        )


class LabelRefiner(JobRunner):
    """Refines planes, or one object anew.

    See `JobRunner`; among what `progressed` gets are `TargetMade` and `PlaneRefined`,
    `finished` gets `RefineCounts`, and `redone` a `RedoneObject`.
    """

    redone = Signal(object)

    def refine(self, plan: RefinePlan) -> None:
        """Refine planes; `finished` or `failed` follows."""
        self._start(_refine_steps(plan, read_plugin_settings(), self), self.finished)

    def redo(
        self,
        plan: RefinePlan,
        now: npt.NDArray[Any],
        object_id: int,
        others: Mapping[int, ObjectScore],
    ) -> None:
        """Find one object of the only plane of a plan again; `redone` follows."""
        steps = _redo_steps(plan, now, object_id, others, read_plugin_settings(), self)
        self._start(steps, self.redone)


class _StoreFinder:
    """Finds the embeddings of the image once, and keeps memory in front of them."""

    def __init__(self, plan: RefinePlan) -> None:
        self._plan = plan
        self._cache: EmbeddingCache | None = None

    def __call__(self, predictor: Predictor, plane: MeasuredPlane) -> EmbeddingCache:
        if self._cache is None:
            stack = self._plan.stack
            stored = StoredPlanes(EntryFinder(), self._plan.location, stack.name)
            self._cache = stored.behind(predictor, plane, self._plan.tiles)
        return self._cache


def _refine_steps(
    plan: RefinePlan, plugin: PluginSettings, holder: LabelRefiner
) -> Generator[Progress, None, RefineCounts]:
    if not plan.settings.split:
        # a mask of several objects is what is split
        middle = plan.read_labels(plan.planes[len(plan.planes) // 2])
        for note in instance_doubts(middle, f"layer {plan.name!r}"):
            warnings.warn(note, PictureWarning, stacklevel=1)
    predictor = yield from predictor_steps(plan.model_settings, plugin)
    holder.keep(predictor)
    if plan.makes_target:
        yield from _target_steps(plan, plugin)
    return (yield from refine_planes(plan.task(), predictor))


def _target_steps(
    plan: RefinePlan, plugin: PluginSettings
) -> Generator[Progress, None, None]:
    """Copy the rough labels, so that planes that are not reached are as they were."""
    rough = plan.rough
    dtype = np.uint8 if rough.dtype == bool else rough.dtype
    if plan.settings.split:
        # there may be more objects than ids of the rough labels
        dtype = np.uint32
    folder = plugin.cache_path / "labels"
    labels = empty_labels(tuple(rough.shape), folder, plan.name, dtype)
    lead = tuple(int(n) for n in rough.shape[:-2])
    for done, index in enumerate(np.ndindex(*lead)):
        yield Progress("copying labels", done, math.prod(lead))
        labels[index] = np.asarray(rough[index])
    yield TargetMade("copying labels", math.prod(lead), math.prod(lead), labels=labels)


def _redo_steps(
    plan: RefinePlan,
    now: npt.NDArray[Any],
    object_id: int,
    others: Mapping[int, ObjectScore],
    plugin: PluginSettings,
    holder: LabelRefiner,
) -> Generator[Progress, None, RedoneObject]:
    predictor = yield from predictor_steps(plan.model_settings, plugin)
    holder.keep(predictor)
    (plane,) = plan.planes
    yield Progress("reading the plane")
    tiled = open_tiled(plan.task(), predictor, plane)
    rough = plan.read_labels(plane)
    if plan.settings.split or not (rough == object_id).any():
        # parts of objects that were split are in the new labels alone
        rough = now
    return (
        yield from redo_object(
            tiled, rough, now, object_id, plan.prompts, plan.settings, others
        )
    )
