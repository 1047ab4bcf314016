"""From classes of any size to instances: in memory, or block by block on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastremap
import numpy as np
import numpy.typing as npt

from napari_samseg.core.amounts import describe_bytes
from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.instances.blockwise import (
    Writable,
    block_slices,
    label_blockwise,
)
from napari_samseg.core.instances.blockwise_watershed import split_blockwise
from napari_samseg.core.instances.class_source import ClassSource
from napari_samseg.core.instances.methods import (
    Instances,
    find_instances_steps,
    seed_options,
)
from napari_samseg.core.instances.seed_points import Seeds
from napari_samseg.core.instances.tidy import count_pixels
from napari_samseg.core.instances.watershed import check_spacing
from napari_samseg.core.memory import free_memory
from napari_samseg.core.settings import InstanceSettings
from napari_samseg.core.types import Progress

__all__ = [
    "MEMORY_VALUES",
    "SizedInstances",
    "fits_memory",
    "slabs",
    "volume_instances_steps",
]

# Volumes up to this many pixels are worked on at once: some 10 GB with all distances.
MEMORY_VALUES = 1 << 28
# Bytes for each pixel that the methods take at their peak: most of them flood.
BYTES_PER_PIXEL = {"components": 20}
FLOODING_BYTES = 40


@dataclass(frozen=True, slots=True, eq=False)
class SizedInstances:
    """Instances of a volume, and how large they are.

    Attributes
    ----------
    found : Instances
        Its labels are in memory, or in the array that was made for them.
    sizes : (N,) int64
        Pixels of each object.
    """

    found: Instances
    sizes: npt.NDArray[np.int64]


def volume_instances_steps(
    classes: ClassSource,
    settings: InstanceSettings,
    *,
    spacing: Sequence[float] | None = None,
    before: npt.NDArray[Any] | None = None,
    seeds: Seeds | None = None,
    make_out: Callable[[tuple[int, ...]], Writable] | None = None,
    scratch: Path | None = None,
    memory_values: int = MEMORY_VALUES,
) -> Generator[Progress, None, SizedInstances]:
    """Find the instances of a plane or a volume of any size.

    Parameters
    ----------
    classes : ClassSource
    settings : InstanceSettings
    spacing, before, seeds
        See `napari_samseg.core.instances.methods.find_instances`.
    make_out : callable, optional
        Gets the shape, and returns an array on disk, of uint32 or wider: where volumes
        above `memory_values` go, block by block. Without it, all stay in memory.
    scratch : Path, optional
        See `napari_samseg.core.instances.blockwise_watershed.split_blockwise`.
    memory_values : int
        In pixels.

    Raises
    ------
    InvalidLabelsError
        If the classes are none, or do not fit into memory and the method cannot do
        without.
    SettingsError
        If a setting does not go block by block, or the spacing is not one size above
        0 for each axis.
    """
    n = math.prod(classes.shape)
    if make_out is not None and n > memory_values:
        _check_blockwise(settings, n)
        check_spacing(spacing, len(classes.shape))
        out = make_out(classes.shape)
        return (yield from _in_blocks(classes, out, settings, spacing, scratch))
    _check_memory(n, settings.method)
    whole = np.empty(classes.shape, classes.dtype)
    parts = slabs(classes.shape)
    for done, slab in enumerate(parts):
        yield Progress("reading", done, len(parts))
        whole[slab] = classes[slab]
    found = yield from find_instances_steps(
        whole, settings, spacing=spacing, before=before, seeds=seeds
    )
    return SizedInstances(found, count_pixels(found.labels)[1])


def _check_blockwise(settings: InstanceSettings, n: int) -> None:
    if settings.method not in ("components", "watershed"):
        raise InvalidLabelsError(
            f"the method {settings.method!r} needs the whole volume in memory, and "
            f"these {n} pixels are worked on block by block: take components or "
            "watershed, or a part of the volume that fits"
        )
    refused = {
        "Fill holes": settings.fill_holes,
        "Depth of waists": bool(settings.h) and settings.method == "watershed",
        "Neighbours": bool(settings.connectivity) and settings.method == "watershed",
    }
    if titles := [title for title, is_asked in refused.items() if is_asked]:
        raise SettingsError(
            f"{', '.join(titles)}: not where {n} pixels are worked on block by block; "
            "leave it out, or take a part of the volume that fits into memory"
        )


def fits_memory(n: int, method: str) -> bool:
    """Tell whether so many pixels can be worked on at once."""
    return _needed_memory(n, method) <= free_memory()


def _needed_memory(n: int, method: str) -> int:
    return n * BYTES_PER_PIXEL.get(method, FLOODING_BYTES)


def _check_memory(n: int, method: str) -> None:
    needed, free = _needed_memory(n, method), free_memory()
    if needed > free:
        raise InvalidLabelsError(
            f"{n} pixels take about {describe_bytes(needed)} of memory to work on, and "
            f"{describe_bytes(free)} are free: take a part of the volume"
        )


def _in_blocks(
    classes: ClassSource,
    out: Writable,
    settings: InstanceSettings,
    spacing: Sequence[float] | None,
    scratch: Path | None,
) -> Generator[Progress, None, SizedInstances]:
    if settings.method == "components":
        connectivity = settings.connectivity or None
        report = yield from label_blockwise(classes, out, connectivity=connectivity)
    else:
        report = yield from split_blockwise(
            classes,
            out,
            spacing=spacing,
            smoothing=settings.smoothing,
            min_distance=seed_options(settings, spacing)["min_distance"],
            scratch=scratch,
        )
    blocks = block_slices(out)
    sizes = np.zeros(report.n_objects + 1, np.int64)
    at_border = np.zeros(report.n_objects + 1, bool)
    for done, where in enumerate(blocks):
        yield Progress("measuring sizes", done, len(blocks))
        ids, counts = fastremap.unique(np.asarray(out[where]), return_counts=True)
        sizes[ids] += counts.astype(np.int64)
        if settings.clear_border:
            at_border[_border_ids(out, where)] = True
    sizes[0], at_border[0] = 0, False
    is_small = (sizes > 0) & (sizes < settings.min_size)
    is_large = sizes > (settings.max_size or np.inf)
    at_border &= ~(is_small | is_large)
    is_kept = (sizes > 0) & ~(is_small | is_large | at_border)
    names = np.zeros(len(sizes), out.dtype)
    names[is_kept] = np.arange(1, np.count_nonzero(is_kept) + 1)
    if not np.array_equal(names, np.arange(len(names))):
        for done, where in enumerate(blocks):
            yield Progress("renumbering", done, len(blocks))
            out[where] = names[np.asarray(out[where])]
    found = Instances(
        out,
        int(is_kept.sum()),
        0,
        int(is_small.sum()),
        int(is_large.sum()),
        int(at_border.sum()),
        int(sizes[~is_kept].sum()),
        report.notes,
    )
    return SizedInstances(found, sizes[is_kept])


def _border_ids(out: Writable, where: tuple[slice, ...]) -> npt.NDArray[Any]:
    """Return the ids of a block that touch the border of the volume."""
    block = np.asarray(out[where])
    found = [np.zeros(0, block.dtype)]
    for axis, (side, length) in enumerate(zip(where, out.shape, strict=True)):
        if side.start == 0:
            found.append(fastremap.unique(block.take(0, axis)))
        if side.stop == length:
            found.append(fastremap.unique(block.take(-1, axis)))
    return np.concatenate(found)


def slabs(shape: tuple[int, ...]) -> list[slice]:
    """Cut a volume along its first axis, so that work can be followed and ended."""
    per_plane = math.prod(shape[1:])
    step = max(1, (1 << 24) // max(1, per_plane))
    return [slice(start, start + step) for start in range(0, shape[0], step)]
