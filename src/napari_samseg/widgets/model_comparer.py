"""Two models on one plane, prompted by a point in each of its labelled objects."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.planes import measure_plane
from napari_samseg.core.settings import ModelSettings, TileSettings
from napari_samseg.core.training.preview import PreviewPlane, paint_prediction
from napari_samseg.core.training.survey import read_labels
from napari_samseg.core.types import Progress
from napari_samseg.widgets.loaded_models import predictor_steps

if TYPE_CHECKING:
    from napari_samseg.adapters.plugin_settings import PluginSettings
    from napari_samseg.core.training.images import LabelledImage

__all__ = ["Comparison", "compare_steps"]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Masks of two models, and their mean IoU with the labels.

    Attributes
    ----------
    before, after : PreviewPlane
    before_iou, after_iou : float
    n_objects : int
    """

    before: PreviewPlane
    after: PreviewPlane
    before_iou: float
    after_iou: float
    n_objects: int

    def __str__(self) -> str:
        return (
            f"On this plane, by a point in each of {self.n_objects} objects: IoU "
            f"{self.before_iou:.2f} \u2192 {self.after_iou:.2f}. It may have learned "
            "from some of them."
        )


def compare_steps(
    image: LabelledImage,
    plane: tuple[int, ...],
    models: tuple[ModelSettings, ModelSettings],
    min_area: int,
    tiles: TileSettings,
    plugin: PluginSettings,
) -> Generator[Progress, None, Comparison]:
    """Prompt two models with the objects of a plane.

    Raises
    ------
    InvalidLabelsError
        If there is no object on the plane.
    """
    yield Progress("reading the plane")
    found: list[tuple[PreviewPlane, float]] = []
    n_objects = 0
    for model in models:
        predictor = yield from predictor_steps(model, plugin)
        from napari_samseg.core.metrics.prompting import prediction_iou
        from napari_samseg.core.prompts.from_labels import sample_random_point
        from napari_samseg.core.prompts.object_index import index_objects
        from napari_samseg.core.tiled import TiledPlane, plan_tiles

        objects = index_objects(read_labels(image, plane), min_area=min_area)
        n_objects = len(objects)
        if not n_objects:
            raise InvalidLabelsError(
                "there is no labelled object on the plane on view: go to one that has "
                "some, or paint them"
            )
        measured = measure_plane(image.source, plane, image.settings)
        boxes = plan_tiles(measured.size, predictor.model.input_size, tiles)
        tiled = TiledPlane(predictor, measured, boxes)
        prompts = sample_random_point(objects, np.random.default_rng(0))
        masks: Any = yield from tiled.predict_steps(prompts)
        height, width = measured.size
        painted = paint_prediction(masks, masks.object_ids.tolist())
        shown = PreviewPlane(image.name, plane, (0, 0, height, width), painted)
        found.append((shown, float(prediction_iou(masks, objects).mean())))
    (before, before_iou), (after, after_iou) = found
    return Comparison(before, after, before_iou, after_iou, n_objects)
