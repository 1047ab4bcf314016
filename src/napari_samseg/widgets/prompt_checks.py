"""What the Prompts panel finds out about prompts that it reads, shows and writes."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np

from napari_samseg.core.errors import InvalidPromptError
from napari_samseg.core.io.prompt_planes import StoredPrompts, read_prompts
from napari_samseg.core.io.prompt_writer import write_prompts
from napari_samseg.core.types import PlanePrompts, Progress

__all__ = ["check_planes", "describe_missing", "read_steps", "write_steps"]

Plane = tuple[int, ...]
# Objects without a prompt that are named; more are counted.
NAMED = 10


def check_planes(
    path: Path, stored: StoredPrompts, shape: tuple[int, ...], name: str
) -> int:
    """Return how many objects lie outside labels of a shape.

    Raises
    ------
    InvalidPromptError
        If the planes are none of these labels.
    """
    if not stored.planes:
        raise InvalidPromptError(f"there is no prompt in {path}")
    n_outside = 0
    for plane, prompts in stored.planes.items():
        if len(plane) != len(shape) - 2 or any(
            at >= n for at, n in zip(plane, shape, strict=False)
        ):
            raise InvalidPromptError(
                f"{path} has prompts of plane {', '.join(map(str, plane)) or '()'}, "
                f"which is none of layer {name!r} of shape {shape}: choose the labels "
                "that the prompts are of"
            )
        low = np.fmin.reduce(prompts.boxes_yx[:, :2], axis=1)
        high = prompts.boxes_yx[:, 2:] > np.array(shape[-2:]) + 0.0
        points = prompts.points_yx
        real = prompts.point_labels >= 0
        beyond = (points < -0.5) | (points > np.array(shape[-2:]) - 0.5)
        is_out = (low < 0) | high.any(axis=1) | (beyond.any(axis=2) & real).any(axis=1)
        n_outside += int(is_out.sum())
    return n_outside


def describe_missing(missing: dict[Plane, np.ndarray]) -> str:
    """Name the objects that have no prompt."""
    n = sum(len(ids) for ids in missing.values())
    if not n:
        return ""
    named = []
    for plane, ids in missing.items():
        where = f" on plane {', '.join(map(str, plane))}" if plane else ""
        named += [f"{object_id}{where}" for object_id in ids[:NAMED].tolist()]
    text = ", ".join(named[:NAMED]) + (" ..." if n > NAMED else "")
    return f"{n} object{'' if n == 1 else 's'} got no prompt: {text}"


def write_steps(
    path: Path, planes: dict[Plane, PlanePrompts]
) -> Generator[Progress, None, None]:
    """Write a table of prompts as a job."""
    yield Progress(f"writing {path.name}")
    write_prompts(path, planes)


def read_steps(path: Path) -> Generator[Progress, None, StoredPrompts]:
    """Read a table of prompts as a job."""
    yield Progress(f"reading {path.name}")
    return read_prompts(path)
