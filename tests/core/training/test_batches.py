from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from skimage.draw import disk

from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.images import open_image
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.settings import AugmentSettings, TileSettings, TuneSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training.batches import BatchSource
from napari_samseg.core.training.class_planes import ClassPlanes
from napari_samseg.core.training.images import LabelledImage
from napari_samseg.core.training.prepare import prepare_steps
from napari_samseg.core.training.views import ViewSet

COMMON, RARE = 3, 5


def discs(name: str, n_common: int, n_rare: int) -> LabelledImage:
    """An image of discs, and their classes."""
    classes = np.zeros((128, 128), np.int32)
    for i in range(n_common + n_rare):
        row, column = divmod(i, 4)
        value = COMMON if i < n_common else RARE
        classes[disk((16 + 32 * row, 16 + 32 * column), 10)] = value
    picture = open_image((40 * classes).astype(np.uint8))
    return LabelledImage(name, picture, ClassPlanes(classes))


def prepare(
    images: list[LabelledImage], model: SamModel, folder: Path, settings: TuneSettings
) -> ViewSet:
    return run_steps(
        prepare_steps(
            images,
            model,
            folder,
            settings,
            augmenting=AugmentSettings(variants=2),
            tiles=TileSettings(),
        )
    )


def share_of_rare(views: ViewSet, settings: TuneSettings) -> float:
    """Share of the objects of 200 batches that are of the rare class."""
    source = BatchSource(views, settings, seed=0)
    found = []
    for number in range(200):
        batch = source(number)
        view = batch.view
        boxes = views.objects.boxes_yx[view.first : view.last]
        same = (batch.boxes_yx[:, None] == boxes[None]).all(axis=2)
        # each object of a batch is there once
        assert (same.sum(axis=1) == 1).all()
        assert same.sum(axis=0).max() == 1
        classes = views.objects.classes[view.first : view.last]
        found += classes[same.argmax(axis=1)].tolist()
    return float(np.mean(np.array(found) == RARE))


def test_rare_classes_are_drawn_as_often_as_common_ones(
    model: SamModel, tmp_path: Path
) -> None:
    images = [discs("a", 11, 1), discs("b", 12, 0)]
    settings = TuneSettings(objects=2, validation=0.0, balance="classes")
    views = prepare(images, model, tmp_path, settings)
    assert set(views.objects.classes.tolist()) == {COMMON, RARE}
    plain = dataclasses.replace(settings, balance="objects")
    balanced, each = (share_of_rare(views, kind) for kind in (settings, plain))
    # two of a view are never the same, and a rare one has no second
    assert 0.3 < balanced < 0.55
    assert each < 0.15


def test_images_of_few_objects_are_drawn_as_often_as_others(
    model: SamModel, tmp_path: Path
) -> None:
    images = [discs("crowded", 12, 0), discs("sparse", 2, 0)]
    settings = TuneSettings(objects=2, validation=0.0, balance="images")
    source = BatchSource(prepare(images, model, tmp_path, settings), settings, seed=0)
    names = [source(number).view.image for number in range(200)]
    assert 0.4 < names.count("sparse") / len(names) < 0.6


def test_instances_have_no_classes_to_balance(model: SamModel, tmp_path: Path) -> None:
    one = discs("a", 3, 0)
    image = LabelledImage("nuclei", one.source, np.asarray(one.labels[()]))
    with pytest.raises(InvalidLabelsError, match="of nuclei tell objects apart"):
        prepare([image], model, tmp_path, TuneSettings(balance="classes"))
