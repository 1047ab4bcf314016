import numpy as np
import pytest
from skimage.data import coins

from napari_samseg.core.images import PlaneSource
from napari_samseg.core.settings import TuneSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training.class_planes import ClassPlanes
from napari_samseg.core.training.doubts import training_doubts
from napari_samseg.core.training.images import LabelledImage
from napari_samseg.core.training.survey import survey_steps


def doubts(*labels, **settings):
    tune = TuneSettings(**settings)
    images = [
        LabelledImage(
            f"image {i}",
            PlaneSource([np.zeros(part.shape)], channel_axis=None, rgb=False),
            part,
        )
        for i, part in enumerate(labels)
    ]
    planes = run_steps(survey_steps(images, tune.min_area))
    return " ".join(training_doubts(images, planes, tune, seed=0))


def test_what_cannot_be_validated(coin_labels) -> None:
    _, labels = coin_labels
    one = (labels == labels.max()).astype(int)
    assert "Only one object is labelled" in doubts(one)
    assert "Only one object on each plane" in doubts(np.stack([one, one]))
    assert "of 1 object is mostly luck" in doubts(one, 2 * one)
    assert "Nothing is held out" in doubts(labels, validation=0.0)
    assert "All is on one image" in doubts(labels)
    assert doubts(labels, labels, validation=0.5) == ""


def test_labels_that_are_no_objects(coin_labels) -> None:
    _, labels = coin_labels
    mask = (labels > 0).astype(np.uint8)
    told = doubts(mask, mask)
    n = len(np.unique(labels)) - 1
    assert "look like a mask" in told
    assert "tick 'labels are classes'" in told
    assert str(n) in told
    assert "look like" not in doubts(labels, labels)
    assert "look like" not in doubts(ClassPlanes(mask), ClassPlanes(mask))
    assert "like a photograph" in doubts(coins(), coins(), min_area=1)


@pytest.mark.parametrize("n_pieces", [1, 2])
def test_an_object_in_few_pieces_is_no_mask(n_pieces) -> None:
    labels = np.zeros((64, 64), int)
    for i in range(n_pieces):
        labels[10:30, 4 + 20 * i : 18 + 20 * i] = 1
    assert "look like" not in doubts(labels)
