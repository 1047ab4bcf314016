"""From a file with instance labels to a table of prompts."""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path

import numpy as np

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.io.label_planes import open_label_planes
from napari_samseg.core.io.output import check_output_file
from napari_samseg.core.io.prompt_writer import check_prompt_path, open_prompt_writer
from napari_samseg.core.prompts.object_index import index_objects
from napari_samseg.core.prompts.plane_job import (
    PromptCounts,
    sample_plane,
    why_nothing,
)
from napari_samseg.core.settings import PromptSettings
from napari_samseg.core.types import Progress

__all__ = ["prompts_file"]


def prompts_file(
    labels: Path, out: Path, settings: PromptSettings, *, overwrite: bool = False
) -> Generator[Progress, None, PromptCounts]:
    """Make prompts from a file of instance labels, and write them plane by plane.

    Parameters
    ----------
    labels : Path
        See `napari_samseg.core.io.image_file.open_image_file`.
    out : Path
        See `napari_samseg.core.io.prompt_writer.open_prompt_writer`.
    settings : PromptSettings
    overwrite : bool
        Replace a file that is there already.

    Raises
    ------
    SamSegError
        If a file is missing or of the wrong kind, or there is no object in it; the
        message says which. Nothing is written then.
    """
    check_prompt_path(out, masks=settings.mask)
    check_output_file(out, inputs=(labels,), overwrite=overwrite)
    counts, ids = PromptCounts(), set[int]()
    with open_label_planes(labels) as planes, open_prompt_writer(out) as writer:
        lead = planes.shape[:-2]
        for done, plane in enumerate(np.ndindex(*lead)):
            yield Progress("sampling planes", done, math.prod(lead))
            objects = index_objects(planes.read(plane))
            prompts, objects = sample_plane(objects, plane, settings, counts)
            writer.write(plane, prompts, objects)
            ids.update(prompts.object_ids.tolist())
        if not ids:
            raise InvalidLabelsError(why_nothing(labels, counts, settings))
    counts.n_objects = len(ids)
    return counts
