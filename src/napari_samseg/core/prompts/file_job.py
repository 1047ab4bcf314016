"""From a file with instance labels to a table of prompts."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.io.label_planes import open_label_planes
from napari_samseg.core.io.output import check_output_file
from napari_samseg.core.io.prompt_writer import check_prompt_path, open_prompt_writer
from napari_samseg.core.prompts.from_labels import plane_seed, sample_prompts
from napari_samseg.core.prompts.object_index import index_objects
from napari_samseg.core.settings import PromptSettings
from napari_samseg.core.types import BACKGROUND, FOREGROUND, PlanePrompts, Progress

__all__ = ["PromptCounts", "prompts_file"]


@dataclass(slots=True)
class PromptCounts:
    """What was made of the labels.

    Attributes
    ----------
    n_objects : int
        Different ids.
    n_prompted : int
        Rows of all planes: an object counts in each plane that shows it.
    n_planes, n_empty : int
        All planes, and those without an object.
    n_points, n_negatives : int
    n_small : int
        Objects of a plane that were left out as too small.
    n_short, n_short_negatives : int
        Objects of a plane that got fewer points than asked for: they have too few
        pixels, or too little is around them.
    """

    n_objects: int = 0
    n_prompted: int = 0
    n_planes: int = 0
    n_empty: int = 0
    n_points: int = 0
    n_negatives: int = 0
    n_small: int = 0
    n_short: int = 0
    n_short_negatives: int = 0

    def add(self, prompts: PlanePrompts, settings: PromptSettings) -> None:
        """Count the prompts of one more plane."""
        self.n_planes += 1
        self.n_empty += not len(prompts)
        self.n_prompted += len(prompts)
        n_points = (prompts.point_labels == FOREGROUND).sum(axis=1)
        n_negatives = (prompts.point_labels == BACKGROUND).sum(axis=1)
        self.n_points += int(n_points.sum())
        self.n_negatives += int(n_negatives.sum())
        if settings.point != "none":
            self.n_short += int((n_points < settings.n_points).sum())
        self.n_short_negatives += int((n_negatives < settings.n_negatives).sum())

    def __str__(self) -> str:
        parts = [f"{self.n_objects} objects"]
        if self.n_planes > 1:
            parts.append(f"{self.n_prompted} prompts in {self.n_planes} planes")
        for n, what in (
            (self.n_empty if self.n_planes > 1 else 0, "planes without an object"),
            (self.n_points, "points"),
            (self.n_negatives, "negative points"),
            (self.n_small, "left out as too small"),
            (self.n_short, "with fewer points than asked for"),
            (self.n_short_negatives, "with fewer negative points than asked for"),
        ):
            if n:
                parts.append(f"{n} {what}")
        return ", ".join(parts)


def prompts_file(
    labels: Path, out: Path, settings: PromptSettings
) -> Generator[Progress, None, PromptCounts]:
    """Make prompts from a file of instance labels, and write them plane by plane.

    Parameters
    ----------
    labels : Path
        See `napari_samseg.core.io.image_file.open_image_file`.
    out : Path
        See `napari_samseg.core.io.prompt_writer.open_prompt_writer`.
    settings : PromptSettings

    Raises
    ------
    SamSegError
        If a file is missing or of the wrong kind, or there is no object in it; the
        message says which. Nothing is written then.
    """
    check_prompt_path(out, masks=settings.mask)
    check_output_file(out, inputs=(labels,))
    counts, ids = PromptCounts(), set[int]()
    with open_label_planes(labels) as planes, open_prompt_writer(out) as writer:
        lead = planes.shape[:-2]
        for done, plane in enumerate(np.ndindex(*lead)):
            yield Progress("sampling planes", done, math.prod(lead))
            objects = index_objects(planes.read(plane))
            is_small = objects.areas < settings.min_area
            counts.n_small += int(is_small.sum())
            objects = objects.select(~is_small)
            prompts = sample_prompts(objects, settings, plane_seed(settings, plane))
            writer.write(plane, prompts, objects)
            counts.add(prompts, settings)
            ids.update(prompts.object_ids.tolist())
        if not ids:
            raise InvalidLabelsError(_why_nothing(labels, counts, settings))
    counts.n_objects = len(ids)
    return counts


def _why_nothing(labels: Path, counts: PromptCounts, settings: PromptSettings) -> str:
    if counts.n_small:
        return (
            f"all {counts.n_small} objects in {labels} have fewer than "
            f"{settings.min_area} pixels"
        )
    return f"there is no object in {labels}: all its pixels are 0"
