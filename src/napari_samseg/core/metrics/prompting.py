"""The one protocol by which promptable models are scored here.

Every object of at least 30 pixels is asked for twice: by a box whose sides are each
off by U(-10 %, +10 %) of its length, and by one uniformly random pixel. Where the
model gives three masks, the one of highest predicted IoU counts. Two baselines are
scored on the very same prompts: the ellipse inscribed in the box, and the component of
Otsu's threshold and a distance watershed under the point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.images import open_image
from napari_samseg.core.metrics.overlap import mask_iou
from napari_samseg.core.planes import measure_plane
from napari_samseg.core.predict import Predictor
from napari_samseg.core.prompts.from_labels import (
    sample_jittered_box,
    sample_random_point,
)
from napari_samseg.core.prompts.object_index import ObjectIndex, index_objects
from napari_samseg.core.settings import ImageSettings, TileSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.tiled import TiledPlane, plan_tiles
from napari_samseg.core.types import BoolArray, FloatArray, MaskPrediction, PlanePrompts

__all__ = [
    "MIN_AREA",
    "PromptScores",
    "draw_prompts",
    "ellipse_in_box",
    "prediction_iou",
    "score_prompts",
    "show_plane",
    "watershed_components",
]

MIN_AREA = 30
# Planes are shown as they are.
WHOLE = TileSettings(tiling="whole")
# Distance between the seeds of the watershed baseline, in pixels: the best of 3, 5,
# 7, 10 and 15 on the validation images of dsb2018.
SEED_DISTANCE = 5


@dataclass(frozen=True, slots=True, eq=False)
class PromptScores:
    """Scores of N objects, in the order of their ids.

    Attributes
    ----------
    object_ids, areas : (N,) int64
    box, point : (N,) float64
        IoU of the model's mask.
    box_predicted, point_predicted : (N,) float64
        The IoU the model itself expected.
    ellipse, watershed : (N,) float64
        IoU of the baselines: of the box, and of the point.
    """

    object_ids: npt.NDArray[np.int64]
    areas: npt.NDArray[np.int64]
    box: npt.NDArray[np.float64]
    point: npt.NDArray[np.float64]
    box_predicted: npt.NDArray[np.float64]
    point_predicted: npt.NDArray[np.float64]
    ellipse: npt.NDArray[np.float64]
    watershed: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.object_ids)

    @classmethod
    def join(cls, parts: Sequence[PromptScores]) -> PromptScores:
        """Return the scores of several planes as one; ids may then repeat."""
        return cls(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            )
        )


def score_prompts(
    predictor: Predictor,
    plane: FloatArray,
    labels: npt.NDArray[np.integer],
    *,
    seed: int | Sequence[int] = 0,
    max_objects: int | None = None,
    tiles: TileSettings = WHOLE,
) -> PromptScores:
    """Score a model on the objects of one plane.

    Parameters
    ----------
    predictor : Predictor
    plane : (Y, X, 3) float32 in 0..255
    labels : (Y, X) integer
        0 is background.
    seed : int or ints
        Of the jitter, the points and the choice of objects.
    max_objects : int, optional
        Score a random choice of so many objects.
    tiles : TileSettings
        How the model sees a plane that is larger than its input.

    Raises
    ------
    InvalidLabelsError
        If plane and labels differ in size.
    """
    if labels.shape != plane.shape[:2]:
        raise InvalidLabelsError(
            f"labels of {labels.shape} do not fit a plane of {plane.shape[:2]}"
        )
    objects, boxes, points = draw_prompts(labels, seed, max_objects)
    n = len(objects)
    if n == 0:
        none, empty = np.zeros(0, np.int64), np.zeros(0)
        return PromptScores(none, none, *[empty] * 6)
    seen = show_plane(predictor, plane, tiles)
    by_box = run_steps(seen.predict_steps(boxes))
    by_point = run_steps(seen.predict_steps(points))
    components = watershed_components(plane)
    ellipse, basins = np.zeros(n), np.zeros(n)
    for i in range(n):
        true = labels == objects.object_ids[i]
        ellipse[i] = mask_iou(ellipse_in_box(boxes.boxes_yx[i], labels.shape), true)
        y, x = points.points_yx[i, 0].astype(int)
        basins[i] = mask_iou(components == components[y, x], true)
    return PromptScores(
        objects.object_ids,
        objects.areas,
        box=prediction_iou(by_box, objects),
        point=prediction_iou(by_point, objects),
        box_predicted=by_box.iou_predictions.astype(np.float64),
        point_predicted=by_point.iou_predictions.astype(np.float64),
        ellipse=ellipse,
        watershed=basins,
    )


def draw_prompts(
    labels: npt.NDArray[np.integer],
    seed: int | Sequence[int],
    max_objects: int | None,
) -> tuple[ObjectIndex, PlanePrompts, PlanePrompts]:
    """Draw the objects of a plane that `score_prompts` scores, their boxes and points.

    The parameters are those of `score_prompts`.
    """
    rng = np.random.default_rng(seed)
    objects = index_objects(labels, min_area=MIN_AREA)
    if max_objects is not None and len(objects) > max_objects:
        chosen = rng.choice(len(objects), max_objects, replace=False)
        objects = objects.select(np.sort(chosen))
    boxes = sample_jittered_box(objects, rng)
    return objects, boxes, sample_random_point(objects, rng)


def show_plane(
    predictor: Predictor, plane: FloatArray, settings: TileSettings
) -> TiledPlane:
    """Let a model see a plane (Y, X, 3), float32 in 0..255, as it is."""
    # as real numbers in 0..1, so that nothing is rounded and no contrast is changed
    source = open_image(plane / np.float32(255), rgb=True)
    measured = measure_plane(source, (), ImageSettings(normalisation="none"))
    boxes = plan_tiles(measured.size, predictor.model.input_size, settings)
    return TiledPlane(predictor, measured, boxes)


def prediction_iou(
    prediction: MaskPrediction, objects: ObjectIndex
) -> npt.NDArray[np.float64]:
    """Return the IoU of each predicted mask with its object, (N,) float64.

    Parameters
    ----------
    prediction : MaskPrediction
    objects : ObjectIndex
        The true ones, in the order of the prediction.
    """
    iou = np.zeros(len(objects))
    for i, (y0, x0, y1, x1) in enumerate(prediction.boxes_yx):
        crop = prediction.crops[i]
        true = objects.labels[y0:y1, x0:x1] == objects.object_ids[i]
        shared = np.count_nonzero(crop & true)
        iou[i] = shared / (np.count_nonzero(crop) + objects.areas[i] - shared)
    return iou


def ellipse_in_box(
    box_yx: npt.NDArray[np.floating], size: tuple[int, ...]
) -> BoolArray:
    """Pixels of a plane of `size` (Y, X) whose centre is in the ellipse of a box.

    Parameters
    ----------
    box_yx : (4,) float
        Half-open ``(y0, x0, y1, x1)``.
    size : (int, int)
    """
    y0, x0, y1, x1 = (float(v) for v in box_yx)
    y = (np.arange(size[0]) + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)
    x = (np.arange(size[1]) + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)
    return np.asarray(y[:, None] ** 2 + x[None] ** 2 <= 1)


def watershed_components(plane: FloatArray) -> npt.NDArray[np.int64]:
    """Label every pixel with its component of Otsu's threshold and a watershed.

    Both sides of the threshold are divided, the bright one into positive and the dark
    one into negative ids, so that the baseline need not know which side is object:
    the point tells.
    """
    grey = plane.mean(axis=-1)
    bright = grey > threshold_otsu(grey) if np.ptp(grey) > 0 else grey > np.inf
    components = np.zeros(grey.shape, np.int64)
    for side, sign in ((bright, 1), (~bright, -1)):
        depth = ndimage.distance_transform_edt(side)
        parts, _ = ndimage.label(side)
        peaks = peak_local_max(
            ndimage.gaussian_filter(depth, 1.0),
            min_distance=SEED_DISTANCE,
            labels=parts,
            exclude_border=False,
        )
        seeds = np.zeros(grey.shape, np.int64)
        seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        basins = watershed(-depth, seeds, mask=side)
        components[side] = sign * basins[side]
    return components
