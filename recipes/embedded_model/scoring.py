"""Scores of a model on a plane: one prompt, then clicks on what was wrong.

Boxes, points and baselines are the common protocol of
`napari_samseg.core.metrics.prompting`. The clicks begin from the same points: each goes
to the place deepest in the largest piece that is wrong, as a person would click, and
all points together are the next prompt, as in the panels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_samseg.core.metrics.prompting import (
    PromptScores,
    draw_prompts,
    prediction_iou,
    score_prompts,
    show_plane,
)
from napari_samseg.core.predict import Predictor
from napari_samseg.core.prompts.object_index import ObjectIndex
from napari_samseg.core.settings import TileSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.types import (
    PADDING,
    BoolArray,
    FloatArray,
    MaskPrediction,
    PlanePrompts,
)

# after so many correction clicks
CLICKS = (1, 3, 5)


@dataclass(frozen=True, slots=True, eq=False)
class ClickScores:
    """Scores of N objects.

    Attributes
    ----------
    prompts : PromptScores
        By one box and by one point, and of the baselines.
    clicks : (N, len(CLICKS)) float64
        IoU after so many corrections of the point's mask.
    lengths : (N,) float64
        Square root of each area, in pixels of the model's square where it sees the
        plane as a whole.
    planes : (N,) int64
        Number of the plane in its set.
    """

    prompts: PromptScores
    clicks: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.float64]
    planes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.prompts)

    @classmethod
    def join(cls, parts: Sequence[ClickScores]) -> ClickScores:
        """Return the scores of several planes as one."""
        return cls(
            PromptScores.join([part.prompts for part in parts]),
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("clicks", "lengths", "planes")
            ),
        )

    def select(self, rows: npt.NDArray[np.bool_]) -> ClickScores:
        """Return the scores of some objects."""
        prompts = PromptScores(
            *(
                getattr(self.prompts, field.name)[rows]
                for field in dataclasses.fields(PromptScores)
            )
        )
        return ClickScores(
            prompts, self.clicks[rows], self.lengths[rows], self.planes[rows]
        )


def score_plane(
    predictor: Predictor,
    plane: FloatArray,
    labels: npt.NDArray[np.integer],
    number: int,
    *,
    max_objects: int | None,
    tiles: TileSettings,
    clicks: Sequence[int] = CLICKS,
) -> ClickScores:
    """Score a model on the objects of one plane.

    Parameters
    ----------
    predictor : Predictor
    plane : (Y, X, 3) float32 in 0..255
    labels : (Y, X) integer
    number : int
        Of the plane in its set; seeds its prompts.
    max_objects : int, optional
    tiles : TileSettings
    clicks : sequence of int, rising
        None is quicker.
    """
    seed = (0, number)
    first = score_prompts(
        predictor, plane, labels, seed=seed, max_objects=max_objects, tiles=tiles
    )
    corrected = np.zeros((len(first), len(clicks)))
    if len(first) and clicks:
        objects, _, points = draw_prompts(labels, seed, max_objects)
        corrected = score_clicks(predictor, plane, objects, points, tiles, clicks)
    scale = predictor.model.input_size / max(labels.shape)
    return ClickScores(
        first,
        corrected,
        np.sqrt(first.areas) * scale,
        np.full(len(first), number, np.int64),
    )


def score_clicks(
    predictor: Predictor,
    plane: FloatArray,
    objects: ObjectIndex,
    points: PlanePrompts,
    tiles: TileSettings,
    clicks: Sequence[int],
) -> npt.NDArray[np.float64]:
    """Correct masks click by click; returns IoU (N, len(clicks))."""
    seen = show_plane(predictor, plane, tiles)
    prompts, found = points, run_steps(seen.predict_steps(points))
    scores = np.zeros((len(objects), len(clicks)))
    for done in range(1, max(clicks) + 1):
        prompts = add_clicks(prompts, found, objects)
        found = run_steps(seen.predict_steps(prompts))
        if done in clicks:
            scores[:, clicks.index(done)] = prediction_iou(found, objects)
    return scores


def add_clicks(
    prompts: PlanePrompts, found: MaskPrediction, objects: ObjectIndex
) -> PlanePrompts:
    """Add to each object a click on what is wrong with its mask; none if nothing is."""
    n = len(objects)
    points, labels = np.zeros((n, 1, 2), np.float32), np.full((n, 1), PADDING, np.int8)
    for i, object_id in enumerate(objects.object_ids):
        boxes = np.stack([objects.boxes_yx[i], found.boxes_yx[i]])
        boxes = boxes if found.crops[i].size else boxes[:1]
        y0, x0 = boxes[:, :2].min(axis=0)
        y1, x1 = boxes[:, 2:].max(axis=0)
        true = objects.labels[y0:y1, x0:x1] == object_id
        mask = np.zeros(true.shape, bool)
        if found.crops[i].size:
            top, left, bottom, right = found.boxes_yx[i]
            mask[top - y0 : bottom - y0, left - x0 : right - x0] = found.crops[i]
        if (mask != true).any():
            y, x = deepest_error(mask, true)
            points[i, 0] = y + y0, x + x0
            labels[i, 0] = int(true[y, x])
    return dataclasses.replace(
        prompts,
        points_yx=np.concatenate([prompts.points_yx, points], axis=1),
        point_labels=np.concatenate([prompts.point_labels, labels], axis=1),
    )


def deepest_error(mask: BoolArray, true: BoolArray) -> tuple[int, int]:
    """Return the pixel (y, x) farthest inside the largest piece that is wrong.

    What is missing and what is too much are pieces of their own.
    """
    largest, deepest = -1, (0, 0)
    for wrong in (true & ~mask, mask & ~true):
        pieces, count = ndimage.label(wrong)
        if not count:
            continue
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        if sizes.max() > largest:
            largest = int(sizes.max())
            depth = ndimage.distance_transform_edt(np.pad(pieces == sizes.argmax(), 1))[
                1:-1, 1:-1
            ]
            y, x = np.unravel_index(int(depth.argmax()), depth.shape)
            deepest = int(y), int(x)
    return deepest
